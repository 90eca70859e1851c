"""Table 1 and Sec. 3.6: data sets x methods x ways to choose the words, all from one pass an image.

A class's map does not depend on which other classes are asked for (each is a row of its own, min-maxed by
itself), so one pass over all classes serves every choice of labels; only the cost is then counted as if
each had been run by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..baselines.attention import attention_scores
from ..baselines.base import Method
from ..category_filter import CategoryFilter, precision_recall
from ..data import Dataset, Sample
from ..evaluation.metrics import count_scores, iou, miou
from ..evaluation.sources import open_dataset
from ..segmenter import DiffSegmenter
from .measure import Counts, Measured, Store, measure

WRONG = (1, 2, 4)  # absent classes added to the true ones


def choices(dataset: Dataset, sample: Sample, vocabulary: CategoryFilter, wrong: Sequence[int] = WRONG, seed: int = 0) -> dict[str, list[int]]:
    """Ways to choose the labels of one image: name to labels, in label order.

    image: those present; all; filter (caption and CLIP), caption, clip; "image + 1 wrong" and so on add
    absent classes, "image - 1" drops one; both drawn by (seed, image).
    """
    said = vocabulary.filter(sample.image)
    places = {name: i + 1 for i, name in enumerate(dataset.prompts)}
    present = sorted(dataset.names.index(name) for name in sample.classes)
    absent = [i for i in range(1, len(dataset.names)) if i not in present]
    drawn = np.random.default_rng([seed, *sample.id.encode()])
    order, left = drawn.permutation(absent).tolist(), int(drawn.integers(max(len(present), 1)))
    found = {
        "image": present,
        "filter": [places[one.name] for one in said.kept],
        "caption": [places[one.name] for one in said.kept if one.word],
        "clip": [places[one.name] for one in said.kept if said.relative_clip_scores[one.name] >= vocabulary.relative_clip_threshold],
        "all": list(range(1, len(dataset.names))),
        "image - 1": [label for i, label in enumerate(present) if i != left],
    }
    return found | {f"image + {n} wrong": sorted(present + order[:n]) for n in wrong}


def _count(
    dataset: Dataset, vocabulary: CategoryFilter, wanted: Sequence[str], score: Callable[[np.ndarray, Sequence[str]], Mapping[str, np.ndarray]]
) -> Counts:
    """Tallies by "method / choice": `score` is called once an image with the union of the wanted choices' words."""
    found: Counts = {}
    for sample in dataset:
        asked = {choice: labels for choice, labels in choices(dataset, sample, vocabulary).items() if choice in wanted or not wanted}
        union = sorted({label for labels in asked.values() for label in labels})
        everything = score(sample.image, [dataset.prompts[label - 1] for label in union])
        for choice, labels in asked.items():
            rows = [union.index(label) for label in labels]
            for name, scores in everything.items():
                found.setdefault(f"{name} / {choice}", []).append(count_scores(sample.truth, scores[rows], labels, len(dataset.names)))
    return found


def count_attention(segmenter: DiffSegmenter, dataset: Dataset, vocabulary: CategoryFilter, wanted: Sequence[str] = ()) -> Counts:
    """Tallies of the three attention methods for the choices `wanted` (none: all)."""
    return _count(dataset, vocabulary, wanted, lambda image, words: {name: one.scores for name, one in attention_scores(segmenter, image, words).items()})


def count_method(name: str, method: Method, dataset: Dataset, vocabulary: CategoryFilter, wanted: Sequence[str]) -> Counts:
    """Tallies of any method whose map of a class does not depend on the other classes asked for."""
    return _count(dataset, vocabulary, wanted, lambda image, words: {name: method(image, words).scores})


def filter_quality(dataset: Dataset, vocabulary: CategoryFilter) -> dict[str, Any]:
    """Precision, recall and the mean number of labels of every choice, and the share of UNet evaluations each saves."""
    asked: dict[str, list[list[int]]] = {}
    present: list[list[int]] = []
    for sample in dataset:
        present.append([dataset.names.index(name) for name in sample.classes])
        for choice, labels in choices(dataset, sample, vocabulary).items():
            asked.setdefault(choice, []).append(labels)
    total = len(dataset.names) - 1
    table = {}
    for choice, lists in asked.items():
        precision, recall = precision_recall([[str(i) for i in one] for one in lists], [[str(i) for i in one] for one in present])
        mean = float(np.mean([len(one) for one in lists]))
        table[choice] = {"precision": precision, "recall": recall, "labels": mean, "saved": 1 - mean / total, "images": len(lists)}
    return table


def filter_curve(dataset: Dataset, vocabulary: CategoryFilter, relatives: Sequence[float]) -> dict[str, list[dict[str, float]]]:
    """Precision and recall of the words kept, over CLIP's relative threshold: by source, a point a threshold (one for the caption)."""
    found = [(sample.classes, vocabulary.filter(sample.image)) for sample in dataset]
    present = [dataset.words(classes) for classes, _ in found]
    said = [{one.name for one in filtered.kept if one.word} for _, filtered in found]

    def point(kept: list[list[str]], relative: float) -> dict[str, float]:
        precision, recall = precision_recall(kept, present)
        return {"relative": float(relative), "precision": precision, "recall": recall}

    curve: dict[str, list[dict[str, float]]] = {"CLIP": [], "union": []}
    for relative in relatives:
        seen = [{name for name, value in filtered.relative_clip_scores.items() if value >= relative} for _, filtered in found]
        curve["CLIP"].append(point([list(one) for one in seen], relative))
        curve["union"].append(point([list(one | words) for one, words in zip(seen, said, strict=True)], relative))
    return curve | {"caption": [point([list(words) for words in said], vocabulary.relative_clip_threshold)]}


def words_study(
    segmenter: DiffSegmenter,
    vocabulary: CategoryFilter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    wanted: Sequence[str] = (),
    methods: Mapping[str, tuple[Method, Sequence[str]]] | None = None,
    store: Store | None = None,
) -> dict[str, Any]:
    """One data set: every method by every choice of labels, thresholds of each fixed on train.

    Args:
        segmenter: for the attention methods.
        vocabulary: over the data set's prompt words.
        dataset, root, split: to open.
        train_images, images: of train and of `split`.
        wanted: choices of labels (see :func:`choices`) for the attention methods; none: all of them.
        methods: further methods, each with the choices it is run for.
        store: keeps the parts.

    Returns:
        ``rows`` by "method / choice"; ``effects``: the method against its rivals, the filter against the
        true labels and against all, wrong words and missing ones; ``quality`` of the labels; ``iou`` by
        class and ``confusion`` (true by predicted, pixels) of the method with the filter; ``best`` and
        ``worst`` images by their own mean IoU.
    """
    store = store or Store()
    opened = {"train": open_dataset(dataset, root, "train", train_images), "test": open_dataset(dataset, root, split, images)}
    parts: dict[str, Counts] = {}
    for part, one in opened.items():
        key = {"study": "benchmark", "data": one.fingerprint(), "seed": segmenter.config.seed, "relative": vocabulary.relative_clip_threshold}
        parts[part] = dict(store.counts(key | {"choices": list(wanted)}, lambda o=one: count_attention(segmenter, o, vocabulary, wanted)))  # type: ignore[misc]
        for name, (method, some) in (methods or {}).items():
            parts[part] |= store.counts(
                key | {"method": name, "choices": list(some), "settings": repr(getattr(method, "settings", ""))},
                lambda o=one, n=name, m=method, s=some: count_method(n, m, o, vocabulary, s),  # type: ignore[misc]
            )
    measured = measure([parts["train"]], [parts["test"]], len(opened["test"].names), [segmenter.config.seed])
    return {
        "rows": measured.rows,
        "effects": _effects(measured),
        "quality": filter_quality(opened["test"], vocabulary),
        **_details(measured, opened["test"]),
        "seeds": [segmenter.config.seed],
        "images": len(opened["test"]),
        "dataset": dataset,
    }


def _effects(measured: Measured) -> dict[str, Any]:
    ours = "diffsegmenter / {}".format
    pairs = {"filter minus true labels": (ours("filter"), ours("image")), "filter minus all classes": (ours("filter"), ours("all"))}
    pairs |= {f"{n} wrong words": (ours(f"image + {n} wrong"), ours("image")) for n in WRONG} | {"one word missing": (ours("image - 1"), ours("image"))}
    pairs |= {f"union minus {one}": (ours("filter"), ours(one)) for one in ("caption", "clip")}
    for name in measured.rows:
        method, choice = name.split(" / ")
        if method != "diffsegmenter" and ours(choice) in measured.rows and choice in ("image", "filter", "all"):
            pairs[f"diffsegmenter minus {method}, {choice}"] = (ours(choice), name)
    return {name: measured.effect(*pair) for name, pair in pairs.items() if set(pair) <= set(measured.rows)}


def _details(measured: Measured, dataset: Dataset, few: int = 4) -> dict[str, Any]:
    matrices = measured.confusions["diffsegmenter / filter"]
    per_class = iou(matrices.sum(0))
    order = np.argsort(miou(matrices), kind="stable")
    return {
        "iou": {name: None if np.isnan(v) else round(100 * float(v), 1) for name, v in zip(dataset.names, per_class, strict=True)},
        "confusion": matrices.sum(0).tolist(),
        "names": list(dataset.names),
        "worst": [dataset.ids[i] for i in order[:few]],
        "best": [dataset.ids[i] for i in order[::-1][:few]],
    }
