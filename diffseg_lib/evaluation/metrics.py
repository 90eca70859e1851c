"""The metric: one integer confusion matrix, mean IoU, every threshold from one pass, intervals.

Arrays in, arrays out, without torch. C counts the background: labels 0..C-1, 0 background, 255 void.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label as components
from scipy.ndimage import maximum_filter, minimum_filter

from ..data.samples import VOID

BINS = 256  # of scores in [0, 1]; thresholds are multiples of 1/256
FEWEST, SKETCH, MANY = 20, 60, 100  # images: fewer have no interval, are called a sketch, and decide no claim
_ROUNDING = 1e-5  # by which interpolated scores may leave [0, 1]


def _check_size(truth: np.ndarray, other: np.ndarray, what: str) -> None:
    if truth.shape != other.shape:
        raise ValueError(f"ground truth is {truth.shape}, {what} is {other.shape}: bring the prediction to the ground truth's size")


def _check_labels(labels: np.ndarray, classes: int, what: str, cause: str) -> None:
    if labels.dtype.kind not in "biu":
        raise ValueError(f"{what} is of type {labels.dtype}: expected integer labels")
    wrong = np.unique(labels[(labels < 0) | (labels >= classes)])
    if wrong.size:
        raise ValueError(f"{what} holds labels {wrong.tolist()}, expected 0..{classes - 1}: {cause}")


def _seen(truth: np.ndarray, classes: int) -> np.ndarray:
    """Where the ground truth is not void; H W, bool. Its labels are checked first."""
    if not 1 <= classes <= VOID:
        raise ValueError(f"{classes} classes: expected 1 to {VOID}, as {VOID} is the void label")
    seen = truth != VOID
    _check_labels(truth[seen], classes, f"ground truth ({VOID} is void)", "is this another set's label order, or an image read as colours?")
    return seen


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts of pixels by (true, predicted) label: C x C, int64. Void pixels are dropped.

    Args:
        truth: Ground truth, H W, integers 0..C-1 or 255.
        prediction: Predicted labels, H W, integers 0..C-1.
        classes: Number of classes C, background included.

    Raises:
        ValueError: If the sizes differ (both are named), or a label is none of the classes (all are listed).

    >>> confusion(np.array([[0, 1, 255]]), np.array([[0, 0, 1]]), 2).tolist()
    [[1, 0], [1, 0]]
    """
    _check_size(truth, prediction, "the prediction")
    seen = _seen(truth, classes)
    _check_labels(prediction, classes, "prediction", "were more classes segmented than are evaluated, or is void predicted?")
    pairs = truth[seen].astype(np.int64) * classes + prediction[seen].astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union by class, in [0, 1]: NaN for a class in neither map, 0 for one that is predicted but nowhere true.

    Args:
        counts: Confusion matrices, ... C C; the result is ... C.

    >>> iou(np.array([[2, 0, 2], [0, 0, 0], [0, 0, 0]])).tolist()
    [0.5, nan, 0.0]
    """
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    union = counts.sum(-1) + counts.sum(-2) - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def miou(counts: np.ndarray, background: bool = True) -> np.ndarray:
    """Mean IoU over the classes in percent; absent classes are left out, and it is NaN if nothing was counted at all.

    Args:
        counts: Confusion matrices, ... C C; the result has the leading dimensions.
        background: Whether the background is one of the classes of the mean.

    >>> float(miou(np.array([[2, 0, 2], [0, 0, 0], [0, 0, 0]])))
    25.0
    """
    values = iou(counts)[..., 0 if background else 1 :]
    known = ~np.isnan(values)
    total, number = np.where(known, values, 0).sum(-1), known.sum(-1)
    return 100 * np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


@dataclass(frozen=True)
class Mean:
    """How IoU becomes one figure; the default is the mean that VOC's benchmark reports.

    Args:
        background: Whether the background is one of the classes of the mean.
        per_image: Whether every image has a mean of its own, over the classes in its truth or its prediction, and those are averaged; else the pixels of all
            images are counted together. An image that has no class to average is left out.
    """

    background: bool = True
    per_image: bool = False


def mean_iou(confusions: np.ndarray, mean: Mean = Mean()) -> float:
    """The mean IoU of images, percent; NaN if nothing was counted.

    Args:
        confusions: Confusion matrix of each image, images C C.
        mean: How IoU becomes one figure.

    >>> two = np.array([[[2, 0], [0, 2]], [[0, 0], [2, 2]]])
    >>> [round(mean_iou(two, one), 1) for one in (Mean(), Mean(per_image=True), Mean(background=False))]
    [58.3, 62.5, 66.7]
    """
    return float(_weighted_miou(confusions, np.ones((1, len(confusions))), mean)[0])


@dataclass(frozen=True)
class ScoreHistogram:
    """One image, counted so that every threshold can be read off.

    Args:
        counts: Rows of (true class, best foreground class 1..C-1, bin of its score, pixels), r x 4, int64.
    """

    counts: np.ndarray


def count_scores(truth: np.ndarray, scores: np.ndarray, labels: Sequence[int], classes: int) -> ScoreHistogram:
    """Count pixels by (true class, best foreground class, score bin), void left out.

    A pixel is of the class of its highest score (the first, if several tie) where that score is *above* the threshold, else background. Bins are closed above,
    so that this holds exactly at every threshold that is a multiple of 1/256.

    Args:
        truth: Ground truth, H W, integers 0..C-1 or 255.
        scores: Scores of the k classes asked for, k H W in [0, 1].
        labels: Label of each of the k score maps, 1..C-1; without any, everything is background.
        classes: Number of classes C, background included.

    Raises:
        ValueError: On maps of another size or number, scores outside [0, 1], or labels that are no classes.

    >>> one = count_scores(np.array([[1, 0]]), np.array([[[0.75, 0.5]]]), [1], 2)
    >>> confusions_at([one], 0.5, 2).tolist()
    [[[1, 0], [0, 1]]]
    """
    seen = _seen(truth, classes)
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} score maps for {len(labels)} labels: expected one each")
    wrong = [label for label in labels if not 0 < label < classes]
    if wrong:
        raise ValueError(f"score maps of labels {wrong}: expected 1..{classes - 1}")
    if len(labels):
        _check_size(truth, scores[0], "the score map")
        highest = scores.max(0)[seen].astype(np.float64)
        if not ((scores >= -_ROUNDING) & (scores <= 1 + _ROUNDING)).all():
            raise ValueError(f"scores lie in {scores.min()}..{scores.max()}: expected numbers in [0, 1]")
        best = np.asarray(labels)[scores.argmax(0)][seen].astype(np.int64)
        height = np.ceil(highest.clip(0, 1) * BINS).astype(np.int64)  # score > j/BINS iff bin > j
    else:
        best = height = np.zeros(int(seen.sum()), np.int64)
    code = (truth[seen].astype(np.int64) * classes + best) * (BINS + 1) + height
    cells, pixels = np.unique(code, return_counts=True)
    return ScoreHistogram(np.stack([cells // (BINS + 1) // classes, cells // (BINS + 1) % classes, cells % (BINS + 1), pixels], axis=1))


def confusions_at(histograms: Sequence[ScoreHistogram], threshold: float, classes: int) -> np.ndarray:
    """The confusion matrix of each image at one threshold: images C C, int64.

    Args:
        histograms: Counts of the images, one histogram an image.
        threshold: Background threshold, in [0, 1]; it is rounded to 1/256.
        classes: Number of classes C, background included.

    Raises:
        ValueError: If the threshold is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold}: expected a score in [0, 1]")
    cut = round(threshold * BINS)
    result = np.zeros((len(histograms), classes, classes), np.int64)
    for matrix, one in zip(result, histograms, strict=True):
        true, best, height, pixels = one.counts.T
        np.add.at(matrix, (true, np.where(height > cut, best, 0)), pixels)
    return result


def mask_by_truth(histogram: ScoreHistogram) -> ScoreHistogram:
    """The counts after what the truth forbids: a pixel whose best class is nowhere in its image's truth becomes background.

    Args:
        histogram: Counts of one image.

    >>> one = count_scores(np.array([[1, 0]]), np.array([[[0.2, 0.2]], [[0.9, 0.9]]]), [1, 2], 3)
    >>> confusions_at([mask_by_truth(one)], 0.5, 3)[0].tolist()
    [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    """
    true, best, height, pixels = histogram.counts.T
    return ScoreHistogram(np.stack([true, np.where(np.isin(best, true), best, 0), height, pixels], axis=1))


def void_small(truth: np.ndarray, share: float) -> np.ndarray:
    """The ground truth with its small objects void; H W.

    An object is the connected pixels of one class (8 neighbours), the background excepted, since masks of classes do not tell objects apart.

    Args:
        truth: Ground truth, H W, integers 0..C-1 or 255.
        share: Share of the picture, 0 to 1, below which an object is small.

    >>> void_small(np.array([[1, 0, 2, 2]]), 0.5).tolist()
    [[255, 0, 2, 2]]
    """
    result = truth.copy()
    for one in np.unique(truth[(truth != 0) & (truth != VOID)]):
        places, _ = components(truth == one, np.ones((3, 3)))
        small = np.bincount(places.ravel()) < share * truth.size
        small[0] = False  # what is not of the class
        result[small[places]] = VOID
    return result


def threshold_curve(histograms: Sequence[ScoreHistogram], classes: int, mean: Mean = Mean()) -> tuple[np.ndarray, np.ndarray]:
    """Mean IoU, percent, at every threshold 0, 1/256, ..., 255/256: (thresholds, values).

    Args:
        histograms: Counts of the images, one histogram an image.
        classes: Number of classes C, background included.
        mean: How IoU becomes one figure.
    """
    if mean.per_image:
        each = np.array([threshold_curve([one], classes, Mean(mean.background))[1] for one in histograms]).reshape(-1, BINS)
        return np.arange(BINS) / BINS, _mean_of_known(each.T, np.ones(len(each)))
    total = np.zeros((classes, classes, BINS + 1), np.int64)
    for one in histograms:
        true, best, height, pixels = one.counts.T
        np.add.at(total, (true, best, height), pixels)
    below = total.cumsum(-1)[..., :BINS]  # height <= cut
    matrices = (total.sum(-1, keepdims=True) - below).transpose(2, 0, 1).copy()
    matrices[:, :, 0] += below.sum(1).T
    return np.arange(BINS) / BINS, miou(matrices, mean.background)


def best_threshold(histograms: Sequence[ScoreHistogram], classes: int, between: tuple[float, float] = (0.0, 1.0), mean: Mean = Mean()) -> tuple[float, float]:
    """The threshold of the highest mean IoU (the lowest of equals), and that mean IoU in percent.

    On the split that is evaluated this is the oracle.

    Args:
        histograms: Counts of the images, one histogram an image.
        classes: Number of classes C, background included.
        between: Lowest and highest threshold that are tried, in [0, 1].
        mean: How IoU becomes one figure.

    Raises:
        ValueError: If there is no pixel to count.
    """
    thresholds, values = threshold_curve(histograms, classes, mean)
    if np.isnan(values).all():
        raise ValueError(f"no threshold to choose from {len(histograms)} images: expected at least one pixel that is not void")
    values = np.where((thresholds >= between[0]) & (thresholds <= between[1]), values, -np.inf)
    best = int(np.nanargmax(values))
    return float(thresholds[best]), float(values[best])


def bootstrap_miou(confusions: np.ndarray, resamples: int = 1000, seed: int = 0, mean: Mean = Mean()) -> tuple[float, float] | None:
    """95 % bootstrap interval of mean IoU, images drawn with replacement: (low, high), percent.

    From :data:`MANY` images on it is the percentile interval. Of fewer, that one is too narrow (by simulation it covers 83 % at 12 images, 89 % at 20), and it
    is the symmetric studentised one (Efron and Tibshirani, An Introduction to the Bootstrap, Sec. 12.5): a resample's difference from the estimate is divided
    by its own standard error, which follows from the derivative of mean IoU by the weight of an image. It covers 95 % or more, and is wider, at 20 images
    nearly twice. It may reach below 0 or above 100.

    Args:
        confusions: Confusion matrix of each image, images C C.
        resamples: Number of times that the images are drawn.
        seed: Seed of the drawing.
        mean: How IoU becomes one figure.

    Returns:
        The interval; None of fewer than :data:`FEWEST` images, of which no method that was tried holds its level.

    Raises:
        ValueError: If there is no image.
    """
    return _interval([confusions], [mean], resamples, seed)


def bootstrap_difference(
    first: np.ndarray, second: np.ndarray, resamples: int = 1000, seed: int = 0, means: tuple[Mean, Mean] = (Mean(), Mean())
) -> tuple[float, float] | None:
    """95 % bootstrap interval of mean IoU of `first` minus `second` on the same images, paired: (low, high), points.

    Args:
        first: Confusion matrix of each image, images C C.
        second: Confusion matrix of the same images, in the same order.
        resamples: Number of times that the images are drawn.
        seed: Seed of the drawing, the same for both.
        means: How IoU becomes the figure of the first, and that of the second.

    Returns:
        The interval, by the method of :func:`bootstrap_miou`; None of fewer than :data:`FEWEST` images.

    Raises:
        ValueError: If the shapes differ, or there is no image.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired images expected: {first.shape} and {second.shape}")
    return _interval([first, second], means, resamples, seed)


def bootstrap_unpaired(
    first: np.ndarray, second: np.ndarray, resamples: int = 1000, seed: int = 0, means: tuple[Mean, Mean] = (Mean(), Mean())
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of mean IoU of `first` minus `second` on other images, each drawn by itself: (low, high), points.

    Args:
        first: Confusion matrix of each image, images C C.
        second: Confusion matrix of each of the other images, images C C.
        resamples: Number of times that the images are drawn.
        seed: Seed of the drawing.
        means: How IoU becomes the figure of the first, and that of the second.

    Returns:
        The interval; None if either has fewer than :data:`MANY` images.

    Raises:
        ValueError: If there is no image.
    """
    fewest = min(len(first), len(second))
    if not fewest:
        raise ValueError("a bootstrap needs at least one image")
    if fewest < MANY:
        return None
    drawn = [
        _weighted_miou(one, np.random.default_rng([seed, i]).multinomial(len(one), np.full(len(one), 1 / len(one)), size=resamples).astype(float), mean)
        for i, (one, mean) in enumerate(zip((first, second), means, strict=True))
    ]
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    return float(low), float(high)


def _interval(sets: Sequence[np.ndarray], means: Sequence[Mean], resamples: int, seed: int) -> tuple[float, float] | None:
    """The interval of the first set's mean IoU, less the second's if there are two."""
    images = len(sets[0])
    if not images:
        raise ValueError("a bootstrap needs at least one image")
    if images < FEWEST:
        return None
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)
    signed = list(zip((1, -1), sets, means, strict=False))
    drawn = sum(sign * _weighted_miou(one, weights, mean) for sign, one, mean in signed)
    if images >= MANY:
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)
    once = np.ones((1, images))
    estimate = sum(float(sign * _weighted_miou(one, once, mean)[0]) for sign, one, mean in signed)
    errors, [error] = (np.sqrt((w * sum(sign * _slopes(one, w, mean) for sign, one, mean in signed) ** 2).sum(1)) for w in (weights, once))
    half = float(error * np.percentile(np.abs(drawn - estimate) / np.maximum(errors, np.finfo(float).tiny), 95))
    return estimate - half, estimate + half


def _mean_of_known(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean of values that are not NaN: values n or m n, weights n or b n; NaN where there is none."""
    known = ~np.isnan(values)
    total, number = np.where(known, values, 0) @ weights.T, known @ weights.T
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)


def _weighted_miou(confusions: np.ndarray, weights: np.ndarray, mean: Mean) -> np.ndarray:
    """Mean IoU, percent, of images that count so many times: confusions n C C, weights b n to b."""
    if mean.per_image:
        return _mean_of_known(miou(confusions, mean.background), weights)
    images, classes, _ = confusions.shape
    sums = weights @ confusions.reshape(images, -1)  # exact: counts stay below 2^53
    return miou(sums.reshape(len(weights), classes, classes), mean.background)


def _slopes(confusions: np.ndarray, weights: np.ndarray, mean: Mean) -> np.ndarray:
    """Derivative of :func:`_weighted_miou` by each image's weight, percent: confusions n C C, weights b n to b n."""
    if mean.per_image:
        values = miou(confusions, mean.background)
        known = ~np.isnan(values)
        from_mean = np.where(known, values, 0) - known * _mean_of_known(values, weights)[:, None]
        return from_mean / np.maximum(weights @ known, 1)[:, None]
    first = 0 if mean.background else 1
    hit = np.diagonal(confusions, axis1=1, axis2=2).astype(float)
    union = (confusions.sum(1) + confusions.sum(2) - hit)[:, first:]
    hit = hit[:, first:]
    hits, unions = weights @ hit, weights @ union
    known = unions > 0
    share = 100 * known / np.maximum(known.sum(1, keepdims=True), 1)
    unions = np.where(known, unions, 1)
    return (share / unions) @ hit.T - (share * hits / unions**2) @ union.T


def mean_interval(values: Sequence[float] | np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of a mean over images: (low, high), in the unit of the values.

    From :data:`MANY` values on it is the percentile bootstrap's, of fewer Student's t.

    Args:
        values: One value an image.
        resamples: Number of times that the images are drawn.
        seed: Seed of the drawing.

    Returns:
        The interval; None of fewer than :data:`FEWEST` values.

    Raises:
        ValueError: If there is no image.
    """
    values = np.asarray(values, dtype=float)
    if not values.size:
        raise ValueError("a bootstrap needs at least one image")
    if len(values) < FEWEST:
        return None
    if len(values) < MANY:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
        return float(values.mean()) - half, float(values.mean()) + half
    rows = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
    return float(low), float(high)


def interval_text(interval: tuple[float, float] | None, images: int, form: str = ".1f") -> str:
    """A 95 % interval for people: its ends, and of a small sample (:data:`SKETCH`) what it is.

    Args:
        interval: Its ends, (low, high); None where there is none.
        images: Number of images that it is over.
        form: Format of its ends.

    >>> interval_text((61.2, 65.1), 500), interval_text((1.0, 9.0), 40, "+.0f"), interval_text(None, 8)
    ('61.2 to 65.1', '+1 to +9; small sample: a sketch', 'small sample: a sketch')
    """
    ends = [f"{interval[0]:{form}} to {interval[1]:{form}}"] if interval else []
    return "; ".join(ends + ["small sample: a sketch"] * (images < SKETCH)) or "-"


def mean_and_sd(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of one figure over seeds of the noise.

    Args:
        values: Figure of each seed.

    Raises:
        ValueError: On fewer than two values, which have no deviation.

    >>> mean_and_sd([60.0, 61.0, 62.0])
    (61.0, 1.0)
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values: expected the figure of two seeds or more")
    return float(np.mean(values)), float(np.std(values, ddof=1))


def boundary_band(truth: np.ndarray, width: int) -> np.ndarray:
    """Pixels near an edge of the ground truth: H W, bool; void is never among them.

    A pixel is near if in the square of `width` px to each side of it lies another label, or void (which is how VOC marks an edge, so that the band begins at
    its rim). The picture's own border is no edge.

    Args:
        truth: Ground truth, H W, integers, 255 void.
        width: Width of the band to each side of an edge, px, at least 1.

    Raises:
        ValueError: If `width` is below 1.

    >>> boundary_band(np.array([[0, 0, 0, 255, 1, 1]]), 1).tolist()
    [[False, False, True, False, True, False]]
    """
    if width < 1:
        raise ValueError(f"a band {width} px wide: expected 1 px or more")
    lowest, highest = (extreme(truth, 2 * width + 1, mode="nearest") for extreme in (minimum_filter, maximum_filter))
    return (lowest != highest) & (truth != VOID)


def boundary_confusion(truth: np.ndarray, prediction: np.ndarray, classes: int, width: int = 3) -> np.ndarray:
    """The confusion matrix of the pixels in :func:`boundary_band` alone: how an outline is hit, whatever the inside.

    Args:
        truth: Ground truth, H W, integers 0..C-1 or 255.
        prediction: Predicted labels, H W, integers 0..C-1.
        classes: Number of classes C, background included.
        width: Width of the band to each side of an edge, px.
    """
    _check_size(truth, prediction, "the prediction")
    return confusion(np.where(boundary_band(truth, width), truth, VOID), prediction, classes)


def recall_at_precision(inside: np.ndarray, scores: np.ndarray, precision: float) -> float:
    """The largest share of the object that a threshold on one map finds while it is right this often, in [0, 1].

    The threshold is the map's own best, by the truth: a property of the map, and no result of a method. Pixels of one score are found together.

    Args:
        inside: Where the object is, bool, of any shape.
        scores: Scores of the same pixels.
        precision: Share of the found pixels that must be inside, in (0, 1].

    Raises:
        ValueError: If there is no object, or a score is not finite.

    >>> recall_at_precision(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1]), 0.6)
    1.0
    >>> recall_at_precision(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1]), 0.9)
    0.5
    """
    from sklearn.metrics import precision_recall_curve

    if not inside.any():
        raise ValueError("recall of an object without pixels: expected at least one inside")
    precisions, recalls, _ = precision_recall_curve(inside.ravel(), scores.ravel())
    return float(recalls[precisions >= precision].max())  # its last point is a precision of 1 at a recall of 0
