"""``diffseg heads``: the heads whose maps follow masks best, as a file that ``evaluate --method heads`` reads."""

from __future__ import annotations

import argparse

from .exits import Exit
from .options import PLACES, page, profile_of, segmenter_of, share, source_of

ABOUT = """
Choose the heads of cross-attention whose maps follow the masks of train images best, and write them as the JSON that evaluate reads by
--method heads --model FILE. Images that are measured later must not be among them: they are the first of train, as thresholds are
chosen on.
"""
EXAMPLE = "diffseg heads --dataset pocket-voc --limit 40 --out heads.json"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="no file was written")
    share(parser, "--dataset")
    share(parser, "--root")
    share(parser, "--split", default="train", help="The split whose masks are read.")
    share(parser, "--limit", default=40, help="The number of images, the first of the split. 0 is all of them.")
    share(parser, "--order", "--profile", "--seed")
    parser.add_argument("--share", type=float, default=0.25, metavar="P", help="The share of heads that is taken, above 0 and up to 1.")
    share(parser, "--out", required=True, metavar="FILE", help="The JSON file that is written.")
    share(parser, *PLACES)
    parser.set_defaults(captioner="", clip="")


def run(o: argparse.Namespace) -> int:
    """Choose the heads and write them."""
    from ..evaluation.preflight import require
    from ..evaluation.sources import open_dataset, with_masks
    from ..refinements.heads import choose_heads, write_heads

    profile = require(profile_of(o), datasets=[o.dataset], data_root=o.root, split=o.split, order=o.order)
    dataset = open_dataset(*source_of(o, profile), o.split, o.limit, o.order)
    heads = choose_heads(segmenter_of(o, profile, seed=o.seed), with_masks(dataset), o.share)
    print(write_heads(heads, o.out, f"{len(dataset)} images of {dataset.name} {dataset.split}, profile {profile.name}, seed {o.seed}"))
    for layer, number in heads:
        print(f"  {layer}, head {number}")
    return Exit.OK
