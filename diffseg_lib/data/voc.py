"""The layout of VOC, and Context's in it with its two orders of labels under one folder name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..support.images import Photo
from .files import read_lines, read_list, read_mask, read_names, read_picture
from .names import CONTEXT_ORDERS, SPLIT_SIZES, VOC, prompt_words, published_size, split_note
from .samples import DataError, Dataset, Files

_COMPARED = 40  # images whose Context masks are compared with their VOC masks
_SAME = 50  # of the 59 names in a labels file that must agree with an order: spellings vary


def open_voc(root: Path, split: str, order: str = "") -> Dataset:
    """VOC 2012; the split "trainaug" reads the augmented masks.

    Args:
        root: Folder that holds ``VOCdevkit``, or that folder, or the year's inside it.
        split: Split, by the name of its list: "train", "val", "trainaug" (or "train_aug") and so on.
        order: Label order, which only Context has; it must be "".

    Raises:
        DataError: On what :func:`~diffseg_lib.evaluation.sources.open_dataset` names.
    """
    if order:
        raise DataError(f"order={order!r}: only Context has two label orders; leave it out")
    place, top = _year(root, "VOC2012", "JPEGImages")
    own = read_names(root, top)
    masks = "SegmentationClassAug" if split in ("trainaug", "train_aug") else "SegmentationClass"
    listed = place / "ImageSets" / "Segmentation" / f"{split}.txt"
    ids, expected, notes = _listed("voc", listed, bool(own))
    return _assemble("voc", split, own or ("background", *VOC), ids, expected, notes, listed, place, masks)


def open_context(root: Path, split: str, order: str = "") -> Dataset:
    """Context's 59 classes and background on VOC 2010, in the label order that the tree is found to have.

    Args:
        root: Folder that holds ``VOCdevkit``, or that folder, or the year's inside it.
        split: Split, by the name of its list: "train" or "val".
        order: Label order, "alphabetical" or "original", where the tree does not tell; "" otherwise.

    Raises:
        DataError: On what :func:`~diffseg_lib.evaluation.sources.open_dataset` names, and on an order that is not known or is contradicted.
    """
    place, top = _year(root, "VOC2010", "SegmentationClassContext")
    own = read_names(root, top)
    listed = place / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    ids, expected, notes = _listed("context", listed, bool(own))
    names, known = _context_names(place, ids, own, order)
    return _assemble("context", split, names, ids, expected, (known, *notes), listed, place, "SegmentationClassContext")


def _assemble(
    name: str, split: str, names: tuple[str, ...], ids: tuple[str, ...], expected: int, notes: tuple[str, ...], listed: Path, place: Path, masks: str
) -> Dataset:
    def files(one: str) -> tuple[Path, Path]:
        return place / "JPEGImages" / f"{one}.jpg", place / masks / f"{one}.png"

    def read(one: str) -> tuple[Photo, np.ndarray]:
        picture, mask = files(one)
        return read_picture(picture), read_mask(mask)

    return Dataset(name, split, names, prompt_words(names), ids, expected, notes, read, (Files((listed,), files),))


def _year(root: Path, year: str, folder: str) -> tuple[Path, Path]:
    """The folder of a VOC year, and the one that VOCdevkit is in."""
    for place, top in ((root / "VOCdevkit" / year, root), (root / year, root.parent), (root, root.parent.parent)):
        if (place / folder).is_dir():
            return place, top
    raise DataError(f"{root} holds no VOCdevkit/{year}/{folder}: expected the folder that VOCdevkit is in")


def _listed(name: str, path: Path, own: bool) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """The ids of a list, how many the split should have, and a note where these differ; `own` says that it is not the published set."""
    sizes = () if own else SPLIT_SIZES.get((name, path.stem), ())
    ids = read_list(path, sizes)
    return ids, published_size(sizes, len(ids)), split_note(str(path), path.stem, len(ids), sizes)


# -- the order of Context's labels ---------------------------------------------------------------


def _context_names(place: Path, ids: Sequence[str], own: tuple[str, ...], order: str) -> tuple[tuple[str, ...], str]:
    """Names, background first, and how their order is known. Masks outweigh words: what they show is never overruled."""
    if order and order not in CONTEXT_ORDERS:
        raise DataError(f"order {order!r}: expected {' or '.join(CONTEXT_ORDERS)}")
    stated = next((key for key, names in CONTEXT_ORDERS.items() if own[1:] == tuple(names)), "")
    if own and order and stated != order:
        raise DataError(f"order={order!r} was asked for, and classes.txt states another order of the tree's own: give one of them")
    if own and not stated:
        return own, "label order: classes.txt"
    file = "" if order or stated else _order_of_labels_file(place / "59_labels.txt")
    said = order or stated or file
    source = f"order={order!r}" if order else "classes.txt" if stated else "59_labels.txt"
    found, compared = _order_of_masks(place, ids)
    if said and found and said != found:
        raise DataError(f"{source} says {said}, but compared with VOC's own the masks are in the {found} order: give order={found!r}, or correct the tree")
    if not (said or found):
        raise DataError(
            "two label orders share this layout and the tree does not tell which it has: give order='alphabetical' or order='original' (--order of a command)"
        )
    how = f"found by comparing {compared} masks with SegmentationClass" if found else f"assumed, by {source}: no masks to compare with"
    return ("background", *CONTEXT_ORDERS[said or found]), f"label order: {said or found} ({how})"


def _order_of_labels_file(path: Path) -> str:
    """The order that a file of lines "number: name" lists; "" where there is no such file.

    Raises:
        DataError: If it is in neither order.
    """
    if not path.is_file():
        return ""
    listed = [re.sub(r"^\d+\s*:?\s*", "", line) for line in read_lines(path).values()]
    listed = [name for name in listed if name != "background"]
    for order, names in CONTEXT_ORDERS.items():
        if sum(a == b for a, b in zip(listed, names, strict=False)) >= _SAME:
            return order
    raise DataError(f"{path} lists neither the alphabetical nor the original 59 labels: give order=, or correct it")


def _order_of_masks(place: Path, ids: Sequence[str]) -> tuple[str, int]:
    """The order that the masks are in ("" if they do not tell), and how many were compared.

    The same photos have VOC masks in ``SegmentationClass``; an object's pixels carry VOC's label there and
    Context's here, and only one order maps the one to the other.
    """
    votes, compared = dict.fromkeys(CONTEXT_ORDERS, 0), 0
    pairs = [(place / "SegmentationClassContext" / f"{i}.png", place / "SegmentationClass" / f"{i}.png") for i in ids]
    for ours_path, theirs_path in [pair for pair in pairs if pair[1].is_file()][:_COMPARED]:
        try:
            ours, theirs = read_mask(ours_path), read_mask(theirs_path)
        except DataError:  # told when the image itself is loaded
            continue
        if ours.shape != theirs.shape:
            continue
        compared += 1
        for label in np.unique(theirs[(theirs > 0) & (theirs <= len(VOC))]):
            inside = int(np.bincount(ours[theirs == label]).argmax())
            word = {"diningtable": "table"}.get(VOC[label - 1], VOC[label - 1])
            for order, names in CONTEXT_ORDERS.items():
                votes[order] += names.index(word) + 1 == inside
    if votes["alphabetical"] == votes["original"]:
        return "", compared
    return max(votes, key=lambda order: votes[order]), compared
