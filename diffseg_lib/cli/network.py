"""The commands of networks: train and test."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from ..applications.crf import PRESETS
from ..applications.deeplab import NETS, POCKET, SCALES, Recipe, confusions, load, train
from ..applications.pseudo_labels import with_masks
from ..evaluation.metrics import bootstrap_miou, iou, miou
from ..evaluation.sources import open_dataset
from ..support.files import write_json
from ..support.provenance import run_metadata


def _recipe(o: argparse.Namespace) -> Recipe:
    base = POCKET if o.net == "small" else Recipe(o.net)
    given = {one.name: getattr(o, one.name) for one in fields(Recipe) if getattr(o, one.name, None) is not None}
    return Recipe(**asdict(base) | given)


def _train(o: argparse.Namespace) -> int:
    from tqdm import tqdm

    opened = open_dataset(o.dataset, o.root, o.split, o.limit)
    dataset, recipe = with_masks(opened, o.masks) if o.masks else opened, _recipe(o)
    with tqdm(total=recipe.iterations, unit="update", disable=None) as bar:

        def progress(update: int, loss: float) -> None:
            bar.update(update - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}")

        train(dataset, recipe, o.out, initial=o.initial, every=o.every, progress=progress)
    print(o.out)
    return 0


def _test(o: argparse.Namespace) -> int:
    started = time.perf_counter()
    network, facts = load(o.model, o.device)
    dataset = open_dataset(o.dataset, o.root, o.split, o.limit)
    if list(dataset.names) != facts["names"]:
        known, asked = len(facts["names"]), len(dataset.names)
        raise ValueError(f"{o.model} knows {known} classes, {dataset.name} has {asked}, or in another order: test it on the data it was trained on")
    found = confusions(network, dataset, SCALES if o.multiscale else (1.0,), o.multiscale, PRESETS[o.crf] if o.crf else None)
    low, high = bootstrap_miou(found)
    by_class = {name: None if np.isnan(value) else 100 * float(value) for name, value in zip(dataset.names, iou(found.sum(0)), strict=True)}
    summary = {"miou": float(miou(found.sum(0))), "ci95": [low, high], "iou": by_class, "images": len(found), "multiscale": o.multiscale, "crf": o.crf}
    if o.out:
        o.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(o.out, summary | {"model": facts} | run_metadata(started))
    print(f"mIoU {summary['miou']:.1f} ({low:.1f} to {high:.1f}, 95 % over {len(found)} images)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m diffseg_lib.deeplab", description="A segmentation network trained on masks, drawn or not.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = {"train": commands.add_parser("train"), "test": commands.add_parser("test")}
    for name, command in one.items():
        command.add_argument("--dataset", choices=["voc", "context", "object"], default="voc")
        command.add_argument("--root", default="", metavar="DIR", help="of the tree (default: the pocket world's)")
        command.add_argument("--split", default="train" if name == "train" else "val")
        command.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images")
    one["train"].add_argument(
        "--masks", default="", metavar="DIR", help="of pseudo-labels, as `python -m diffseg_lib pseudo` writes them (default: the drawn ones)"
    )
    one["train"].add_argument("--net", choices=list(NETS), default="small")
    one["train"].add_argument("--initial", default="", metavar="PATH", help="a ResNet trained on ImageNet's labels (default: random weights)")
    for field, kind in (("iterations", int), ("batch", int), ("crop", int), ("lr", float), ("seed", int)):
        one["train"].add_argument(f"--{field}", type=kind, help=f"(default: {getattr(POCKET, field)} for small, {getattr(Recipe(), field)} for 101)")
    one["train"].add_argument("--balanced", action="store_true", default=None, help="weigh rare classes more")
    one["train"].add_argument("--every", type=int, default=500, metavar="N", help="updates between checkpoints")
    one["train"].add_argument("--out", required=True, metavar="DIR", help="the same command goes on where it was stopped")
    one["train"].set_defaults(run=_train)
    one["test"].add_argument("--model", required=True, metavar="DIR")
    one["test"].add_argument("--multiscale", action="store_true", help=f"mean over scales {', '.join(map(str, SCALES))} and mirrored pictures")
    one["test"].add_argument("--crf", choices=list(PRESETS), default="")
    one["test"].add_argument("--device", default="cpu")
    one["test"].add_argument("--out", type=Path, metavar="FILE", help="JSON of the figures")
    one["test"].set_defaults(run=_test)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 2 if the input was wrong."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
