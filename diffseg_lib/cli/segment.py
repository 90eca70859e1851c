"""``diffseg segment``: photos segmented by words."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .exits import Exit
from .options import MODELS, PLACES, page, profile_of, segmenter_of, share
from .results import describe, save, versions

if TYPE_CHECKING:
    from ..segmenter import DiffSegmenter

ABOUT = """
Find words in photos. Each photo, or each picture of a folder, gets labels.png (a palette picture, 0 is the background, i the i-th
class), overlay.png, segments.json (COCO's runs), scores.npz and result.json, which holds the prompts that were used, the settings
and the share of each class. Several photos get a folder each inside DIR.
"""
EXAMPLE = "diffseg segment data/pocket/samples/house-fish-umbrella.jpg --classes house fish umbrella --out found"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="photos that are done are kept, though they are done again")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="Pictures, or folders of them.")
    parser.add_argument("--classes", nargs="+", required=True, metavar="WORD", help="What to look for. Quote a name of several words.")
    share(parser, "--out", required=True)
    share(parser, "--profile", "--recipe", "--one-pass", "--threshold", "--seed")
    parser.add_argument("--save-intermediates", action="store_true", help="Write intermediates.npz too: all maps on the way, to do the arithmetic again.")
    share(parser, *MODELS, *PLACES)


def run(o: argparse.Namespace) -> int:
    """Segment the photos; 1 if some of them cannot be read or segmented."""
    from ..evaluation.preflight import require
    from ..support.images import ImageError, pictures_in

    photos = pictures_in(o.photos)
    stems = [photo.stem for photo in photos]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(f"photos of the same name would overwrite each other: {', '.join(twice)}; segment them into folders of their own")
    profile = require(profile_of(o), *(["captioner"] if o.recipe else []))
    lost = [photo for photo in photos if not photo.is_file()]
    if len(lost) == len(photos):
        raise ImageError(f"no image at {', '.join(map(str, lost))}: expected existing JPEG, PNG or other pictures")
    segmenter = segmenter_of(o, profile, seed=o.seed, threshold=o.threshold)
    segmenter.prompts(o.classes)  # refuse the classes before any photo is read
    if segmenter.backbone.profile.words:
        print(f"note: the {segmenter.backbone.profile.name} models know only the world they were trained on, and guess on any other photo", file=sys.stderr)
    failed = 0
    for path in photos:
        folder = o.out / path.stem if len(photos) > 1 or o.photos[0].is_dir() else o.out
        try:
            _segment_one(segmenter, path, o, folder)
        except ImageError as error:  # the other photos go on
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return Exit.SOME_FAILED if failed else Exit.OK


def _segment_one(segmenter: DiffSegmenter, path: Path, o: argparse.Namespace, folder: Path) -> None:
    from ..support.images import load_photo

    started = time.perf_counter()
    photo = load_photo(path)
    found = segmenter.segment(photo.pixels, o.classes, return_intermediates=o.save_intermediates)
    facts = {"photo": path.name} | describe(segmenter, found) | {"recipe": o.recipe or "default", "versions": versions()}
    facts["notes"] = [*photo.notes, *found.notes, *segmenter.size_note(photo.pixels)]
    facts["seconds"] = round(time.perf_counter() - started, 3)
    save(found, photo, facts, folder)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.areas.items())
    print(f"{folder}: {shares}" + "".join(f"\n  note: {note}" for note in facts["notes"]))
