"""A folder of photos as a data set to correct by hand: one COCO file, kept photo by photo, that labelling tools import.

``OUT/rows/ID.json`` holds what was found in a photo, its regions as runs with their scores, and all that it depends on, hashed: the photo's content, and the
models, words, settings and code. A row is written whole once its photo is done, so that a run that was killed goes on; a photo that was changed is computed
again, and with other settings all are. How regions are written (runs or polygons, classes or parts of them) does not count: it is decided when the rows are
put together, without the model.

The id of a photo is a number made of its name, of at most 40 bits; the id of an annotation is 4096 times that, and the annotation's number in its
photo. So ids are the same in every run, whatever photos come or go; and all of them are exact in tools whose numbers are those of JavaScript.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import __version__
from ..segmenter import Segmentation
from ..support.files import RunError, atomic_write, write_json
from ..support.identity import digest_files, fingerprint
from ..support.images import ImageError, Photo, load_photo, overlay
from .crf import Crf, sharpen
from .regions import TOLERANCE, decode, encode, parts, polygons

MOST = 4096  # annotations of a photo, and one
SIZES = {"thumbs": 320, "overlays": 1280}  # longest sides of the pictures of a contact sheet, px, by their folders


@dataclass(frozen=True)
class Region:
    """The pixels of one class in a photo.

    Args:
        name: Name of the class.
        runs: Its mask as compressed runs.
        scores: The mean of the class's map over each connected part, in [0, 1], in the order of :func:`~diffseg_lib.applications.regions.parts`.
        areas: Pixels of each connected part.
    """

    name: str
    runs: dict[str, Any]
    scores: tuple[float, ...]
    areas: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """What was found in one photo.

    Args:
        content: Hash of the photo's content.
        settings: Hash of all else that it depends on: models, words, settings, code.
        name: Name of the photo, a path relative to the folder, with slashes.
        height: Height of the photo as it is shown, px.
        width: Width of the photo as it is shown, px.
        made: Day on which it was computed, as 2026-01-31.
        notes: Sentences on what was done to get there.
        regions: Regions of the classes that were found.
    """

    content: str
    settings: str
    name: str
    height: int
    width: int
    made: str
    notes: tuple[str, ...]
    regions: tuple[Region, ...]

    def shares(self) -> dict[str, float]:
        """The share of the photo that each class takes, in [0, 1]."""
        return {one.name: sum(one.areas) / (self.height * self.width) for one in self.regions}


@dataclass(frozen=True)
class Form:
    """How regions are written.

    Args:
        polygons: Whether as polygons, not as runs.
        instances: Whether each connected part is an annotation of its own, not all of a class in a photo together.
        min_area: Parts of fewer pixels are left out.
        tolerance: How far, px, a polygon may be from the border of its region.

    Raises:
        ValueError: On a negative number.
    """

    polygons: bool = False
    instances: bool = False
    min_area: int = 0
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if self.min_area < 0 or not self.tolerance >= 0:
            raise ValueError(f"min_area {self.min_area}, tolerance {self.tolerance}: expected 0 or more")


def image_id(name: str) -> int:
    """The id of a photo by its name, 1 or more and below 2^40.

    >>> image_id("beach/dog.jpg") == image_id("beach/dog.jpg") != image_id("dog.jpg")
    True
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:5], "big") or 1


def stem(name: str) -> str:
    """The name of a photo's own files, its id in ten hexadecimal digits."""
    return f"{image_id(name):010x}"


def named_photos(paths: Sequence[Path]) -> tuple[Path, dict[str, Path]]:
    """The folder that photos have in common, and the photos by their paths in it, with slashes, in the order of their names.

    Args:
        paths: Photos, at least one.

    Raises:
        ValueError: If two photos would have one id.
    """
    places = {path.absolute() for path in paths}
    base = next(one for one in next(iter(places)).parents if all(place.is_relative_to(one) for place in places))
    named = {place.relative_to(base).as_posix(): place for place in sorted(places)}
    known: dict[int, str] = {}
    for name in named:
        if (other := known.setdefault(image_id(name), name)) != name:
            raise ValueError(f"{other!r} and {name!r} have the same id, which is made of the name: rename one of them")
    return base, named


# -- photo by photo -------------------------------------------------------------------------------


def find_regions(found: Segmentation) -> tuple[Region, ...]:
    """The regions of a segmentation, of the classes that have any pixel."""
    regions = []
    for label, name in enumerate(found.classes, start=1):
        mask = found.labels == label
        if mask.any():
            numbers = parts(mask)[mask]
            areas = np.bincount(numbers)[1:]
            scores = np.bincount(numbers, found.scores[label - 1][mask])[1:] / areas
            regions.append(Region(name, encode(mask), tuple(round(float(one), 4) for one in scores), tuple(map(int, areas))))
    return tuple(regions)


def sharpened(found: Segmentation, pixels: np.ndarray, crf: Crf) -> Segmentation:
    """A segmentation whose labels follow the photo's edges by a dense CRF.

    Args:
        found: The segmentation.
        pixels: The photo, H W 3, uint8.
        crf: Settings of the field.
    """
    return replace(found, labels=sharpen(pixels, found.scores, found.threshold, crf))


def segment_folder(
    photos: Mapping[str, Path],
    out: str | Path,
    method: Callable[[Photo], Segmentation],
    facts: Mapping[str, Any],
    progress: Callable[[str, str], Any] = lambda name, error: None,
) -> dict[str, str]:
    """Segment the photos that have no row of theirs yet; each is kept, with its pictures for the contact sheet, before the next one is begun.

    Args:
        photos: Photos by name, as :func:`named_photos` gives them.
        out: Folder of the rows and pictures.
        method: The method, from a photo to its segmentation.
        facts: All that the result depends on beside the photo: models, words, settings, code.
        progress: Called with every photo's name and its error ("" where there is none).

    Returns:
        Errors by name of photo; those photos are tried again by the next run.

    Raises:
        RunError: If the folder cannot be written.
    """
    top, settings, errors = Path(out), fingerprint(facts), dict[str, str]()
    with _writing(top):
        for folder in ("rows", *SIZES):
            (top / folder).mkdir(parents=True, exist_ok=True)
    for name, path in photos.items():
        error = ""
        try:
            content = digest_files([path])
            if (row := read_row(top, name, settings)) is None or row.content != content:
                photo = load_photo(path)
                found = method(photo)
                height, width = photo.pixels.shape[:2]
                row = Row(content, settings, name, height, width, _today(), (*photo.notes, *found.notes), find_regions(found))
                with _writing(top):
                    _keep(top, row, photo.pixels, found.labels)
        except RunError:
            raise
        except ImageError as caught:
            error = errors[name] = " ".join(str(caught).split())
        except OSError as caught:  # of the photo, which a folder that vanishes or a damaged disk gives
            error = errors[name] = f"{path} cannot be read ({caught.strerror or caught}): restore the file"
        progress(name, error)
    return errors


def read_row(out: str | Path, name: str, settings: str) -> Row | None:
    """The row of a photo, by other settings or damaged taken for none.

    Args:
        out: Folder of the rows.
        name: Name of the photo.
        settings: Hash of what it is to depend on beside the photo.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        held = json.loads(_place(Path(out), name).read_text(encoding="utf-8"))
        regions = tuple(Region(one["name"], one["runs"], tuple(one["scores"]), tuple(one["areas"])) for one in held.pop("regions"))
        row = Row(**held | {"notes": tuple(held["notes"]), "regions": regions})
        return row if (row.name, row.settings) == (name, settings) else None
    return None


def _place(top: Path, name: str) -> Path:
    return top / "rows" / f"{stem(name)}.json"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _keep(top: Path, row: Row, pixels: np.ndarray, labels: np.ndarray) -> None:
    """A photo's pictures, and after them its row."""
    drawn = Image.fromarray(pixels)
    for folder, longest in SIZES.items():
        scale = min(1.0, longest / max(drawn.size))
        size = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
        small = np.asarray(drawn.resize(size, Image.Resampling.BOX))
        found = np.asarray(Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
        with atomic_write(top / folder / f"{stem(row.name)}.jpg") as file:
            Image.fromarray(overlay(small, found)).save(file, "JPEG", quality=80)
    write_json(_place(top, row.name), asdict(row))


class _writing:
    """Says of an error in writing what is to be done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, RunError):
            told = f"{self.folder} cannot be written ({error.strerror or error}): free some space or choose another folder; photos that are done are kept"
            raise RunError(told) from error


# -- put together ---------------------------------------------------------------------------------


def annotations_of(row: Row, classes: Sequence[str], form: Form) -> Iterator[dict[str, Any]]:
    """The annotations of a photo.

    ``score`` is the mean of the class's map over the pixels, no probability. Area and box are those of the mask as it is written.

    Args:
        row: What was found in the photo.
        classes: Names of the classes; the first one's category is 1.
        form: How regions are written.

    Raises:
        ValueError: If the photo has more parts than ids.
    """
    number = 0
    for region in row.regions:
        category = classes.index(region.name) + 1
        kept = [i for i, area in enumerate(region.areas, start=1) if area >= form.min_area]
        mask, whole = decode(region.runs), len(kept) == len(region.areas) and not form.instances
        numbers = None if whole else parts(mask)
        for i, some in [(i, [i]) for i in kept] if form.instances else [(0, kept)] if kept else []:
            place = number + i if form.instances else category
            if place >= MOST:
                raise ValueError(f"{row.name} has more than {MOST - 1} parts: leave the small ones out (min_area)")
            areas = np.array([region.areas[j - 1] for j in some])
            score = round(float(areas @ np.array([region.scores[j - 1] for j in some]) / areas.sum()), 4)
            inside = mask if numbers is None else np.isin(numbers, some)
            about = {"id": image_id(row.name) * MOST + place, "image_id": image_id(row.name), "category_id": category}
            yield about | _segment(inside, form) | {"iscrowd": 0, "score": score}
        number += len(region.areas)


def _segment(mask: np.ndarray, form: Form) -> dict[str, Any]:
    """Segmentation, area and box of a mask."""
    from pycocotools import mask as runs

    if not form.polygons:
        coded = encode(mask)
        return {"segmentation": coded, "area": float(runs.area(coded)), "bbox": [float(value) for value in runs.toBbox(coded)]}
    drawn = polygons(mask, form.tolerance)
    merged = runs.merge(runs.frPyObjects(drawn, *mask.shape))
    return {"segmentation": drawn, "area": float(runs.area(merged)), "bbox": [float(value) for value in runs.toBbox(merged)]}


def write_coco(path: str | Path, rows: Callable[[], Iterable[Row]], classes: Sequence[str], form: Form, about: str = "") -> dict[str, int]:
    """Write one COCO file of rows, a line an image or annotation, without holding more than one of them.

    Args:
        path: Place of the file; its folder is made.
        rows: Function that gives the rows, the same ones each time; it is called twice.
        classes: Names of the classes, whose categories are 1, 2 and so on.
        form: How regions are written.
        about: A sentence for the file's ``info``.

    Returns:
        The number of annotations of each class.
    """
    path, counts, days = Path(path), dict.fromkeys(classes, 0), [""]
    path.parent.mkdir(parents=True, exist_ok=True)

    def images() -> Iterator[dict[str, Any]]:
        for row in rows():
            days.append(row.made)
            yield {"id": image_id(row.name), "file_name": row.name, "width": row.width, "height": row.height}

    def annotations() -> Iterator[dict[str, Any]]:
        for row in rows():
            for one in annotations_of(row, classes, form):
                counts[classes[one["category_id"] - 1]] += 1
                yield one

    with atomic_write(path, "w") as file:
        categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes, start=1)]
        file.write('{"licenses": [],\n"categories": ' + json.dumps(categories, ensure_ascii=False))
        for key, listed in (("images", images()), ("annotations", annotations())):
            file.write(f',\n"{key}": [')
            for i, one in enumerate(listed):
                file.write((",\n" if i else "\n") + json.dumps(one, ensure_ascii=False, allow_nan=False))
            file.write("\n]")
        day = max(days)
        info = {"description": about, "version": __version__, "year": int(day[:4] or 0), "contributor": "diffseg", "url": "", "date_created": day}
        file.write(',\n"info": ' + json.dumps(info, ensure_ascii=False) + "}\n")
    return counts
