"""Sec. 3.1: the ELBO baseline, accuracy against UNet evaluations, beside one attention call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..baselines.attention import attention_scores
from ..baselines.elbo import ElboMethod, Posterior, error_draws, smooth
from ..data import Dataset
from ..evaluation.metrics import count_scores, iou
from ..scoremaps import resize
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from .measure import Counts, Measured, Store, count_splits

ATTENTION = "attention"


def draws_name(count: int) -> str:
    """The name of the variant that uses the first `count` draws."""
    return f"ELBO, {count} draws" if count > 1 else "ELBO, 1 draw"


def _count(segmenter: DiffSegmenter, dataset: Dataset, timesteps: Sequence[int], numbers: Sequence[int], sigmas: Sequence[float]) -> Counts:
    """Nested: the first draws of one pass serve every smaller number; a draw is one noise at one timestep."""
    found: Counts = {}
    temperature, samples = ElboMethod(segmenter).temperature, -(-max(numbers) // len(timesteps))
    for sample in dataset:
        words, labels = dataset.words(sample.classes), [dataset.names.index(name) for name in sample.classes]
        errors = error_draws(segmenter, sample.image, words, timesteps, samples)
        variants = {draws_name(n): (n, ElboMethod(segmenter).sigma) for n in numbers}
        variants |= {f"{draws_name(max(numbers))}, sigma {s:g}": (max(numbers), s) for s in sigmas}
        for name, (n, sigma) in variants.items():
            mean = smooth(errors[:n].mean(0), sigma)
            scores = Posterior(mean[:-1], mean[-1:], tuple(words), 0).scores(temperature)
            full = to_numpy(resize(scores, sample.truth.shape))
            found.setdefault(name, []).append(count_scores(sample.truth, full, labels, len(dataset.names)))
        ours = attention_scores(segmenter, sample.image, words)["diffsegmenter"].scores
        found.setdefault(ATTENTION, []).append(count_scores(sample.truth, ours, labels, len(dataset.names)))
    return found


def elbo_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 8,
    images: int = 12,
    timesteps: Sequence[int] = (300, 500, 700),
    numbers: Sequence[int] = (1, 3, 6, 12),
    sigmas: Sequence[float] = (0.0, 1.0, 4.0),
    store: Store | None = None,
) -> dict[str, Any]:
    """Mean IoU of the baseline by the number of draws, and of one attention call, image-level labels.

    Args:
        segmenter: the model; its seed is that of the noise.
        dataset, root, split: to open; thresholds are fixed on its train split.
        train_images, images: of train and of `split`.
        timesteps: draws go through them in turn, with new noise after each round.
        numbers: of draws to try; a draw costs a UNet evaluation for each class and the background.
        sigmas: of smoothing, pixels of the latents, to try beside the default with all draws.
        store: keeps the parts.

    Returns:
        ``rows`` by number of draws and for attention; ``calls``: UNet evaluations an image, by row;
        ``effects``; ``classes``: IoU of each class by the baseline with all draws and by attention.
    """
    splits = count_splits(
        (dataset, root, split),
        (train_images, images),
        [segmenter.config.seed],
        lambda opened, _: _count(segmenter, opened, timesteps, numbers, sigmas),
        store,
        {"study": "elbo", "steps": list(timesteps), "numbers": list(numbers), "sigmas": list(sigmas)},
    )
    measured = splits.measured()
    most, words = draws_name(max(numbers)), float(np.mean([len(sample.classes) for sample in splits.test]))
    return {
        "rows": measured.rows,
        "calls": {draws_name(n): n * (words + 1) for n in numbers} | {ATTENTION: words * len(segmenter.timesteps)},
        "effects": {
            "ELBO against nothing found": measured.against_nothing(most),
            "most samples minus one": measured.effect(most, draws_name(min(numbers))),
            "attention minus ELBO": measured.effect(ATTENTION, most),
            "smoothed minus raw": measured.effect(most, f"{most}, sigma 0") if 0 in sigmas else None,
        },
        "classes": _by_class(measured, splits.test.names, most),
        "most": most,
        "numbers": list(numbers),
        "timesteps": list(timesteps),
        "seeds": list(splits.seeds),
        "images": len(splits.test),
        "dataset": dataset,
    }


def _by_class(measured: Measured, names: Sequence[str], most: str) -> dict[str, dict[str, float]]:
    """IoU of each class that occurs, percent, by the baseline and by attention."""
    pairs = zip(names, iou(measured.confusions[most].sum(0)), iou(measured.confusions[ATTENTION].sum(0)), strict=True)
    return {name: {"ELBO": 100 * float(a), ATTENTION: 100 * float(b)} for name, a, b in pairs if not (np.isnan(a) or np.isnan(b))}
