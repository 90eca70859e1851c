"""Table 2: pseudo-labels of train images from image-level labels, before and after a dense CRF, and what the field mends and breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from ..applications.crf import PRESETS, Crf, probabilities, refine
from ..applications.pseudo_labels import TIMESTEPS
from ..baselines.attention import Attention
from ..baselines.base import Method
from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import best_threshold, bootstrap_difference, bootstrap_miou, boundary_band, confusion, count_scores, mean_interval, miou
from ..evaluation.sources import open_dataset
from ..segmenter import DiffSegmenter

ONE, FOUR, CHOSEN = "t = 100", "mean of four timesteps", "four + CRF chosen on train"
SIZES: Mapping[str, tuple[float, float]] = {"below 2 %": (0.0, 0.02), "2 to 8 %": (0.02, 0.08), "above 8 %": (0.08, 1.01)}  # of the picture
BAND = 3  # px to each side of an edge
SURE = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)  # probabilities below which a pixel is void


def grid() -> list[Crf]:
    """The settings that are tried on train images: the bilateral kernel's widths and weight."""
    found = product((10, 25, 50), (3, 5, 13), (2, 4, 10))
    return [Crf(colour_xy=xy, colour_rgb=rgb, colour_weight=weight, source="chosen on train images") for xy, rgb, weight in found]


@dataclass(frozen=True)
class ScoredImage:
    """An image with its truth, the labels asked for, and the scores k H W by method."""

    id: str
    image: np.ndarray
    truth: np.ndarray
    labels: tuple[int, ...]
    scores: Mapping[str, np.ndarray]


def both_means(segmenter: DiffSegmenter) -> dict[str, Method]:
    """The method with one timestep, the profile's, and with the mean of the paper's four."""
    return {ONE: Attention(segmenter), FOUR: Attention(segmenter.with_config(timesteps=TIMESTEPS))}


def score_all(methods: Mapping[str, Method], dataset: Dataset) -> list[ScoredImage]:
    """Score every image with a class in it by every method, the classes present given."""
    found = []
    for sample in dataset:
        if sample.classes:
            words = dataset.words(sample.classes)
            scores = {name: method(sample.image, words).scores for name, method in methods.items()}
            found.append(ScoredImage(sample.id, sample.image, sample.truth, tuple(dataset.names.index(c) for c in sample.classes), scores))
    return found


def posterior(one: ScoredImage, kind: str, threshold: float, crf: Crf | None) -> np.ndarray:
    """Probabilities of background and classes, c H W."""
    given = probabilities(one.scores[kind], threshold)
    return given if crf is None else refine(one.image, given, crf)


def masked(one: ScoredImage, found: np.ndarray) -> np.ndarray:
    """The most probable label at every pixel: H W."""
    return np.array([0, *one.labels])[found.argmax(0)]


def choose_threshold(scored: Sequence[ScoredImage], kind: str, classes: int) -> float:
    """The background's score that is best on these images; at least 1/256, so that it is a probability."""
    return max(best_threshold([count_scores(one.truth, one.scores[kind], one.labels, classes) for one in scored], classes)[0], 1 / 256)


def choose_crf(scored: Sequence[ScoredImage], kind: str, threshold: float, classes: int, candidates: Sequence[Crf] | None = None) -> Crf:
    """The settings of the highest mean IoU on these images."""

    def value(crf: Crf) -> float:
        return float(miou(np.sum([confusion(one.truth, masked(one, posterior(one, kind, threshold, crf)), classes) for one in scored], axis=0)))

    return max(candidates or grid(), key=value)


def pseudo_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "train",
    tuning_images: int = 20,
    images: int = 20,
    candidates: Sequence[Crf] | None = None,
    progress: Callable[[str], Any] = lambda text: None,
) -> dict[str, Any]:
    """Mean IoU of pseudo-labels by what was done to them, image-level labels.

    Args:
        segmenter: its profile gives weights; its seed rules the noise.
        dataset, root, split: to open.
        tuning_images: the first of the split, on which threshold and CRF are fixed.
        images: those after them, which are measured.
        tried: settings to choose from; None: :func:`grid`.
        progress: progress.

    Returns:
        ``rows``: mean IoU with interval, by row, and in it the same near ``edges`` and ``inside``, away from them; ``effects`` against the
        mean of four; ``sizes``: by row the share of an object that got its label, by the object's size; ``min_confidence``: by row, for each of
        :data:`SURE`, the share of pixels kept and the mean IoU on them; ``crf``: the settings chosen; ``thresholds``; ``changed``: ids
        from the most gained to the most lost by the chosen CRF.
    """
    opened = open_dataset(dataset, root, split, tuning_images + images)
    classes, scored = len(opened.names), score_all(both_means(segmenter), opened)
    cut = sum(name in {one.id for one in scored} for name in opened.ids[:tuning_images])
    tuning, test = scored[:cut], scored[cut:]
    if not tuning or not test:
        raise ValueError(f"{len(tuning)} images to tune on and {len(test)} to measure: expected at least one each; {split} has {len(opened)} here")
    progress("scored")
    thresholds = {kind: choose_threshold(tuning, kind, classes) for kind in (ONE, FOUR)}
    chosen = choose_crf(tuning, FOUR, thresholds[FOUR], classes, candidates)
    progress("CRF chosen")
    rows: dict[str, tuple[str, Crf | None]] = {ONE: (ONE, None), FOUR: (FOUR, None)}
    rows |= {f"four + CRF {name}": (FOUR, crf) for name, crf in PRESETS.items()} | {CHOSEN: (FOUR, chosen)}
    found: dict[str, dict[str, Any]] = {name: {"whole": [], "edges": [], "inside": [], "recall": [], "sure": []} for name in rows}
    shares: list[float] = []
    for one in test:
        band = boundary_band(one.truth, BAND)
        seen = one.truth != VOID
        objects = [label for label in one.labels if (one.truth == label).any()]
        shares += [float((one.truth == label).sum() / seen.sum()) for label in objects]
        for name, (kind, crf) in rows.items():
            probable = posterior(one, kind, thresholds[kind], crf)
            mask, held = masked(one, probable), found[name]
            held["whole"].append(confusion(one.truth, mask, classes))
            held["edges"].append(confusion(np.where(band, one.truth, VOID), mask, classes))
            held["inside"].append(confusion(np.where(band, VOID, one.truth), mask, classes))
            held["recall"] += [float((mask == label)[one.truth == label].mean()) for label in objects]
            held["sure"].append([confusion(np.where(probable.max(0) >= min_confidence, one.truth, VOID), mask, classes) for min_confidence in SURE])
    return _results(found, np.array(shares), test, opened) | {
        "thresholds": thresholds,
        "crf": asdict(chosen),
        "tuning_images": len(tuning),
        "images": len(test),
        "seeds": [segmenter.config.seed],
        "dataset": dataset,
        "split": split,
    }


def _results(found: Mapping[str, Mapping[str, Any]], shares: np.ndarray, test: Sequence[ScoredImage], opened: Dataset) -> dict[str, Any]:
    counts = {name: {part: np.stack(held[part]) for part in ("whole", "edges", "inside")} for name, held in found.items()}
    rows, effects, sizes, min_confidence = {}, {}, {}, {}
    for name, held in found.items():
        parts = {part: {"value": float(miou(one.sum(0))), "ci95": bootstrap_miou(one)} for part, one in counts[name].items()}
        rows[name] = parts.pop("whole") | parts | {"images": len(test)}
        if name != FOUR:
            for part, told in (("whole", ""), ("edges", "at edges: ")):
                effects[f"{told}{name} minus {FOUR}"] = paired(counts[name][part], counts[FOUR][part])
        recall = np.array(held["recall"])
        inside = {size: recall[(shares >= low) & (shares < high)] for size, (low, high) in SIZES.items()}
        sizes[name] = {size: _mean(values) for size, values in inside.items() if len(values)}
        kept = np.array(held["sure"])  # images sure C C
        share = kept.sum((0, 2, 3)) / counts[name]["whole"].sum()
        min_confidence[name] = [{"sure": s, "kept": float(k), "miou": float(miou(m))} for s, k, m in zip(SURE, share, kept.sum(0), strict=True)]
    gain = miou(counts[CHOSEN]["whole"]) - miou(counts[FOUR]["whole"])
    order = [test[i].id for i in np.argsort(-gain)]
    return {"rows": rows, "effects": effects, "sizes": sizes, "sure": min_confidence, "changed": order, "names": list(opened.names)}


def paired(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Mean IoU of the first minus that of the second, points, paired over images: confusions, images C C each."""
    value = float(miou(first.sum(0)) - miou(second.sum(0)))
    return {"value": value, "ci95": bootstrap_difference(first, second), "images": len(first)}


def _mean(recalls: np.ndarray) -> dict[str, Any]:
    return {"value": 100 * float(recalls.mean()), "ci95": [100 * bound for bound in mean_interval(recalls)], "objects": len(recalls)}
