"""Table 5: how the timestep of the noise moves the result; the mean of several; more noise draws at one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ..data import Sample
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from .measure import Measured, Store, count_maps, count_splits

PAPER_TIMESTEPS = (1, 50, 100, 150)
AVERAGE = "mean of " + " ".join(str(t) for t in PAPER_TIMESTEPS)


def signal_to_noise(alphas_cumprod: torch.Tensor) -> np.ndarray:
    """abar_t / (1 - abar_t) for every t: what is left of the picture's power against the noise's, a ratio."""
    kept = to_numpy(alphas_cumprod.double())
    return kept / (1 - kept)


def completed_at(segmenter: DiffSegmenter, image: np.ndarray, words: Sequence[str], timesteps: Sequence[int]) -> dict[int, torch.Tensor]:
    """Completed maps at every timestep, with the same noise: timestep to k h w."""
    latents = segmenter.encode(image)
    noise = segmenter.noise(image, latents)
    embeddings, token_weights = segmenter.embed(segmenter.prompts(words, image))
    return {t: segmenter.score(segmenter.attend(latents, noise, t, embeddings, token_weights))[1] for t in timesteps}


def timestep_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    timesteps: Sequence[int] = (1, 50, 100, 150, 300, 500, 800),
    seeds: Sequence[int] = (0,),
    store: Store | None = None,
) -> dict[str, Any]:
    """Mean IoU of completed maps over the timestep, image-level labels, and of the mean over the paper's four.

    Args:
        segmenter: its seed is replaced by each of `seeds`.
        dataset, root, split: to open; thresholds are fixed on its train split.
        train_images, images: of train and of `split`.
        timesteps: to try, 0..999.
        seeds: of the noise.
        store: keeps the parts.

    Returns:
        ``rows`` by "t=100" and so on; ``best``: the best single timestep of the train split; ``effects``:
        the paper's t=100 against its neighbours and the extremes, and the mean of four against t=100.
    """

    def maps(seeded: DiffSegmenter, sample: Sample, words: Sequence[str]) -> dict[str, torch.Tensor]:
        found = completed_at(seeded, sample.image, words, sorted({*timesteps, *PAPER_TIMESTEPS}))
        return {f"t={t}": found[t] for t in timesteps} | {AVERAGE: torch.stack([found[t] for t in PAPER_TIMESTEPS]).mean(0)}

    splits = count_splits(
        (dataset, root, split),
        (train_images, images),
        seeds,
        lambda opened, seed: count_maps(opened, partial(maps, segmenter.with_config(seed=seed)), segmenter.config.final_norm),
        store,
        {"study": "timesteps", "timesteps": list(timesteps)},
    )
    measured, on_train = splits.measured(), splits.measured("train").rows
    singles = [f"t={t}" for t in timesteps]
    best = max(singles, key=lambda name: on_train[name]["value"])
    return {
        "rows": measured.rows,
        "effects": _effects(measured, singles, best),
        "best_on_train": best,
        "timesteps": list(timesteps),
        "snr": [float(signal_to_noise(segmenter.backbone.alphas_cumprod)[t]) for t in timesteps],
        "seeds": list(seeds),
        "images": len(splits.test),
        "dataset": dataset,
    }


def _effects(measured: Measured, singles: Sequence[str], best: str) -> dict[str, Any]:
    pairs = {f"best on train ({best}) minus {name}": (best, name) for name in (singles[0], singles[-1]) if name != best}
    if "t=100" in singles:
        pairs |= {f"t=100 minus {name}": ("t=100", name) for name in singles if name != "t=100"}
        pairs["average minus t=100"] = (AVERAGE, "t=100")
    pairs["average minus best on train"] = (AVERAGE, best)
    return {name: measured.effect(*pair) for name, pair in pairs.items()}


def noise_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    timestep: int = 100,
    draws: int = 4,
) -> dict[str, Any]:
    """Mean IoU of maps averaged over 1, 2, ... noise draws at one timestep: ``rows`` by number of draws, and ``effects``."""

    def maps(sample: Sample, words: Sequence[str]) -> dict[str, torch.Tensor]:
        seeds = range(segmenter.config.seed, segmenter.config.seed + draws)
        drawn = [completed_at(segmenter.with_config(seed=seed), sample.image, words, [timestep])[timestep] for seed in seeds]
        return {str(n): torch.stack(drawn[:n]).mean(0) for n in range(1, draws + 1)}

    count = partial(count_maps, maps=maps, final_norm=segmenter.config.final_norm)
    splits = count_splits((dataset, root, split), (train_images, images), [segmenter.config.seed], lambda opened, _: count(opened), None, {})
    measured = splits.measured()
    effects = {f"{draws} draws minus 1": measured.effect(str(draws), "1")}
    return {"rows": measured.rows, "effects": effects, "timestep": timestep, "images": len(splits.test)}
