"""COCO-Object: the things of COCO's instance annotations as one label map, drawn by a named convention; and any folder of photos with a COCO file."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..support.images import ImageError, Photo, load_photo
from .files import read_names, read_picture
from .names import SPLIT_SIZES, prompt_words, published_size, split_note
from .samples import VOID, DataError, Dataset, Files

COCO_CONVENTION = "smaller instances over larger ones; pixels of a crowd region are void where no instance lies"


def open_object(root: Path, split: str, order: str = "") -> Dataset:
    """COCO's things as labels 1..C-1, in the order of their category ids; annotations of 2017, or else of 2014.

    Args:
        root: Folder that holds ``annotations`` and the pictures.
        split: Split without its year: "train" or "val".
        order: Label order, which only Context has; it must be "".

    Raises:
        DataError: On what :func:`~diffseg_lib.evaluation.sources.open_dataset` names.
    """
    if order:
        raise DataError(f"order={order!r}: only Context has two label orders; leave it out")
    candidates = [root / "annotations" / f"instances_{split}{year}.json" for year in ("2017", "2014")]
    path = next((one for one in candidates if one.is_file()), None)
    if path is None:
        raise DataError(f"no annotations of {split} in {root}: expected {' or '.join(map(str, candidates))}")
    pictures = root / path.stem.removeprefix("instances_")
    coco, images, things = _load(path, lambda name: Path(name).stem)
    own = read_names(root)
    if own and len(own) != len(things) + 1:
        raise DataError(f"{root / 'classes.txt'} names {len(own) - 1} classes, {path} has {len(things)}: expected the same")
    names = own or ("background", *(one["name"] for one in things))
    labels = {one["id"]: label for label, one in enumerate(things, start=1)}
    sizes = () if own else SPLIT_SIZES.get(("object", pictures.name), ())

    def read(one: str) -> tuple[Photo, np.ndarray]:
        if one not in images:
            raise DataError(f"{path} lists no image {one!r}: load one of the data set's ids")
        facts = images[one]
        truth = draw(coco, coco.imgToAnns[facts["id"]], labels, (facts["height"], facts["width"]), one)
        return read_picture(pictures / facts["file_name"]), truth

    notes = (*split_note(str(path), split, len(images), sizes), f"overlaps: {COCO_CONVENTION}")
    files = Files((path,), lambda one: (pictures / images[one]["file_name"],))
    return Dataset("object", split, names, prompt_words(names), tuple(images), published_size(sizes, len(images)), notes, read, (files,))


def _load(path: Path, id_of: Callable[[str], str]) -> tuple[Any, dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """pycocotools' index of an annotation file, its images by id (made of the file name), its categories by id.

    Raises:
        DataError: If it is no instances file, or two images share an id.
    """
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        things = [{"id": key, "name": str(one["name"])} for key, one in sorted(coco.cats.items())]
        listed = [one | {"height": _side(one, "height"), "width": _side(one, "width")} for _, one in sorted(coco.imgs.items())]
        images = {id_of(str(one["file_name"])): one for one in listed}
    except (ValueError, KeyError, AssertionError, TypeError) as error:
        raise DataError(f"{path} is no COCO instances file ({error!r}): expected images, annotations and categories") from error
    if not (things and images):
        raise DataError(f"{path} is no COCO instances file: it lists {len(images)} images and {len(things)} categories, expected some of each")
    if len(images) < len(listed):
        raise DataError(f"{path} lists {len(listed)} images under {len(images)} file names: remove the repeats")
    return coco, images, things


def _side(image: dict[str, Any], name: str) -> int:
    """A side of an image, px; 0 where it is null, as Label Studio writes it for a picture without annotations that it could not open."""
    return int(image[name] if image[name] is not None else 0)


def draw(coco: Any, annotations: Sequence[dict[str, Any]], labels: dict[int, int], size: tuple[int, int], name: str) -> np.ndarray:
    """The label map of one image's annotations by :data:`COCO_CONVENTION`: H W, uint8.

    Args:
        coco: Index of pycocotools, for the sizes of the image.
        annotations: Annotations of the image.
        labels: Category ids to labels.
        size: Height and width of the image, px.
        name: Name of the image, for errors.

    Raises:
        DataError: On an annotation that cannot be drawn; its id is given.
    """
    from pycocotools import mask as rle

    regions = []
    for one in annotations:
        try:
            code = coco.annToRLE(one)
            regions.append((not one.get("iscrowd", 0), -int(rle.area(code)), one["id"], labels[one["category_id"]], rle.decode(code).astype(bool)))
        except Exception as error:  # pycocotools raises bare Exceptions
            raise DataError(f"{name}: annotation {one.get('id')} cannot be drawn ({error!r}): expected a polygon or runs, of a listed category") from error
    truth = np.zeros(size, np.uint8)
    for instance, _, number, label, inside in sorted(regions, key=lambda region: region[:3]):
        if inside.shape != truth.shape:
            raise DataError(f"{name}: annotation {number} is {inside.shape[1]} x {inside.shape[0]} px, the image {size[1]} x {size[0]}: expected one size")
        truth[inside] = label if instance else VOID
    return truth


# -- any photos -----------------------------------------------------------------------------------

PHOTOS_CONVENTION = "smaller regions over larger ones; iscrowd, which CVAT sets on every mask that is no polygon, does not count"


def open_photos(photos: str | Path, annotations: str | Path) -> Dataset:
    """Photos of a folder under the masks of a COCO file of any categories, as labelling tools export them: polygons, or runs of either kind.

    Photos are turned by EXIF, as ``segment`` and labelling tools show them. A photo is looked for by the file's name for it, else by its last part, without
    what Label Studio puts before it. A category "background" is label 0. Boxes without a mask are no masks: beside a mask of their category (Label Studio
    adds them) they are left out, and so is any photo that has others. The notes say so, with numbers.

    Args:
        photos: Folder of the photos, which may lie in folders inside.
        annotations: The COCO file.

    Raises:
        DataError: If the file is none, names photos that are not there, repeats a category, or has nothing drawn.
    """
    root, path = Path(photos).expanduser().absolute(), Path(annotations).expanduser().absolute()
    for place, there, what in ((root, root.is_dir(), "a folder of photos"), (path, path.is_file(), "a COCO file")):
        if not there:
            raise DataError(f"{place} is not there: expected {what}")
    coco, images, things = _load(path, lambda name: name)
    kinds = [one for one in things if one["name"].lower() != "background"]
    labels = {one["id"]: 0 for one in things} | {one["id"]: label for label, one in enumerate(kinds, start=1)}
    names = ("background", *(one["name"] for one in kinds))
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(f"{path} has several categories of the name {', '.join(twice)}: give each its own")
    if not 2 <= len(names) <= VOID:
        raise DataError(f"{path} has {len(names) - 1} categories beside the background: expected 1 to {VOID - 1}")
    drawn, boxed, boxes = _masks(coco, images)
    if not any(drawn.values()):
        raise DataError(f"{path} has no mask, only {boxes} boxes: expected annotations with polygons or runs")
    found = _find_photos(root, path, list(drawn))

    def read(one: str) -> tuple[Photo, np.ndarray]:
        if one not in drawn:
            raise DataError(f"{path} lists no photo {one!r}: load one of the data set's ids")
        photo, facts = _photo(found[one]), images[one]
        size = (facts["height"] or photo.pixels.shape[0], facts["width"] or photo.pixels.shape[1])
        return photo, draw(coco, [given | {"iscrowd": 0} for given in drawn[one]], labels, size, one)

    empty = sum(not masks for masks in drawn.values())
    notes = [f"photos of {root.name} under {path.name}, {len(drawn)} of them", f"overlaps: {PHOTOS_CONVENTION}"]
    notes += [f"{empty} photos without any mask count as background throughout"] if empty else []
    notes += [f"{boxes} boxes without a mask left out"] if boxes else []
    notes += [f"{len(boxed)} photos left out, which have a box and no mask of its category: {', '.join(boxed[:5])}"] if boxed else []
    files = Files((path,), lambda one: (found[one],))
    return Dataset("photos", path.stem, names, prompt_words(names), tuple(drawn), len(images), tuple(notes), read, (files,))


def _masks(coco: Any, images: dict[str, dict[str, Any]]) -> tuple[dict[str, list[dict[str, Any]]], list[str], int]:
    """The annotations with masks of the photos that are used, by name; the photos that are not, for their boxes; and the number of boxes."""
    drawn, boxed, boxes = dict[str, list[dict[str, Any]]](), list[str](), 0
    for name, facts in images.items():
        given = coco.imgToAnns[facts["id"]]
        masks = [one for one in given if one.get("segmentation") not in (None, [], [[]], {})]
        boxes += len(given) - len(masks)
        known = {one.get("category_id") for one in masks}
        if all(one.get("category_id") in known for one in given):
            drawn[name] = masks
        else:
            boxed.append(name)
    return drawn, boxed, boxes


def _photo(path: Path) -> Photo:
    try:
        return load_photo(path)
    except ImageError as error:
        raise DataError(str(error)) from error


def _uploaded(name: str) -> str:
    """A file's name as it is after an upload to Label Studio: no spaces or signs."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _find_photos(root: Path, file: Path, names: Sequence[str]) -> dict[str, Path]:
    """The place of every photo of a file.

    Raises:
        DataError: On photos that are not there, or may be several.
    """
    there: dict[str, list[Path]] = {}
    for place in sorted(root.rglob("*")):
        for known in {place.name, _uploaded(place.name)}:
            there.setdefault(known, []).append(place)
    found, lost = dict[str, Path](), list[str]()
    for name in names:
        plain = name.replace("\\", "/").rpartition("?d=")[2]
        last = PurePosixPath(plain).name
        bare = re.sub(r"^[0-9a-f]{6,}(?:-|__)", "", last)
        if (whole := root / plain).is_file():
            found[name] = whole
        elif len(places := next((there[one] for one in (last, bare, unquote(last), unquote(bare)) if one in there), [])) == 1:
            found[name] = places[0]
        else:
            lost.append(f"{name} ({len(places)} of that name)" if places else name)
    if lost:
        told = f"{len(lost)} of the {len(names)} photos of {file} are not in {root}: {', '.join(lost[:3])}"
        raise DataError(f"{told}{' ...' if len(lost) > 3 else ''}; expected them by the file's names, or by their last parts, each once")
    if twice := [str(place) for place, times in Counter(found.values()).items() if times > 1]:
        raise DataError(f"{file} lists {twice[0]} more than once: remove the repeats")
    return found
