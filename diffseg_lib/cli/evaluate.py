"""``diffseg evaluate``: a method measured on a data set."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..support.files import RunError
from .exits import Exit
from .options import MODELS, PLACES, check_device, page, profile_of, reads_captioner, recipe_notes, share, source_of, told
from .results import versions

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..data import Dataset
    from ..evaluation.jobs import Job
    from ..evaluation.run_store import Row, Run

ABOUT = """
Measure a method: mean IoU at a threshold that was fixed on train images, none of which is measured, the oracle's beside it, 95 %
intervals, confusion and costs. DIR gets summary.json, images.csv with a row an image, classes.csv and sweep.csv. Under each figure
stands its protocol in a line, with what it takes from the truth.

Rows are kept in DIR/runs, part by part: after an interruption, a kill or a full disk the same command goes on, and ends with the
same counts. An image that cannot be read becomes an error row, and there is no headline figure then.
"""
METHOD_NAMES = (
    "diffsegmenter, cross, daam, elbo, denseclip, groupvit, or of what came after the paper: iseg, cliper, faseg, chains, nerve, goca, heads, elbo-t2i, "
    "diffcut, text-to-seed, diffseg, seg4diff and conceptattention"
)
MEANS = ("split", "image")
EXAMPLE = "diffseg evaluate --dataset voc --labels filter --method diffsegmenter --limit 100 --out found"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="rows that are done are kept")
    share(parser, "--dataset", required=True)
    share(parser, "--out", required=True)
    share(parser, "--root", "--split", "--limit")
    share(parser, "--labels", "--labels-from")
    parser.add_argument("--method", default="diffsegmenter", metavar="NAME", help=f"One of {METHOD_NAMES}.")
    parser.add_argument(
        "--model",
        default="",
        metavar="PATH",
        help="What the method reads of its own: denseclip's, diffcut's and diffseg's CLIP in place of the profile's, groupvit's model, or the file of heads.",
    )
    share(parser, "--profile", "--recipe", "--one-pass")
    share(
        parser,
        "--threshold",
        type=str,
        default="",
        help="A number from 0 to 1, 'train' to choose it there, or 'oracle' for the best on the measured images themselves. Without it, the one chosen before "
        "for this very setting.",
    )
    parser.add_argument("--train-limit", type=int, default=100, metavar="N", help="Train images that the threshold is chosen on; they are not measured.")
    parser.add_argument("--mask-by-truth", action="store_true", help="Make background of predictions whose class is not in the image: uses the truth.")
    parser.add_argument("--mean", choices=MEANS, default="split", help="Count the pixels of the split together, or average each image's own mean IoU.")
    parser.add_argument("--no-background", action="store_true", help="Leave the background out of the mean over classes.")
    parser.add_argument("--void-below", type=float, default=0.0, metavar="SHARE", help=told("evaluation.jobs", "Job", "void_below"))
    share(parser, "--order", "--seed", "--workers", "--scheduler")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="Threads of each process. Without it, its machine's cores, shared among local workers."
    )
    parser.add_argument("--chunk", type=int, default=0, metavar="N", help="Images that a worker is given at a time. Without it, 1 here and 8 on workers.")
    share(parser, *MODELS, *PLACES)
    parser.add_argument("--strict", action="store_true", help="Know pictures and masks by their content, which is read, rather than by size and date.")


def run(o: argparse.Namespace) -> int:
    """Evaluate; 1 if images failed and there is no headline figure."""
    from ..evaluation.evaluator import choose_threshold, save, summarise
    from ..evaluation.jobs import Job, make_segmenter
    from ..evaluation.labels import LABELS, check_coverage, check_labels, dictionaries_of
    from ..evaluation.methods import check_method, reads_clip
    from ..evaluation.preflight import require
    from ..evaluation.protocol import SWEPT, Protocol, threshold_source, words_of
    from ..evaluation.thresholds import fixed_threshold
    from ..support.executors import cores, open_executor
    from ..support.identity import describe_code, describe_models
    from ..support.provenance import commit

    started = time.perf_counter()
    check_method(o.method)
    check_labels(o.labels, o.labels_from)
    needed = {"captioner": o.labels == "filter" or reads_captioner(o.recipe), "clip": o.labels == "filter" or (reads_clip(o.method) and not o.model)}
    require(profile_of(o), *(name for name, needs in needed.items() if needs), datasets=[o.dataset], data_root=o.root, split=o.split, order=o.order)
    check_device(o.device)
    given = {key: getattr(o, key) for key in ("split", "limit", "order", "labels", "method", "model", "profile", "captioner", "clip")}
    given["dataset"], given["root"] = source_of(o, profile_of(o))
    for key in ("root", "model", "profile", "captioner", "clip", "labels"):  # a worker may stand in another folder
        given[key] = str(Path(given[key]).absolute()) if given[key] and Path(given[key]).exists() else given[key]
    threads = o.threads or (0 if o.scheduler else max(1, cores() // max(1, o.workers)))  # 0: as many as the worker's machine has
    given |= {"labels_from": tuple(o.labels_from)}
    job = Job(
        **given,
        recipe=o.recipe or "",
        one_pass=o.one_pass,
        device=o.device,
        dtype=o.dtype,
        offloaded=o.offload,
        seed=o.seed,
        threads=threads,
        void_below=o.void_below,
        strict=o.strict,
    )
    dataset, beside = job.open(), 0
    protocol = Protocol(
        dataset=dataset.name,
        split=o.split,
        listed=dataset.expected,
        words=words_of(o.labels),
        masked=o.mask_by_truth,
        background=not o.no_background,
        per_image=o.mean == "image",
        void_below=o.void_below,
    )
    if o.threshold == "train":
        before = replace(job, split="train", limit=o.train_limit)
        job, dataset = _apart(job, before.open())
        beside = len(job.open()) - len(dataset)
        check_coverage(before.open(), o.labels, o.labels_from)
    elif o.threshold != "oracle":
        turned = {"--mask-by-truth": protocol.masked, "--mean": protocol.per_image, "--no-background": o.no_background, "--void-below": o.void_below}
        if not o.threshold and any(turned.values()):
            given_here = ", ".join(name for name, on in turned.items() if on)
            raise ValueError(f"no threshold is known under {given_here}: give --threshold train, or a number")
        threshold, chosen_on = fixed_threshold(o.threshold, job)
    check_coverage(dataset, o.labels, o.labels_from)
    profile = make_segmenter(job).backbone.profile
    with open_executor(o.workers, o.scheduler) as (executor, at_once):
        place = (executor, at_once, o.chunk or (8 if o.workers or o.scheduler else 1))
        if o.threshold == "train":
            candidates, train = _kept_rows(before, o.out, *place)[0], before.open()
            threshold = choose_threshold(candidates, len(train.names), protocol)
            chosen_on = f"{len(train)} train images" + (", none of them measured" if beside else "")
        rows, kept = _kept_rows(job, o.out, *place)
    measured, whole = set(dataset.ids), dataset.expected - beside
    rows = [row for row in rows if row.id in measured]
    if o.threshold == "oracle":
        chosen_on = SWEPT
        threshold = choose_threshold(rows, len(dataset.names), protocol) if any(row.counted for row in rows) else 0.0
    asked = {key: getattr(o, key) for key in ("split", "labels", "method", "seed", "limit", "recipe", "one_pass")} | {
        "dataset": dataset.name,
        "threads": threads,
    }
    asked["labels_from"] = list(dictionaries_of(o.labels, o.labels_from)) if o.labels not in LABELS else []
    asked["dtype"] = str(make_segmenter(job).backbone.dtype).removeprefix("torch.")
    summary = asked | {
        "profile": profile.name,
        "threshold_chosen_on": chosen_on,
        "data": dataset.describe(),
        "models": describe_models(profile),
        "code": describe_code("evaluation.jobs"),
        "split_images": dataset.expected,
        "listed": len(dataset),
    }
    summary |= summarise(rows, dataset.names, threshold, min(o.limit or whole, whole), protocol) | {"run": kept.folder.name}
    protocol = replace(protocol, images=summary["images"], threshold=threshold_source(chosen_on), value=threshold)
    summary["protocol"] = {"miou": protocol.facts(), "miou_oracle": replace(protocol, threshold="swept", value=summary["threshold_oracle"]).facts()}
    summary |= {
        "seconds_in_all": round(time.perf_counter() - started, 1),
        "notes": [*dataset.notes, *make_segmenter(job).backbone.notes, *recipe_notes(o.recipe, profile)],
        **commit(),
        "versions": versions(),
    }
    try:
        save(rows, summary, dataset.names, o.out, protocol)
    except OSError as error:
        raise RunError(f"{o.out} cannot be written ({error}); the rows are kept in {kept.folder}") from error
    return _report(summary)


def _apart(job: Job, tuning: Dataset) -> tuple[Job, Dataset]:
    """A job that reaches beyond the images that are tuned on, where its split holds any of them; and of its images those that are not."""
    from ..evaluation.sources import leave_out

    dataset = job.open()
    if set(tuning.ids).isdisjoint(dataset.ids):
        return job, dataset
    wider = replace(job, limit=job.limit and job.limit + len(tuning))
    return wider, leave_out(wider.open(), tuning, job.limit)


def _kept_rows(job: Job, out: Path, executor: Executor, at_once: Callable[[], int], chunk: int) -> tuple[list[Row], Run]:
    """A job's rows, those of an earlier start of the same run read again; a bar of progress while the others come, a line at the end."""
    from tqdm import tqdm

    from ..evaluation.jobs import run_job
    from ..evaluation.run_store import open_run, pending_ids

    ids, errors, started = job.open().ids, 0, time.perf_counter()
    run = open_run(out / "runs", job.facts())
    try:
        left = pending_ids(ids, run.rows())
        with tqdm(total=len(ids), initial=len(ids) - len(left), desc=job.split, unit="image", disable=None) as bar:

            def progress(rows: Sequence[Row]) -> None:
                nonlocal errors
                errors += sum(row.status != "ok" for row in rows)
                bar.update(len(rows))
                bar.set_postfix(errors=errors)

            rows = run_job(job, run, executor, at_once, chunk, progress)
    except KeyboardInterrupt:
        print(f"{len(ids) - len(pending_ids(ids, run.rows()))} of {len(ids)} images are kept; the same command goes on", file=sys.stderr)
        raise
    seconds = time.perf_counter() - started
    rate = f", {len(left) / seconds:.2f} a second" if left else ""
    print(f"{job.split}: {len(left)} images done now{rate}, {len(ids) - len(left)} kept from before, {errors} failed ({run.folder})", file=sys.stderr)
    return rows, run


def _report(summary: dict[str, Any]) -> int:
    from ..evaluation.metrics import interval_text

    if summary["miou"] is None:
        listed = f"; the split's list has {summary['listed']} images" if summary["listed"] != summary["expected_images"] else ""
        print(f"{summary['coverage']}: no headline figure; {len(summary['errors'])} images failed, see images.csv{listed}", file=sys.stderr)
        for name, text in list(summary["errors"].items())[:5]:
            print(f"  {name}: {text}", file=sys.stderr)
        return Exit.SOME_FAILED
    for name, value in summary["iou"].items():
        print(f"{name:>16}  {'-' if value is None else format(value, '.1f'):>5}")
    at = f"threshold {summary['threshold']:.3f} ({summary['threshold_chosen_on']})"
    figures = {"miou": at, "miou_oracle": f"oracle threshold {summary['threshold_oracle']:.3f}"}
    if summary["protocol"]["miou"] == summary["protocol"]["miou_oracle"]:
        del figures["miou"]
    for key, what in figures.items():
        interval = interval_text(summary[f"{key}_ci95"], summary["images"])
        print(f"mIoU {summary[key]:.1f} (95 % interval over {summary['images']} images: {interval}), {what}")
        print(f"  protocol: {summary['protocol'][key]['line']}")
    return Exit.OK
