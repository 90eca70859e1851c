"""``diffseg check``: what is on this machine, and what is wrong with it."""

from __future__ import annotations

import argparse

from ..support.paths import pocket_source
from .exits import Exit
from .options import MODELS, page, profile_of, share

ABOUT = """
Look at a profile's models and at data sets, and say in one go what is ready, what is missing and what is wrong: files, counts of the
splits (a tree may lack trainaug), the two orders of Context's labels, palettes, sizes, annotations that cannot be drawn. Nothing is loaded or downloaded.
"""
EXAMPLE = "diffseg check --profile sd15 --data-root DIR    # DIR with VOCdevkit, annotations or coco in it"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="nothing was written")
    share(parser, "--profile", *MODELS)
    parser.add_argument(
        "--data-root", "--root", default="", metavar="DIR", help="A folder with VOCdevkit, annotations or coco in it. Without it, no data are looked at."
    )
    share(parser, "--dataset", nargs="*", default=[], help="The data sets to look at. Without it, those whose folders are there.")
    share(parser, "--split", default="", help="The split to look at. Without it, all that a command can name.")
    share(parser, "--order")
    share(parser, "--labels", default="", metavar="FILE.json", help="A file of labels, as evaluate takes it, that is held against the split, or else val.")
    share(parser, "--labels-from")
    parser.add_argument("--images", type=int, default=50, metavar="N", help="Images of each split that are read; 0 reads all.")


def run(o: argparse.Namespace) -> int:
    """Look, and print a line a finding; 1 if anything is missing or wrong."""
    from ..evaluation.preflight import check

    names = [pocket_source(name)[0] for name in o.dataset]
    found = check(profile_of(o), o.data_root, names, o.images, o.order, o.split, o.labels, o.labels_from)
    width = max(len(one.what) for one in found)
    for one in found:
        print(f"{one.what:{width}}  {one.state:7}  {' '.join(one.detail.split())}")
    ready, pending = sum(one.state == "ready" for one in found), sum(one.pending for one in found)
    print(f"{ready} ready, {pending} to be seen to")
    return Exit.SOME_FAILED if pending else Exit.OK
