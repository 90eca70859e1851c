"""``diffseg segment``: photos segmented by words."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .exits import Exit
from .options import MODELS, PLACES, page, profile_of, segmenter_of, share, told
from .pseudo import CRFS
from .results import describe, save, versions

if TYPE_CHECKING:
    from ..category_filter import CategoryFilter
    from ..segmenter import DiffSegmenter

ABOUT = """
Find words in photos. Each photo, or each picture of a folder, gets labels.png (a palette picture, 0 is the background, i the i-th
class), overlay.png, segments.json (COCO's runs), scores.npz and result.json, which holds the prompts that were used, the settings
and the share of each class. Several photos get a folder each inside DIR.

With --coco FILE a folder becomes a data set to correct by hand: one COCO file, which CVAT, Label Studio (with --polygons) and FiftyOne
import, and a page of overlays, DIR/index.html. It goes on where it was stopped; ids stay the same whatever photos come or go.
`diffseg network train --photos FOLDER --coco FILE` learns from the corrected file.
"""
EXAMPLE = """
diffseg segment data/pocket/samples/house-fish-umbrella.jpg --classes house fish umbrella --out found
diffseg segment data/pocket/samples --classes house fish umbrella --polygons --coco labels.json
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="photos that are done are kept, though without --coco they are done again")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="Pictures, or folders of them.")
    parser.add_argument("--classes", nargs="+", required=True, metavar="WORD", help="What to look for. Quote a name of several words.")
    share(parser, "--out", help="The folder that results are written to. With --coco it may be left out: a folder beside FILE, of its name.")
    declare_dataset(parser)
    share(parser, "--profile", "--recipe", "--threshold", "--seed")
    parser.add_argument("--save-intermediates", action="store_true", help="Write intermediates.npz too: all maps on the way, to do the arithmetic again.")
    share(parser, *MODELS, *PLACES)


def declare_dataset(parser: argparse.ArgumentParser) -> None:
    """Give the command the options that make a data set of photos."""
    known, whole = (lambda name: told("applications.coco_file", "Form", name)), "With --coco: "
    parser.add_argument("--coco", type=Path, metavar="FILE", help="Write one COCO file of all photos to correct by hand, and DIR/index.html to look through.")
    parser.add_argument("--polygons", action="store_true", help=f"{whole}write polygons, which most labelling tools edit, in place of runs.")
    parser.add_argument("--instances", action="store_true", help=f"{whole}write each connected part as an annotation of its own.")
    parser.add_argument("--min-area", type=int, default=0, metavar="PX", help=f"{whole}{known('min_area')}")
    parser.add_argument("--tolerance", type=float, default=1.0, metavar="PX", help=f"{whole}{known('tolerance')}")
    parser.add_argument("--crf", choices=CRFS, default="", help="Sharpen the labels by a dense CRF of these settings.")


def run(o: argparse.Namespace) -> int:
    """Segment the photos; 1 if some of them cannot be read or segmented."""
    from ..evaluation.preflight import require
    from ..support.images import ImageError, pictures_in

    check_dataset(o)
    photos = pictures_in(o.photos)
    stems = [photo.stem for photo in photos]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice and not o.coco:
        raise ValueError(f"photos of the same name would overwrite each other: {', '.join(twice)}; segment them into folders of their own")
    profile = require(profile_of(o), *(["captioner"] if o.recipe else []))
    lost = [photo for photo in photos if not photo.is_file()]
    if len(lost) == len(photos):
        raise ImageError(f"no image at {', '.join(map(str, lost))}: expected existing JPEG, PNG or other pictures")
    segmenter = segmenter_of(o, profile, seed=o.seed, threshold=o.threshold)
    segmenter.prompts(o.classes)  # refuse the classes before any photo is read
    if segmenter.backbone.profile.words:
        print(f"note: the {segmenter.backbone.profile.name} models know only the world they were trained on, and guess on any other photo", file=sys.stderr)
    if o.coco:
        return write_dataset(o, segmenter, photos)
    failed = 0
    for path in photos:
        folder = o.out / path.stem if len(photos) > 1 or o.photos[0].is_dir() else o.out
        try:
            _segment_one(segmenter, path, o, folder)
        except ImageError as error:  # the other photos go on
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return Exit.SOME_FAILED if failed else Exit.OK


def check_dataset(o: argparse.Namespace) -> None:
    """Refuse options that do not go together, before any model is loaded; without ``--out``, results go beside the COCO file.

    Raises:
        ValueError: If there is nowhere to write to, or an option has no effect.
    """
    from ..applications.coco_file import Form

    only = [name for name in ("polygons", "instances", "min_area") if getattr(o, name)]
    if not o.coco and (only or not o.out):
        raise ValueError(f"--{only[0].replace('_', '-')} is for --coco FILE" if only else "expected --out DIR, or --coco FILE")
    if o.coco and (o.save_intermediates or o.coco.is_dir()):
        raise ValueError("--save-intermediates is not for --coco" if o.save_intermediates else f"--coco {o.coco} is a folder: expected a file, as in a.json")
    if o.crf and o.threshold == 0:
        raise ValueError("--threshold 0: a CRF needs a background, a threshold above 0")
    Form(o.polygons, o.instances, o.min_area, o.tolerance)
    o.out = o.out or o.coco.with_suffix("" if o.coco.suffix else ".files")


def write_dataset(o: argparse.Namespace, segmenter: DiffSegmenter, photos: list[Path], failed: int = 0, chosen_by: CategoryFilter | None = None) -> int:
    """Write one COCO file and one page of many photos.

    Args:
        o: Options of the command.
        segmenter: The method and its models.
        photos: Photos.
        failed: Number of files that failed before.
        chosen_by: The filter that chooses among the words for each photo, or None.

    Returns:
        The exit code: 1 if some photos failed.
    """
    from tqdm import tqdm

    from ..applications.coco_file import Form
    from ..applications.crf import preset
    from ..applications.photo_folder import label_folder

    if stems := [path.name for path in photos if sum(path.stem == one.stem for one in photos) > 1][:4]:
        print(f"note: CVAT knows photos by their names without endings: give {', '.join(stems)} different ones before it is to read the file", file=sys.stderr)
    form = Form(o.polygons, o.instances, o.min_area, o.tolerance)
    with tqdm(total=len(photos), unit="photo", disable=None) as bar:

        def progress(name: str, error: str) -> None:
            bar.update()
            if error:
                bar.write(f"error: {error}", file=sys.stderr)

        field = preset(o.crf) if o.crf else None
        found = label_folder(segmenter, photos, o.classes, o.out, o.coco, form=form, crf=field, chosen_by=chosen_by, progress=progress)
    counts = ", ".join(f"{name} {count}" for name, count in found.annotations.items())
    print(f"{found.file}: {found.photos} photos of {found.base}, annotations: {counts}\n{found.sheet}: look through them")
    if lost := len(found.errors):
        print(f"{lost} of {len(photos)} photos failed and are not in the file; the same command tries them again", file=sys.stderr)
    return Exit.SOME_FAILED if failed or lost else Exit.OK


def _segment_one(segmenter: DiffSegmenter, path: Path, o: argparse.Namespace, folder: Path) -> None:
    from ..applications.coco_file import sharpened
    from ..applications.crf import preset
    from ..support.images import load_photo

    started = time.perf_counter()
    photo = load_photo(path)
    found = segmenter.segment(photo.pixels, o.classes, return_intermediates=o.save_intermediates)
    found = sharpened(found, photo.pixels, preset(o.crf)) if o.crf else found
    facts = {"photo": path.name, "crf": o.crf} | describe(segmenter, found) | {"recipe": o.recipe or "default", "versions": versions()}
    facts["notes"] = [*photo.notes, *found.notes, *segmenter.size_note(photo.pixels)]
    facts["seconds"] = round(time.perf_counter() - started, 3)
    save(found, photo, facts, folder)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.areas.items())
    print(f"{folder}: {shares}" + "".join(f"\n  note: {note}" for note in facts["notes"]))
