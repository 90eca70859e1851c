"""COCO-Object: the things of COCO's instance annotations as one label map, drawn by a named convention."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..support.images import Photo
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
    coco, images, things = _load(path)
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


def _load(path: Path) -> tuple[Any, dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """pycocotools' index of an annotation file, its images by id (the file name's stem), its categories by id.

    Raises:
        DataError: If it is no instances file, or two images share an id.
    """
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        things = [{"id": key, "name": str(one["name"])} for key, one in sorted(coco.cats.items())]
        listed = [one | {"height": int(one["height"]), "width": int(one["width"])} for _, one in sorted(coco.imgs.items())]
        images = {Path(one["file_name"]).stem: one for one in listed}
    except (ValueError, KeyError, AssertionError, TypeError) as error:
        raise DataError(f"{path} is no COCO instances file ({error!r}): expected images, annotations and categories") from error
    if not (things and images):
        raise DataError(f"{path} is no COCO instances file: it lists {len(images)} images and {len(things)} categories, expected some of each")
    if len(images) < len(listed):
        raise DataError(f"{path} lists {len(listed)} images under {len(images)} file names: remove the repeats")
    return coco, images, things


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
