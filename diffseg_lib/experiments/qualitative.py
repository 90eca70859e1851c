"""Figs. 1 and 4: how complete and how sharp the maps of a diffusion model are beside those of a discriminative rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from torch.nn.functional import adaptive_avg_pool2d

from ..baselines.dense_clip import DenseClip
from ..data import Dataset, Sample
from ..data.samples import VOID
from ..evaluation.metrics import (
    ScoreHistogram,
    best_threshold,
    bootstrap_difference,
    bootstrap_miou,
    boundary_band,
    confusions_at,
    count_scores,
    mean_interval,
    miou,
    recall_at_precision,
)
from ..evaluation.sources import open_dataset
from ..scoremaps import upsample
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy

OURS, RIVAL, COARSE, CROSS = "diffsegmenter", "denseclip", "diffsegmenter on the rival's grid", "cross-attention alone"
METHODS = (OURS, COARSE, CROSS, RIVAL)
PRECISION = 0.8  # at which maps are compared for completeness
BAND = 3  # px to each side of an edge


def first_with(dataset: Dataset, numbers: Sequence[int] = (1, 2, 3, 4)) -> list[Sample]:
    """The first image with each of these numbers of classes, in the data set's order; a number that never occurs is left out.

    As in ``pocket.scenes.photo_or_scene`` the classes are the words to ask for, and the truth of the
    i-th is i, from 1.
    """
    found: dict[int, Sample] = {}
    for sample in dataset:
        if (count := len(sample.classes)) in numbers and count not in found:
            truth = np.where(sample.truth == VOID, VOID, 0).astype(np.uint8)
            for i, name in enumerate(sample.classes, start=1):
                truth[sample.truth == dataset.names.index(name)] = i
            found[count] = Sample(sample.id, sample.image, truth, tuple(dataset.words(sample.classes)))
        if len(found) == len(set(numbers)):
            break
    return [found[n] for n in numbers if n in found]


def score_both(segmenter: DiffSegmenter, rival: DenseClip, image: np.ndarray, words: Sequence[str]) -> dict[str, np.ndarray]:
    """Scores of every method on one image: k H W in [0, 1] by name.

    Beside the two stand a control of each step: the diffusion model's completed maps averaged over the rival's patches
    (for sharper edges could come of the finer grid alone), and its fused maps before self-attention completed them.
    """
    kept = segmenter.segment(image, words, return_intermediates=True).intermediates
    if kept is None:
        raise RuntimeError("the segmenter kept no intermediates although it was asked to")
    maps = {OURS: kept.completed, COARSE: adaptive_avg_pool2d(kept.completed, rival.grid(image)), CROSS: kept.fused}
    finish = partial(upsample, size=image.shape[:2], final_norm=segmenter.config.final_norm)
    return {name: to_numpy(finish(one)) for name, one in maps.items()} | {RIVAL: rival(image, words).scores}


@dataclass(frozen=True)
class ImageScores:
    """One image under one method: counted whole and near edges; by map: area under the ROC curve, and recall at the precision."""

    whole: ScoreHistogram
    edges: ScoreHistogram
    auc: tuple[float, ...]
    recall: tuple[float, ...]


def score_image(sample: Sample, scores: np.ndarray, labels: Sequence[int], classes: int) -> ImageScores:
    """Count one image's scores (k H W in [0, 1]) of `labels`; an object that fills or misses the valid pixels has no area or recall."""
    valid = sample.truth != VOID
    band = np.where(boundary_band(sample.truth, BAND), sample.truth, VOID)
    pairs = [((sample.truth == one)[valid], values[valid]) for one, values in zip(labels, scores, strict=True)]
    pairs = [(inside, values) for inside, values in pairs if inside.any() and not inside.all()]
    return ImageScores(
        count_scores(sample.truth, scores, labels, classes),
        count_scores(band, scores, labels, classes),
        tuple(float(roc_auc_score(*pair)) for pair in pairs),
        tuple(recall_at_precision(*pair, PRECISION) for pair in pairs),
    )


def _score_all(segmenter: DiffSegmenter, rival: DenseClip, dataset: Dataset) -> dict[str, list[ImageScores]]:
    found: dict[str, list[ImageScores]] = {name: [] for name in METHODS}
    for sample in dataset:
        labels = [dataset.names.index(name) for name in sample.classes]
        if labels:
            for name, scores in score_both(segmenter, rival, sample.image, dataset.words(sample.classes)).items():
                found[name].append(score_image(sample, scores, labels, len(dataset.names)))
    return found


def mean_recall(confusions: np.ndarray) -> np.ndarray:
    """Share of an object's pixels that got its label, percent, the mean over an image's classes: images C C to images."""
    pixels = confusions.sum(-1)[:, 1:].astype(float)
    hit = np.diagonal(confusions, axis1=1, axis2=2)[:, 1:]
    share = np.divide(hit, pixels, out=np.zeros_like(pixels), where=pixels > 0)
    present = (pixels > 0).sum(1)
    return 100 * np.divide(share.sum(1), present, out=np.full(len(present), np.nan), where=present > 0)


def _mean(values: np.ndarray) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    return {"value": float(known.mean()), "ci95": mean_interval(known), "images": len(known)}


def _pooled(confusions: np.ndarray) -> dict[str, Any]:
    return {"value": float(miou(confusions.sum(0))), "ci95": bootstrap_miou(confusions), "images": len(confusions)}


def _pooled_difference(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    return {"value": float(miou(first.sum(0)) - miou(second.sum(0))), "ci95": bootstrap_difference(first, second), "images": len(first)}


MEASURES = {
    "pixel AUC": "area under the ROC curve of a map, the object's pixels against all others",
    "recall at the precision": f"largest share of the object found by a map while {PRECISION:.0%} of what it finds is right",
    "covered": "share of an object's pixels that get its label, at the threshold fixed on train",
    "mIoU at edges": f"mean IoU of the pixels within {BAND} px of an edge of the truth, at that threshold",
}


def _summaries(seen: list[ImageScores], threshold: float, classes: int) -> dict[str, np.ndarray]:
    """Each measure of one method as values by image (a mean over the image's maps), or as confusions by image."""
    by_map = {"pixel AUC": [one.auc for one in seen], "recall at the precision": [one.recall for one in seen]}
    means = {name: np.array([100 * np.mean(one) if one else np.nan for one in values]) for name, values in by_map.items()}
    edges = confusions_at([one.edges for one in seen], threshold, classes)
    return means | {"covered": mean_recall(confusions_at([one.whole for one in seen], threshold, classes)), "mIoU at edges": edges}


def qualitative_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    seed: int = 0,
    rival: DenseClip | None = None,
) -> dict[str, Any]:
    """Completeness and boundaries of the diffusion model's maps and the rival's, image-level labels.

    Args:
        segmenter: the diffusion model.
        dataset, root, split: to open; each method's threshold is fixed on its train split.
        train_images, images: of train and of `split`.
        seed: of the noise.
        rival: CLIP's patches; None takes the CLIP of the segmenter's profile.

    Returns:
        ``rows``: mean IoU by method; ``measures``: each of :data:`MEASURES`, percent, by method; ``effects``:
        paired differences "measure: method minus method", points. Means are over images, of each image's mean over its
        classes; intervals are over images. Nothing but the thresholds was chosen, and those on train.
    """
    rival = rival or DenseClip.from_path(segmenter.backbone.profile.clip, device=str(segmenter.backbone.device))
    opened = {"train": open_dataset(dataset, root, "train", train_images), "test": open_dataset(dataset, root, split, images)}
    seen = {part: _score_all(segmenter.with_config(seed=seed), rival, one) for part, one in opened.items()}
    classes = len(opened["test"].names)
    thresholds = {name: best_threshold([one.whole for one in seen["train"][name]], classes)[0] for name in METHODS}
    rows = {name: _row([one.whole for one in seen["test"][name]], thresholds[name], classes) | {"seeds": [seed]} for name in METHODS}
    whole = {name: confusions_at([one.whole for one in seen["test"][name]], thresholds[name], classes) for name in METHODS}
    found = {name: _summaries(seen["test"][name], thresholds[name], classes) for name in METHODS}
    pairs = ((OURS, RIVAL), (COARSE, RIVAL), (OURS, CROSS))
    effects = {f"mIoU: {a} minus {b}": _pooled_difference(whole[a], whole[b]) for a, b in pairs}
    for measure in MEASURES:
        for a, b in pairs:
            first, second = found[a][measure], found[b][measure]
            effects[f"{measure}: {a} minus {b}"] = _pooled_difference(first, second) if first.ndim == 3 else _mean(first - second)
    return {
        "rows": rows,
        "measures": {m: {name: _pooled(found[name][m]) if found[name][m].ndim == 3 else _mean(found[name][m]) for name in METHODS} for m in MEASURES},
        "effects": {name: one | {"seeds": [seed]} for name, one in effects.items()},
        "precision": PRECISION,
        "band": BAND,
        "rival": rival.settings,
        "seeds": [seed],
        "images": len(seen["test"][OURS]),
        "train_images": len(seen["train"][OURS]),
        "dataset": dataset,
    }


def _row(histograms: Sequence[ScoreHistogram], threshold: float, classes: int) -> dict[str, Any]:
    oracle_threshold, oracle = best_threshold(histograms, classes)
    return _pooled(confusions_at(histograms, threshold, classes)) | {"threshold": threshold, "oracle": oracle, "oracle_threshold": oracle_threshold}


def effects_table(studies: Mapping[str, Mapping[str, Any] | None]) -> dict[str, dict[str, str]]:
    """Paired differences as text, by run and effect; a run that is None has "not run" everywhere.

    >>> one = {"effects": {"mIoU: a minus b": {"value": 3.21, "ci95": (1.0, 5.0)}}}
    >>> effects_table({"here": one, "large": None})
    {'here': {'mIoU: a minus b': '+3.2 (+1.0 to +5.0)'}, 'large': {'mIoU: a minus b': 'not run'}}
    """
    names = dict.fromkeys(name for one in studies.values() if one for name in one["effects"])
    return {run: {name: _difference(one["effects"].get(name)) if one else "not run" for name in names} for run, one in studies.items()}


def _difference(effect: Mapping[str, Any] | None) -> str:
    return f"{effect['value']:+.1f} ({effect['ci95'][0]:+.1f} to {effect['ci95'][1]:+.1f})" if effect else "not measured"
