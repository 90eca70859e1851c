"""One evaluation as a value that any process can carry out: a :class:`Job` and ids in, rows out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch

from ..baselines.base import Method
from ..category_filter import CategoryFilter
from ..config import ONE_PASS, RECIPES
from ..data import READERS, Dataset, LabelError, released_words
from ..data.names import CONTEXT_ORDERS
from ..profiles import DTYPES, Profile, load_profile
from ..segmenter import DiffSegmenter
from ..support.executors import InProcess, cores, finished
from ..support.identity import describe_additions, describe_code, digest_files, model_key
from ..support.settings import NotNegativeInteger, Seed, Share, Texts, one_of, settings
from .evaluator import evaluate_image
from .labels import check_coverage, dictionaries_of
from .methods import METHODS, make_method
from .run_store import Row, Run, pending_ids
from .sources import open_dataset

PART, PAUSE = 32, 10.0  # rows of a part at most, seconds between parts at most


@settings
class Job:
    """What is evaluated, all in plain values.

    Args:
        dataset: Name of the data set: "voc", "context" or "object".
        root: Folder of the data set, as :func:`~diffseg_lib.evaluation.sources.open_dataset` takes it; "" is the profile's.
        split: Split of the data set, as :func:`~diffseg_lib.evaluation.sources.open_dataset` takes it.
        limit: Number of images, the first of the split; 0 is all (of the pocket world, 500).
        order: Order of Context's labels, "alphabetical" or "original", where the tree does not tell.
        labels: One of ``diffseg_lib.evaluation.labels.LABELS``, or a JSON file.
        labels_from: Dictionaries of a JSON file, as :func:`~diffseg_lib.evaluation.labels.read_labels` takes them.
        method: Name of the method, as :func:`~diffseg_lib.evaluation.methods.make_method` takes it.
        model: Source of the method's own model, as :func:`~diffseg_lib.evaluation.methods.make_method` takes it; "" is the method's usual one.
        profile: Name, file or folder of the profile.
        captioner: Source of a BLIP in place of the profile's; "" is the profile's.
        clip: Source of a CLIP in place of the profile's; "" is the profile's.
        recipe: Recipe of the configuration: "paper", "released", "best" or "" for ours; "released" also takes the released code's words for classes.
        one_pass: How one row of the UNet serves all classes, as :class:`~diffseg_lib.config.Config` takes it.
        device: Device that the models run on; "" is the profile's.
        dtype: Precision of weights and activations; "" is the profile's.
        offloaded: Whether models wait in main memory, as :func:`~diffseg_lib.loading.load_backbone` takes it.
        seed: Seed of the noise that is added to the latents.
        threads: Number of torch's threads, on which the last bits of a score depend; 0 is the cores of the machine that does the work.
        void_below: Share of the picture, 0 to 1, below which a true object is void when pixels are counted; 0 counts all.
        strict: Whether pictures and masks count by their content in the run's key, rather than by size and time of change.

    Raises:
        ValueError: On values of another type or out of range, or an unknown name.
    """

    dataset: Annotated[str, one_of(READERS)]
    root: str = ""
    split: str = "val"
    limit: NotNegativeInteger = 0
    order: Annotated[str, one_of(("", *CONTEXT_ORDERS))] = ""
    labels: str = "filter"
    labels_from: Texts = ()
    method: Annotated[str, one_of(METHODS)] = "diffsegmenter"
    model: str = ""
    profile: str = "pocket"
    captioner: str = ""
    clip: str = ""
    recipe: Annotated[str, one_of(("", *RECIPES))] = ""
    one_pass: Annotated[str, one_of(ONE_PASS)] = "none"
    device: str = ""
    dtype: Annotated[str, one_of(("", *DTYPES))] = ""
    offloaded: bool = False
    seed: Seed = 0
    threads: NotNegativeInteger = 1
    void_below: Share = 0.0
    strict: bool = False

    def open(self) -> Dataset:
        """Open the job's data set, with the words that its recipe prompts with."""
        root = self.resolved_profile().data_root(self.dataset, self.root)
        found = _dataset(self.dataset, root, self.split, self.limit, self.order)
        return released_words(found) if self.recipe == "released" else found

    def resolved_profile(self) -> Profile:
        """The profile with the captioner and the CLIP asked for."""
        return load_profile(self.profile).with_models(self.captioner, self.clip)

    def facts(self) -> dict[str, Any]:
        """What a run is known by: settings, models, data and library.

        Models count by their content (:func:`~diffseg_lib.support.identity.model_key`), the data set by
        :meth:`~diffseg_lib.data.samples.Dataset.fingerprint` of its whole split, so that a larger limit goes on with the rows of a smaller one, a JSON file of
        labels by content, the library by the code that an evaluation imports, the libraries below it not at all. The threshold is left out,
        since rows hold counts for every threshold.
        """
        profile, dataset = self.resolved_profile(), self.open()
        skipped = ("root", "limit", "order", "profile", "model", "captioner", "clip", "offloaded", "strict", "labels_from")
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
        if self.labels.endswith(".json"):
            own |= {"labels": digest_files([Path(self.labels)]), "labels_from": list(dictionaries_of(self.labels, self.labels_from))}
        segmenter = make_segmenter(self)
        sources = {"diffusion": profile.source, "captioner": profile.captioner, "clip": profile.clip, "model": self.model}
        backbone = segmenter.backbone
        return own | {
            "device": backbone.device.type,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "config": asdict(replace(segmenter.resolved, threshold=None)),
            "clip_relative": profile.relative_clip_threshold,
            "caption_similarity": profile.text_similarity_threshold,
            "models": {name: model_key(source, name) for name, source in sources.items() if source} | describe_additions(profile),
            "dataset": dataset.name,
            "data": dataset.fingerprint(whole=True, strict=self.strict),
            "names": list(dataset.names),
            "prompts": list(dataset.prompts),
            "code": describe_code("evaluation.jobs"),
        }


@lru_cache(maxsize=4)
def _dataset(name: str, root: str, split: str, limit: int, order: str) -> Dataset:
    return open_dataset(name, root, split, limit, order)


def make_segmenter(job: Job) -> DiffSegmenter:
    """The diffusion model of a job, loaded once a process."""
    kept = ("dataset", "profile", "captioner", "clip", "recipe", "one_pass", "device", "dtype", "offloaded", "seed")
    return _segmenter(Job(**{name: getattr(job, name) for name in kept}))


@lru_cache(maxsize=1)
def _segmenter(job: Job) -> DiffSegmenter:
    places: dict[str, Any] = {"device": job.device, "dtype": job.dtype, "offloaded": job.offloaded}
    return DiffSegmenter.from_profile(job.resolved_profile(), job.recipe or None, dataset=job.dataset, seed=job.seed, one_pass=job.one_pass, **places)


@lru_cache(maxsize=1)
def _tools(job: Job, prompts: tuple[str, ...]) -> tuple[Method, CategoryFilter | None]:
    """Method and filter of a job whose split does not matter, loaded once a process."""
    segmenter = make_segmenter(job)
    profile = segmenter.backbone.profile
    category_filter = CategoryFilter.of_profile(prompts, profile, str(segmenter.backbone.device)) if job.labels == "filter" else None
    return make_method(job.method, segmenter, job.model), category_filter


def evaluate_ids(job: Job, ids: Sequence[str]) -> list[Row]:
    """A row for each id, which is what a worker computes. Models and data are opened once a process, images where they are scored.

    Args:
        job: Evaluation that the ids belong to.
        ids: Ids of images of its data set.

    Raises:
        LabelError: On a mask whose labels are no classes of the data set.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads or cores())
    try:
        dataset = job.open()
        method, category_filter = _tools(replace(job, split="", limit=0), dataset.prompts)
        return [evaluate_image(dataset, method, job.labels, category_filter, name, job.labels_from, job.void_below) for name in ids]
    finally:
        torch.set_num_threads(before)


def run_job(
    job: Job,
    run: Run,
    executor: Executor | None = None,
    at_once: Callable[[], int] = lambda: 1,
    chunk: int = 1,
    progress: Callable[[Sequence[Row]], Any] = lambda rows: None,
) -> list[Row]:
    """Compute what a run lacks, keep it part by part, and return all its rows in the data set's order.

    Args:
        job: Evaluation that is carried out.
        run: Run in which the rows are kept.
        executor: Executor that does the work; None works in this process.
        at_once: From nothing to the number of calls that the executor can work on at once now, as of :func:`~diffseg_lib.support.executors.open_executor`.
        chunk: Number of images a call.
        progress: Function that is called with new rows.

    Raises:
        LabelError: On masks whose labels are no classes; all such ids are listed.
        ValueError: On a file of labels that does not fit the data set; no image is computed then.
        RunError: If rows cannot be kept, or disagree.
    """
    executor, ids = executor or InProcess(), job.open().ids
    check_coverage(job.open(), job.labels, job.labels_from)
    fresh: list[Row] = []
    known: dict[Path, list[Row]] = {}
    written = time.monotonic()
    work = ((job, names) for names in _chunks(run, ids, chunk, known))
    here = isinstance(executor, InProcess)
    try:
        for (_, names), future in finished(executor, evaluate_ids, work, lambda: 1 if here else 2 * at_once()):  # so that no worker waits for this process
            rows = _rows_of(future.result, names)
            fresh += rows
            progress(rows)
            if len(fresh) >= PART or time.monotonic() - written > PAUSE:
                run.add(fresh)
                fresh, written = [], time.monotonic()
    except LabelError as error:
        raise _all_wrong(job.open(), error) from error
    finally:
        run.add(fresh)
    rows_now = run.rows(known)
    return [rows_now[name] for name in ids if name in rows_now]


def _rows_of(result: Callable[[], list[Row]], names: Sequence[str]) -> list[Row]:
    """A chunk's rows; error rows where its workers were lost again and again."""
    try:
        return result()
    except Exception as error:
        if not type(error).__module__.startswith("distributed"):
            raise
        return [Row(name, "error", type(error).__name__, " ".join(str(error).split())) for name in names]


def _chunks(run: Run, ids: Sequence[str], size: int, known: dict[Path, list[Row]]) -> Iterator[list[str]]:
    """What a run lacks, so many ids at a time; what another process keeps meanwhile is left out.

    Each process begins at a place of its own, so that two of them share the work rather than repeat it.
    """
    started = run.rows(known)
    left = pending_ids(ids, started)
    begin = process_offset() % len(left) if left else 0
    left, looked, done = left[begin:] + left[:begin], time.monotonic(), started
    while left:
        if time.monotonic() - looked > PAUSE:
            done, looked = run.rows(known), time.monotonic()
        names, left = left[:size], left[size:]
        names = [name for name in names if name not in done or done[name].status != "ok"]
        if names:
            yield names


def process_offset() -> int:
    """A number that two processes, on whatever machines, hardly share."""
    import os
    import platform

    return int(hashlib.sha256(f"{platform.node()} {os.getpid()}".encode()).hexdigest()[:8], 16)


def _all_wrong(dataset: Dataset, first: LabelError) -> LabelError:
    """The error with every image that has it."""
    wrong = []
    for name in dataset.ids:
        try:
            dataset.load(name)
        except LabelError:
            wrong.append(name)
        except (ValueError, OSError):
            continue
    shown = ", ".join(wrong[:10]) + (", ..." if len(wrong) > 10 else "")
    return LabelError(f"{first}; so it is in {len(wrong)} of {len(dataset)} images: {shown}")
