"""Opening a data set: a tree on disk, or the pocket world's tree of the same layout, written when first asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..data import READERS, place_of
from ..data.samples import DataError, Dataset

POCKET_IMAGES = 500  # of a pocket split, where no number is asked for


def open_dataset(name: str, root: str | Path = "", split: str = "val", limit: int = 0, order: str = "") -> Dataset:
    """Open a split of a data set.

    Args:
        name: Name of the data set: "voc", "context" or "object".
        root: Folder that holds ``VOCdevkit`` (or that folder, or the year's inside it); for "object" the one that holds ``annotations``, or
            ``coco/annotations``. Without one (""), it is the pocket world's tree, written to the cache when first asked for.
        split: Split, by the name of its list: "train", "val", "trainaug" (VOC) and so on.
        limit: Number of images, the first of the list; 0 is all (of the pocket world, 500).
        order: Order of Context's labels, "alphabetical" or "original", where the tree does not tell.

    Raises:
        ValueError: On an unknown name, or a negative `limit`.
        DataError: On a tree that is not in the layout, or a list that is missing, empty or has repeats; the message says what was expected. A list shorter than
            the published split is told in the notes.
    """
    if name not in READERS:
        raise ValueError(f"unknown data set {name!r}: expected {', '.join(READERS)}")
    if limit < 0:
        raise ValueError(f"limit {limit}: expected 0 for all images, or how many")
    rendered = ""
    if str(root) == "":
        from ..pocket.layouts import ensure_layout, renderer

        root, rendered = ensure_layout(name, split, limit or POCKET_IMAGES), renderer()
    place = Path(root).expanduser().absolute()
    if not place.is_dir():
        raise DataError(f"{root} is no folder: expected the root of a {name} tree")
    found = READERS[name](place_of(name, place), split, order)
    if rendered:
        found = replace(found, files=tuple(replace(one, made_by=rendered) for one in found.files))
    return found.first(limit)
