"""``python -m benchmarks [--quick] --json FILE``: every ratio of the chapter on speed, measured here and now."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from diffseg_lib.backbone import Backbone
from diffseg_lib.cli.exits import guarded, spelled
from diffseg_lib.support.files import write_json
from diffseg_lib.support.provenance import run_metadata

from . import families, gpu, many, parts, transformers
from .cases import OURS, SHARED, STEPS, cases, ours_in
from .measure import interleaved_timings, peak_alone, ratios, summary
from .models import full_size, pocket

TABLES = ("time", "released", "sizes", "stages", "precision", "memory", "families", "classes", "pocket", "sharing")
NOT_RUN = "not run: no GPU here"


def timed(backbone: Backbone, classes: Sequence[int], size: tuple[int, int], names: Sequence[str], repeats: int, warm: bool = True) -> dict[str, Any]:
    """By number of classes: seconds of each case, and its ratio to the bare forward of the same batch."""
    found = {}
    for number in classes:
        seconds = interleaved_timings(cases(backbone, number, size, tuple(names)), repeats, warm)
        found[str(number)] = {name: {"seconds": summary(seconds[name]), "ratio": ratios(seconds, name)} for name in names}
    return found


def against_released(backbone: Backbone, classes: Sequence[int], size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """By number of classes: how many times the released recipe's seconds ours takes, and how far the maps are apart, of their maximum."""
    found = {}
    for number in classes:
        both = cases(backbone, number, size, ("released", OURS))
        seconds = interleaved_timings(both, repeats, warm=False)
        theirs, ours = both["released"](), both[OURS]()
        found[str(number)] = {"speedup": ratios(seconds, "released", OURS), "seconds": {k: summary(v) for k, v in seconds.items()}}
        found[str(number)]["difference"] = float((theirs - ours).abs().max() / theirs.abs().max())
    return found


def memory(model: str, classes: Sequence[int], size: tuple[int, int], names: Sequence[str], repeats: int) -> dict[str, Any]:
    """By number of classes and case: MiB above the loaded model, each repeat a fresh process."""
    found: dict[str, Any] = {}
    for number in classes:
        rows = {name: [peak_alone(model, name, number, size) for _ in range(repeats)] for name in names}
        found[str(number)] = {name: summary([v for v in values if v is not None], 1) if None not in values else None for name, values in rows.items()}
    return found


def extra(memory_of: dict[str, Any], name: str, to: str = "bare") -> dict[str, float | None]:
    """Median MiB of a case above another's, by number of classes."""
    return {n: None if row[name] is None or row[to] is None else round(row[name]["median"] - row[to]["median"], 1) for n, row in memory_of.items()}


def scaling_by_size(backbone: Backbone, sizes: Sequence[tuple[int, int]], repeats: int) -> dict[str, Any]:
    """Seconds and ratio at C = 1 by image size, width x height px."""
    found = {}
    for height, width in sizes:
        shape = (height // backbone.latent_factor, width // backbone.latent_factor)
        row = timed(backbone, [1], shape, ("bare", OURS), repeats)["1"]
        found[f"{width} x {height}"] = row[OURS] | {"bare_seconds": row["bare"]["seconds"], "kept": "queries and keys"}
    return found


def images(repeats: int, numbers: Sequence[int] = (1, 4, 16)) -> dict[str, Any]:
    """Seconds an image of the pocket model, whole method, by number of images in a row; prompts are encoded once."""
    from diffseg_lib.pocket.world import compose, paint
    from diffseg_lib.segmenter import DiffSegmenter

    pictures = [paint(compose("test", i)) for i in range(max(numbers))]

    def run(number: int) -> None:
        segmenter = DiffSegmenter(parts.without_prompts(pocket()))
        for picture in pictures[:number]:
            segmenter.segment(picture, ["house", "fish"])

    seconds = interleaved_timings({str(n): (lambda n=n: run(n)) for n in numbers}, repeats)
    return {name: summary([value / int(name) for value in values], 4) for name, values in seconds.items()}


def _said(what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    started = time.perf_counter()
    found = call(*arguments)
    print(f"{what}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def pocket_tables(repeats: int) -> dict[str, Any]:
    """The same ratios on the shipped models."""
    size = (pocket().unet.config.sample_size,) * 2
    names = ("bare", *STEPS, SHARED)
    found = {"time": _said("pocket, time", timed, pocket(), [1, 4, 16], size, names, repeats)}
    found["released"] = _said("pocket, released", against_released, pocket(), [1, 4], size, repeats)
    found["stages"] = _said("pocket, stages", parts.stages, pocket(), 4, size, repeats)
    found["images"] = _said("pocket, images", images, repeats)
    found["gigaflops"] = parts.gigaflops(pocket(), size)
    return found


def full_tables(repeats: int, wanted: Callable[[str], bool], found: dict[str, Any]) -> None:
    """At Stable Diffusion 1.5's size, 512 px, random weights, float32; the tables wanted are put into `found`."""
    size, few, least = (64, 64), max(2, repeats // 2), max(2, repeats // 3)
    if any(wanted(name) for name in ("time", "stages", "sizes", "released")):
        backbone = full_size(parts=("unet", "vae", "text"))
        if wanted("time"):
            found["time"] = _said("C = 1", timed, backbone, [1], size, ("bare", *STEPS), repeats)
        if wanted("released"):
            found["released"] = _said("released, C = 1", against_released, backbone, [1], size, few)
        if wanted("time"):
            found["time"] |= _said("C = 4", timed, backbone, [4], size, ("bare", *STEPS, SHARED), least)
        if wanted("sizes"):
            found["sizes"] = _said("sizes", scaling_by_size, backbone, [(256, 256), (384, 512), (512, 512), (512, 768), (768, 768)], least)
        if wanted("time"):
            found["time"] |= _said("C = 20", timed, backbone, [20], size, ("bare", OURS), least, False)
        if wanted("released"):
            found["released"] |= _said("released, C = 4", against_released, backbone, [4], size, least)
        if wanted("stages"):
            found["stages"] = _said("stages", parts.stages, backbone, 1, size, few)
    if wanted("precision"):
        found["precision"] = {one: _said(one, parts.precision, one, 1, size, few) for one in ("bfloat16", "float16")}
    if wanted("families"):
        found["families"] = {one: _said(one, families.measured_alone, one) for one in ("sd15", "sd21", "sdxl")}
        found["transformers"] = {one: _said(one, transformers.measured_alone, one) for one in transformers.CONFIGS}
    if wanted("memory"):
        found["memory"] = full_memory(few)
    if wanted("classes"):
        found["classes"] = _said("classes", full_classes, size, max(1, repeats // 3))
    found["gigaflops"] = {"forward": parts.gigaflops(), "completion from queries and keys": parts.completion_gigaflops()}


def full_memory(repeats: int) -> dict[str, Any]:
    """Peaks above the loaded model at that size."""
    found = _said("memory, C = 1", memory, "full", [1], (64, 64), ("bare", "plain", OURS), repeats)
    found |= _said("memory, C = 4 and 20", memory, "full", [4, 20], (64, 64), ("bare", OURS, SHARED), 1)
    found["1"]["released"] = _said("memory, released", memory, "full", [1], (64, 64), ("released",), 1)["1"]["released"]
    return found


def full_classes(size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Time and memory as the number of classes grows, at that size."""
    found = many.by_classes(full_size(parts=("unet", "text")), size, repeats)
    cases = [("a row a class", 1), ("side prompts", 60), ("side prompts", 171)]
    peaks = {f"{way}, {number}": peak_alone("full", way, number, size) for way, number in cases}
    return found | {"mib_over_one_row": many.extra_over_one_row(peaks)}


def headline(tables: dict[str, Any], peaks: dict[str, Any], repeats: int) -> dict[str, Any]:
    """The figures that goals are set for."""
    facts: dict[str, Any] = {"time_ratio": {n: row[ours]["ratio"] for n, row in tables["time"].items() if (ours := ours_in(row))}}
    facts["speedup_vs_released"] = {n: row["speedup"] for n, row in tables["released"].items() if ours_in(row["seconds"])}
    facts["extra_mib"] = {n: extra({n: row}, ours)[n] for n, row in peaks.items() if (ours := ours_in(row))}
    ours, theirs = facts["extra_mib"].get("1"), extra({"1": peaks["1"]}, "released")["1"] if peaks else None
    facts["memory_vs_released"] = round(theirs / max(ours, 1.0), 1) if ours is not None and theirs is not None else None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return facts | {"device": device, "dtype": "float32", "repeats": repeats}  # goals are set for that precision


def run(quick: bool, repeats: int, accuracy_images: int, only: Sequence[str] = (), before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything; quick is the pocket models alone, without memory and accuracy.

    Args:
        quick: the pocket models alone.
        repeats: rounds of the first table.
        accuracy_images: for the accuracy of sharing one self-attention.
        only: of :data:`TABLES`; the others are taken from `before`. None: all.
        before: an earlier run.
    """
    facts: dict[str, Any] = {"quick": quick, "threads": torch.get_num_threads(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    if quick:
        small = pocket_tables(repeats)
        return headline(small, {}, repeats) | facts | {"model": "pocket", "pocket": small}

    def wanted(table: str) -> bool:
        return not only or table in only

    before = before or {}
    full = dict(before.get("full", {}))
    facts |= {"model": "Stable Diffusion 1.5's size, random weights, 512 px", "full": full, "pocket": before.get("pocket"), "sharing": before.get("sharing")}
    full_tables(repeats, wanted, full)
    if wanted("pocket"):
        facts["pocket"] = pocket_tables(repeats)
    if wanted("sharing"):
        facts["sharing"] = _said("accuracy of sharing", parts.sharing, accuracy_images)
    facts["gpu"] = dict.fromkeys(gpu.TABLES, NOT_RUN)
    if torch.cuda.is_available():
        facts["gpu"] = _said("GPU", gpu.tables, full_size("cuda", torch.float16), (64, 64), repeats)
    return headline(full, full["memory"], before["repeats"] if only else repeats) | facts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the pocket models alone, in about a minute")
    parser.add_argument("--repeats", type=int, default=0, help="rounds (default: 6; quick 3)")
    parser.add_argument("--images", type=int, default=200, help="for the accuracy of sharing one self-attention")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=[], help="measure these tables again and keep the others of FILE")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    o = parser.parse_args(arguments)
    started = time.perf_counter()
    before = json.loads(o.json.read_text()) if o.only else None
    facts = run(o.quick, o.repeats or (3 if o.quick else 6), o.images, o.only, before)
    options = (" --quick" if o.quick else "") + (f" --only {' '.join(o.only)}" if o.only else "") + (f" --repeats {o.repeats}" if o.repeats else "")
    how = {"command": f"python -m benchmarks{options} --json FILE"} | run_metadata(started)
    measured = (before or {}).get("measured", {}) | dict.fromkeys(o.only or TABLES, how)
    o.json.parent.mkdir(parents=True, exist_ok=True)
    write_json(o.json, facts | {"measured": measured} | how)
    for what in ("time_ratio", "extra_mib", "speedup_vs_released", "memory_vs_released"):
        print(f"{what}: {facts[what]}")
    return 0


if __name__ == "__main__":
    kept = "the file of an earlier run is untouched, and nothing new was written"
    sys.exit(guarded(main, spelled(sys.argv[1:], "benchmarks"), kept, bounded=True))
