"""What words are worth to the denoiser: its error with the right caption, with none and with another scene's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..applications.generation import denoising_error, one_step
from ..backbone import Backbone
from ..evaluation.metrics import interval_text
from .measure import Estimate, mean_estimate, side_of_zero

NONE, OTHER = "no caption", "another scene's caption"


def extra_errors(
    backbone: Backbone, latents: Sequence[Tensor], right: Sequence[str], other: Sequence[str], timesteps: Sequence[int], seed: int
) -> dict[int, dict[str, Estimate]]:
    """How much larger the denoising error is than with the right caption, percent, by timestep, without a caption and with another scene's.

    Args:
        backbone: The model.
        latents: The latents of the pictures, 1 c h w each.
        right: The caption of each picture.
        other: A caption of another scene for each picture.
        timesteps: Timesteps of the noise, 0 to 999.
        seed: Seed of the noise.
    """
    found: dict[int, dict[str, Estimate]] = {}
    for t in timesteps:
        triples = [(z, (a, "", b)) for z, a, b in zip(latents, right, other, strict=True)]
        errors = np.array([[denoising_error(backbone, z, text, t, [seed]) for text in texts] for z, texts in triples])
        extra = 100 * (errors[:, 1:] / errors[:, :1] - 1)
        found[t] = {name: mean_estimate(extra[:, i], name) for i, name in enumerate((NONE, OTHER))}
    return found


def one_step_pictures(backbone: Backbone, latents: Tensor, right: str, wrong: str, timesteps: Sequence[int], seed: int) -> dict[str, list[np.ndarray]]:
    """What one denoising step makes of noisy latents by caption: pictures H W 3, uint8, a row a kind, a column a timestep.

    Args:
        backbone: The model.
        latents: The latents of a picture, 1 c h w.
        right: The scene's caption.
        wrong: A caption of another scene.
        timesteps: Timesteps of the noise, 0 to 999.
        seed: Seed of the noise.

    Returns:
        Rows "noisy", "right caption", "no caption", "wrong caption", and the mean absolute difference of right and wrong, H W.
    """
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("noisy", "right caption", "no caption", "wrong caption", "right − wrong")}
    for t in timesteps:
        noisy, with_right = one_step(backbone, latents, right, t, seed)
        without, with_wrong = (one_step(backbone, latents, text, t, seed)[1] for text in ("", wrong))
        difference = np.abs(with_right.astype(float) - with_wrong).mean(2)
        for row, shown in zip(rows.values(), (noisy, with_right, without, with_wrong, difference), strict=True):
            row.append(shown)
    return rows


def training_minutes(models: Path) -> float:
    """Minutes for which the shipped models were trained in all, by their runs' own records."""
    return sum(float(json.loads(path.read_text())["seconds"]) for path in sorted((models / "curves").glob("*.json"))) / 60


def metrics(extra: Mapping[int, Mapping[str, Estimate]]) -> dict[int, dict[str, Any]]:
    """What the chapter's JSON holds of another scene's caption."""
    return {t: {"value": one[OTHER].value, "ci95": one[OTHER].ci95, "images": one[OTHER].images} for t, one in extra.items()}


def numbers(extra: Mapping[int, Mapping[str, Estimate]], psnr: Sequence[float], models: Path) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    best = max(extra, key=lambda t: extra[t][OTHER].value)
    other, sides = extra[best][OTHER], [side_of_zero(one[NONE]) for one in extra.values()]
    helps = {1: "the right words help", None: f"whether the right words help is undecided: {other.images} scenes"}
    return {
        "models_minutes": f"{training_minutes(models):.0f}",
        "models_images": str(other.images),
        "models_psnr": f"{np.mean(psnr):.1f}",
        "models_extra": f"{other.value:.0f} %",
        "models_extra_ci": interval_text(other.ci95, other.images, ".0f"),
        "models_best_t": str(best),
        "models_none": f"at {sides.count(1)} of the {len(extra)} timesteps" + (f" ({other.images} scenes are too few)" if None in sides else ""),
        "models_verdict": helps.get(side_of_zero(other), "no help from the right words can be told from chance here"),
    }
