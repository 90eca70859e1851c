"""Opening a data set: a tree on disk, or the pocket world's tree of the same layout, written when first asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data import READERS, place_of
from ..data.samples import DataError, Dataset
from ..support.paths import POCKET, pocket_source

POCKET_IMAGES = 500  # of a pocket split, where no number is asked for


def open_dataset(name: str, root: str | Path = "", split: str = "val", limit: int = 0, order: str = "") -> Dataset:
    """Open a split of a data set. The pocket world's own trees are named "pocket-voc", "pocket-context" and "pocket-object".

    Args:
        name: Name of the data set: "voc", "context" or "object"; "pocket-voc" and so on are the pocket world's tree, whatever the root.
        root: Folder that holds ``VOCdevkit`` (or that folder, or the year's inside it); for "object" the one that holds ``annotations``, or
            ``coco/annotations``. "pocket" (or "") is the pocket world's tree, written to the cache when first asked for.
        split: Split, by the name of its list: "train", "val", "trainaug" (VOC) and so on.
        limit: Number of images, the first of the list; 0 is all (of the pocket world, 500).
        order: Order of Context's labels, "alphabetical" or "original", where the tree does not tell.

    Raises:
        ValueError: On an unknown name, or a negative `limit`.
        DataError: On a tree that is not in the layout, or a list that is missing, empty or has repeats; the message says what was expected. A list shorter than
            the published split is told in the notes.
    """
    name, given = pocket_source(name, str(root))
    if name not in READERS:
        raise ValueError(f"unknown data set {name!r}: expected {', '.join(READERS)}")
    if limit < 0:
        raise ValueError(f"limit {limit}: expected 0 for all images, or how many")
    rendered = ""
    if given in ("", POCKET):
        from ..pocket.layouts import ensure_layout, renderer

        root, rendered = ensure_layout(name, split, limit or POCKET_IMAGES), renderer()
    place = Path(root).expanduser().absolute()
    if not place.is_dir():
        raise DataError(f"{root} is no folder: expected the root of a {name} tree")
    found = READERS[name](place_of(name, place), split, order)
    if rendered:
        found = replace(found, files=tuple(replace(one, made_by=rendered) for one in found.files))
    told = f"{POCKET}-{name}" if _is_pocket(name, place) else name
    return replace(found, name=told).first(limit)


def _is_pocket(name: str, place: Path) -> bool:
    """Whether a tree was written by the pocket world: its stamp lies at the top, and says which layout it has."""
    stamps = [one / "pocket.json" for one in (place, *place.parents[:2])]
    return any(stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")).get("layout") == name for stamp in stamps)


def open_splits(name: str, root: str | Path, split: str, tuning_images: int, images: int, order: str = "") -> tuple[Dataset, Dataset]:
    """Open what is tuned on, the first images of train, and what is measured, the first images of a split: no image is in both.

    Args:
        name: Name of the data set, as :func:`open_dataset` takes it.
        root: Folder of the data set, as :func:`open_dataset` takes it.
        split: Split that is measured; where it holds images that are tuned on (train itself, trainaug), those after them are measured.
        tuning_images: Number of images of train; 0 is all.
        images: Number of images that are measured; 0 is all that are left.
        order: Order of Context's labels, as :func:`open_dataset` takes it.

    Returns:
        The images to tune on, and those to measure.

    Raises:
        ValueError: If too few images are left to measure, and as :func:`open_dataset` does.
    """
    tuning, measured = open_dataset(name, root, "train", tuning_images, order), open_dataset(name, root, split, images, order)
    if set(tuning.ids).isdisjoint(measured.ids):
        return tuning, measured
    return tuning, leave_out(open_dataset(name, root, split, images and images + len(tuning), order), tuning, images)


def with_masks(dataset: Dataset) -> Iterator[tuple[np.ndarray, list[str], np.ndarray]]:
    """The pictures of a data set (H W 3, uint8), the words of the k classes in each, and their masks (k H W, bool)."""
    for one in dataset:
        yield one.image, dataset.words(one.classes), np.stack([one.truth == dataset.names.index(name) for name in one.classes])


def leave_out(dataset: Dataset, tuning: Dataset, images: int = 0) -> Dataset:
    """The images of a split that were not tuned on, by id.

    Args:
        dataset: Split that is measured.
        tuning: Images that were tuned on, of the same data set.
        images: Number of images that are kept, the first ones; 0 is all.

    Raises:
        ValueError: If fewer are left, or none.
    """
    tuned = set(tuning.ids)
    left = tuple(one for one in dataset.ids if one not in tuned)
    if len(left) < max(images, 1):
        raise ValueError(
            f"split {dataset.split!r} has {len(left)} images beside the {len(tuning)} of {tuning.split!r} that are tuned on, {images or 1} are to be measured: "
            "ask for fewer of either, or measure another split"
        )
    return replace(dataset, ids=left[:images] if images else left)
