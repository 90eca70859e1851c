"""``diffseg segment``: photos segmented by words."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .exits import Exit
from .options import MODELS, PLACES, page, profile_of, segmenter_of, share
from .results import describe, result_folders, save, versions

if TYPE_CHECKING:
    from ..segmenter import DiffSegmenter

ABOUT = """
Find words in photos. Each photo, or each picture of a folder, gets labels.png (a palette picture, 0 is the background, i the i-th
class), overlay.png, segments.json (COCO's runs), scores.npz and result.json, which holds the prompts that were used, the settings
and the share of each class. Several photos get a folder each inside DIR, named as the photo; photos whose names differ by their endings
alone keep them.

Of a folder all pictures are taken that Pillow opens (JPEG, PNG, WebP, TIFF, AVIF and more; HEIC with the package pillow-heif), hidden
files and inner folders left out. A photo that cannot be read, and a file that looks like a picture and is not taken, such as a drawing or
a camera's raw file, are named with the reason; the others go on, and the exit code is 1.
"""
SCORES = "The size of scores.npz, in half precision: the model's, which bilinear interpolation brings to the photo's; the photo's, which is large; or none."
EXAMPLE = "diffseg segment data/pocket/samples/house-fish-umbrella.jpg --classes house fish umbrella --out found"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="photos that are done are kept, though they are done again")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="Pictures, or folders of them.")
    parser.add_argument("--scores", choices=("full", "model", "none"), default="model", help=SCORES)
    parser.add_argument(
        "--classes", nargs="+", required=True, metavar="WORD", help="What to look for, with spaces or commas between. Quote a name of several words."
    )
    share(parser, "--out", required=True)
    share(parser, "--profile", "--recipe", "--threshold", "--seed")
    parser.add_argument("--save-intermediates", action="store_true", help="Write intermediates.npz too: all maps on the way, to do the arithmetic again.")
    share(parser, *MODELS, *PLACES)


def run(o: argparse.Namespace) -> int:
    """Segment the photos; 1 if some of them cannot be read or segmented."""
    from ..evaluation.preflight import require
    from ..support.images import ImageError, inner_folders, not_taken, pictures_in
    from ..support.words import class_names

    photos, left = pictures_in(o.photos), not_taken(o.photos)
    folders = result_folders(photos) if len(photos) > 1 or o.photos[0].is_dir() else [Path()]
    profile = require(profile_of(o), *(["captioner"] if o.recipe else []))
    lost = [photo for photo in photos if not photo.is_file()]
    if len(lost) == len(photos):
        raise ImageError(f"no image at {', '.join(map(str, lost))}: expected existing JPEG, PNG or other pictures")
    segmenter = segmenter_of(o, profile, seed=o.seed, threshold=o.threshold)
    o.classes, o.merged = class_names(o.classes)
    segmenter.prompts(o.classes)  # refuse the classes before any photo is read
    if segmenter.backbone.profile.words:
        print(f"note: the {segmenter.backbone.profile.name} models know only the world they were trained on, and guess on any other photo", file=sys.stderr)
    for inside in inner_folders(o.photos):
        print(f"note: {inside} is a folder inside a given one and is not looked into: give it, too, if its pictures are wanted", file=sys.stderr)
    for told in o.merged:
        print(f"note: {told}", file=sys.stderr)
    for told in left:
        print(f"error: {told}", file=sys.stderr)
    failed = len(left)
    for path, folder in zip(photos, folders, strict=True):
        try:
            _segment_one(segmenter, path, o, o.out / folder)
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
    facts["notes"] = [*photo.notes, *o.merged, *found.notes, *segmenter.size_note(photo.pixels)]
    facts["seconds"] = round(time.perf_counter() - started, 3)
    save(found, photo, facts, folder, o.scores)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.areas.items())
    print(f"{folder}: {shares}" + "".join(f"\n  note: {note}" for note in facts["notes"]))
