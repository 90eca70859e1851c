"""The paper's experiments, each one function: small in a chapter, large once by ``python -m diffseg_lib.studies``.

A study returns a mapping that JSON can hold, whose ``rows`` are mean IoU by variant and whose ``effects``
are paired differences, both with 95 % intervals; thresholds are fixed on the train split. What it measured
can be kept part by part in a :class:`Store`, so that a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data import Dataset, Sample
from ..evaluation.metrics import ScoreHistogram, best_threshold, bootstrap_difference, bootstrap_miou, confusions_at, count_scores, mean_and_sd, miou
from ..evaluation.sources import open_dataset
from ..scoremaps import upsample
from ..support.files import atomic_write, to_plain
from ..support.identity import fingerprint
from ..support.images import to_numpy
from ..support.provenance import committed_result as committed_result  # where chapters look for it

Counts = dict[str, list[ScoreHistogram]]  # variant to a tally an image


def about(run: Mapping[str, Any] | None) -> str:
    """A line on a kept run: how many images and seeds, by which command; or that there is none."""
    if run is None:
        return "larger run: not run on this profile"
    results = run["results"]
    seeds = " ".join(str(seed) for seed in results["seeds"])
    return f"larger run: {results['images']} test images, seed {seeds}; `{run['command']}`, {run['seconds'] / 60:.0f} min, commit {str(run['commit'])[:8]}"


def table(rows: Mapping[str, Mapping[str, Any]]) -> Any:
    """Rows of a study as a table (pandas): mean IoU, interval, deviation over seeds, oracle, threshold."""
    import pandas as pd

    lines = {}
    for name, row in rows.items():
        low, high = row["ci95"]
        lines[name] = {"mIoU, %": round(row["value"], 1), "95 % interval": f"{low:.1f} to {high:.1f}"}
        lines[name] |= {"sd over seeds": "" if row["sd"] is None else f"{row['sd']:.2f}", "oracle": round(row["oracle"], 1)}
        lines[name] |= {"threshold": round(row["threshold"], 2), "images": row["images"]}
    return pd.DataFrame(lines).T


def format_effect(effect: Mapping[str, Any]) -> str:
    """An effect for prose: points and their 95 % interval, rounded to whole points.

    >>> say({"value": 3.4, "ci95": (1.2, 5.1)})
    '+3 (+1 to +5)'
    """
    low, high = effect["ci95"]
    return f"{effect['value'] + 0.0:+.0f} ({low:+.0f} to {high:+.0f})"


@dataclass(frozen=True)
class Store:
    """Parts of a study on disk, an ``.npz`` each; without a folder nothing is kept and everything computed."""

    folder: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)  # of every part's key: the weights, the library's version
    progress: Callable[[str], None] = lambda text: None
    saved: list[float] = field(default_factory=list, compare=False)  # seconds that the parts read again once took

    def counts(self, key: Mapping[str, Any], compute: Callable[[], Counts]) -> Counts:
        """The tallies of a part: read if they were kept under this very key, else computed and kept."""
        if self.folder is None:
            return compute()
        facts = to_plain({**self.about, **key})
        path = self.folder / f"{fingerprint(facts)}.npz"
        if path.is_file():
            found, seconds = _read(path)
            self.saved.append(seconds)
            return found
        self.progress(json.dumps(facts, sort_keys=True))
        started = time.perf_counter()
        found = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            flat: dict[str, Any] = {name: _flat(histograms) for name, histograms in found.items()}
            np.savez_compressed(file, _seconds=np.array(time.perf_counter() - started), **flat)
        return found


def _flat(histograms: Sequence[ScoreHistogram]) -> np.ndarray:
    rows = [np.insert(one.counts, 0, i, axis=1) for i, one in enumerate(histograms)]
    return np.concatenate([np.array([[len(histograms), 0, 0, 0, 0]]), *rows]).astype(np.int64)


def _read(path: Path) -> tuple[Counts, float]:
    with np.load(path) as file:
        seconds, found = float(file["_seconds"]) if "_seconds" in file.files else 0.0, {}
        for name in file.files:
            if name != "_seconds":
                count, rows = int(file[name][0, 0]), file[name][1:]
                found[name] = [ScoreHistogram(rows[rows[:, 0] == i, 1:]) for i in range(count)]
        return found, seconds


@dataclass(frozen=True)
class Measured:
    """Variants measured on the same images: rows as a study returns them, and confusions, images C C summed over seeds."""

    rows: dict[str, dict[str, Any]]
    confusions: dict[str, np.ndarray]
    seeds: tuple[int, ...]

    def effect(self, first: str, second: str) -> dict[str, Any]:
        """Mean IoU of `first` minus `second`, points, paired over images; its 95 % interval is over images."""
        a, b = self.confusions[first], self.confusions[second]
        by_seed = [x - y for x, y in zip(self.rows[first]["by_seed"], self.rows[second]["by_seed"], strict=True)]
        value = float(miou(a.sum(0)) - miou(b.sum(0)))
        return {"value": value, "ci95": bootstrap_difference(a, b), "by_seed": by_seed, "seeds": list(self.seeds), "images": len(a)}

    def against_nothing(self, name: str) -> dict[str, Any]:
        """Mean IoU of a variant minus that of calling every pixel background, points, paired over images."""
        matrices = self.confusions[name]
        empty = np.zeros_like(matrices)
        empty[:, :, 0] = matrices.sum(2)
        value = float(miou(matrices.sum(0)) - miou(empty.sum(0)))
        return {"value": value, "ci95": bootstrap_difference(matrices, empty), "seeds": list(self.seeds), "images": len(matrices)}


def measure(train: Sequence[Counts], test: Sequence[Counts], classes: int, seeds: Sequence[int]) -> Measured:
    """Each variant's mean IoU on `test` at the threshold that is best on `train`.

    Args:
        train, test: counts by variant, one mapping a seed; all seeds of a split see the same images.
        classes: with the background.
        seeds: of the noise.

    Returns:
        Rows with ``value`` (all seeds' pixels together), ``ci95`` over images, ``by_seed``, ``sd`` over seeds
        (None for one), ``oracle`` (the best threshold of the test split itself), ``threshold``, ``images``.
    """
    rows, confusions = {}, {}
    for name in test[0]:
        threshold, _ = best_threshold([one for counts in train for one in counts[name]], classes)
        found = [confusions_at(counts[name], threshold, classes) for counts in test]
        pooled = np.sum(found, axis=0)
        oracle_threshold, oracle = best_threshold([one for counts in test for one in counts[name]], classes)
        by_seed = [float(miou(one.sum(0))) for one in found]
        confusions[name] = pooled
        rows[name] = {
            "value": float(miou(pooled.sum(0))),
            "ci95": bootstrap_miou(pooled),
            "by_seed": by_seed,
            "sd": mean_and_sd(by_seed)[1] if len(by_seed) > 1 else None,
            "seeds": list(seeds),
            "oracle": oracle,
            "oracle_threshold": oracle_threshold,
            "threshold": threshold,
            "images": len(pooled),
        }
    return Measured(rows, confusions, tuple(seeds))


def count_maps(dataset: Dataset, maps: Callable[[Sample, list[str]], Mapping[str, Tensor]], final_norm: str = "after") -> Counts:
    """Tallies of every variant on every image, the classes present given.

    Args:
        dataset: to go through.
        maps: from a sample and the words of its classes to maps by variant, k h w.
        final_norm: as of :func:`~diffseg_lib.scoremaps.upsample`.
    """
    found: Counts = {}
    for sample in dataset:
        labels = [dataset.names.index(name) for name in sample.classes]
        for name, one in maps(sample, dataset.words(sample.classes)).items():
            scores = to_numpy(upsample(one, sample.truth.shape, final_norm))
            found.setdefault(name, []).append(count_scores(sample.truth, scores, labels, len(dataset.names)))
    return found


@dataclass(frozen=True)
class Splits:
    """Train and test of a study, and what was counted on each, one mapping a seed."""

    train: Dataset
    test: Dataset
    counts: Mapping[str, list[Counts]]
    seeds: tuple[int, ...]

    def measured(self, on: str = "test") -> Measured:
        """On "test", or, to choose by, on "train" itself; thresholds are train's in both."""
        return measure(self.counts["train"], self.counts[on], len(self.test.names), self.seeds)


def count_splits(
    source: tuple[str, str | Path, str],
    sizes: tuple[int, int],
    seeds: Sequence[int],
    count: Callable[[Dataset, int], Counts],
    store: Store | None,
    key: Mapping[str, Any],
) -> Splits:
    """Count the train split and another, for every seed, part by part.

    Args:
        source: data set, root and the other split.
        sizes: images of train and of the other split.
        seeds: of the noise.
        count: from a data set and a seed to its counts.
        store: keeps the parts.
        key: that names the study and its settings.
    """
    name, root, split = source
    opened = {"train": open_dataset(name, root, "train", sizes[0]), "test": open_dataset(name, root, split, sizes[1])}
    store = store or Store()
    counts = {
        part: [store.counts({**key, "data": one.fingerprint(), "seed": seed}, partial(count, one, seed)) for seed in seeds] for part, one in opened.items()
    }
    return Splits(opened["train"], opened["test"], counts, tuple(seeds))
