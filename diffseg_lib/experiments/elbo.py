"""Sec. 3.1: the ELBO baseline, accuracy against UNet evaluations, beside one attention call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..baselines.attention import attention_scores
from ..baselines.elbo import ElboMethod, Posterior, error_draws, smooth
from ..data import Dataset
from ..evaluation.metrics import count_scores, iou
from ..scoremaps import resize
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from .claims import effect_verdict
from .measure import Counts, Measured, Row, Store, StudyResult, count_splits, format_effect

ATTENTION = "attention"


@dataclass(frozen=True, kw_only=True)
class ClassIoU:
    """IoU of one class.

    Args:
        elbo: IoU by the ELBO baseline with all draws, percent.
        attention: IoU by attention, percent.
    """

    elbo: float
    attention: float


@dataclass(frozen=True, kw_only=True)
class ElboResult(StudyResult):
    """The baseline by the number of draws, beside one attention call.

    ``rows`` are "draws1" and so on (:func:`draws_key`), "draws12_sigma4" and so on with all draws, and "attention". ``effects`` are
    "elbo_over_nothing", "most_minus_least" draws, "attention_minus_elbo", and, where sigma 0 was tried, "smoothed_minus_raw".

    Args:
        rows: Mean IoU by variant.
        calls: UNet evaluations an image, by row.
        classes: IoU by class, of those that occur.
        numbers: The numbers of draws.
        timesteps: The timesteps that draws go through in turn.
    """

    rows: Mapping[str, Row]
    calls: Mapping[str, float]
    classes: Mapping[str, ClassIoU]
    numbers: tuple[int, ...]
    timesteps: tuple[int, ...]

    @property
    def most(self) -> str:
        """The row of all draws."""
        return draws_key(max(self.numbers))


def draws_key(count: int, sigma: float | None = None) -> str:
    """The key of the variant that uses the first `count` draws, smoothed as the method does or by another `sigma`.

    >>> draws_key(3), draws_key(12, 0.0)
    ('draws3', 'draws12_sigma0')
    """
    return f"draws{count}" + ("" if sigma is None else f"_sigma{sigma:g}")


def _label(count: int, sigma: float | None = None) -> str:
    return f"ELBO, {count} draw{'s' if count > 1 else ''}" + ("" if sigma is None else f", sigma {sigma:g}")


def _count(segmenter: DiffSegmenter, dataset: Dataset, timesteps: Sequence[int], numbers: Sequence[int], sigmas: Sequence[float]) -> Counts:
    """Nested: the first draws of one pass serve every smaller number; a draw is one noise at one timestep."""
    found: Counts = {}
    temperature, samples = ElboMethod(segmenter).temperature, -(-max(numbers) // len(timesteps))
    for sample in dataset:
        words, labels = dataset.words(sample.classes), [dataset.names.index(name) for name in sample.classes]
        errors = error_draws(segmenter, sample.image, words, timesteps, samples)
        variants = {draws_key(n): (n, ElboMethod(segmenter).sigma) for n in numbers}
        variants |= {draws_key(max(numbers), s): (max(numbers), s) for s in sigmas}
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
) -> ElboResult:
    """Mean IoU of the baseline by the number of draws, and of one attention call, image-level labels.

    Args:
        segmenter: The model; its seed is that of the noise.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; each row's threshold is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        timesteps: Timesteps, 0 to 999; draws go through them in turn, with new noise after each round.
        numbers: The numbers of draws to try; a draw costs a UNet evaluation for each class and the background.
        sigmas: Widths of smoothing, pixels of the latents, to try beside the default with all draws.
        store: Keeps the parts; None keeps nothing.
    """
    splits = count_splits(
        (dataset, root, split),
        (train_images, images),
        [segmenter.config.seed],
        lambda opened, _: _count(segmenter, opened, timesteps, numbers, sigmas),
        store,
        {"study": "elbo", "steps": list(timesteps), "numbers": list(numbers), "sigmas": list(sigmas)},
    )
    count = max(numbers)
    labels = {draws_key(n): _label(n) for n in numbers} | {draws_key(count, s): _label(count, s) for s in sigmas}
    measured = splits.measured(labels)
    most, words = draws_key(count), float(np.mean([len(sample.classes) for sample in splits.test]))
    effects = {
        "elbo_over_nothing": measured.against_nothing(most, "ELBO against nothing found"),
        "most_minus_least": measured.effect(most, draws_key(min(numbers)), "most samples minus one"),
        "attention_minus_elbo": measured.effect(ATTENTION, most, "attention minus ELBO"),
    }
    if 0 in sigmas:
        effects["smoothed_minus_raw"] = measured.effect(most, draws_key(count, 0), "smoothed minus raw")
    return ElboResult(
        rows=measured.rows,
        calls={draws_key(n): n * (words + 1) for n in numbers} | {ATTENTION: words * len(segmenter.timesteps)},
        effects=effects,
        classes=_by_class(measured, splits.test.names, most),
        numbers=tuple(numbers),
        timesteps=tuple(timesteps),
        seeds=splits.seeds,
        images=len(splits.test),
        dataset=splits.test.name,
    )


def _by_class(measured: Measured, names: Sequence[str], most: str) -> dict[str, ClassIoU]:
    """IoU of each class that occurs."""
    pairs = zip(names, iou(measured.confusions[most].sum(0)), iou(measured.confusions[ATTENTION].sum(0)), strict=True)
    return {name: ClassIoU(elbo=100 * float(a), attention=100 * float(b)) for name, a, b in pairs if not (np.isnan(a) or np.isnan(b))}


def class_table(result: ElboResult) -> Any:
    """IoU of each class by attention and by the ELBO baseline, and their difference, as a table (pandas), a line a class, sorted by it."""
    import pandas as pd

    table = pd.DataFrame({name: {"attention": one.attention, "ELBO": one.elbo} for name, one in result.classes.items()}).T
    table["attention minus ELBO"] = table["attention"] - table["ELBO"]
    return table.sort_values("attention minus ELBO").round(1)


def numbers(result: ElboResult, sharing: float) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name.

    Args:
        result: The larger run, or the page's own.
        sharing: The variance of the difference of errors with new noise over that with shared noise.
    """
    rows, calls, effects = result.rows, result.calls, result.effects
    won = [name for name, one in result.classes.items() if one.elbo > one.attention]
    judged = {"elbo_nothing": "elbo_over_nothing", "elbo_samples": "most_minus_least", "elbo_loses": "attention_minus_elbo"}
    return {
        "elbo_images": str(result.images),
        "elbo_most": rows[result.most].label.removeprefix("ELBO, "),
        "elbo_value": f"{rows[result.most].value:.0f}",
        "elbo_attention": f"{rows[ATTENTION].value:.0f}",
        **{name: f"{format_effect(effects[key])}, {effect_verdict(effects[key])}" for name, key in judged.items()},
        "elbo_calls": f"{calls[result.most]:.0f} against {calls[ATTENTION]:.1f}",
        "elbo_won": ", ".join(won) if won else "no class",
        "elbo_sharing": f"about {sharing:.0f} times",
    }
