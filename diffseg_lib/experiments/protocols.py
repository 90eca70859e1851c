"""What a protocol is worth: one method, one data set, and one choice of the protocol turned at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..baselines.attention import Attention
from ..category_filter import CategoryFilter
from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import (
    ScoreHistogram,
    best_threshold,
    bootstrap_difference,
    bootstrap_miou,
    bootstrap_unpaired,
    confusions_at,
    count_scores,
    interval_text,
    mask_by_truth,
    mean_iou,
    void_small,
)
from ..evaluation.protocol import Protocol
from ..evaluation.sources import open_splits
from ..segmenter import DiffSegmenter
from ..support.paths import POCKET
from .benchmark import choices
from .claims import effect_texts
from .measure import Counts, Effect, Estimate, Store, StudyResult, format_effect, side_of_zero

BASE, BEST, TRAIN = "base", "favourable", "train_split"
SMALL = 0.05  # of the picture; a smaller object is void where small ones are
PART = 50  # images that are kept at a time
WORDS = {"filter": "filter", "true": "image", "all": "all"}  # what the benchmark calls them


@dataclass(frozen=True)
class Choice:
    """A choice of the protocol that is turned alone.

    Args:
        label: What is changed, for people.
        changes: The changes of the base protocol, fields of :class:`~diffseg_lib.evaluation.protocol.Protocol`.
    """

    label: str
    changes: Mapping[str, Any]


CHOICES: Mapping[str, Choice] = {
    "true_words": Choice("true labels given", {"words": "true"}),
    "all_words": Choice("all classes asked for", {"words": "all"}),
    "masked": Choice("predictions outside the true classes dropped", {"masked": True}),
    "swept": Choice("threshold swept on the measured images", {"threshold": "swept"}),
    "no_background": Choice("background left out of the mean", {"background": False}),
    TRAIN: Choice("train images instead (unpaired)", {"split": "train"}),
    "per_image": Choice("mean of each image, averaged", {"per_image": True}),
    "void_small": Choice(f"objects below {SMALL:.0%} of the picture void", {"void_below": SMALL}),
}
LABELS = {BASE: "base protocol"} | {name: one.label for name, one in CHOICES.items()} | {BEST: "all choices that raise it"}


@dataclass(frozen=True, kw_only=True)
class ProtocolRow(Estimate):
    """A mean IoU under a protocol.

    Args:
        protocol: The protocol.
    """

    protocol: Protocol


@dataclass(frozen=True, kw_only=True)
class ProtocolEffect(Effect):
    """What a protocol is worth against the base, in points.

    Args:
        paired: Whether both were measured on the same images, and drawn together for the interval.
    """

    paired: bool = True


@dataclass(frozen=True, kw_only=True)
class ProtocolResult(StudyResult):
    """One method under the base protocol, under each of :data:`CHOICES` alone, and under all that raise it ("favourable").

    ``effects`` are "true_words_minus_base" and so on. Thresholds are fixed on train under the row's own protocol, unless they are swept; intervals are over
    images at that threshold, so that they do not hold how the threshold itself was come by.

    Args:
        rows: Mean IoU by protocol.
        effects: What each protocol is worth.
        favourable: The choices that raise the figure, keys of :data:`CHOICES`, in their order; together they are the row "favourable". Of true labels and all
            classes the better one is taken, and other images are no choice here, so that the row stays paired.
        small: Share of the true objects' pixels, 0 to 1, that are void where small objects are.
        train_images: The number of train images that thresholds were fixed on.
    """

    rows: Mapping[str, ProtocolRow]
    effects: Mapping[str, ProtocolEffect]
    favourable: tuple[str, ...]
    small: float
    train_images: int

    def protocol(self, row: str = "", split: str = "") -> Protocol:
        """The protocol of a row; "" is the base. Its own split is kept with it."""
        return self.rows[row or BASE].protocol


def count_words(segmenter: DiffSegmenter, category_filter: CategoryFilter, dataset: Dataset) -> Counts:
    """Score histograms by words ("filter", "true", "all") and, with small objects void, "filter/void" and so on.

    A class's map does not depend on the other classes asked for, so an image is scored once, for all classes, and read once for each choice of words.
    """
    found: Counts = {}
    method = Attention(segmenter)
    for sample in dataset:
        asked = choices(dataset, sample, category_filter, wrong=())
        scores = method(sample.image, dataset.prompts).scores
        _add(found, sample.truth, scores, {words: asked[choice] for words, choice in WORDS.items()})
    return found


def _add(found: Counts, truth: np.ndarray, scores: np.ndarray, asked: Mapping[str, Sequence[int]]) -> None:
    """Add one image's counts: its truth H W, the scores of all classes, C-1 H W, and the labels of each choice of words."""
    for words, labels in asked.items():
        for key, counted in ((words, truth), (f"{words}/void", void_small(truth, SMALL))):
            found.setdefault(key, []).append(count_scores(counted, scores[[label - 1 for label in labels]], labels, len(scores) + 1))


def histograms_of(counts: Counts, protocol: Protocol) -> list[ScoreHistogram]:
    """The images' counts under a protocol, every threshold still to be read."""
    found = counts[f"{protocol.words}/void" if protocol.void_below else protocol.words]
    return [mask_by_truth(one) for one in found] if protocol.masked else found


def apply(protocol: Protocol, tuning: Counts, measured: Counts, classes: int) -> tuple[np.ndarray, Protocol]:
    """The confusion matrix of each measured image under a protocol, images C C, and the protocol with the threshold that it comes to.

    Args:
        protocol: The protocol; its threshold is "given", "swept" on what is measured, or else fixed on what is tuned on, both by the protocol's own mean.
        tuning: Counts of the images to fix a threshold on.
        measured: Counts of the images that are measured.
        classes: Number of classes C, background included.
    """
    histograms = histograms_of(measured, protocol)
    value = protocol.value
    if protocol.threshold != "given" or value is None:
        value, _ = best_threshold(histograms if protocol.threshold == "swept" else histograms_of(tuning, protocol), classes, mean=protocol.mean)
    return confusions_at(histograms, value, classes), replace(protocol, value=value, images=len(histograms))


def compare(base: Protocol, counts: Mapping[str, Counts], classes: int, seeds: tuple[int, ...] = ()) -> dict[str, Any]:
    """Rows, effects and what is favourable, the fields of :class:`ProtocolResult`, from counts alone.

    Args:
        base: The base protocol.
        counts: Counts by words of the images to tune on ("tuning"), those measured ("test") and, if there are any, other train images ("train").
        classes: Number of classes C, background included.
        seeds: Seeds of the noise.
    """
    confusions: dict[str, np.ndarray] = {}
    rows: dict[str, ProtocolRow] = {}
    effects: dict[str, ProtocolEffect] = {}

    def add(name: str, protocol: Protocol, on: str = "test") -> None:
        matrices, told = apply(protocol, counts["tuning"], counts[on], classes)
        confusions[name], paired = matrices, on == "test"
        value = mean_iou(matrices, told.mean)
        rows[name] = ProtocolRow(label=LABELS[name], value=value, ci95=bootstrap_miou(matrices, mean=told.mean), images=len(matrices), protocol=told)
        if name != BASE:
            interval = (bootstrap_difference if paired else bootstrap_unpaired)(matrices, confusions[BASE], means=(told.mean, rows[BASE].protocol.mean))
            fewest = min(len(matrices), len(confusions[BASE]))
            effects[f"{name}_minus_{BASE}"] = ProtocolEffect(
                label=LABELS[name], value=value - rows[BASE].value, ci95=interval, images=fewest, seeds=seeds, paired=paired
            )

    add(BASE, base)
    for name, choice in CHOICES.items():
        if name != TRAIN:
            add(name, replace(base, **choice.changes))
        elif "train" in counts:
            add(name, replace(base, listed=0, **choice.changes), "train")
    worth = {name: effects[f"{name}_minus_{BASE}"].value for name in CHOICES if name in rows and name != TRAIN}
    better = max(("true_words", "all_words"), key=worth.__getitem__)
    favourable = tuple(name for name, points in worth.items() if points > 0 and name in {*worth} - {"true_words", "all_words"} | {better})
    add(BEST, replace(base, **{field: value for name in favourable for field, value in CHOICES[name].changes.items()}))
    return {"rows": rows, "effects": effects, "favourable": favourable}


def protocol_study(
    segmenter: DiffSegmenter,
    category_filter: CategoryFilter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    store: Store | None = None,
) -> ProtocolResult:
    """The method's mean IoU under the base protocol, each choice turned alone, and all that raise it together.

    Args:
        segmenter: The model.
        category_filter: Chooses among the data set's prompt words.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; where it is not of train, as many other images of train are measured beside it.
        train_images: The number of images of train that thresholds are fixed on.
        images: The number of images of `split`.
        store: Keeps the counts, so many images at a time (:data:`PART`); None keeps nothing.

    Raises:
        ValueError: If too few images are left to measure.
    """
    store = store or Store()
    tuning, test = open_splits(dataset, root, split, train_images, images)
    opened = {"tuning": tuning, "test": test}
    if not split.startswith("train"):
        opened["train"] = open_splits(dataset, root, "train", train_images, len(test))[1]
    key = {"study": "protocols", "small": SMALL, "seed": segmenter.config.seed, "relative": category_filter.relative_clip_threshold}
    counts: dict[str, Counts] = {}
    for name, one in opened.items():
        counts[name] = {}
        for start in range(0, len(one), PART):
            some = replace(one, ids=one.ids[start : start + PART])
            found = store.counts(key | {"data": some.fingerprint()}, partial(count_words, segmenter, category_filter, some))
            for words, histograms in found.items():
                counts[name].setdefault(words, []).extend(histograms)
    seeds = (segmenter.config.seed,)
    listed = 0 if test.name.startswith(POCKET) else test.expected  # of the pocket world there are as many as are asked for
    compared = compare(Protocol(dataset=test.name, split=split, listed=listed), counts, len(test.names), seeds)
    objects = [sum(int(one.counts[one.counts[:, 0] > 0, 3].sum()) for one in counts["test"][words]) for words in ("true", "true/void")]
    return ProtocolResult(**compared, small=1 - objects[1] / max(objects[0], 1), train_images=len(tuning), seeds=seeds, images=len(test), dataset=test.name)


# -- two scenes made by hand, on which every choice can be seen


TOY_NAMES = ("background", "house", "fish", "boat", "star", "cat")
TOY_THRESHOLD = 0.4


@dataclass(frozen=True)
class ToyScene:
    """A scene whose scores were made by hand.

    Args:
        truth: Labels, H W.
        scores: Scores of the classes of :data:`TOY_NAMES` after the background, 5 H W in [0, 1].
        kept: Labels that a filter is taken to have kept.
    """

    truth: np.ndarray
    scores: np.ndarray
    kept: tuple[int, ...]

    def asked(self, words: str) -> tuple[int, ...]:
        """The labels asked for by a choice of words, a key of :data:`WORDS`."""
        return {"filter": self.kept, "all": tuple(range(1, len(TOY_NAMES)))}.get(words) or tuple(int(one) for one in np.unique(self.truth) if one)


@dataclass(frozen=True)
class ToyPanel:
    """The scenes under one protocol.

    Args:
        title: What is turned, and the mean IoU that comes of it.
        labels: What is looked at, the scenes side by side, H W: labels given, the truth where that is what changes; 255 is void.
        value: The mean IoU, percent.
    """

    title: str
    labels: np.ndarray
    value: float


def toy_scenes() -> tuple[ToyScene, ToyScene]:
    """Two scenes: a house, a fish and a small star, of which the filter misses the star and sees a boat that is not there; and a large house."""

    def scene(
        boxes: Mapping[int, tuple[int, int, int, int]], scored: Sequence[tuple[int, float, tuple[int, int, int, int]]], kept: tuple[int, ...]
    ) -> ToyScene:
        truth, scores = np.zeros((24, 36), np.uint8), np.zeros((len(TOY_NAMES) - 1, 24, 36), np.float32)
        for label, (top, bottom, left, right) in boxes.items():
            truth[top:bottom, left:right] = label
        for label, score, (top, bottom, left, right) in scored:
            scores[label - 1, top:bottom, left:right] = score
        return ToyScene(truth, scores, kept)

    rim, house, fish, star, boat, cat = (6, 22, 1, 15), (8, 20, 3, 13), (9, 16, 19, 31), (2, 5, 22, 25), (18, 23, 20, 35), (15, 20, 3, 13)
    first = [(1, 0.45, rim), (1, 0.9, house), (2, 0.8, (9, 16, 22, 31)), (3, 0.7, boat), (4, 0.85, star), (5, 0.95, cat)]
    large = (7, 22, 5, 33)
    return scene({1: house, 2: fish, 4: star}, first, (1, 2, 3)), scene({1: large}, [(1, 0.45, (5, 24, 3, 35)), (1, 0.9, large)], (1,))


def toy_panels() -> list[ToyPanel]:
    """The truth, and the scenes under the base protocol, under each choice that they can show, and under all that raise it."""
    counts: Counts = {}
    scenes = toy_scenes()
    for one in scenes:
        _add(counts, one.truth, one.scores, {words: one.asked(words) for words in WORDS})
    base = Protocol(dataset="toy", words="filter", threshold="given", value=TOY_THRESHOLD)
    found = compare(base, {"tuning": counts, "test": counts}, len(TOY_NAMES))
    panels = [ToyPanel("the truth", side_by_side([one.truth for one in scenes]), 100.0)]
    for name, row in found["rows"].items():
        shown = [void_small(one.truth, SMALL) if name == "void_small" else toy_labels(one, row.protocol) for one in scenes]
        what = "the truth, small objects void" if name == "void_small" else LABELS[name].partition(" of the picture")[0]
        panels.append(ToyPanel(f"{what}\n{row.value:.1f}", side_by_side(shown), row.value))
    return panels


def toy_labels(scene: ToyScene, protocol: Protocol) -> np.ndarray:
    """The labels that a scene gets under a protocol whose threshold is known, H W."""
    asked = scene.asked(protocol.words)
    scores = scene.scores[[label - 1 for label in asked]]
    labels = np.where(scores.max(0) > protocol.value, np.array(asked)[scores.argmax(0)], 0)
    return np.where(np.isin(labels, scene.truth), labels, 0) if protocol.masked else labels


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Label pictures beside each other, H W each, with two void columns between them."""
    gap = np.full((len(pictures[0]), 2), VOID)
    return np.hstack([part for one in pictures for part in (gap, one)][1:])


# -- for the chapter


def ranked(result: ProtocolResult) -> list[str]:
    """Keys of the effects, from the most gained to the most lost; all that raise it together come last."""
    last = f"{BEST}_minus_{BASE}"
    return [*sorted((name for name in result.effects if name != last), key=lambda name: -result.effects[name].value), last]


def protocols_table(result: ProtocolResult) -> Any:
    """The protocols as a table (pandas): mean IoU, what it is worth against the base, and what it takes from the truth."""
    import pandas as pd

    lines = {}
    for name in [BASE, *(one.removesuffix(f"_minus_{BASE}") for one in ranked(result))]:
        row, effect = result.rows[name], result.effects.get(f"{name}_minus_{BASE}")
        line = {"mIoU, %": f"{row.value:.1f}", "points against the base": format_effect(effect) if effect else ""}
        lines[row.label] = line | {"threshold": f"{row.protocol.value:.2f}", "uses the truth": ", ".join(row.protocol.uses_truth) or "nothing"}
    return pd.DataFrame(lines).T


def numbers(result: ProtocolResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    found = result.effects
    sides = {name: side_of_zero(one) for name, one in found.items() if name != f"{BEST}_minus_{BASE}"}
    named = {side: [f"{found[name].label} {format_effect(found[name])}" for name in ranked(result) if sides.get(name, 9) == side] for side in (1, 0, -1, None)}
    base, best = result.rows[BASE], result.rows[BEST]
    return {
        "protocols_images": str(result.images),
        "protocols_base": f"{base.value:.1f} ({interval_text(base.ci95, base.images)})",
        "protocols_best": f"{best.value:.1f} ({interval_text(best.ci95, best.images)})",
        "protocols_raise": "; ".join(named[1]) or "none",
        "protocols_lower": "; ".join(named[-1]) or "none",
        "protocols_neither": "; ".join(named[0]) or "none",
        "protocols_undecided": "; ".join(named[None]) or "none",
        "protocols_together": "; ".join(CHOICES[name].label for name in result.favourable) or "none",
        "protocols_small": f"{100 * result.small:.0f} %",
        "protocols_line": base.protocol.line,
        "protocols_best_line": best.protocol.line,
        **effect_texts(found, {f"protocols_{name}": f"{name}_minus_{BASE}" for name in (*CHOICES, BEST) if f"{name}_minus_{BASE}" in found}),
    }
