"""Figs. 1 and 4: how complete and how sharp the maps of a diffusion model are beside those of a discriminative rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import adaptive_avg_pool2d

from ..baselines.dense_clip import DenseClip
from ..data import Dataset, Sample
from ..data.samples import VOID
from ..evaluation.metrics import ScoreHistogram, best_threshold, boundary_band, confusions_at, count_scores, recall_at_precision
from ..evaluation.sources import open_splits
from ..scoremaps import label, upsample
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from .claims import shown
from .measure import Effect, Estimate, Row, StudyResult, format_effect, mean_effect, mean_estimate, paired_miou, pooled_miou, side_of_zero

OURS, RIVAL, COARSE, CROSS = "ours", "rival", "coarse", "cross"
METHODS: Mapping[str, str] = {
    OURS: "diffsegmenter",
    COARSE: "diffsegmenter on the rival's grid",
    CROSS: "cross-attention alone",
    RIVAL: "denseclip",
}
PAIRS = ((OURS, RIVAL), (COARSE, RIVAL), (OURS, CROSS))  # that are compared
PRECISION = 0.8  # at which maps are compared for completeness
BAND = 3  # px to each side of an edge


@dataclass(frozen=True, kw_only=True)
class QualitativeResult(StudyResult):
    """How complete and how sharp maps are, by method (keys of :data:`METHODS`).

    Means are over images, of each image's mean over its classes. ``effects`` are "miou_ours_minus_rival" and so on for every pair of
    :data:`PAIRS`, of mean IoU and of every measure ("recall_ours_minus_rival").

    Args:
        rows: Mean IoU by method.
        measures: Every measure (keys of :data:`MEASURES`) by method, percent.
        precision: The precision at which maps are compared for completeness, 0 to 1.
        band: Pixels to each side of an edge that count as near it.
        rival: Settings of the rival.
        train_images: The number of images on which thresholds were fixed.
    """

    rows: Mapping[str, Row]
    measures: Mapping[str, Mapping[str, Estimate]]
    precision: float
    band: int
    rival: Mapping[str, Any]
    train_images: int


@dataclass(frozen=True)
class Measure:
    """A measure of maps.

    Args:
        label: Its name, for people.
        definition: What it says.
    """

    label: str
    definition: str


MEASURES: Mapping[str, Measure] = {
    "auc": Measure("pixel AUC", "area under the ROC curve of a map, the object's pixels against all others"),
    "recall": Measure("recall at the precision", f"largest share of the object found by a map while {PRECISION:.0%} of what it finds is right"),
    "covered": Measure("covered", "share of an object's pixels that get its label, at the threshold fixed on train"),
    "edges": Measure("mIoU at edges", f"mean IoU of the pixels within {BAND} px of an edge of the truth, at that threshold"),
}


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


def label_maps(scores: Mapping[str, np.ndarray], rows: Mapping[str, Row]) -> dict[str, np.ndarray]:
    """Labels (H W) of one image by the method's and by the rival's scores at their thresholds, by the methods' names."""
    return {METHODS[key]: to_numpy(label(torch.from_numpy(scores[key]), rows[key].threshold)) for key in (OURS, RIVAL)}


@dataclass(frozen=True)
class ImageScores:
    """One image under one method.

    Args:
        whole: Counts over the whole image.
        edges: Counts near edges.
        auc: Area under the ROC curve of each map, 0 to 1.
        recall: Recall of each map at the precision :data:`PRECISION`, 0 to 1.
    """

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


def _summaries(seen: list[ImageScores], threshold: float, classes: int) -> dict[str, np.ndarray]:
    """Each measure of one method as values by image (a mean over the image's maps), or as confusions by image."""
    by_map = {"auc": [one.auc for one in seen], "recall": [one.recall for one in seen]}
    means = {name: np.array([100 * np.mean(one) if one else np.nan for one in values]) for name, values in by_map.items()}
    edges = confusions_at([one.edges for one in seen], threshold, classes)
    return means | {"covered": mean_recall(confusions_at([one.whole for one in seen], threshold, classes)), "edges": edges}


def qualitative_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    seed: int = 0,
    rival: DenseClip | None = None,
) -> QualitativeResult:
    """Completeness and boundaries of the diffusion model's maps and the rival's, image-level labels.

    Nothing but the thresholds is chosen, and those on train.

    Args:
        segmenter: The diffusion model.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; each method's threshold is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        seed: Seed of the noise.
        rival: CLIP's patches; None takes the CLIP of the segmenter's profile.
    """
    known = segmenter.backbone.profile
    rival = rival or DenseClip.from_path(known.clip, device=str(segmenter.backbone.device), pickled=known.pickled_weights)
    opened = dict(zip(("train", "test"), open_splits(dataset, root, split, train_images, images), strict=True))
    seen = {part: _score_all(segmenter.with_config(seed=seed), rival, one) for part, one in opened.items()}
    classes = len(opened["test"].names)
    thresholds = {name: best_threshold([one.whole for one in seen["train"][name]], classes)[0] for name in METHODS}
    whole = {name: confusions_at([one.whole for one in seen["test"][name]], thresholds[name], classes) for name in METHODS}
    found = {name: _summaries(seen["test"][name], thresholds[name], classes) for name in METHODS}
    rows = {}
    for name, told in METHODS.items():
        one, (oracle_threshold, oracle) = pooled_miou(whole[name], told), best_threshold([image.whole for image in seen["test"][name]], classes)
        rows[name] = Row(**vars(one), threshold=thresholds[name], oracle=oracle, oracle_threshold=oracle_threshold, seeds=(seed,))
    return QualitativeResult(
        rows=rows,
        measures={key: {name: _estimate(found[name][key], label) for name, label in METHODS.items()} for key in MEASURES},
        effects=_effects({"miou": whole} | {key: {name: found[name][key] for name in METHODS} for key in MEASURES}, seed),
        precision=PRECISION,
        band=BAND,
        rival=rival.settings,
        seeds=(seed,),
        images=len(seen["test"][OURS]),
        train_images=len(seen["train"][OURS]),
        dataset=opened["test"].name,
    )


def _estimate(values: np.ndarray, label: str) -> Estimate:
    """Confusions by image are pooled to a mean IoU, values by image averaged."""
    return pooled_miou(values, label) if values.ndim == 3 else mean_estimate(values, label)


def _effects(values: Mapping[str, Mapping[str, np.ndarray]], seed: int) -> dict[str, Effect]:
    found = {}
    for measure, by_method in values.items():
        for a, b in PAIRS:
            label = f"{MEASURES[measure].label if measure in MEASURES else 'mIoU'}: {METHODS[a]} minus {METHODS[b]}"
            first, second = by_method[a], by_method[b]
            both = paired_miou(first, second, label, seeds=(seed,)) if first.ndim == 3 else mean_effect(first - second, label, (seed,))
            found[f"{measure}_{a}_minus_{b}"] = both
    return found


def effects_table(results: Mapping[str, StudyResult | None]) -> Any:
    """Paired differences as a table (pandas): a line an effect, a column a run; a run that is None has "not run" everywhere.

    >>> one = Effect(label="mIoU: a minus b", value=3.21, ci95=(1.0, 5.0), images=500)
    >>> here = StudyResult(rows={}, effects={"a_minus_b": one}, images=500, seeds=(0,), dataset="voc")
    >>> effects_table({"here": here, "large": None}).to_dict()
    {'here': {'mIoU: a minus b': '+3.2 (+1.0 to +5.0)'}, 'large': {'mIoU: a minus b': 'not run'}}
    """
    import pandas as pd

    labels = {name: effect.label for one in results.values() if one for name, effect in one.effects.items()}

    def text(result: StudyResult | None, name: str) -> str:
        if result is None:
            return "not run"
        return format_effect(result.effects[name]) if name in result.effects else "not measured"

    return pd.DataFrame({run: {label: text(one, name) for name, label in labels.items()} for run, one in results.items()})


def numbers(result: QualitativeResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    measures, effects = result.measures, result.effects
    recall, edges, same = (effects[key] for key in ("recall_ours_minus_rival", "edges_ours_minus_rival", "edges_coarse_minus_rival"))
    still = "The finer grid is not all of it: on CLIP's own patches the difference at edges is still"
    return {
        "qualitative_images": str(result.images),
        "qualitative_auc": f"{measures['auc'][RIVAL].value:.0f}",
        "qualitative_auc_ours": f"{measures['auc'][OURS].value:.0f}",
        "qualitative_recall": f"{measures['recall'][RIVAL].value:.0f}",
        "qualitative_recall_ours": f"{measures['recall'][OURS].value:.0f}",
        "qualitative_recall_gain": format_effect(recall),
        "qualitative_complete": shown(recall),
        "qualitative_edges_gain": format_effect(edges),
        "qualitative_sharp": shown(edges),
        "qualitative_grid": still if side_of_zero(same) == 1 else "On CLIP's own patches the difference at edges is only",
        "qualitative_edges_same": format_effect(same),
    }
