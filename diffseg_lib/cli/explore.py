"""``diffseg explore``: a page that shows what the pixels and the words of a photo attend to."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .exits import Exit
from .options import MODELS, PLACES, page, profile_of, reads_captioner, segmenter_of, share

ABOUT = """
Write one HTML file in which a photo's attention can be looked at: point at a pixel and see what it attends to, pick a word and see its
maps by layer, head and timestep, move sliders and see fused map, completed map and labels change. The file holds all that it shows, so
that it opens without a network, a server or this library. Self-attention is kept small (600 kB for all); the page says how many of its
labels are the library's.
"""
EXAMPLE = "diffseg explore data/pocket/samples/house-fish-umbrella.jpg --classes house fish umbrella --out explorer.html"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="nothing was written")
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="The picture.")
    parser.add_argument("--classes", nargs="+", required=True, metavar="WORD", help="What to look for. Quote a name of several words.")
    share(parser, "--out", required=True, metavar="FILE.html", help="The page that is written.")
    parser.add_argument(
        "--timesteps",
        nargs="+",
        type=int,
        metavar="T",
        help="Timesteps to choose from, beside the profile's own. Without it, 20, 100, 300 and 600.",
    )
    share(parser, "--profile", "--recipe", "--threshold", "--seed", *MODELS, *PLACES)


def run(o: argparse.Namespace) -> int:
    """Write the page."""
    from ..book.explorer import explorer_data, explorer_html, record_scene
    from ..book.explorer.scene import TIMESTEPS, unpack
    from ..evaluation.preflight import require
    from ..support.files import write_text
    from ..support.images import load_photo

    wrong = [step for step in o.timesteps or () if not 0 <= step <= 999]
    if wrong:
        raise ValueError(f"timesteps {', '.join(map(str, wrong))}: expected numbers from 0 to 999")
    if o.out.is_dir():
        raise ValueError(f"{o.out} is a folder: expected the name of the page, as in {o.out / 'explorer.html'}")
    photo, profile = load_photo(o.photo), require(profile_of(o), *(["captioner"] if reads_captioner(o.recipe) else []))
    segmenter = segmenter_of(o, profile, seed=o.seed, threshold=o.threshold)
    scene = record_scene(segmenter, photo.pixels, o.classes, timesteps=o.timesteps or TIMESTEPS, title=o.photo.stem)
    data = explorer_data(scene)
    o.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(o.out, explorer_html(data))
    for note in (*photo.notes, *segmenter.size_note(photo.pixels)):
        print(f"note: {note}", file=sys.stderr)
    kept = f"{unpack(data)[0]['agreement']:.1%} of its labels are the library's"
    print(f"{o.out}: {len(scene.classes)} words at {len(scene.recordings)} timesteps, {o.out.stat().st_size / 1000:.0f} kB; {kept}")
    return Exit.OK
