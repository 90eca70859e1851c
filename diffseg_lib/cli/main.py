"""The command line: ``python -m diffseg_lib segment PHOTO ... --classes WORD ... --out DIR``,
``python -m diffseg_lib evaluate --dataset voc --root DIR --method diffsegmenter --out DIR``,
``python -m diffseg_lib pseudo --root DIR --out DIR``,
``python -m diffseg_lib edit PHOTO --source PROMPT --target PROMPT --word WORD --out DIR``, and
``python -m diffseg_lib check --profile sd15 --data-root DIR``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..applications.crf import PRESETS
from ..profiles import DTYPES, Profile, load_profile
from ..support.files import RunError
from ..support.identity import weights_hash

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..evaluation.jobs import Job
    from ..evaluation.run_store import Row, Run
    from ..segmenter import DiffSegmenter, Segmentation
    from ..support.images import Photo


def _segment(o: argparse.Namespace) -> int:
    from ..evaluation.preflight import require
    from ..segmenter import DiffSegmenter
    from ..support.images import ImageError, load_photo, pictures_in

    photos = pictures_in(o.photos)
    stems = [photo.stem for photo in photos]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(f"photos of the same name would overwrite each other: {', '.join(twice)}; segment them into folders of their own")
    profile = require(_profile(o), *(["captioner"] if o.recipe else []))
    places = {"device": o.device, "dtype": o.dtype, "offloaded": o.offload}
    segmenter = DiffSegmenter.from_profile(profile, o.recipe, seed=o.seed, threshold=o.threshold, **places)
    segmenter.prompts(o.classes)  # refuse the classes before any photo is read
    if segmenter.backbone.profile.words:
        print(f"note: the {segmenter.backbone.profile.name} models know only the world they were trained on, and guess on any other photo", file=sys.stderr)
    failed = 0
    for path in photos:
        started = time.perf_counter()
        try:
            photo = load_photo(path)
            found = segmenter.segment(photo.pixels, o.classes, return_intermediates=o.save_intermediates)
        except ImageError as error:  # the other photos go on
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        folder = o.out / path.stem if len(photos) > 1 or o.photos[0].is_dir() else o.out
        save(found, photo, folder)
        facts = {"photo": path.name} | describe(segmenter, found) | {"recipe": o.recipe or "default", "versions": versions()}
        facts["notes"] = [*photo.notes, *found.notes, *segmenter.size_note(photo.pixels)]
        facts["seconds"] = round(time.perf_counter() - started, 3)
        (folder / "result.json").write_text(json.dumps(facts, indent=1) + "\n")
        shares = ", ".join(f"{name} {share:.1%}" for name, share in found.areas.items())
        print(f"{folder}: {shares}" + "".join(f"\n  note: {note}" for note in facts["notes"]))
    return 2 if failed else 0


def _profile(o: argparse.Namespace) -> Profile:
    """The profile asked for, with the captioner and the CLIP asked for."""
    return load_profile(o.profile).with_models(o.captioner, o.clip)


def _evaluate(o: argparse.Namespace) -> int:
    from ..baselines.registry import check_method
    from ..evaluation.evaluator import check_labels, choose_threshold, save, summarise
    from ..evaluation.jobs import Job, make_segmenter
    from ..evaluation.preflight import require
    from ..support.executors import cores, open_executor

    started = time.perf_counter()
    check_method(o.method)
    check_labels(o.labels)
    needed = {"captioner": o.labels == "filter" or o.recipe, "clip": o.labels == "filter" or (o.method == "denseclip" and not o.model)}
    require(_profile(o), *(name for name, needs in needed.items() if needs), datasets=[o.dataset], data_root=o.root, split=o.split)
    given = {key: getattr(o, key) for key in ("dataset", "root", "split", "limit", "order", "labels", "method", "model", "profile", "captioner", "clip")}
    for key in ("root", "model", "profile", "captioner", "clip", "labels"):  # a worker may stand in another folder
        given[key] = str(Path(given[key]).absolute()) if given[key] and Path(given[key]).exists() else given[key]
    threads = o.threads or max(1, cores() // max(1, o.workers))
    job = Job(**given, recipe=o.recipe or "", device=o.device, dtype=o.dtype, offloaded=o.offload, seed=o.seed, threads=threads)
    dataset = job.open()
    profile = make_segmenter(job).backbone.profile
    if o.threshold != "train":
        threshold, chosen_on = fixed_threshold(o.threshold, profile, o.dataset, o.labels, o.method)
    with open_executor(o.workers, o.scheduler) as (executor, at_once):
        place = (executor, at_once, o.chunk or (1 if at_once == 1 else 8))
        if o.threshold == "train":
            before = replace(job, split="train", limit=o.train_limit)
            candidates, train = _kept_rows(before, o.out, *place)[0], before.open()
            threshold, chosen_on = choose_threshold(candidates, len(train.names)), f"{len(train)} train images"
        rows, run = _kept_rows(job, o.out, *place)
    asked = {key: getattr(o, key) for key in ("dataset", "split", "labels", "method", "seed", "limit", "recipe")} | {"threads": threads}
    asked["dtype"] = str(make_segmenter(job).backbone.dtype).removeprefix("torch.")
    summary = asked | {
        "profile": profile.name,
        "threshold_chosen_on": chosen_on,
        "fingerprint": dataset.fingerprint(),
        "split_images": dataset.expected,
        "listed": len(dataset),
    }
    summary |= summarise(rows, dataset.names, threshold, len(dataset) if o.limit else dataset.expected) | {"run": run.folder.name}
    summary |= {"seconds_in_all": round(time.perf_counter() - started, 1), "notes": list(dataset.notes), "versions": versions()}
    try:
        save(rows, summary, dataset.names, o.out)
    except OSError as error:
        raise RunError(f"{o.out} cannot be written ({error}); the rows are kept in {run.folder}") from error
    return _report(summary)


def _pseudo(o: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..applications.crf import preset
    from ..applications.pseudo_labels import TIMESTEPS, Pseudo, write_masks
    from ..baselines.attention import Attention
    from ..evaluation.preflight import require
    from ..evaluation.sources import open_dataset
    from ..segmenter import DiffSegmenter

    profile = require(_profile(o), *(["captioner"] if o.recipe else []), datasets=[o.dataset], data_root=o.root, split=o.split)
    dataset = open_dataset(o.dataset, profile.data_root(o.dataset), o.split, o.limit)
    places = {"device": o.device, "dtype": o.dtype, "offloaded": o.offload}
    segmenter = DiffSegmenter.from_profile(
        profile, o.recipe, dataset=o.dataset, seed=o.seed, timesteps=tuple(o.timesteps) or TIMESTEPS, threshold=o.threshold, **places
    )
    pseudo = Pseudo(segmenter.threshold, preset(o.crf) if o.crf else None, o.min_confidence)
    about = {"profile": profile.name, "weights": weights_hash(profile.source), "config": asdict(segmenter.resolved), "recipe": o.recipe or "default"}
    with tqdm(total=len(dataset), desc=o.split, unit="image", disable=None) as bar:
        errors = write_masks(dataset, Attention(segmenter), pseudo, o.out, about, lambda name, error: bar.update())
    print(f"{len(dataset) - len(errors)} masks of {len(dataset)} images in {o.out}, {len(errors)} failed")
    for name, text in list(errors.items())[:5]:
        print(f"  {name}: {text}", file=sys.stderr)
    return int(bool(errors))


def _edit(o: argparse.Namespace) -> int:
    from ..applications.prompt_to_prompt import Gate, PromptToPrompt, ddim_invert, edit
    from ..evaluation.preflight import require
    from ..segmenter import DiffSegmenter
    from ..support.images import load_photo

    photo, places = load_photo(o.photo), {"device": o.device, "dtype": o.dtype, "offloaded": o.offload}
    segmenter = DiffSegmenter.from_profile(require(_profile(o)), seed=o.seed, threshold=o.threshold, **places)
    word, *others = o.word
    mask = None if o.everywhere else segmenter.segment(photo.pixels, [word, *others]).labels == 1
    settings = PromptToPrompt(o.cross, o.own, guidance=o.guidance)
    source = ddim_invert(segmenter, photo.pixels, o.source, o.steps)
    found = edit(segmenter.backbone, source, o.target, settings, gate=None if mask is None else Gate(mask))
    o.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(found.picture).save(o.out / "edited.png")
    if mask is not None:
        Image.fromarray(mask.astype(np.uint8) * 255).save(o.out / "mask.png")
    facts = {"photo": o.photo.name, "source": o.source, "target": o.target, "words": o.word, "everywhere": o.everywhere, "steps": o.steps, "seed": o.seed}
    facts |= {"settings": asdict(settings), "profile": segmenter.backbone.profile.name, "threshold": segmenter.threshold, "versions": versions()}
    (o.out / "result.json").write_text(json.dumps(facts, indent=1) + "\n")
    if mask is not None and not mask.any():
        print(f"note: no {word} was found, so nothing changed; lower --threshold, or --everywhere", file=sys.stderr)
    print(f"{o.out}: " + ("may change everywhere" if mask is None else f"{mask.mean():.1%} of the picture may change"))
    return 0


def _check(o: argparse.Namespace) -> int:
    from ..evaluation.preflight import check

    found = check(_profile(o), o.data_root, o.dataset, o.images)
    width = max(len(one.what) for one in found)
    for one in found:
        print(f"{one.what:{width}}  {one.state:7}  {' '.join(one.detail.split())}")
    wrong = sum(one.state != "ready" for one in found)
    print(f"{len(found) - wrong} ready, {wrong} to be seen to")
    return int(bool(wrong))


def _kept_rows(job: Job, out: Path, executor: Executor, at_once: int, chunk: int) -> tuple[list[Row], Run]:
    """A job's rows, those of an earlier start of the same run read again; a bar of progress while the others come, a line at the end."""
    from tqdm import tqdm

    from ..evaluation.jobs import run_job
    from ..evaluation.run_store import open_run, pending_ids

    run, ids = open_run(out / "runs", job.facts()), job.open().ids
    left = pending_ids(ids, run.rows())
    errors, started = 0, time.perf_counter()
    with tqdm(total=len(ids), initial=len(ids) - len(left), desc=job.split, unit="image", disable=None) as bar:

        def progress(rows: Sequence[Row]) -> None:
            nonlocal errors
            errors += sum(row.status != "ok" for row in rows)
            bar.update(len(rows))
            bar.set_postfix(errors=errors)

        try:
            rows = run_job(job, run, executor, at_once, chunk, progress)
        except KeyboardInterrupt:
            print(f"interrupted: {len(ids) - len(pending_ids(ids, run.rows()))} of {len(ids)} images are kept; the same command goes on", file=sys.stderr)
            raise
    seconds = time.perf_counter() - started
    rate = f", {len(left) / seconds:.2f} a second" if left else ""
    print(f"{job.split}: {len(left)} images done now{rate}, {len(ids) - len(left)} kept from before, {errors} failed ({run.folder})", file=sys.stderr)
    return rows, run


def fixed_threshold(given: str, profile: Profile, dataset: str, labels: str, method: str) -> tuple[float, str]:
    """The background threshold of an evaluation, and where it is from: a number, or what was chosen before.

    Args:
        given: a number from 0 to 1, or "" for the one that the committed larger runs fixed on the train split of
            this data set, method and labels, or else (for diffsegmenter) the profile's.
        profile, dataset, labels, method: of the evaluation.

    Raises:
        ValueError: if it is no such number, or nothing was chosen before.
    """
    from ..experiments.benchmark import BenchmarkResult
    from ..experiments.measure import committed_result

    if given:
        try:
            value = float(given)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise ValueError(f"threshold {given!r}: expected a number from 0 to 1, or 'train' to choose it on the train split")
        return value, "given"
    known = committed_result(f"benchmark_{dataset}", profile.name, BenchmarkResult)
    row = known.result.row(method, labels) if known else None
    if known and row:
        return row.threshold, f"the train split, in the committed run of {known.command}"
    if method == "diffsegmenter":
        return profile.threshold, profile.chosen_on
    raise ValueError(f"no threshold is known for {method} with labels {labels} on {dataset}: give --threshold train, or a number")


def _report(summary: dict[str, Any]) -> int:
    if summary["miou"] is None:
        listed = f"; the split's list has {summary['listed']} images" if summary["listed"] != summary["expected_images"] else ""
        print(f"{summary['coverage']}: no headline figure; {len(summary['errors'])} images failed, see images.csv{listed}", file=sys.stderr)
        for name, text in list(summary["errors"].items())[:5]:
            print(f"  {name}: {text}", file=sys.stderr)
        return 1
    for name, value in summary["iou"].items():
        print(f"{name:>16}  {'-' if value is None else format(value, '.1f'):>5}")
    for what, key in ((f"threshold {summary['threshold']:.3f} ({summary['threshold_chosen_on']})", "miou"), ("oracle threshold", "miou_oracle")):
        low, high = summary[f"{key}_ci95"]
        print(f"mIoU {summary[key]:.1f} ({low:.1f} to {high:.1f}, 95 % over {summary['images']} images), {what}")
    return 0


def describe(segmenter: DiffSegmenter, found: Segmentation) -> dict[str, Any]:
    """What was asked, by which settings, and what was found: the facts of a ``result.json``."""
    return {
        "size": list(found.labels.shape),
        "classes": list(found.classes),
        "areas": found.areas,
        "threshold": found.threshold,
        "seed": segmenter.config.seed,
        "profile": segmenter.backbone.profile.name,
        "chosen_on": segmenter.backbone.profile.chosen_on,
        "config": asdict(segmenter.resolved),
        "prompts": [{"text": p.text, "span": p.span} for p in segmenter.prompts(found.classes)],
    }


def save(found: Segmentation, photo: Photo, folder: Path) -> None:
    """Write labels.png, overlay.png, segments.json (COCO's runs), scores.npz and, if they were kept, intermediates.npz.

    ``scores``: k H W in [0, 1]. Of the intermediates ``latents`` and ``noise`` are 1 c h w; ``timestep``
    holds one or several; ``max_tokens`` is k l, each prompt token's weight in its class's map (span mean);
    ``cross_<side>`` is k s_h s_w, the mean over that side's layers and heads, named by its height s_h;
    ``fused`` and ``completed`` are k h w. With several timesteps all maps are means over them.
    """
    from ..support.images import coco_segments, overlay, save_labels

    folder.mkdir(parents=True, exist_ok=True)
    save_labels(found.labels, folder / "labels.png")
    Image.fromarray(overlay(photo.pixels, found.labels)).save(folder / "overlay.png")
    (folder / "segments.json").write_text(json.dumps(coco_segments(found.labels, found.classes), indent=1) + "\n")
    np.savez_compressed(folder / "scores.npz", scores=found.scores)
    if found.intermediates is not None:
        kept = found.intermediates
        maps: dict[str, Any] = {f"cross_{m.shape[-2]}": m.cpu().numpy() for m in kept.cross.values()}
        rest: dict[str, Any] = {name: getattr(kept, name).cpu().numpy() for name in ("latents", "noise", "tokens", "fused", "completed")}
        np.savez_compressed(folder / "intermediates.npz", timestep=np.array(kept.timesteps), **maps, **rest)


def versions() -> dict[str, str]:
    """Versions of this library and of what the result depends on."""
    from importlib.metadata import version

    from .. import __version__

    names = ("torch", "diffusers", "transformers", "numpy", "pillow")
    return {"diffseg_lib": __version__, "python": sys.version.split()[0]} | {name: version(name) for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m diffseg_lib", description="Training-free open-vocabulary segmentation.")
    commands = parser.add_subparsers(dest="command", required=True)
    segment = commands.add_parser("segment", help="segment photos by words")
    segment.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="pictures, or folders of them")
    segment.add_argument("--classes", nargs="+", required=True, metavar="WORD", help="what to look for; quote names of several words")
    segment.add_argument("--profile", default="pocket", help="a name (pocket, sd15, ...), a YAML file, a hub id or the folder of a pipeline")
    segment.add_argument("--recipe", choices=["paper", "released"], help="switches as the paper or the released code has them (default: ours)")
    segment.add_argument("--seed", type=int, default=0, help="of the noise")
    segment.add_argument("--threshold", type=float, help="background score in [0, 1] (default: the profile's)")
    segment.add_argument("--save-intermediates", action="store_true", help="also write intermediates.npz, to redo the arithmetic")
    segment.add_argument("--out", type=Path, required=True, metavar="DIR")
    segment.set_defaults(run=_segment)
    evaluate = commands.add_parser("evaluate", help="measure a method on a data set")
    evaluate.add_argument("--dataset", choices=["voc", "context", "object"], required=True)
    evaluate.add_argument("--root", default="", metavar="DIR", help="of the tree (default: the profile's, or the pocket world's, in the cache)")
    evaluate.add_argument("--split", default="val")
    evaluate.add_argument(
        "--labels",
        default="filter",
        metavar="image|filter|all|FILE.json",
        help="classes asked for: those present, the filter's, all, or a file's that maps image ids to class names",
    )
    evaluate.add_argument("--method", default="diffsegmenter", help="diffsegmenter, cross, daam, elbo, denseclip or groupvit")
    evaluate.add_argument("--model", default="", metavar="PATH", help="of denseclip or groupvit (default: the profile's CLIP)")
    evaluate.add_argument("--profile", default="pocket", help="a name (pocket, sd15, ...), a YAML file, a hub id or the folder of a pipeline")
    evaluate.add_argument("--recipe", choices=["paper", "released"], help="switches as the paper or the released code has them (default: ours)")
    evaluate.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images")
    evaluate.add_argument("--threshold", default="", help="a number; 'train' chooses it on the train split (default: what was chosen there before)")
    evaluate.add_argument("--train-limit", type=int, default=100, metavar="N", help="train images to choose the threshold on")
    evaluate.add_argument("--order", choices=["alphabetical", "original"], default="", help="of Context's labels, where the tree does not tell")
    evaluate.add_argument("--seed", type=int, default=0, help="of the noise")
    evaluate.add_argument("--threads", type=int, default=0, metavar="N", help="of each process (default: the cores, shared among local workers)")
    evaluate.add_argument("--workers", type=int, default=0, metavar="N", help="processes of a local Dask cluster (default: none, this process)")
    evaluate.add_argument("--scheduler", default="", metavar="ADDRESS", help="of a running Dask scheduler")
    evaluate.add_argument("--chunk", type=int, default=0, metavar="N", help="images a call (default: 1 here, 8 on workers)")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the results; rows are kept in DIR/runs, and the same command goes on")
    evaluate.set_defaults(run=_evaluate)
    pseudo = commands.add_parser("pseudo", help="write masks of a train split from its image-level labels")
    pseudo.add_argument("--dataset", choices=["voc", "context", "object"], default="voc")
    pseudo.add_argument("--root", default="", metavar="DIR", help="of the tree (default: the profile's, or the pocket world's, in the cache)")
    pseudo.add_argument("--split", default="train")
    pseudo.add_argument("--profile", default="pocket", help="as of evaluate")
    pseudo.add_argument("--recipe", choices=["paper", "released"], help="as of evaluate")
    pseudo.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images")
    pseudo.add_argument("--timesteps", type=int, nargs="+", default=[], help="whose mean is taken (default: the paper's four)")
    pseudo.add_argument("--threshold", type=float, help="background score in (0, 1] (default: the profile's)")
    pseudo.add_argument("--crf", choices=list(PRESETS), default="", help="a dense CRF by its settings' name (default: none)")
    pseudo.add_argument("--sure", type=float, default=0.0, metavar="P", help="pixels whose label is less probable are void (default: none)")
    pseudo.add_argument("--seed", type=int, default=0, help="of the noise")
    pseudo.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the masks; the same command goes on where it was stopped")
    pseudo.set_defaults(run=_pseudo)
    editor = commands.add_parser("edit", help="draw a photo again as another prompt has it, within the mask of a word")
    editor.add_argument("photo", type=Path, metavar="PHOTO")
    editor.add_argument("--source", required=True, metavar="PROMPT", help='that describes the photo, as in "a photograph of a cat and a tree"')
    editor.add_argument("--target", required=True, metavar="PROMPT", help="that describes what it is to become")
    editor.add_argument("--word", nargs="+", required=True, help="the thing that may change, then others beside it that sharpen its mask")
    editor.add_argument("--everywhere", action="store_true", help="without a mask: plain Prompt-to-Prompt")
    editor.add_argument("--profile", default="pocket", help="as of segment")
    editor.add_argument("--threshold", type=float, help="of the mask, 0 to 1 (default: the profile's)")
    editor.add_argument("--steps", type=int, default=20, help="of inversion and edit (default: 20)")
    editor.add_argument("--cross", type=float, default=0.8, metavar="SHARE", help="of the steps in which cross-attention is the source's (default: 0.8)")
    editor.add_argument("--own", type=float, default=0.4, metavar="SHARE", help="of the steps in which self-attention is (default: 0.4)")
    editor.add_argument("--guidance", type=float, default=4.0, help="weight of the target against no words (default: 4; Stable Diffusion: 7.5)")
    editor.add_argument("--seed", type=int, default=0, help="of the mask's noise")
    editor.add_argument("--out", type=Path, required=True, metavar="DIR", help="of edited.png, mask.png and result.json")
    editor.set_defaults(run=_edit)
    check = commands.add_parser("check", help="look at models and data, and say what is ready and what is wrong")
    check.add_argument("--profile", default="pocket", help="as of evaluate")
    check.add_argument("--data-root", default="", metavar="DIR", help="with VOCdevkit, annotations or coco in it (default: no data is looked at)")
    check.add_argument("--dataset", nargs="*", choices=["voc", "context", "object"], default=[], help="(default: those whose folders are there)")
    check.add_argument("--images", type=int, default=50, metavar="N", help="of each split that are read; 0 is all (default: 50)")
    check.set_defaults(run=_check)
    for command in (segment, evaluate, pseudo, editor, check):
        command.add_argument("--captioner", default="", metavar="PATH", help="BLIP, for recipes that caption and for the filter (default: the profile's)")
        command.add_argument("--clip", default="", metavar="PATH", help="CLIP, for the filter (default: the profile's)")
    for command in (segment, evaluate, pseudo, editor):
        command.add_argument("--device", default="", help="cpu, cuda, ... (default: the profile's)")
        command.add_argument("--dtype", choices=DTYPES, default="", help="of the diffusion model (default: the profile's)")
        command.add_argument("--offload", action="store_true", help="models wait in main memory, and visit the card one at a time")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 if it went well; 1 if some images failed and there is no headline figure; 2 if the input was wrong; 3 if a
        run could not be kept or read; 130 if it was interrupted. Above 0 standard error says why.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return 130
    except RunError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
