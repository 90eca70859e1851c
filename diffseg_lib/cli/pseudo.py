"""``diffseg pseudo``: masks of a train split from its image-level labels."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from .exits import Exit
from .options import MODELS, PLACES, page, profile_of, reads_captioner, segmenter_of, share, source_of, told

CRFS = ("clip-es", "irn", "psa")  # of applications.crf.PRESETS, which need not be loaded to say so
ABOUT = """
Write a mask for every image of a train split from the names of the classes in it (Sec. 4.3 of the paper): palette pictures in VOC's
layout, 255 where the method is unsure, refined by a dense CRF if asked for. `diffseg network train --masks DIR` trains on them.
"""
EXAMPLE = "diffseg pseudo --crf irn --min-confidence 0.6 --out masks"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="masks that are done are kept")
    share(parser, "--out", required=True)
    share(parser, "--dataset", "--root")
    share(parser, "--split", default="train")
    share(parser, "--limit", "--order", "--profile", "--recipe", "--one-pass")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[], metavar="T", help="Timesteps whose maps are averaged. Without it, the paper's four.")
    share(parser, "--threshold", help=told("applications.pseudo_labels", "Pseudo", "threshold", "Without it, the profile's."))
    parser.add_argument("--crf", choices=CRFS, default="", help="Refine the masks by a dense CRF of these settings.")
    parser.add_argument("--min-confidence", "--sure", type=float, default=0.0, metavar="P", help=told("applications.pseudo_labels", "Pseudo", "min_confidence"))
    share(parser, "--seed", *MODELS, *PLACES)


def run(o: argparse.Namespace) -> int:
    """Write the masks; 1 if some images have none."""
    from tqdm import tqdm

    from ..applications.crf import preset
    from ..applications.pseudo_labels import TIMESTEPS, Pseudo, write_masks
    from ..baselines.attention import Attention
    from ..evaluation.preflight import require
    from ..evaluation.protocol import Protocol, threshold_source
    from ..evaluation.sources import open_dataset
    from ..support.identity import describe_code, model_keys

    profile = require(
        profile_of(o), *(["captioner"] if reads_captioner(o.recipe) else []), datasets=[o.dataset], data_root=o.root, split=o.split, order=o.order
    )
    name, root = source_of(o, profile)
    dataset = open_dataset(name, root, o.split, o.limit, o.order)
    segmenter = segmenter_of(o, profile, name, seed=o.seed, timesteps=tuple(o.timesteps) or TIMESTEPS, threshold=o.threshold)
    pseudo = Pseudo(segmenter.threshold, preset(o.crf) if o.crf else None, o.min_confidence)
    about = {"profile": profile.name, "models": model_keys(profile), "config": asdict(segmenter.resolved), "recipe": o.recipe or "default"}
    about["code"] = describe_code("applications.pseudo_labels", "baselines.attention")
    with tqdm(total=len(dataset), desc=o.split, unit="image", disable=None) as bar:
        errors = write_masks(dataset, Attention(segmenter), pseudo, o.out, about, lambda name, error: bar.update())
    print(f"{len(dataset) - len(errors)} masks of {len(dataset)} images in {o.out}, {len(errors)} failed")
    source = "given" if o.threshold is not None else threshold_source(profile.chosen_on)
    told_of = Protocol(
        dataset=dataset.name, split=o.split, images=len(dataset) - len(errors), listed=dataset.expected, words="true", threshold=source, value=pseudo.threshold
    )
    print(f"  protocol of any figure on them: {told_of.line}")
    for name, text in list(errors.items())[:5]:
        print(f"  {name}: {text}", file=sys.stderr)
    return Exit.SOME_FAILED if errors else Exit.OK
