"""One evaluator for every data set, method and choice of labels: counts once, reads off any threshold.

An image that cannot be read or scored becomes an error row and the run goes on; below full coverage there
is no headline number.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..baselines.base import Method, Prediction
from ..category_filter import CategoryFilter, precision_recall
from ..data import Dataset, LabelError, Sample
from ..data.samples import VOID
from ..support.errors import ran_out_of_memory
from ..support.files import write_json
from .labels import frozen_labels
from .metrics import (
    ScoreHistogram,
    best_threshold,
    bootstrap_miou,
    confusions_at,
    count_scores,
    iou,
    mask_by_truth,
    mean_iou,
    threshold_curve,
    void_small,
)
from .protocol import USUAL, Protocol
from .run_store import Row


def requested_labels(
    dataset: Dataset, sample: Sample, labels: str, category_filter: CategoryFilter | None = None, labels_from: tuple[str, ...] = ()
) -> tuple[tuple[int, ...], dict[str, str]]:
    """The labels that a method is asked for on one image, and why, by class name.

    Args:
        dataset: Data set of the image, whose names and words are meant.
        sample: Image with its labels.
        labels: Choice of labels. "image" are the classes present (image-level labels, Table 2); "filter" what `category_filter` keeps (zero-shot, Table 1);
            "all" the data set's classes; of a JSON file those that :func:`~diffseg_lib.evaluation.labels.frozen_labels` finds.
        category_filter: Filter over the data set's prompt words, for "filter".
        labels_from: Dictionaries of a file, as :func:`~diffseg_lib.evaluation.labels.read_labels` takes them.

    Raises:
        ValueError: On other `labels`, on "filter" without a category filter, or on a file that lacks the image or has unknown names.
    """
    if labels == "image":
        return tuple(dataset.names.index(name) for name in sample.classes), {}
    if labels == "all":
        return tuple(range(1, len(dataset.names))), {}
    if labels == "filter" and category_filter is not None:
        places = {word: i for i, word in enumerate(dataset.prompts, start=1)}
        kept = category_filter.filter(sample.image).kept
        return tuple(places[one.name] for one in kept), {dataset.names[places[one.name]]: one.why for one in kept}
    if labels == "filter":
        raise ValueError("labels 'filter' need a category filter")
    return frozen_labels(dataset, sample.id, labels, labels_from), {}


def evaluate_image(
    dataset: Dataset,
    method: Method,
    labels: str,
    category_filter: CategoryFilter | None,
    name: str,
    labels_from: tuple[str, ...] = (),
    void_below: float = 0.0,
) -> Row:
    """Score and count one image; the row is an error row if it cannot be read or scored. Where no label is asked for, all is background.

    Args:
        dataset: Data set of the image.
        method: Method that scores the classes asked for.
        labels: Choice of labels, as :func:`requested_labels` takes it.
        category_filter: Filter over the data set's prompt words, for "filter".
        name: Id of the image.
        labels_from: Dictionaries of a file, as :func:`requested_labels` takes them.
        void_below: Share of the picture, 0 to 1, below which a true object is void when pixels are counted; the words asked for know it.

    Raises:
        LabelError: On a mask whose labels are no classes of the data set: that is not one broken file, but a wrong set or order of labels.
    """
    started = time.perf_counter()
    try:
        sample = dataset.load(name)
        asked, why = requested_labels(dataset, sample, labels, category_filter, labels_from)
        scored = Prediction(np.zeros((0, *sample.truth.shape), np.float32))
        if asked:
            scored = method(sample.image, [dataset.prompts[i - 1] for i in asked])
        truth = void_small(sample.truth, void_below) if void_below else sample.truth
        counted = count_scores(truth, scored.scores, asked, len(dataset.names))
    except LabelError:
        raise
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not ran_out_of_memory(error):
            raise
        return Row(name, "error", type(error).__name__, " ".join(str(error).split()), seconds=time.perf_counter() - started)
    h, w = sample.truth.shape
    names, valid = tuple(dataset.names[i] for i in asked), int((truth != VOID).sum())
    facts = {"height": h, "width": w, "valid_pixels": valid, "present": tuple(sample.classes), "asked": names, "why": why}
    notes = (*sample.notes, *scored.notes)
    return Row(name, "ok", **facts, notes=notes, unet_calls=scored.calls, seconds=time.perf_counter() - started, counted=counted)


def evaluate_images(dataset: Dataset, method: Method, labels: str, category_filter: CategoryFilter | None = None) -> Iterator[Row]:
    """:func:`evaluate_image` for every image of a data set, in its order."""
    return (evaluate_image(dataset, method, labels, category_filter, name) for name in dataset.ids)


def histograms_of(rows: Iterable[Row], masked: bool) -> list[ScoreHistogram]:
    """The counts of rows that have them, predictions outside the true classes dropped where they are to be."""
    found = [row.counted for row in rows if row.counted is not None]
    return [mask_by_truth(one) for one in found] if masked else found


def summarise(rows: Sequence[Row], names: Sequence[str], threshold: float, expected: int, protocol: Protocol = USUAL) -> dict[str, Any]:
    """The figures of a run; ``miou`` and what goes with it are None unless it has as many images as it should.

    Args:
        rows: Rows of :func:`evaluate_images`.
        names: Names of the classes, background first.
        threshold: Background threshold, in [0, 1], fixed elsewhere.
        expected: Number of images that the run should have.
        protocol: How counts become a figure: its mean, and whether predictions are masked by the truth.

    Returns:
        A mapping with ``miou`` at the threshold and ``miou_oracle`` at the best one of this very split, percent, each with its 95 % bootstrap interval over
            images; ``iou`` by class, percent; ``confusion`` (true by predicted, pixels); what the labels asked for were worth (``label_precision``,
            ``label_recall``, in [0, 1]); and costs (``unet_calls``, ``seconds``).
    """
    done = [row for row in rows if row.counted is not None]
    histograms, classes, mean = histograms_of(done, protocol.masked), len(names), protocol.mean
    precision, recall = precision_recall([row.asked for row in done], [row.present for row in done])
    facts: dict[str, Any] = {
        "images": len(done),
        "expected_images": expected,
        "errors": {row.id: f"{row.error_type}: {row.error}" for row in rows if row.counted is None},
        "coverage": "full" if len(done) == expected else f"PARTIAL {len(done)}/{expected}",
        "pictures_converted": sum(bool(row.notes) for row in done),
        "threshold": threshold,
        "empty_labels": sum(not row.asked for row in done),
        "label_precision": precision,
        "label_recall": recall,
        "unet_calls": sum(row.unet_calls for row in done),
        "seconds": round(sum(row.seconds for row in rows), 1),
        "miou": None,
        "miou_ci95": None,
        "miou_oracle": None,
        "miou_oracle_ci95": None,
        "threshold_oracle": None,
        "iou": None,
        "confusion": None,
    }
    if len(done) != expected or not done:
        return facts
    confusions = confusions_at(histograms, threshold, classes)
    oracle, _ = best_threshold(histograms, classes, mean=mean)
    at_best = confusions_at(histograms, oracle, classes)
    total = confusions.sum(0)
    per_class = {name: None if np.isnan(value) else round(100 * float(value), 2) for name, value in zip(names, iou(total), strict=True)}
    return facts | {
        "miou": mean_iou(confusions, mean),
        "miou_ci95": bootstrap_miou(confusions, mean=mean),
        "miou_oracle": mean_iou(at_best, mean),
        "miou_oracle_ci95": bootstrap_miou(at_best, mean=mean),
        "threshold_oracle": oracle,
        "iou": per_class,
        "confusion": total.tolist(),
    }


def choose_threshold(rows: Iterable[Row], classes: int, protocol: Protocol = USUAL) -> float:
    """The threshold of the highest mean IoU on these rows; choose on the train split.

    Args:
        rows: Rows of the train split; error rows are left out.
        classes: Number of classes, background included.
        protocol: How counts become the figure that is to be high, as :func:`summarise` takes it.

    Raises:
        ValueError: If no image could be counted.
    """
    return best_threshold(histograms_of(rows, protocol.masked), classes, mean=protocol.mean)[0]


def image_miou(row: Row, threshold: float, classes: int, protocol: Protocol = USUAL) -> float:
    """One image's own mean IoU, percent, over the classes in it; NaN for an error row."""
    found = confusions_at(histograms_of([row], protocol.masked), threshold, classes)
    return mean_iou(found, protocol.mean) if len(found) else float("nan")


def save(rows: Sequence[Row], summary: Mapping[str, Any], names: Sequence[str], out: Path, protocol: Protocol = USUAL) -> None:
    """Write ``summary.json``, ``images.csv`` (a row an image), ``classes.csv`` (IoU by class) and ``sweep.csv``.

    Args:
        rows: Rows of :func:`evaluate_images`.
        summary: What :func:`summarise` gave, and what is known beside it.
        names: Names of the classes, background first.
        out: Folder to write into.
        protocol: How counts become a figure, as :func:`summarise` takes it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / "images.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow([*(key for key in Row.__dataclass_fields__ if key != "counted"), "miou"])
        for row in rows:
            facts = asdict(row) | {key: "|".join(getattr(row, key)) for key in ("present", "asked", "notes")} | {"why": json.dumps(row.why, ensure_ascii=False)}
            facts["seconds"] = round(row.seconds, 4)
            value = image_miou(row, summary["threshold"], len(names), protocol)
            sheet.writerow([*(value for key, value in facts.items() if key != "counted"), "" if np.isnan(value) else round(value, 2)])
    if summary["iou"]:
        with (out / "classes.csv").open("w", newline="") as file:
            sheet = csv.writer(file)
            sheet.writerows([["class", "iou"], *summary["iou"].items()])
    counted = histograms_of(rows, protocol.masked)
    with (out / "sweep.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerows([["threshold", "miou"], *zip(*(values.tolist() for values in threshold_curve(counted, len(names), protocol.mean)), strict=True)])
    write_json(out / "summary.json", summary)
