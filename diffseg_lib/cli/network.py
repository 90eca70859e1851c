"""``diffseg network train | test``: a segmentation network trained on masks, drawn or not."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..profiles import load_profile
from .exits import Exit
from .options import check_device, page, share, source_of, subcommands, told
from .pseudo import CRFS

if TYPE_CHECKING:
    from ..applications.deeplab import Recipe
    from ..data import Dataset

NETS = ("small", "101")  # of applications.deeplab.NETS, which need torch to be looked up
TRAIN = """
Train DeepLabV2 on the masks of a data set, drawn ones or pseudo-labels (Table 3 of the paper). DIR keeps a checkpoint every few
hundred updates: the same command goes on from the last one as if it had not been stopped, bit for bit on a processor. `accelerate
launch -m diffseg_lib.deeplab train ...` spreads it over several cards.

Photos of your own with a COCO file, as `diffseg segment --coco` writes it or CVAT, Label Studio and others export it once it is corrected,
are a data set of any categories: --photos FOLDER --coco FILE.
"""
TRAIN_EXAMPLE = "diffseg network train --masks masks --out net"
TEST = """
Measure a trained network: mean IoU with its 95 % interval, by class if a file is asked for.
"""
TEST_EXAMPLE = "diffseg network test --model net --multiscale"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its two subcommands."""
    page(parser, "Train a segmentation network on masks, or measure one.", f"{TRAIN_EXAMPLE}\n{TEST_EXAMPLE}")
    known = {
        "train": ("Train a network; the same command goes on where it was stopped.", declare_train),
        "test": ("Measure a trained network.", declare_test),
    }
    subcommands(parser, known, "subcommand")


def declare_train(parser: argparse.ArgumentParser) -> None:
    """Give ``train`` its options."""
    page(parser, TRAIN, TRAIN_EXAMPLE, run=run_train, kept="updates up to the last checkpoint are kept")
    share(parser, "--dataset", "--root")
    share(parser, "--split", default="train")
    share(parser, "--limit", "--order")
    declare_photos(parser)
    parser.add_argument("--masks", default="", metavar="DIR", help="Pseudo-labels, as diffseg pseudo writes them. Without it, the masks that were drawn.")
    parser.add_argument("--net", choices=NETS, default="small", help="The network: a small one for the pocket world, or ResNet-101.")
    known = partial(told, "applications.deeplab")
    parser.add_argument("--initial", default="", metavar="PATH", help=known("train", "initial"))
    parser.add_argument("--iterations", type=int, metavar="N", help=known("Recipe", "iterations", "Without it, 5,000 for small and 20,000 for 101."))
    parser.add_argument("--batch", type=int, metavar="N", help=known("Recipe", "batch", "Without it, 8 for small and 10 for 101."))
    parser.add_argument("--crop", type=int, metavar="PX", help=known("Recipe", "crop", "Without it, 112 for small and 321 for 101."))
    parser.add_argument("--lr", type=float, metavar="RATE", help=known("Recipe", "lr"))
    share(parser, "--seed", default=None, help=known("Recipe", "seed", "Without it, 0."))
    parser.add_argument("--balanced", action="store_true", default=None, help=known("Recipe", "balanced"))
    parser.add_argument("--every", type=int, default=500, metavar="N", help=known("train", "every"))
    share(parser, "--device", help="Where the network runs: cpu, cuda, cuda:1, mps. Without it, a card where there is one.")
    share(parser, "--out", required=True)


def declare_test(parser: argparse.ArgumentParser) -> None:
    """Give ``test`` its options."""
    page(parser, TEST, TEST_EXAMPLE, run=run_test, kept="nothing was written")
    parser.add_argument("--model", required=True, metavar="DIR", help="The network, as a training leaves it.")
    share(parser, "--dataset", "--root", "--split", "--limit", "--order")
    declare_photos(parser)
    parser.add_argument("--multiscale", action="store_true", help="Average over five scales and mirrored pictures.")
    parser.add_argument("--crf", choices=CRFS, default="", help="Refine the probabilities by a dense CRF of these settings.")
    share(parser, "--device", default="cpu", help="Where the network runs: cpu, cuda, cuda:1, mps.")
    share(parser, "--out", metavar="FILE", help="A JSON file for the figures.")


def declare_photos(parser: argparse.ArgumentParser) -> None:
    """Give a subcommand the options of a folder of photos with a COCO file, in place of a data set."""
    parser.add_argument("--photos", default="", metavar="DIR", help="A folder of photos, in place of a data set; --coco holds their masks.")
    parser.add_argument("--coco", default="", metavar="FILE", help="With --photos: a COCO file of any categories, polygons or runs.")


def dataset_of(o: argparse.Namespace) -> Dataset:
    """The data set asked for, or the photos; what its notes say of photos is printed.

    Raises:
        ValueError: On options that do not go together, and as of opening them.
    """
    from ..data import open_photos
    from ..evaluation.sources import open_dataset

    if not (o.photos or o.coco):
        return open_dataset(*source_of(o, load_profile()), o.split, o.limit, o.order)
    if other := [f"--{name}" for name in ("root", "order", "masks") if getattr(o, name, "")]:
        raise ValueError(f"{' and '.join(other)} with --photos or --coco: expected a data set or photos, not both")
    if not (o.photos and o.coco):
        raise ValueError(f"expected both --photos DIR and --coco FILE, got only {'--photos' if o.photos else '--coco'}")
    found = open_photos(o.photos, o.coco).first(o.limit)
    print("\n".join(f"note: {note}" for note in found.notes), file=sys.stderr)
    return found


def recipe_of(o: argparse.Namespace) -> Recipe:
    """The recipe of a net, with what was given in place of its own."""
    from ..applications.deeplab import POCKET, Recipe

    base = POCKET if o.net == "small" else Recipe(o.net)
    given = {one.name: getattr(o, one.name) for one in fields(Recipe) if getattr(o, one.name, None) is not None}
    return Recipe(**asdict(base) | given)


def run_train(o: argparse.Namespace) -> int:
    """Train a network."""
    from tqdm import tqdm

    from ..applications.deeplab import train
    from ..applications.pseudo_labels import with_masks

    opened = dataset_of(o)
    dataset, recipe = with_masks(opened, o.masks) if o.masks else opened, recipe_of(o)
    with tqdm(total=recipe.iterations, unit="update", disable=None) as bar:

        def progress(update: int, loss: float) -> None:
            bar.update(update - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}")

        train(dataset, recipe, o.out, initial=o.initial, every=o.every, progress=progress, device=check_device(o.device))
    print(o.out)
    return Exit.OK


def run_test(o: argparse.Namespace) -> int:
    """Measure a network."""
    from ..applications.crf import preset
    from ..applications.deeplab import SCALES, confusions, load
    from ..evaluation.metrics import bootstrap_miou, interval_text, iou, miou
    from ..evaluation.protocol import Protocol
    from ..support.files import write_json
    from ..support.provenance import run_metadata

    started = time.perf_counter()
    network, facts = load(o.model, check_device(o.device))
    dataset = dataset_of(o)
    if list(dataset.names) != facts["names"]:
        known, asked = len(facts["names"]), len(dataset.names)
        raise ValueError(f"{o.model} knows {known} classes, {dataset.name} has {asked}, or in another order: test it on the data it was trained on")
    found = confusions(network, dataset, SCALES if o.multiscale else (1.0,), o.multiscale, preset(o.crf) if o.crf else None)
    interval = bootstrap_miou(found)
    by_class = {name: None if np.isnan(value) else 100 * float(value) for name, value in zip(dataset.names, iou(found.sum(0)), strict=True)}
    summary = {"miou": float(miou(found.sum(0))), "ci95": interval, "iou": by_class, "images": len(found), "multiscale": o.multiscale, "crf": o.crf}
    seen = facts["dataset"] == dataset.name and len(set(facts["ids"]) & set(dataset.ids)) if "ids" in facts else None
    protocol = Protocol(
        dataset=dataset.name, split=dataset.split, images=len(found), listed=dataset.expected, words="none", threshold="none", trained_on=bool(seen)
    )
    summary |= {"images_trained_on": seen, "protocol": protocol.facts()}
    if o.out:
        Path(o.out).parent.mkdir(parents=True, exist_ok=True)
        write_json(o.out, summary | {"model": facts} | run_metadata(started))
    print(f"mIoU {summary['miou']:.1f} (95 % interval over {len(found)} images: {interval_text(interval, len(found))})")
    print(f"  protocol: {protocol.line}")
    if seen:
        print(f"uses images it was trained on: {seen} of {len(found)}")
    elif seen is None:
        print(f"{o.model} does not say which images it was trained on: it is of an older version, so that measured ones may be among them")
    return Exit.OK
