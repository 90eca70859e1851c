"""Table 5: how the timestep of the noise moves the result; the mean of several; more noise draws at one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..data import Sample
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from .claims import effect_verdict
from .measure import Effect, Measured, Row, Store, StudyResult, count_maps, count_splits, format_effect, seeds_text

PAPER_TIMESTEPS = (1, 50, 100, 150)
AVERAGE = "average"  # the row of their mean


@dataclass(frozen=True, kw_only=True)
class TimestepResult(StudyResult):
    """Mean IoU over the timestep.

    ``rows`` are "t100" and so on (:func:`timestep_key`), and :data:`AVERAGE`. ``effects`` are the best timestep of train against the first
    and the last ("best_minus_first", "best_minus_last"), "t100_minus_t50" and so on, "average_minus_t100", and "average_minus_best";
    what was not tried, and a difference of a row with itself, is left out.

    Args:
        rows: Mean IoU by timestep.
        best_on_train: The row of the timestep that is best on train.
        timesteps: The timesteps that were tried, 0 to 999.
        snr: The power of the picture over that of the noise at each of them.
    """

    rows: Mapping[str, Row]
    best_on_train: str
    timesteps: tuple[int, ...]
    snr: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class NoiseResult(StudyResult):
    """Mean IoU of maps averaged over noise draws at one timestep.

    Args:
        rows: Mean IoU by the number of draws, "1", "2" and so on; the one effect is "most_minus_one".
        timestep: The timestep of all draws, 0 to 999.
    """

    rows: Mapping[str, Row]
    timestep: int


def timestep_key(timestep: int) -> str:
    """The key of a timestep's row.

    >>> timestep_key(100)
    't100'
    """
    return f"t{timestep}"


def signal_to_noise(alphas_cumprod: torch.Tensor) -> np.ndarray:
    """The ratio alpha_bar_t / (1 - alpha_bar_t) for every t: what is left of the picture's power against the noise's."""
    alpha_bar = to_numpy(alphas_cumprod.double())
    return alpha_bar / (1 - alpha_bar)


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
) -> TimestepResult:
    """Mean IoU of completed maps over the timestep, image-level labels, and of the mean over the paper's four.

    Args:
        segmenter: The model; its seed is replaced by each of `seeds`.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; each row's threshold is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        timesteps: Timesteps to try, 0 to 999.
        seeds: Seeds of the noise.
        store: Keeps the parts; None keeps nothing.
    """

    def maps(seeded: DiffSegmenter, sample: Sample, words: Sequence[str]) -> dict[str, torch.Tensor]:
        found = completed_at(seeded, sample.image, words, sorted({*timesteps, *PAPER_TIMESTEPS}))
        return {timestep_key(t): found[t] for t in timesteps} | {AVERAGE: torch.stack([found[t] for t in PAPER_TIMESTEPS]).mean(0)}

    splits = count_splits(
        (dataset, root, split),
        (train_images, images),
        seeds,
        lambda opened, seed: count_maps(opened, partial(maps, segmenter.with_config(seed=seed)), segmenter.config.final_norm),
        store,
        {"study": "timesteps", "timesteps": list(timesteps)},
    )
    singles = [timestep_key(t) for t in timesteps]
    labels = {timestep_key(t): f"t={t}" for t in timesteps} | {AVERAGE: "mean of " + " ".join(str(t) for t in PAPER_TIMESTEPS)}
    measured, on_train = splits.measured(labels), splits.measured(on="train").rows
    best = max(singles, key=lambda name: on_train[name].value)
    return TimestepResult(
        rows=measured.rows,
        effects=_effects(measured, singles, best),
        best_on_train=best,
        timesteps=tuple(timesteps),
        snr=tuple(float(signal_to_noise(segmenter.backbone.alphas_cumprod)[t]) for t in timesteps),
        seeds=tuple(seeds),
        images=len(splits.test),
        dataset=splits.test.name,
    )


def _effects(measured: Measured, singles: Sequence[str], best: str) -> dict[str, Effect]:
    told, hundred = measured.rows[best].label, timestep_key(100)
    found = {
        f"best_minus_{where}": measured.effect(best, name, f"best on train ({told}) minus {measured.rows[name].label}")
        for where, name in (("first", singles[0]), ("last", singles[-1]))
        if name != best
    }
    if hundred in singles:
        found |= {f"{hundred}_minus_{name}": measured.effect(hundred, name) for name in singles if name != hundred}
        found[f"average_minus_{hundred}"] = measured.effect(AVERAGE, hundred, "average minus t=100")
    found["average_minus_best"] = measured.effect(AVERAGE, best, "average minus best on train")
    return found


def noise_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    timestep: int = 100,
    draws: int = 4,
) -> NoiseResult:
    """Mean IoU of maps averaged over 1, 2, ... noise draws at one timestep.

    Args:
        segmenter: The model; its seed is that of the first draw.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; each row's threshold is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        timestep: The timestep of all draws, 0 to 999.
        draws: The largest number of draws.
    """

    def maps(sample: Sample, words: Sequence[str]) -> dict[str, torch.Tensor]:
        seeds = range(segmenter.config.seed, segmenter.config.seed + draws)
        drawn = [completed_at(segmenter.with_config(seed=seed), sample.image, words, [timestep])[timestep] for seed in seeds]
        return {str(n): torch.stack(drawn[:n]).mean(0) for n in range(1, draws + 1)}

    count = partial(count_maps, maps=maps, final_norm=segmenter.config.final_norm)
    splits = count_splits((dataset, root, split), (train_images, images), [segmenter.config.seed], lambda opened, _: count(opened), None, {})
    measured = splits.measured()
    effects = {"most_minus_one": measured.effect(str(draws), "1", f"{draws} draws minus 1")}
    return NoiseResult(rows=measured.rows, effects=effects, timestep=timestep, images=len(splits.test), seeds=splits.seeds, dataset=splits.test.name)


def numbers(result: TimestepResult, averaged: NoiseResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name.

    Args:
        result: The larger run, or the page's own.
        averaged: The page's own run on noise draws.
    """
    effects, draws = result.effects, len(averaged.rows)
    hundred = {t: effects.get(f"t100_minus_t{t}") for t in (1, 50, 150, 500)}
    average, to_hundred = effects["average_minus_best"], effects.get("average_minus_t100")
    deviations = [f"{row.label} {row.sd:.1f}" for row in result.rows.values() if row.sd is not None]
    return {
        "timesteps_images": str(result.images),
        "timesteps_seeds": seeds_text(result.seeds),
        "timesteps_best": result.rows[result.best_on_train].label,
        "timesteps_table": "; ".join(f"t = {t}: {format_effect(one)}, {effect_verdict(one)}" for t, one in hundred.items() if one),
        "timesteps_average": format_effect(average),
        "timesteps_average_hundred": format_effect(to_hundred) if to_hundred else "not run",
        "timesteps_average_verdict": effect_verdict(to_hundred),
        "timesteps_sd": ", ".join(deviations) or "one seed only",
        "timesteps_draws": f"{draws} draws against one: {format_effect(averaged.effects['most_minus_one'])}",
    }
