"""``diffseg segment``: photos segmented by words."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .exits import Exit
from .options import MODELS, PLACES, page, profile_of, reads_captioner, recipe_notes, segmenter_of, share, told
from .pseudo import CRFS
from .results import describe, result_folders, save, versions

if TYPE_CHECKING:
    import numpy as np

    from ..category_filter import CategoryFilter
    from ..profiles import Profile
    from ..segmenter import DiffSegmenter

ABOUT = """
Find words in photos. Each photo, or each picture of a folder, gets labels.png (a palette picture, 0 is the background, i the i-th
class), overlay.png, segments.json (COCO's runs), scores.npz and result.json, which holds the prompts that were used, the settings
and the share of each class. Several photos get a folder each inside DIR, named as the photo; photos whose names differ by their endings
alone keep them.

Of a folder all pictures are taken that Pillow opens (JPEG, PNG, WebP, TIFF, AVIF and more; HEIC with the package pillow-heif), hidden
files and inner folders left out. A photo that cannot be read, and a file that looks like a picture and is not taken, such as a drawing or
a camera's raw file, are named with the reason; the others go on, and the exit code is 1.

With --coco FILE a folder becomes a data set to correct by hand: one COCO file, which CVAT, Label Studio (with --polygons) and FiftyOne
import, and a page of overlays, DIR/index.html. It goes on where it was stopped; ids stay the same whatever photos come or go.
`diffseg network train --photos FOLDER --coco FILE` learns from the corrected file.
"""
SCORES = "The size of scores.npz, in half precision: the model's, which bilinear interpolation brings to the photo's; the photo's, which is large; or none."
FILTER = """Ask BLIP and CLIP first which of the words are in each photo, and look for those alone: else every word is painted somewhere. Labels keep
their numbers. CLIP compares the words with each other, so give several."""
EXAMPLE = """
diffseg segment data/pocket/samples/house-fish-umbrella.jpg --classes house fish umbrella --out found
diffseg segment data/pocket/samples --classes house fish umbrella --polygons --coco labels.json
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="photos that are done are kept, though without --coco they are done again")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="Pictures, or folders of them.")
    parser.add_argument("--scores", choices=("full", "model", "none"), default="model", help=SCORES)
    parser.add_argument(
        "--classes", nargs="+", required=True, metavar="WORD", help="What to look for, with spaces or commas between. Quote a name of several words."
    )
    parser.add_argument("--filter", action="store_true", help=FILTER)
    parser.add_argument("--no-doubts", action="store_true", help="Leave out the notes on words that CLIP hardly sees; it is not loaded then.")
    share(parser, "--out", help="The folder that results are written to. With --coco it may be left out: a folder beside FILE, of its name.")
    declare_dataset(parser)
    share(parser, "--profile", "--recipe", "--one-pass", "--threshold", "--seed")
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
    from ..category_filter import CategoryFilter
    from ..evaluation.preflight import require
    from ..support.images import ImageError, inner_folders, not_taken, pictures_in
    from ..support.words import class_names

    check_dataset(o)
    photos, left = pictures_in(o.photos), not_taken(o.photos)
    folders = result_folders(photos) if len(photos) > 1 or o.photos[0].is_dir() else [Path()]
    profile = require(profile_of(o), *(["captioner"] if reads_captioner(o.recipe) or o.filter else []), *(["clip"] if o.filter else []))
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
    for note in (*segmenter.backbone.notes, *recipe_notes(o.recipe, profile)):
        print(f"note: {note}", file=sys.stderr)
    for merged in o.merged:
        print(f"note: {merged}", file=sys.stderr)
    for reason in left:
        print(f"error: {reason}", file=sys.stderr)
    failed, witness = len(left), CategoryFilter.of_profile(o.classes, profile, o.device) if o.filter else None
    o.doubts = _doubting(profile, o) if witness is None and not o.coco and not o.no_doubts else None
    if o.coco:
        return write_dataset(o, segmenter, photos, failed, witness)
    for path, folder in zip(photos, folders, strict=True):
        try:
            _segment_one(segmenter, path, o, o.out / folder, witness)
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


def _segment_one(segmenter: DiffSegmenter, path: Path, o: argparse.Namespace, folder: Path, witness: CategoryFilter | None) -> None:
    from ..applications.coco_file import sharpened
    from ..applications.crf import preset
    from ..applications.photo_folder import segment_kept
    from ..support.images import load_photo

    started = time.perf_counter()
    photo = load_photo(path)
    kept, filtered = (o.classes, {}) if witness is None else present_words(witness, photo.pixels)
    found = segment_kept(segmenter, photo.pixels, o.classes, kept, o.save_intermediates)
    found = sharpened(found, photo.pixels, preset(o.crf)) if o.crf and kept else found
    facts = {"photo": path.name, "crf": o.crf} | describe(segmenter, found) | {"recipe": o.recipe or "default", "versions": versions()}
    facts |= {"filter": filtered} if filtered else {}
    facts["notes"] = [
        *photo.notes,
        *(f"no {name}: {why}" for name, why in filtered.get("dropped", {}).items()),
        *(o.doubts(photo.pixels) if o.doubts else ()),
        *o.merged,
        *found.notes,
        *segmenter.size_note(photo.pixels),
        *recipe_notes(o.recipe, segmenter.backbone.profile),
    ]
    facts["seconds"] = round(time.perf_counter() - started, 3)
    save(found, photo, facts, folder, o.scores)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.areas.items())
    print(f"{folder}: {shares}" + "".join(f"\n  note: {note}" for note in facts["notes"] if note not in segmenter.backbone.notes))


def _doubting(profile: Profile, o: argparse.Namespace) -> Callable[[np.ndarray], list[str]] | None:
    """Notes on the words that a picture may not hold, by the profile's CLIP; None where there is no CLIP on this machine, or nothing to compare."""
    from ..evaluation.preflight import check_models
    from ..vision_language import Clip

    if len(o.classes) < 2 or any(one.state != "ready" for one in check_models(profile, ["clip"])):
        return None
    clip, least = Clip.load(profile.clip, o.device or profile.device, profile.pickled_weights), profile.absent_clip_threshold

    def doubts(pixels: np.ndarray) -> list[str]:
        [scores] = clip.similarities([pixels], o.classes)
        shares = [float(score) / float(scores.max()) if scores.max() > 0 else 1.0 for score in scores]
        said = "of the best word, and every word is painted somewhere; --filter asks first"
        return [f"perhaps no {name}: CLIP scores it {share:.2f} {said}" for name, share in zip(o.classes, shares, strict=True) if share < least]

    return doubts


def present_words(witness: CategoryFilter, pixels: np.ndarray) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The words that the filter finds in a picture (H W 3, uint8), and what a ``result.json`` tells of it: the caption, what was kept and dropped, and why."""
    found = witness.filter(pixels)
    said = f"the caption “{found.caption}” does not name it, and CLIP scores it"
    scores = {name: score for name, score in found.relative_clip_scores.items() if name not in found.names}
    dropped = {name: f"{said} {score:.2f} of the best word, below {witness.relative_clip_threshold}" for name, score in scores.items()}
    return found.names, {"caption": found.caption, "kept": {one.name: one.why for one in found.kept}, "dropped": dropped}
