"""Table 2: pseudo-labels of train images from image-level labels, before and after a dense CRF, and what the field mends and breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from ..applications.crf import PRESETS, Crf, probabilities, refine
from ..applications.pseudo_labels import TIMESTEPS
from ..baselines.attention import Attention
from ..baselines.base import Method
from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import best_threshold, boundary_band, confusion, count_scores, mean_interval, miou
from ..evaluation.sources import open_dataset
from ..segmenter import DiffSegmenter
from .claims import effect_texts, effect_verdict
from .measure import Effect, Estimate, StudyResult, format_effect, format_value, paired_miou, pooled_miou

ONE, FOUR, CHOSEN = "one", "four", "crf_chosen"
LABELS: Mapping[str, str] = {
    ONE: "t = 100",
    FOUR: "mean of four timesteps",
    **{f"crf_{name}": f"four + CRF {name}" for name in PRESETS},
    CHOSEN: "four + CRF chosen on train",
}
SIZES: Mapping[str, tuple[float, float]] = {"small": (0.0, 0.02), "medium": (0.02, 0.08), "large": (0.08, 1.01)}  # of the picture
SIZE_LABELS: Mapping[str, str] = {"small": "below 2 %", "medium": "2 to 8 %", "large": "above 8 %"}
BAND = 3  # px to each side of an edge
SURE = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)  # probabilities below which a pixel is void


def grid() -> list[Crf]:
    """The settings that are tried on train images: the bilateral kernel's widths and weight."""
    found = product((10, 25, 50), (3, 5, 13), (2, 4, 10))
    return [Crf(colour_xy=xy, colour_rgb=rgb, colour_weight=weight, source="chosen on train images") for xy, rgb, weight in found]


@dataclass(frozen=True, kw_only=True)
class MaskRow(Estimate):
    """Mean IoU of masks over the whole image, percent.

    Args:
        edges: Mean IoU near the truth's edges (:data:`BAND` px to each side), percent.
        inside: Mean IoU away from them, percent.
    """

    edges: Estimate
    inside: Estimate


@dataclass(frozen=True, kw_only=True)
class Found:
    """The share of an object's pixels that got its label, the mean over objects of one size.

    Args:
        label: The size of the objects, for people.
        value: The share, percent.
        ci95: The 95 % interval of the share over objects: low, high; None of too few objects to have one.
        objects: The number of objects.
    """

    label: str
    value: float
    ci95: tuple[float, float] | None
    objects: int


@dataclass(frozen=True, kw_only=True)
class SurePoint:
    """What is left when less probable labels are void.

    Args:
        sure: The least probability of a label that is kept, 0 to 1.
        kept: The share of pixels that is kept, 0 to 1.
        miou: Mean IoU on those pixels, percent.
    """

    sure: float
    kept: float
    miou: float


@dataclass(frozen=True, kw_only=True)
class PseudoResult(StudyResult):
    """Pseudo-labels by what was done to them, keys of :data:`LABELS`.

    ``effects`` are "one_minus_four", "crf_chosen_minus_four" and so on, and the same near edges, "edges_one_minus_four" and so on.

    Args:
        rows: Mean IoU by what was done.
        sizes: By row the share of an object that got its label, by the object's size, keys of :data:`SIZES`.
        sure: By row, for each of :data:`SURE`, what is left when less probable labels are void.
        changed: Ids of the measured images, from the most gained to the most lost by the chosen CRF.
        names: The classes, the background first.
        thresholds: The background's score of :data:`ONE` and :data:`FOUR`.
        crf: The CRF that was chosen.
        tuning_images: The number of images on which threshold and CRF were fixed.
        split: The split of all images.
    """

    rows: Mapping[str, MaskRow]
    sizes: Mapping[str, Mapping[str, Found]]
    sure: Mapping[str, tuple[SurePoint, ...]]
    changed: tuple[str, ...]
    names: tuple[str, ...]
    thresholds: Mapping[str, float]
    crf: Crf
    tuning_images: int
    split: str


@dataclass(frozen=True)
class ScoredImage:
    """An image with its truth and its scores.

    Args:
        id: Id of the image.
        image: The picture, H W 3, uint8.
        truth: The true labels, H W, 255 void.
        labels: The k labels that were asked for.
        scores: Scores by method, k H W in [0, 1].
    """

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
) -> PseudoResult:
    """Mean IoU of pseudo-labels by what was done to them, image-level labels.

    Args:
        segmenter: The model; its profile gives weights, its seed rules the noise.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split of all images.
        tuning_images: The number of its first images, on which threshold and CRF are fixed.
        images: The number of those after them, which are measured.
        candidates: CRF settings to choose from; None is :func:`grid`.
        progress: Called with a line after each step.

    Raises:
        ValueError: If no image is left to tune on, or none to measure.
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
    rows |= {f"crf_{name}": (FOUR, crf) for name, crf in PRESETS.items()} | {CHOSEN: (FOUR, chosen)}
    counts = {name: _Counted() for name in rows}
    shares: list[float] = []
    for one in test:
        band = boundary_band(one.truth, BAND)
        seen = one.truth != VOID
        objects = [label for label in one.labels if (one.truth == label).any()]
        shares += [float((one.truth == label).sum() / seen.sum()) for label in objects]
        for name, (kind, crf) in rows.items():
            probable = posterior(one, kind, thresholds[kind], crf)
            mask, held = masked(one, probable), counts[name]
            held.whole.append(confusion(one.truth, mask, classes))
            held.edges.append(confusion(np.where(band, one.truth, VOID), mask, classes))
            held.inside.append(confusion(np.where(band, VOID, one.truth), mask, classes))
            held.recall.extend(float((mask == label)[one.truth == label].mean()) for label in objects)
            held.sure.append([confusion(np.where(probable.max(0) >= least, one.truth, VOID), mask, classes) for least in SURE])
    gain = miou(np.stack(counts[CHOSEN].whole)) - miou(np.stack(counts[FOUR].whole))
    return PseudoResult(
        rows={name: _row(held, LABELS[name]) for name, held in counts.items()},
        effects=_effects(counts, (segmenter.config.seed,)),
        sizes={name: _by_size(np.array(held.recall), np.array(shares)) for name, held in counts.items()},
        sure={name: _sure(held) for name, held in counts.items()},
        changed=tuple(test[i].id for i in np.argsort(-gain)),
        names=tuple(opened.names),
        thresholds=thresholds,
        crf=chosen,
        tuning_images=len(tuning),
        images=len(test),
        seeds=(segmenter.config.seed,),
        dataset=opened.name,
        split=split,
    )


@dataclass(frozen=True)
class _Counted:
    """Of one row: confusions an image (C C) over the whole, near edges and away from them; recall an object; confusions an image and bound."""

    whole: list[np.ndarray] = field(default_factory=list)
    edges: list[np.ndarray] = field(default_factory=list)
    inside: list[np.ndarray] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)
    sure: list[list[np.ndarray]] = field(default_factory=list)


def _row(held: _Counted, label: str) -> MaskRow:
    whole, edges, inside = (pooled_miou(np.stack(one)) for one in (held.whole, held.edges, held.inside))
    return MaskRow(label=label, value=whole.value, ci95=whole.ci95, images=whole.images, edges=edges, inside=inside)


def _effects(counts: Mapping[str, _Counted], seeds: Sequence[int]) -> dict[str, Effect]:
    found, base = {}, counts[FOUR]
    for name, held in counts.items():
        if name != FOUR:
            label = f"{LABELS[name]} minus {LABELS[FOUR]}"
            found[f"{name}_minus_{FOUR}"] = paired_miou(np.stack(held.whole), np.stack(base.whole), label, seeds=seeds)
            found[f"edges_{name}_minus_{FOUR}"] = paired_miou(np.stack(held.edges), np.stack(base.edges), f"at edges: {label}", seeds=seeds)
    return found


def _by_size(recall: np.ndarray, shares: np.ndarray) -> dict[str, Found]:
    found = {}
    for size, (low, high) in SIZES.items():
        values = recall[(shares >= low) & (shares < high)]
        if len(values):
            bounds = mean_interval(values)
            interval = (100 * bounds[0], 100 * bounds[1]) if bounds else None
            found[size] = Found(label=SIZE_LABELS[size], value=100 * float(values.mean()), ci95=interval, objects=len(values))
    return found


def _sure(held: _Counted) -> tuple[SurePoint, ...]:
    kept = np.array(held.sure)  # images bounds C C
    share = kept.sum((0, 2, 3)) / np.sum(held.whole)
    return tuple(SurePoint(sure=s, kept=float(k), miou=float(miou(m))) for s, k, m in zip(SURE, share, kept.sum(0), strict=True))


def mend(scored: Sequence[ScoredImage], result: PseudoResult) -> list[dict[str, np.ndarray]]:
    """Labels (H W) of scored images before and after the chosen CRF, and the truth, by name, one mapping an image."""
    threshold = result.thresholds[FOUR]
    before = [masked(one, posterior(one, FOUR, threshold, None)) for one in scored]
    after = [masked(one, posterior(one, FOUR, threshold, result.crf)) for one in scored]
    return [{"before": a, "after": b, "truth": one.truth} for a, b, one in zip(before, after, scored, strict=True)]


def crf_table(settings: Mapping[str, Crf]) -> Any:
    """Settings of CRFs as a table (pandas)."""
    import pandas as pd

    lines = {}
    for name, one in settings.items():
        line = {"positions: px, weight": f"{one.smooth_xy:g}, {one.smooth_weight:g}"}
        line |= {"colours: px, of 255, weight": f"{one.colour_xy:g}, {one.colour_rgb:g}, {one.colour_weight:g}", "from": one.source}
        lines[name] = line
    return pd.DataFrame(lines).T


def mask_table(rows: Mapping[str, MaskRow]) -> Any:
    """Mean IoU of masks over the image, near edges and away from them, as a table (pandas)."""
    import pandas as pd

    lines = {}
    for row in rows.values():
        parts = {"whole image": row, f"within {BAND} px of an edge": row.edges, "away from edges": row.inside}
        lines[row.label] = {title: format_value(part) for title, part in parts.items()}
    return pd.DataFrame(lines).T


def numbers(result: PseudoResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    effects, rows, crf = result.effects, result.rows, result.crf
    gain, one = f"{CHOSEN}_minus_{FOUR}", f"{ONE}_minus_{FOUR}"
    presets = [f"{name} {format_effect(effects[f'crf_{name}_minus_{FOUR}'])}" for name in PRESETS]
    small = next(iter(result.sizes[FOUR]))
    before, after = result.sizes[FOUR][small], result.sizes[CHOSEN][small]
    return {
        "pseudo_images": str(result.images),
        "pseudo_four": f"{rows[FOUR].value:.0f}",
        "pseudo_chosen": f"{rows[CHOSEN].value:.0f}",
        **effect_texts(effects, {"pseudo_one": one, "pseudo_gain": gain, "pseudo_edges": f"edges_{gain}"}),
        "pseudo_one_verdict": effect_verdict(effects[one], opposite=True),
        "pseudo_verdict": effect_verdict(effects[gain]),
        "pseudo_presets": "; ".join(presets),
        "pseudo_widths": f"{crf.colour_xy:g} px, {crf.colour_rgb:g} of 255, weight {crf.colour_weight:g}",
        "pseudo_small": f"{before.value:.0f} to {after.value:.0f} %",
        "pseudo_small_size": before.label,
    }
