"""The metric: one integer confusion matrix, mean IoU, every threshold from one pass, intervals.

Pure numpy. C counts the background: labels 0..C-1, 0 background, 255 void.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VOID = 255
BINS = 256  # of scores in [0, 1]; thresholds are multiples of 1/256


def _check(truth: np.ndarray, other: np.ndarray, classes: int, what: str) -> None:
    if truth.shape != other.shape:
        raise ValueError(f"ground truth is {truth.shape}, {what} is {other.shape}: bring the prediction to the ground truth's size")
    wrong = np.unique(truth[(truth >= classes) & (truth != VOID)])
    if wrong.size:
        raise ValueError(f"ground truth holds labels {wrong.tolist()}, expected 0..{classes - 1} or {VOID}: is this another set's label order?")


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts of pixels by (true, predicted) label: C x C, int64. Void pixels are dropped.

    Args:
        truth: H W, integers 0..C-1 or 255.
        prediction: H W, integers 0..C-1.
        classes: C, background included.

    >>> confusion(np.array([[0, 1, 255]]), np.array([[0, 0, 1]]), 2).tolist()
    [[1, 0], [1, 0]]
    """
    _check(truth, prediction, classes, "the prediction")
    if prediction.size and (prediction.min() < 0 or prediction.max() >= classes):
        raise ValueError(f"prediction holds labels {prediction.min()}..{prediction.max()}, expected 0..{classes - 1}")
    seen = truth != VOID
    pairs = truth[seen].astype(np.int64) * classes + prediction[seen]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union by class, in [0, 1]: ... C C to ... C; NaN for a class in neither map."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    union = counts.sum(-1) + counts.sum(-2) - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def miou(counts: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes, background included, in percent; absent classes are left out."""
    return 100 * np.nanmean(iou(counts), axis=-1)


@dataclass(frozen=True)
class Tally:
    """One image, counted so that every threshold can be read off.

    counts: rows of (true class, best foreground class 1..C-1, bin of its score, pixels), int64 r x 4.
    """

    counts: np.ndarray


def tally(truth: np.ndarray, scores: np.ndarray, labels: Sequence[int], classes: int) -> Tally:
    """Count pixels by (true class, best foreground class, score bin).

    Args:
        truth: H W.
        scores: k H W in [0, 1].
        labels: the label of each of the k score maps; none: everything is background.
        classes: C.
    """
    seen = truth != VOID
    if len(labels):
        _check(truth, scores[0], classes, "the score map")
        best = np.asarray(labels)[scores.argmax(0)][seen]
        height = np.ceil(scores.max(0)[seen].astype(np.float64) * BINS).astype(np.int64)  # score > j/BINS iff bin > j
    else:
        _check(truth, truth, classes, "the score map")
        best, height = np.ones(int(seen.sum()), np.int64), np.zeros(int(seen.sum()), np.int64)
    code = (truth[seen].astype(np.int64) * classes + best) * (BINS + 1) + height
    cells, pixels = np.unique(code, return_counts=True)
    return Tally(np.stack([cells // (BINS + 1) // classes, cells // (BINS + 1) % classes, cells % (BINS + 1), pixels], axis=1))


def confusions_at(tallies: Sequence[Tally], threshold: float, classes: int) -> np.ndarray:
    """The confusion matrix of each image at one threshold (rounded to 1/256): images C C, int64."""
    cut = round(threshold * BINS)
    result = np.zeros((len(tallies), classes, classes), np.int64)
    for matrix, one in zip(result, tallies, strict=True):
        true, best, height, pixels = one.counts.T
        np.add.at(matrix, (true, np.where(height > cut, best, 0)), pixels)
    return result


def sweep(tallies: Sequence[Tally], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean IoU, percent, at every threshold 0, 1/256, ..., 255/256: (thresholds, values)."""
    total = np.zeros((classes, classes, BINS + 1), np.int64)
    for one in tallies:
        true, best, height, pixels = one.counts.T
        np.add.at(total, (true, best, height), pixels)
    below = total.cumsum(-1)[..., :BINS]  # height <= cut
    matrices = (total.sum(-1, keepdims=True) - below).transpose(2, 0, 1).copy()
    matrices[:, :, 0] += below.sum(1).T
    return np.arange(BINS) / BINS, miou(matrices)


def best_threshold(tallies: Sequence[Tally], classes: int) -> tuple[float, float]:
    """The threshold of the highest mean IoU, and that mean IoU. On the evaluated split this is the oracle."""
    thresholds, values = sweep(tallies, classes)
    best = int(np.nanargmax(values))
    return float(thresholds[best]), float(values[best])


def bootstrap_miou(confusions: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of mean IoU, images drawn with replacement: images C C to (low, high), percent."""
    low, high = np.percentile(_resampled(confusions, resamples, seed), [2.5, 97.5])
    return float(low), float(high)


def bootstrap_difference(first: np.ndarray, second: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of mean IoU `first` - `second` on the same images, paired."""
    if first.shape != second.shape:
        raise ValueError(f"paired images expected: {first.shape} and {second.shape}")
    low, high = np.percentile(_resampled(first, resamples, seed) - _resampled(second, resamples, seed), [2.5, 97.5])
    return float(low), float(high)


def _resampled(confusions: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    images, classes, _ = confusions.shape
    if not images:
        raise ValueError("a bootstrap needs at least one image")
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    sums = weights.astype(np.float64) @ confusions.reshape(images, -1)  # exact: counts stay below 2^53
    return miou(sums.reshape(resamples, classes, classes))


def mean_interval(values: Sequence[float] | np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over images."""
    values = np.asarray(values, dtype=float)
    rows = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
    return float(low), float(high)
