"""What an experiment gives, and what all experiments share: rows, paired effects, and the parts that are kept while one runs.

An experiment is one function: small in a chapter, large once by ``diffseg study``. It returns a :class:`StudyResult`, whose ``rows`` are
mean IoU by variant and whose ``effects`` are paired differences, both with 95 % intervals; thresholds are fixed on images of the train
split, none of which is measured. Keys are short identifiers, the sentence for people is each value's ``label``. What was measured can be
kept part by part in a :class:`Store`, so that a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ..data import Dataset, Sample
from ..evaluation.metrics import (
    MANY,
    SKETCH,
    ScoreHistogram,
    best_threshold,
    bootstrap_difference,
    bootstrap_miou,
    confusions_at,
    count_scores,
    interval_text,
    mean_and_sd,
    mean_interval,
    miou,
)
from ..evaluation.protocol import Protocol
from ..evaluation.sources import open_splits
from ..profiles import known_profiles, load_profile
from ..scoremaps import upsample
from ..support.files import atomic_write, to_plain
from ..support.identity import describe_models, fingerprint
from ..support.images import to_numpy
from ..support.paths import results_file

Counts = dict[str, list[ScoreHistogram]]  # variant to a histogram an image


# -- results


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its uncertainty.

    Args:
        label: What it is the figure of, for people; the key under which it stands is for code.
        value: The figure, percent or points unless the study says otherwise.
        ci95: The 95 % interval of the figure over images: low, high; None of too few images to have one.
        images: The number of images that it is a figure of.
    """

    label: str = ""
    value: float
    ci95: tuple[float, float] | None
    images: int


@dataclass(frozen=True, kw_only=True)
class Effect(Estimate):
    """A paired difference, in points.

    Args:
        by_seed: The difference for each seed alone; empty where seeds are not told apart.
        seeds: Seeds of the noise.
    """

    by_seed: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row(Estimate):
    """Mean IoU of one variant, percent, all seeds' pixels together.

    Args:
        threshold: The background's score at which it is measured, fixed on the train split.
        oracle: The mean IoU at the threshold that is best on the measured split itself.
        oracle_threshold: The threshold that is best on the measured split itself.
        by_seed: The mean IoU for each seed alone; empty where seeds are not told apart.
        sd: Standard deviation over seeds; None for one seed.
        seeds: Seeds of the noise.
    """

    threshold: float
    oracle: float
    oracle_threshold: float
    by_seed: tuple[float, ...] = ()
    sd: float | None = None
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What an experiment measured; a subclass adds what only one experiment has.

    Args:
        rows: Figures by variant.
        effects: Paired differences by name.
        images: The number of images measured.
        seeds: Seeds of the noise.
        dataset: The data set's name.
    """

    rows: Mapping[str, Estimate]
    effects: Mapping[str, Effect]
    images: int
    seeds: tuple[int, ...]
    dataset: str
    words: ClassVar[str] = "true"  # as a protocol has them; "" of a study whose rows are no mean IoU of masks

    def protocol(self, row: str = "", split: str = "") -> Protocol:
        """The protocol of a row, whose threshold is fixed on train under the same words; "" is what all rows share.

        Args:
            row: Key of a row.
            split: The split that was measured, where the result does not hold it itself.

        Raises:
            ValueError: If there is no such row, or rows are no mean IoU of masks.
        """
        if not self.words or (row and row not in self.rows):
            raise ValueError(f"{type(self).__name__} has no protocol of {row or 'its rows'!r}: expected a mean IoU, one of {', '.join(self.rows)}")
        value = getattr(self.rows[row], "threshold", None) if row else None
        threshold = "none" if self.words == "none" else "train"
        split = getattr(self, "split", split)
        return Protocol(dataset=self.dataset, split=split, images=self.images, words=self.words_of(row), threshold=threshold, value=value)

    def words_of(self, row: str) -> str:
        """Where the words of a row came from, as a protocol has it."""
        return self.words


Result = TypeVar("Result", bound=StudyResult)


@dataclass(frozen=True, kw_only=True)
class CommittedRun(Generic[Result]):
    """A larger run of a study that is kept in ``data/results/<profile>/<study>.json``, and how it came about.

    Args:
        study: The study's name.
        profile: The profile's name.
        result: What was measured.
        command: The command that measured it.
        device: The device that it ran on.
        seconds: The time that it took.
        models: What the diffusion model, the captioner and the CLIP are (:func:`~diffseg_lib.support.identity.describe_model`).
        data: What the data sets are that were read (``Dataset.describe``).
        code: What the code is (:func:`~diffseg_lib.support.identity.describe_code`).
        commit: The commit of the code; None outside a repository.
        dirty: Whether the library differed from that commit; None where that is not known.
        versions: Library to version.
    """

    study: str
    profile: str
    result: Result
    command: str
    device: str
    seconds: float
    models: Mapping[str, Mapping[str, str]]
    data: tuple[Mapping[str, str], ...]
    code: Mapping[str, str]
    commit: str | None
    dirty: bool | None
    versions: Mapping[str, str]

    def protocol(self, row: str = "") -> Protocol:
        """The protocol of a row, "" what all rows share, on the split that was measured; raises as :meth:`StudyResult.protocol` does."""
        return self.result.protocol(row, self.data[-1].get("split", "") if self.data else "")


def read_run(path: Path, kind: type[Result]) -> CommittedRun[Result] | None:
    """A kept run, or None where there is no such file.

    Args:
        path: The run's JSON.
        kind: The class of its result; :class:`StudyResult` reads what all studies have.

    Raises:
        ValueError: If the file holds something else.
    """
    if not path.is_file():
        return None
    try:
        found: CommittedRun[Result] = TypeAdapter(CommittedRun[kind]).validate_json(path.read_bytes())  # type: ignore[valid-type]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{path} holds no {kind.__name__}: {where}: {first['msg']}; write it again with: diffseg study {path.stem}") from error
    return found


def committed_result(study: str, profile: str, kind: type[Result]) -> CommittedRun[Result] | None:
    """The committed larger run of a study on a profile, or None where there is none.

    Args:
        study: The study's name, as ``diffseg study`` takes it.
        profile: The profile's name or folder.
        kind: The class of the study's result, e.g. ``AblationResult``.

    Raises:
        ValueError: If the file is damaged, of another study, or measured with other models than the profile's.
    """
    path = results_file(study, profile)
    run = read_run(path, kind)
    if run is not None:
        check_models(run, path)
    return run


def check_models(run: CommittedRun[Any], path: Path) -> None:
    """Refuse a kept run whose models are not those that its profile names now; a model that is not on this machine cannot be compared.

    Args:
        run: The run.
        path: Where it is kept, for the message.

    Raises:
        ValueError: On another model; the message names it and the command that measures again.
    """
    if run.profile not in known_profiles():
        return
    for kind, now in describe_models(load_profile(run.profile)).items():
        then = run.models.get(kind, {}).get("content", "")
        if now["content"] and then != now["content"]:
            raise ValueError(
                f"{path} was measured with another {kind} model ({then or 'not recorded'}, and {now['content']} is the one of profile {run.profile} now): "
                f"measure it again with: diffseg study {run.study} --profile {run.profile}"
            )


def about(run: CommittedRun[Any] | None) -> str:
    """A line on a kept run: how many images of which data set, which seeds, by which command; below it the protocol. Or that there is none."""
    if run is None:
        return "larger run: not run on this profile; what follows was measured on this page"
    seeds = " ".join(str(seed) for seed in run.result.seeds)
    measured = f"measured on {run.result.images} images of {run.result.dataset}, seed {seeds}"
    told = f"{measured}: `{run.command}`, {run.seconds / 60:.0f} min, commit {str(run.commit)[:8]}"
    return f"{told}\nprotocol: {run.protocol().line}" if run.result.words else told


def titled(live: Result, run: CommittedRun[Result] | None) -> dict[str, Result]:
    """What a page shows as its result, by its title for a figure: the committed run, or the page's own where there is none."""
    return {run_title("larger run", run.result): run.result} if run else {run_title("this page", live): live}


def run_title(name: str, found: StudyResult) -> str:
    """A run's title: its images, its seeds if there are several, and of a small sample (``evaluation.metrics.SKETCH``) what it is.

    >>> run_title("this page", StudyResult(rows={}, effects={}, images=8, seeds=(0,), dataset="voc"))
    'this page, 8 images\\nsmall sample: a sketch'
    """
    parts = [name, f"{found.images} images", f"{len(found.seeds)} seeds" if len(found.seeds) > 1 else ""]
    return ", ".join(filter(None, parts)) + ("\nsmall sample: a sketch" if found.images < SKETCH else "")


def table(rows: Mapping[str, Row]) -> Any:
    """Rows of a study as a table (pandas): mean IoU, interval, oracle, threshold, and of several seeds the deviation; a line a row, by its label."""
    import pandas as pd

    lines, several = {}, any(row.sd is not None for row in rows.values())
    for name, row in rows.items():
        line: dict[str, Any] = {"mIoU, %": round(row.value, 1), "95 % interval": interval_text(row.ci95, row.images)}
        line |= {"sd over seeds": "" if row.sd is None else f"{row.sd:.1f}"} if several else {}
        lines[row.label or name] = line | {"oracle": round(row.oracle, 1), "threshold": round(row.threshold, 2), "images": row.images}
    return pd.DataFrame(lines).T


def format_effect(effect: Estimate) -> str:
    """An effect for people: points and their 95 % interval, to one decimal, or to two where an end would else be printed as zero that is none.

    >>> format_effect(Effect(value=3.41, ci95=(1.2, 5.1), images=500)), format_effect(Effect(value=3.41, ci95=None, images=9))
    ('+3.4 (+1.2 to +5.1)', '+3.4 (small sample: a sketch)')
    >>> format_effect(Effect(value=0.42, ci95=(0.03, 0.71), images=500))
    '+0.42 (+0.03 to +0.71)'
    """
    digits = 2 if any(end and not round(end, 1) for end in effect.ci95 or ()) else 1
    form = f"+z.{digits}f"
    return f"{effect.value:{form}} ({interval_text(effect.ci95, effect.images, form)})"


def format_value(one: Estimate, digits: int = 1) -> str:
    """A figure for a table: its value and its 95 % interval.

    >>> format_value(Estimate(value=63.41, ci95=(61.2, 65.1), images=500))
    '63.4 (61.2 to 65.1)'
    """
    return f"{one.value:.{digits}f} ({interval_text(one.ci95, one.images, f'.{digits}f')})"


def seeds_text(seeds: Sequence[int]) -> str:
    """How many seeds there are.

    >>> seeds_text([0]), seeds_text([0, 1, 2])
    ('1 seed', '3 seeds')
    """
    return f"{len(seeds)} seed" + "s" * (len(seeds) != 1)


def side_of_zero(effect: Estimate) -> int | None:
    """1 if the whole 95 % interval of an effect lies above zero, -1 if it lies below, 0 if it holds zero; None of too few images to decide anything.

    >>> side_of_zero(Effect(value=3.4, ci95=(1.2, 5.1), images=500)), side_of_zero(Effect(value=3.4, ci95=(1.2, 5.1), images=40))
    (1, None)
    """
    if effect.ci95 is None or effect.images < MANY:
        return None
    low, high = effect.ci95
    return int(low > 0) - int(high < 0)


# -- figures from counts


def pooled_miou(confusions: np.ndarray, label: str = "") -> Estimate:
    """Mean IoU of all pixels together, percent, with its 95 % interval over images.

    Args:
        confusions: Confusion matrix of every image, images C C.
        label: What it is the figure of, for people.
    """
    return Estimate(label=label, value=float(miou(confusions.sum(0))), ci95=bootstrap_miou(confusions), images=len(confusions))


def paired_miou(first: np.ndarray, second: np.ndarray, label: str = "", by_seed: Sequence[float] = (), seeds: Sequence[int] = ()) -> Effect:
    """Mean IoU of the first minus that of the second, points, paired over images.

    Args:
        first: Confusion matrix of every image, images C C.
        second: Confusion matrices of the same images, images C C.
        label: What it is the difference of, for people.
        by_seed: The difference for each seed alone.
        seeds: Seeds of the noise.
    """
    value = float(miou(first.sum(0)) - miou(second.sum(0)))
    interval = bootstrap_difference(first, second)
    return Effect(label=label, value=value, ci95=interval, images=len(first), by_seed=tuple(by_seed), seeds=tuple(seeds))


def mean_estimate(values: Sequence[float] | np.ndarray, label: str = "") -> Estimate:
    """The mean of a value an image, its interval over images; NaN is an image that has none."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return Estimate(label=label, value=float(known.mean()), ci95=mean_interval(known), images=len(known))


def mean_effect(differences: Sequence[float] | np.ndarray, label: str = "", seeds: Sequence[int] = ()) -> Effect:
    """The mean of a paired difference an image, its interval over images; NaN is an image that has none."""
    found = mean_estimate(differences)
    return Effect(label=label, value=found.value, ci95=found.ci95, images=found.images, seeds=tuple(seeds))


@dataclass(frozen=True)
class Store:
    """Parts of a study on disk, an ``.npz`` each; without a folder nothing is kept and everything computed.

    Args:
        folder: The folder of the parts; None keeps nothing.
        about: Facts that stand in the key of every part: models, code and settings, as ``diffseg study`` gives them.
        progress: Called with the key of a part, as JSON, before it is computed.
        saved: Seconds that the parts that were read again once took.
    """

    folder: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None
    saved: list[float] = field(default_factory=list, compare=False)

    def counts(self, key: Mapping[str, Any], compute: Callable[[], Counts]) -> Counts:
        """The counts of a part: read if they were kept under this very key, else computed and kept."""
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
    """Variants measured on the same images.

    Args:
        rows: Mean IoU by variant.
        confusions: Confusions summed over seeds by variant, images C C.
        seeds: Seeds of the noise.
    """

    rows: dict[str, Row]
    confusions: dict[str, np.ndarray]
    seeds: tuple[int, ...]

    def effect(self, first: str, second: str, label: str = "") -> Effect:
        """Mean IoU of `first` minus `second`, points, paired over images; without a label it is named by those of the rows."""
        one, other = self.rows[first], self.rows[second]
        by_seed = [x - y for x, y in zip(one.by_seed, other.by_seed, strict=True)]
        return paired_miou(self.confusions[first], self.confusions[second], label or f"{one.label} minus {other.label}", by_seed, self.seeds)

    def against_nothing(self, name: str, label: str = "") -> Effect:
        """Mean IoU of a variant minus that of calling every pixel background, points, paired over images."""
        matrices = self.confusions[name]
        empty = np.zeros_like(matrices)
        empty[:, :, 0] = matrices.sum(2)
        return paired_miou(matrices, empty, label or f"{self.rows[name].label} against nothing found", seeds=self.seeds)


def measure(train: Sequence[Counts], test: Sequence[Counts], classes: int, seeds: Sequence[int], labels: Mapping[str, str] | None = None) -> Measured:
    """Each variant's mean IoU on `test` at the threshold that is best on `train`.

    Args:
        train: Counts by variant, one mapping a seed; all seeds of a split see the same images.
        test: Counts by variant of the split that is measured, one mapping a seed.
        classes: The number of classes, the background included.
        seeds: Seeds of the noise.
        labels: Names of the variants for people; a variant's key where it has none.
    """
    rows, confusions = {}, {}
    for name in test[0]:
        threshold, _ = best_threshold([one for counts in train for one in counts[name]], classes)
        found = [confusions_at(counts[name], threshold, classes) for counts in test]
        pooled = np.sum(found, axis=0)
        oracle_threshold, oracle = best_threshold([one for counts in test for one in counts[name]], classes)
        by_seed = [float(miou(one.sum(0))) for one in found]
        confusions[name] = pooled
        rows[name] = Row(
            label=(labels or {}).get(name, name),
            value=float(miou(pooled.sum(0))),
            ci95=bootstrap_miou(pooled),
            images=len(pooled),
            threshold=threshold,
            oracle=oracle,
            oracle_threshold=oracle_threshold,
            by_seed=tuple(by_seed),
            sd=mean_and_sd(by_seed)[1] if len(by_seed) > 1 else None,
            seeds=tuple(seeds),
        )
    return Measured(rows, confusions, tuple(seeds))


def count_maps(dataset: Dataset, maps: Callable[[Sample, list[str]], Mapping[str, Tensor]], final_norm: str = "after") -> Counts:
    """Score histograms of every variant on every image, the classes present given.

    Args:
        dataset: The images to go through.
        maps: From a sample and the words of its classes to maps by variant, k h w.
        final_norm: Where maps are normalised, as :func:`~diffseg_lib.scoremaps.upsample` takes it.
    """

    def scores(sample: Sample, words: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        for name, one in maps(sample, words).items():
            yield name, to_numpy(upsample(one, sample.truth.shape, final_norm))

    return count_variants(dataset, scores)


def count_variants(dataset: Dataset, scores: Callable[[Sample, list[str]], Iterable[tuple[str, np.ndarray]]]) -> Counts:
    """The same of variants that come one after the other, each as scores of the truth's size, k H W: no two of them need be held at once."""
    found: Counts = {}
    for sample in dataset:
        labels = [dataset.names.index(name) for name in sample.classes]
        for name, one in scores(sample, dataset.words(sample.classes)):
            found.setdefault(name, []).append(count_scores(sample.truth, one, labels, len(dataset.names)))
    return found


@dataclass(frozen=True)
class Splits:
    """Train and test of a study, and what was counted on each.

    Args:
        train: The images of train that thresholds are chosen on.
        test: The images that are measured; none of them is in `train`.
        counts: Counts of "train" and of "test", one mapping a seed.
        seeds: Seeds of the noise.
    """

    train: Dataset
    test: Dataset
    counts: Mapping[str, list[Counts]]
    seeds: tuple[int, ...]

    def measured(self, labels: Mapping[str, str] | None = None, on: str = "test") -> Measured:
        """Measure on "test", or, to choose by, on "train" itself; thresholds are train's in both. `labels` name the variants for people."""
        return measure(self.counts["train"], self.counts[on], len(self.test.names), self.seeds, labels)


def count_splits(
    source: tuple[str, str | Path, str],
    sizes: tuple[int, int],
    seeds: Sequence[int],
    count: Callable[[Dataset, int], Counts],
    store: Store | None,
    key: Mapping[str, Any],
) -> Splits:
    """Count images of train to choose on, and images of a split to measure, for every seed, part by part; no image is in both.

    Args:
        source: Data set, root and the split that is measured, as :func:`~diffseg_lib.evaluation.sources.open_splits` takes them.
        sizes: The number of images to choose on, and of those to measure.
        seeds: Seeds of the noise.
        count: From a data set and a seed to its counts.
        store: Keeps the parts; None keeps nothing.
        key: The study's name and its settings, by which parts are found again.

    Raises:
        ValueError: If too few images are left to measure.
    """
    opened = dict(zip(("train", "test"), open_splits(*source, *sizes), strict=True))
    store = store or Store()
    counts = {
        part: [store.counts({**key, "data": one.fingerprint(), "seed": seed}, partial(count, one, seed)) for seed in seeds] for part, one in opened.items()
    }
    return Splits(opened["train"], opened["test"], counts, tuple(seeds))
