"""``diffseg edit``: a photo drawn again as another prompt has it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from ..support.files import atomic_write, write_json
from .exits import Exit
from .options import MODELS, PLACES, page, profile_of, segmenter_of, share, told
from .results import versions

ABOUT = """
Draw a photo again as another prompt has it, within the mask of a word (Sec. 4.5 of the paper, on Prompt-to-Prompt). DIR gets
edited.png, mask.png and result.json. Both prompts should have as many words, and differ in the thing that is to change.
"""
EXAMPLE = """
diffseg edit data/pocket/samples/house-fish-umbrella.jpg --source "a photograph of a house and a fish and an umbrella" \\
    --target "a photograph of a house and a bird and an umbrella" --word fish house umbrella --out edited
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="nothing was written")
    known = partial(told, "applications.prompt_to_prompt", "PromptToPrompt")
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="The picture.")
    parser.add_argument("--source", required=True, metavar="PROMPT", help="A prompt that describes the photo.")
    parser.add_argument("--target", required=True, metavar="PROMPT", help="A prompt that describes what it is to become.")
    parser.add_argument("--word", nargs="+", required=True, help="The thing that may change, then others beside it that sharpen its mask.")
    share(parser, "--out", required=True)
    parser.add_argument("--everywhere", action="store_true", help="Let everything change: plain Prompt-to-Prompt, without a mask.")
    share(parser, "--profile", "--threshold")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="Steps of the inversion and of the edit.")
    for name, short, share_of_steps in (("cross_replace_steps", "--cross", 0.8), ("self_replace_steps", "--own", 0.4)):
        long = f"--{name.replace('_', '-')}"
        parser.add_argument(long, short, dest=name, type=float, default=share_of_steps, metavar="SHARE", help=known(name))
    parser.add_argument("--guidance", type=float, default=4.0, metavar="W", help=known("guidance"))
    share(parser, "--seed", *MODELS, *PLACES)


def run(o: argparse.Namespace) -> int:
    """Edit the photo."""
    from PIL import Image

    from ..applications.prompt_to_prompt import Gate, PromptToPrompt, ddim_invert, edit
    from ..evaluation.preflight import require
    from ..support.images import load_photo

    photo, settings = load_photo(o.photo), PromptToPrompt(o.cross_replace_steps, o.self_replace_steps, guidance=o.guidance)
    segmenter = segmenter_of(o, require(profile_of(o)), seed=o.seed, threshold=o.threshold)
    mask = None if o.everywhere else segmenter.segment(photo.pixels, o.word).labels == 1
    source = ddim_invert(segmenter, photo.pixels, o.source, o.steps)
    found = edit(segmenter.backbone, source, o.target, settings, gate=None if mask is None else Gate(mask))
    o.out.mkdir(parents=True, exist_ok=True)
    for name, pixels in (("edited.png", found.picture), ("mask.png", None if mask is None else mask.astype(np.uint8) * 255)):
        if pixels is not None:
            with atomic_write(o.out / name) as file:
                Image.fromarray(pixels).save(file, "PNG")
    facts = {"photo": o.photo.name, "source": o.source, "target": o.target, "words": o.word, "everywhere": o.everywhere, "steps": o.steps, "seed": o.seed}
    facts |= {"settings": asdict(settings), "profile": segmenter.backbone.profile.name, "threshold": segmenter.threshold, "versions": versions()}
    write_json(o.out / "result.json", facts)
    if mask is not None and not mask.any():
        print(f"note: no {o.word[0]} was found, so nothing changed; lower --threshold, or --everywhere", file=sys.stderr)
    print(f"{o.out}: " + ("may change everywhere" if mask is None else f"{mask.mean():.1%} of the picture may change"))
    return Exit.OK
