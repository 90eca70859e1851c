"""Table 1 and Sec. 3.6: data sets x methods x ways to choose the words, all from one pass an image.

A class's map does not depend on which other classes are asked for (each is a row of its own, min-maxed by
itself), so one pass over all classes serves every choice of labels; only the cost is then counted as if
each had been run by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..baselines.attention import attention_scores
from ..baselines.base import Method
from ..category_filter import CategoryFilter, precision_recall
from ..data import READERS, Dataset, Sample
from ..evaluation.methods import make_method
from ..evaluation.metrics import count_scores, iou, miou
from ..evaluation.sources import open_splits
from ..scoremaps import label
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from .claims import effect_texts, effect_verdict, verdict
from .measure import Counts, Effect, Measured, Row, Store, StudyResult, format_effect, format_value, measure

OURS = "diffsegmenter"
SHOWN = 4  # images that are kept as the best, and as the worst
WRONG = (1, 2, 4)  # absent classes added to the true ones
LABELS: Mapping[str, str] = {  # of the choices of words
    "image": "true words",
    "filter": "filter",
    "caption": "caption",
    "clip": "CLIP",
    "all": "all classes",
    "missing": "true words, one missing",
    **{f"wrong{n}": f"true words and {n} wrong" for n in WRONG},
}


@dataclass(frozen=True, kw_only=True)
class WordsQuality:
    """How good the words of one choice are.

    Args:
        precision: The share of the words asked for that are in their image, 0 to 1.
        recall: The share of the classes in an image that are asked for, 0 to 1.
        labels: The mean number of words an image.
        saved: The share of UNet evaluations that is saved against asking for all classes, 0 to 1.
        images: The number of images.
    """

    precision: float
    recall: float
    labels: float
    saved: float
    images: int


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Precision and recall of the words that are kept at one threshold.

    Args:
        relative: The relative threshold of CLIP's scores, 0 to 1.
        precision: The share of the words kept that are in their image, 0 to 1.
        recall: The share of the classes in an image that are kept, 0 to 1.
    """

    relative: float
    precision: float
    recall: float


@dataclass(frozen=True)
class ImageLabels:
    """What one image was asked for, and how it was labelled.

    Args:
        words: The words that were asked for.
        labels: The label of each pixel, H W: the data set's classes from 1, 0 the background.
    """

    words: tuple[str, ...]
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult(StudyResult):
    """Methods by choices of words on one data set.

    ``rows`` are by "method/choice" (:meth:`row`). ``effects`` are "filter_minus_image", "filter_minus_all", "filter_minus_caption",
    "filter_minus_clip", "missing_minus_image", "wrong1_minus_image" and so on, of the method itself; and by rival and choice
    (:meth:`over`). What was not measured is left out.

    Args:
        rows: Mean IoU by method and choice.
        quality: Quality of the words by choice, keys of :data:`LABELS`.
        iou: IoU of each class with the filter's words, percent; None for a class that does not occur.
        confusion: Pixels with the filter's words: true class by label given.
        names: The classes, the background first.
        best: Ids of the images of the highest own mean IoU, from the best.
        worst: Ids of the images of the lowest own mean IoU, from the worst.
    """

    rows: Mapping[str, Row]
    quality: Mapping[str, WordsQuality]
    iou: Mapping[str, float | None]
    confusion: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    best: tuple[str, ...]
    worst: tuple[str, ...]

    def words_of(self, row: str) -> str:
        """Where the words of a row came from, as a protocol has it."""
        choice = row.partition("/")[2]
        return "altered" if choice.startswith(("wrong", "missing")) else {"": "row", "image": "true", "all": "all"}.get(choice, "filter")

    def row(self, method: str, choice: str) -> Row | None:
        """A method's mean IoU with a choice of words; None if it was not measured."""
        return self.rows.get(f"{method}/{choice}")

    def by_method(self, choice: str) -> dict[str, Row]:
        """The rows of a choice of words by method, each labelled by its method."""
        found = {name.split("/")[0]: row for name, row in self.rows.items() if name.endswith(f"/{choice}")}
        return {method: replace(row, label=method) for method, row in found.items()}

    def by_choice(self, method: str) -> dict[str, Row]:
        """The rows of a method by choice of words, each labelled by its choice."""
        found = {name.split("/")[1]: row for name, row in self.rows.items() if name.startswith(f"{method}/")}
        return {choice: replace(row, label=LABELS[choice]) for choice, row in found.items()}

    def over(self, rival: str, choice: str) -> Effect | None:
        """The method minus a rival, both with a choice of words; None if it was not measured."""
        return self.effects.get(f"over_{rival}/{choice}")


def choices(dataset: Dataset, sample: Sample, category_filter: CategoryFilter, wrong: Sequence[int] = WRONG, seed: int = 0) -> dict[str, list[int]]:
    """Ways to choose the labels of one image: choice to labels, in label order.

    "image" takes those present, "all" every class, "filter" what caption and CLIP keep together, "caption" and "clip" what
    each keeps alone; "wrong1" and so on add absent classes to those present, "missing" drops one, both drawn by (seed, image).
    """
    said = category_filter.filter(sample.image)
    places = {name: i + 1 for i, name in enumerate(dataset.prompts)}
    present = sorted(dataset.names.index(name) for name in sample.classes)
    absent = [i for i in range(1, len(dataset.names)) if i not in present]
    drawn = np.random.default_rng([seed, *sample.id.encode()])
    order, left = drawn.permutation(absent).tolist(), int(drawn.integers(max(len(present), 1)))
    found = {
        "image": present,
        "filter": [places[one.name] for one in said.kept],
        "caption": [places[one.name] for one in said.kept if one.word],
        "clip": [places[one.name] for one in said.kept if said.relative_clip_scores[one.name] >= category_filter.relative_clip_threshold],
        "all": list(range(1, len(dataset.names))),
        "missing": [label for i, label in enumerate(present) if i != left],
    }
    return found | {f"wrong{n}": sorted(present + order[:n]) for n in wrong}


def _count(
    dataset: Dataset, category_filter: CategoryFilter, wanted: Sequence[str], score: Callable[[np.ndarray, Sequence[str]], Mapping[str, np.ndarray]]
) -> Counts:
    """Score histograms by "method/choice": `score` is called once an image with the union of the wanted choices' words."""
    found: Counts = {}
    for sample in dataset:
        asked = {choice: labels for choice, labels in choices(dataset, sample, category_filter).items() if choice in wanted or not wanted}
        union = sorted({label for labels in asked.values() for label in labels})
        everything = score(sample.image, [dataset.prompts[label - 1] for label in union])
        for choice, labels in asked.items():
            rows = [union.index(label) for label in labels]
            for name, scores in everything.items():
                found.setdefault(f"{name}/{choice}", []).append(count_scores(sample.truth, scores[rows], labels, len(dataset.names)))
    return found


def count_attention(segmenter: DiffSegmenter, dataset: Dataset, category_filter: CategoryFilter, wanted: Sequence[str] = ()) -> Counts:
    """Score histograms of the three attention methods for the choices `wanted` (none: all)."""
    return _count(dataset, category_filter, wanted, lambda image, words: {name: one.scores for name, one in attention_scores(segmenter, image, words).items()})


def count_method(name: str, method: Method, dataset: Dataset, category_filter: CategoryFilter, wanted: Sequence[str]) -> Counts:
    """Score histograms of any method whose map of a class does not depend on the other classes asked for."""
    return _count(dataset, category_filter, wanted, lambda image, words: {name: method(image, words).scores})


def make_rivals(segmenter: DiffSegmenter, names: Sequence[str], choices: Sequence[str], groupvit: str = "") -> dict[str, tuple[Method, Sequence[str]]]:
    """Rivals of the method by name, each with the choices of words that it is run for; `groupvit` is the path of a GroupViT."""
    return {name: (make_method(name, segmenter, groupvit if name == "groupvit" else ""), choices) for name in names}


def label_image(segmenter: DiffSegmenter, category_filter: CategoryFilter, dataset: Dataset, sample: Sample, choice: str, threshold: float) -> ImageLabels:
    """Label one image at a threshold of the background, with the words that the filter keeps ("filter") or those present ("image")."""
    words = category_filter.filter(sample.image).names if choice == "filter" else tuple(dataset.words(sample.classes))
    if not words:
        return ImageLabels((), np.zeros_like(sample.truth))
    places = np.array([0, *(dataset.prompts.index(word) + 1 for word in words)])
    scores = torch.from_numpy(segmenter.segment(sample.image, words).scores)
    return ImageLabels(tuple(words), places[to_numpy(label(scores, threshold))])


def filter_quality(dataset: Dataset, category_filter: CategoryFilter) -> dict[str, WordsQuality]:
    """The quality of the words of every choice."""
    asked: dict[str, list[list[int]]] = {}
    present: list[list[int]] = []
    for sample in dataset:
        present.append([dataset.names.index(name) for name in sample.classes])
        for choice, labels in choices(dataset, sample, category_filter).items():
            asked.setdefault(choice, []).append(labels)
    total = len(dataset.names) - 1
    table = {}
    for choice, lists in asked.items():
        precision, recall = precision_recall([[str(i) for i in one] for one in lists], [[str(i) for i in one] for one in present])
        mean = float(np.mean([len(one) for one in lists]))
        table[choice] = WordsQuality(precision=precision, recall=recall, labels=mean, saved=1 - mean / total, images=len(lists))
    return table


def filter_curve(dataset: Dataset, category_filter: CategoryFilter, relatives: Sequence[float]) -> dict[str, list[CurvePoint]]:
    """Precision and recall of the words kept, over CLIP's relative threshold: by source, a point a threshold (one for the caption)."""
    found = [(sample.classes, category_filter.filter(sample.image)) for sample in dataset]
    present = [dataset.words(classes) for classes, _ in found]
    said = [{one.name for one in filtered.kept if one.word} for _, filtered in found]

    def point(kept: list[list[str]], relative: float) -> CurvePoint:
        precision, recall = precision_recall(kept, present)
        return CurvePoint(relative=float(relative), precision=precision, recall=recall)

    curve: dict[str, list[CurvePoint]] = {"CLIP": [], "union": []}
    for relative in relatives:
        seen = [{name for name, value in filtered.relative_clip_scores.items() if value >= relative} for _, filtered in found]
        curve["CLIP"].append(point([list(one) for one in seen], relative))
        curve["union"].append(point([list(one | words) for one, words in zip(seen, said, strict=True)], relative))
    return curve | {"caption": [point([list(words) for words in said], category_filter.relative_clip_threshold)]}


def words_study(
    segmenter: DiffSegmenter,
    category_filter: CategoryFilter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    wanted: Sequence[str] = (),
    methods: Mapping[str, tuple[Method, Sequence[str]]] | None = None,
    store: Store | None = None,
    order: str = "",
) -> BenchmarkResult:
    """One data set: every method by every choice of labels, thresholds of each fixed on train.

    Args:
        segmenter: The model of the attention methods.
        category_filter: Chooses among the data set's prompt words.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; each row's threshold is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        wanted: Choices of words (see :func:`choices`) for the attention methods; none takes all of them.
        methods: Further methods, each with the choices that it is run for.
        store: Keeps the parts; None keeps nothing.
        order: Order of Context's labels, where the tree does not tell.
    """
    store = store or Store()
    opened = dict(zip(("train", "test"), open_splits(dataset, root, split, train_images, images, order), strict=True))
    parts: dict[str, Counts] = {}
    for part, one in opened.items():
        key = {"study": "benchmark", "data": one.fingerprint(), "seed": segmenter.config.seed, "relative": category_filter.relative_clip_threshold}
        parts[part] = dict(store.counts(key | {"choices": list(wanted)}, lambda o=one: count_attention(segmenter, o, category_filter, wanted)))  # type: ignore[misc]
        for name, (method, some) in (methods or {}).items():
            parts[part] |= store.counts(
                key | {"method": name, "choices": list(some), "settings": repr(getattr(method, "settings", ""))},
                lambda o=one, n=name, m=method, s=some: count_method(n, m, o, category_filter, s),  # type: ignore[misc]
            )
    test, labels = opened["test"], {f"{name}/{choice}": f"{name}, {told}" for name in _methods(parts["test"]) for choice, told in LABELS.items()}
    measured = measure([parts["train"]], [parts["test"]], len(test.names), [segmenter.config.seed], labels)
    matrices = measured.confusions[f"{OURS}/filter"]
    ranked = np.argsort(miou(matrices), kind="stable")
    return BenchmarkResult(
        rows=measured.rows,
        effects=_effects(measured),
        quality=filter_quality(test, category_filter),
        iou={name: None if np.isnan(v) else round(100 * float(v), 1) for name, v in zip(test.names, iou(matrices.sum(0)), strict=True)},
        confusion=tuple(tuple(row) for row in matrices.sum(0).tolist()),
        names=tuple(test.names),
        best=tuple(test.ids[i] for i in ranked[::-1][:SHOWN]),
        worst=tuple(test.ids[i] for i in ranked[:SHOWN]),
        seeds=(segmenter.config.seed,),
        images=len(test),
        dataset=test.name,
    )


def _methods(rows: Mapping[str, object]) -> list[str]:
    return list(dict.fromkeys(name.split("/")[0] for name in rows))


def _effects(measured: Measured) -> dict[str, Effect]:
    ours = f"{OURS}/{{}}".format
    pairs = {
        "filter_minus_image": ("filter minus true labels", "filter", "image"),
        "filter_minus_all": ("filter minus all classes", "filter", "all"),
        **{f"wrong{n}_minus_image": (f"{n} wrong words", f"wrong{n}", "image") for n in WRONG},
        "missing_minus_image": ("one word missing", "missing", "image"),
        **{f"filter_minus_{one}": (f"union minus {one}", "filter", one) for one in ("caption", "clip")},
    }
    found = {name: (label, ours(first), ours(second)) for name, (label, first, second) in pairs.items()}
    for method in _methods(measured.rows):
        for choice in ("image", "filter", "all"):
            if method != OURS:
                found[f"over_{method}/{choice}"] = (f"{OURS} minus {method}, {choice}", ours(choice), f"{method}/{choice}")
    return {name: measured.effect(a, b, label) for name, (label, a, b) in found.items() if {a, b} <= set(measured.rows)}


def benchmark_table(results: Mapping[str, BenchmarkResult], choice: str, methods: Sequence[str]) -> Any:
    """Mean IoU and oracle by method and data set, as a table (pandas); below, the method with the true words, and the filter's quality.

    Args:
        results: Results by data set.
        choice: The choice of words, a key of :data:`LABELS`.
        methods: The methods from the top; one that was not measured is left out.
    """
    import pandas as pd

    def text(row: Row | None) -> str:
        return f"{format_value(row)}, oracle {row.oracle:.1f}" if row else ""

    results = {one.dataset: one for one in results.values()}
    lines = {method: {name: text(one.row(method, choice)) for name, one in results.items()} for method in methods}
    lines = {method: line for method, line in lines.items() if any(line.values())}
    lines["upper bound: true words"] = {name: text(one.row(OURS, "image")) for name, one in results.items()}
    quality = {name: one.quality["filter"] for name, one in results.items()}
    lines["filter: precision, recall"] = {name: f"{one.precision:.2f}, {one.recall:.2f}" for name, one in quality.items()}
    return pd.DataFrame(lines).T


def numbers(results: Mapping[str, BenchmarkResult], choice: str) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""

    def text(name: str, rival: str) -> str:
        effect = results[name].over(rival, choice) if name in results else None
        return f"{format_effect(effect)}, {effect_verdict(effect)}" if effect else "not run"

    costs = {name: format_effect(one.effects["filter_minus_image"]) for name, one in results.items()}
    compared = {f"benchmark_{name}_{rival}": text(name, rival) for name in READERS for rival in ("denseclip", "cross", "elbo")}
    return {
        "benchmark_images": ", ".join(f"{one.dataset} {one.images}" for one in results.values()),
        "benchmark_bound": "; ".join(f"{results[name].dataset} {cost}" for name, cost in costs.items()),
        **compared,
    }


def filter_table(category_filter: CategoryFilter, samples: Sequence[Sample]) -> Any:
    """What is in some images, what BLIP says, and what the filter keeps and why, as a table (pandas), a line an image."""
    import pandas as pd

    lines = {}
    for sample in samples:
        found = category_filter.filter(sample.image)
        kept = "; ".join(f"{one.name}: {one.why}" for one in found.kept)
        lines[sample.id] = {"present": ", ".join(sample.classes), "caption": found.caption, "kept": kept}
    return pd.DataFrame(lines).T


def quality_table(quality: Mapping[str, WordsQuality]) -> Any:
    """Precision, recall, number of words and savings by choice of words, as a table (pandas)."""
    import pandas as pd

    lines = {
        name: {
            "precision": f"{one.precision:.2f}",
            "recall": f"{one.recall:.2f}",
            "words an image": f"{one.labels:.1f}",
            "UNet evaluations saved": f"{one.saved:.0%}",
        }
        for name, one in quality.items()
    }
    return pd.DataFrame(lines).T


def words_numbers(result: BenchmarkResult) -> dict[str, str]:
    """The numbers that the chapter on words cites, by name."""
    effects, kept = result.effects, result.quality["filter"]
    wrong = {n: effects.get(f"wrong{n}_minus_image") for n in WRONG}
    completion = [(result.over("cross", choice), told) for choice, told in (("image", "the true words"), ("all", "all of them"))]
    whole = all(one for one, _ in completion)
    unions = [effects[f"filter_minus_{one}"] for one in ("caption", "clip")]
    texts = effect_texts(
        effects,
        {
            "words_bound": "filter_minus_image",
            "words_all": "filter_minus_all",
            "words_missing": "missing_minus_image",
            "words_caption": "filter_minus_caption",
            "words_clip": "filter_minus_clip",
        },
    )
    return {
        "words_images": str(result.images),
        "words_precision": f"{kept.precision:.2f}",
        "words_recall": f"{kept.recall:.2f}",
        "words_saved": f"{100 * kept.saved:.0f} %",
        "words_wrong": ", ".join(f"{n}: {format_effect(one)}" for n, one in wrong.items() if one),
        "words_completion": ", ".join(f"{format_effect(one)} with {told}" for one, told in completion if one) if whole else "not run",
        **texts,
        "words_union": verdict([one.ci95 for one in unions], images=min(one.images for one in unions)),
    }
