"""VOC, Context and COCO-Object, read from the layouts that people have on disk.

A :class:`Dataset` lists ids and loads one :class:`Sample` at a time; labels are 0..C-1 with 0 the background
and 255 void, at the picture's own size, which is never changed. Pictures are read by their content, as raw
pixels: EXIF orientation is not applied, since the masks were drawn on the raw pixels.

==========  ==========================================================================================
voc         ``VOCdevkit/VOC2012/{JPEGImages,SegmentationClass[Aug]}``, ``ImageSets/Segmentation/*.txt``
context     ``VOCdevkit/VOC2010/{JPEGImages,SegmentationClassContext}``, ``ImageSets/SegmentationContext/*.txt``
object      ``annotations/instances_*.json`` with ``val2017/*.jpg`` (or the 2014 names)
==========  ==========================================================================================

``classes.txt`` in the root, a name a line, background first, replaces the standard names.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from .images import to_rgb, voc_colours
from .prompts import nearest

VOID = 255
POCKET_IMAGES = 500  # of a pocket split, where no number is asked for

VOC = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor".split()
CONTEXT = (
    "aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat ceiling chair cloth computer cow cup curtain dog "
    "door fence floor flower food grass ground horse keyboard light motorbike mountain mouse person plate platform pottedplant road rock sheep shelves "
    "sidewalk sign sky snow sofa table track train tree truck tvmonitor wall water window wood"
).split()
CONTEXT_ORIGINAL = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant sheep sofa train tvmonitor bag bed bench book "
    "building cabinet ceiling cloth computer cup door fence floor flower food grass ground keyboard light mountain mouse curtain platform sign plate road "
    "rock shelves sidewalk sky snow bedclothes track tree truck wall water window wood"
).split()
CONTEXT_ORDERS = {"alphabetical": CONTEXT, "original": CONTEXT_ORIGINAL}
# The word to prompt with, where a class's name is not what people write.
ALIASES: Mapping[str, str] = {
    "aeroplane": "plane",
    "diningtable": "table",
    "pottedplant": "potted plant",
    "tvmonitor": "monitor",
    "bedclothes": "bedding",
    "motorbike": "motorcycle",
}
COCO_CONVENTION = "smaller instances over larger ones; pixels of a crowd region are void where no instance lies"
SPLIT_SIZES = {
    ("voc", "train"): 1464,
    ("voc", "val"): 1449,
    ("voc", "trainaug"): 10582,
    ("context", "train"): 4998,
    ("context", "val"): 5105,
    ("object", "val"): 5000,
}


class DataError(ValueError):
    """A data set, or one image of it, that is not what its layout promises."""


@dataclass(frozen=True)
class Sample:
    """id: unique in its split; image: H W 3, uint8; truth: H W, labels, 255 void; classes: names present."""

    id: str
    image: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """A split of a data set: iterate over it, or load one image by its id.

    names: of the labels, background first. prompts: the word to ask for each label 1..C-1. expected: images the
    full split has (by its publication, or by its list). notes: how it was read, for the record.
    """

    name: str
    split: str
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    ids: tuple[str, ...]
    expected: int
    notes: tuple[str, ...]
    _read: Callable[[str], tuple[np.ndarray, np.ndarray]] = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.load, self.ids)

    def load(self, name: str) -> Sample:
        """Read one image and its labels.

        Raises:
            DataError: if a file is missing or broken, sizes differ, or labels are no classes; it names the file.
        """
        image, truth = self._read(name)
        if image.shape[:2] != truth.shape:
            raise DataError(f"{name}: the image is {image.shape[1]} x {image.shape[0]} px, its mask {truth.shape[1]} x {truth.shape[0]}: expected one size")
        found = np.unique(truth[truth != VOID])
        if found.size and found[-1] >= len(self.names):
            wrong = found[found >= len(self.names)].tolist()
            raise DataError(f"{name}: labels {wrong}, expected 0..{len(self.names) - 1} or {VOID}: is this another set's mask, or another label order?")
        return Sample(name, image, truth, tuple(self.names[i] for i in found if i))

    def words(self, classes: Sequence[str]) -> list[str]:
        """The words to prompt with for names of classes.

        Raises:
            ValueError: on a name that is no class of the data set; it gives the nearest.
        """
        unknown = [name for name in classes if name not in self.names[1:]]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no class of {self.name}: {nearest(unknown[0], self.names[1:])}")
        return [self.prompts[self.names.index(name) - 1] for name in classes]

    def fingerprint(self) -> str:
        """A short hash of name, split, class names and ids: two data sets of one fingerprint ask the same of a method."""
        return hashlib.sha256(repr((self.name, self.split, self.names, self.prompts, self.ids)).encode()).hexdigest()[:12]


def open_dataset(name: str, root: str | Path = "", split: str = "val", limit: int = 0, order: str = "") -> Dataset:
    """Open a split of a data set.

    Args:
        name: "voc", "context" or "object".
        root: the folder that holds ``VOCdevkit`` (or that folder, or the year's inside it); for "object" the
            one that holds ``annotations``. "" is the pocket world's tree, written to the cache when first asked for.
        split: "train", "val", "trainaug" (VOC) and so on.
        limit: only the first so many images; 0 is all (of the pocket world, 500).
        order: of Context's labels, "alphabetical" or "original", where the tree does not tell.

    Raises:
        ValueError: on an unknown name.
        DataError: on a tree that is not in the layout, or a list that is short; it says what was expected.
    """
    if name not in READERS:
        raise ValueError(f"unknown data set {name!r}: expected {', '.join(READERS)}")
    if limit < 0:
        raise ValueError(f"limit {limit}: expected 0 for all images, or how many")
    if str(root) == "":
        from .pocket.layouts import ensure_layout

        root = ensure_layout(name, split, limit or POCKET_IMAGES)
    if not Path(root).is_dir():
        raise DataError(f"{root} is no folder: expected the root of a {name} tree")
    found = READERS[name](Path(root), split, order)
    if not found.ids:
        raise DataError(f"the {split} split of {name} lists no image: expected {found.expected or 'some'}")
    return replace(found, ids=found.ids[:limit] if limit else found.ids)


# -- reading files -------------------------------------------------------------------------------


def read_picture(path: Path) -> np.ndarray:
    """A picture's raw pixels, H W 3, uint8, by content; 16 bit is scaled, never cut.

    Raises:
        DataError: if it is missing or broken.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image, [])
    except FileNotFoundError as error:
        raise DataError(f"no picture at {path}: the split lists it; restore the file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}): restore the file") from error


def read_mask(path: Path) -> np.ndarray:
    """Labels of a mask, H W, uint8: a palette's indices, grey values, or exact VOC colours.

    Raises:
        DataError: if it is missing or broken, or has colours that VOC's palette lacks.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("P", "L"):
                return np.array(image)
            if image.mode in ("I;16", "I"):
                return _narrow(np.array(image), path)
            return decode_colours(np.asarray(image.convert("RGB")), path)
    except FileNotFoundError as error:
        raise DataError(f"no mask at {path}: the split lists it; restore the file") from error
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as a mask ({error}): restore the file") from error


def _narrow(values: np.ndarray, path: Path) -> np.ndarray:
    if values.min() < 0 or values.max() > VOID:
        raise DataError(f"{path} holds values {values.min()}..{values.max()}: expected labels 0..{VOID}")
    return values.astype(np.uint8)


def decode_colours(pixels: np.ndarray, path: Path | str = "the mask") -> np.ndarray:
    """Labels of a mask that was saved as colours (H W 3, uint8), by VOC's palette, exactly.

    Raises:
        DataError: on a colour that the palette lacks.

    >>> decode_colours(np.array([[[0, 0, 0], [128, 0, 0], [224, 224, 192]]], np.uint8)).tolist()
    [[0, 1, 255]]
    """
    codes = {int(r) << 16 | int(g) << 8 | int(b): i for i, (r, g, b) in enumerate(voc_colours())}
    packed = pixels[..., 0].astype(np.int64) << 16 | pixels[..., 1].astype(np.int64) << 8 | pixels[..., 2]
    values, inverse = np.unique(packed, return_inverse=True)
    unknown = [f"#{value:06x}" for value in values.tolist() if value not in codes]
    if unknown:
        raise DataError(f"{path} has colours that are not VOC's: {', '.join(unknown[:5])}; expected a palette PNG, or its exact colours")
    return np.array([codes[value] for value in values.tolist()], np.uint8)[inverse].reshape(packed.shape)


def read_list(path: Path, name: str, split: str) -> tuple[tuple[str, ...], int]:
    """The ids of a split file, and how many the full split has; blank lines and CRLF are no matter.

    Raises:
        DataError: if it is missing, empty, or lists an id twice.
    """
    if not path.is_file():
        here = sorted(p.stem for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        raise DataError(f"no split file {path}: expected a text file with an id a line; {'here are: ' + ', '.join(here) if here else 'its folder has none'}")
    ids = [line.split()[0] for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    twice = sorted({one for one in ids if ids.count(one) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise DataError(f"{path} lists {len(twice)} ids twice, {twice[0]} the first: {len(ids)} lines, {len(set(ids))} different; remove the repeats")
    return tuple(ids), len(ids)


def _names(root: Path, standard: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Names with the background first, and whether the tree states its own in classes.txt."""
    own = root / "classes.txt"
    if not own.is_file():
        return ("background", *standard), False
    names = tuple(line.strip() for line in own.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) < 2 or names[0] != "background" or len(set(names)) < len(names):
        raise DataError(f"{own}: expected 'background' and then a different name a line, got {', '.join(names[:4])} ...")
    return names, True


def _year(root: Path, year: str, folder: str) -> tuple[Path, Path]:
    """The folder of a VOC year, and the root it was found from."""
    for place, top in ((root / "VOCdevkit" / year, root), (root / year, root.parent), (root, root.parent.parent)):
        if (place / folder).is_dir():
            return place, top
    raise DataError(f"{root} holds no VOCdevkit/{year}/{folder}: expected the folder that VOCdevkit is in")


def _check_count(name: str, split: str, ids: Sequence[str], own: bool) -> tuple[int, tuple[str, ...]]:
    """How many images the split should have; a list of another length than published is told in a note."""
    known = 0 if own else SPLIT_SIZES.get((name, split), 0)
    if known and len(ids) != known:
        return known, (f"the list of {split} has {len(ids)} ids, the published split {known}",)
    return len(ids), ()


# -- the three layouts ---------------------------------------------------------------------------


def _open_voc(root: Path, split: str, order: str) -> Dataset:
    place, top = _year(root, "VOC2012", "JPEGImages")
    names, own = _names(top, VOC)
    masks = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
    ids, _ = read_list(place / "ImageSets" / "Segmentation" / f"{split}.txt", "voc", split)
    expected, notes = _check_count("voc", split, ids, own)

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        return read_picture(place / "JPEGImages" / f"{name}.jpg"), read_mask(place / masks / f"{name}.png")

    return Dataset("voc", split, names, _prompts(names), ids, expected, notes, read)


def _open_context(root: Path, split: str, order: str) -> Dataset:
    place, top = _year(root, "VOC2010", "SegmentationClassContext")
    ids, _ = read_list(place / "ImageSets" / "SegmentationContext" / f"{split}.txt", "context", split)
    names, own = _names(top, CONTEXT)
    notes: tuple[str, ...] = ("label order: classes.txt",)
    if own and order:
        raise DataError(f"order={order!r} was asked for, and {top / 'classes.txt'} states the tree's own: give one of them")
    if not own:
        found, told = _context_order(place, ids)
        if order and order not in CONTEXT_ORDERS:
            raise DataError(f"order {order!r}: expected {' or '.join(CONTEXT_ORDERS)}")
        if order and found and order != found:
            raise DataError(f"order={order!r} was asked for, and {told} says that the masks are in the {found} order")
        if not (order or found):
            raise DataError("two label orders share this layout and the tree does not tell which it has: give order='alphabetical' or order='original'")
        names, notes = ("background", *CONTEXT_ORDERS[order or found]), (f"label order: {order or found} ({told if found else 'as asked'})",)
    expected, more = _check_count("context", split, ids, own)

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        return read_picture(place / "JPEGImages" / f"{name}.jpg"), read_mask(place / "SegmentationClassContext" / f"{name}.png")

    return Dataset("context", split, names, _prompts(names), ids, expected, notes + more, read)


def _context_order(place: Path, ids: Sequence[str], images: int = 40) -> tuple[str, str]:
    """The order of Context's labels in a tree ("" if nothing tells), and how it is known.

    The same photos have VOC masks in ``SegmentationClass``; an object's pixels carry VOC's label there and
    Context's here, and only one order maps the one to the other.
    """
    votes = dict.fromkeys(CONTEXT_ORDERS, 0)
    shared = {"diningtable": "table"}
    pairs = [i for i in ids if (place / "SegmentationClass" / f"{i}.png").is_file()][:images]
    for name in pairs:
        ours, theirs = read_mask(place / "SegmentationClassContext" / f"{name}.png"), read_mask(place / "SegmentationClass" / f"{name}.png")
        if ours.shape != theirs.shape:
            continue
        for label in np.unique(theirs[(theirs > 0) & (theirs <= len(VOC))]):
            inside = int(np.bincount(ours[theirs == label]).argmax())
            word = shared.get(VOC[label - 1], VOC[label - 1])
            for order, names in CONTEXT_ORDERS.items():
                votes[order] += names.index(word) + 1 == inside != 0
    if votes["alphabetical"] == votes["original"]:
        return "", ""
    return max(votes, key=lambda order: votes[order]), f"compared with SegmentationClass on {len(pairs)} images"


def _open_object(root: Path, split: str, order: str) -> Dataset:
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    tried = [(root / "annotations" / f"instances_{split}{year}.json", root / f"{split}{year}") for year in ("2017", "2014")]
    tree = next((pair for pair in tried if pair[0].is_file()), None)
    if tree is None:
        raise DataError(f"no annotations of {split} in {root}: expected {' or '.join(str(a) for a, _ in tried)}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(tree[0]))
        things = sorted(coco.cats.values(), key=lambda one: one["id"])
        images = {Path(one["file_name"]).stem: one for _, one in sorted(coco.imgs.items())}
    except (ValueError, KeyError, AssertionError, TypeError) as error:
        raise DataError(f"{tree[0]} is no COCO instances file ({error!r}): expected images, annotations and categories") from error
    place = {one["id"]: i for i, one in enumerate(things, start=1)}
    names, own = _names(root, [one["name"] for one in things])
    if len(names) != len(things) + 1:
        raise DataError(f"{root / 'classes.txt'} names {len(names) - 1} classes, {tree[0]} has {len(things)}: expected the same")
    expected, notes = _check_count("object", split, list(images), own or len(things) != 80)

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        facts = images[name]
        truth = np.zeros((facts["height"], facts["width"]), np.uint8)
        # Larger first, so that smaller lie on top; crowds before everything, as void.
        drawn = sorted(coco.imgToAnns[facts["id"]], key=lambda one: (not one.get("iscrowd", 0), -one["area"], one["id"]))
        for one in drawn:
            inside = rle.decode(coco.annToRLE(one)).astype(bool)
            truth[inside] = VOID if one.get("iscrowd", 0) else place[one["category_id"]]
        return read_picture(tree[1] / facts["file_name"]), truth

    return Dataset("object", split, names, _prompts(names), tuple(images), expected, (*notes, f"overlaps: {COCO_CONVENTION}"), read)


def _prompts(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(ALIASES.get(name, name) for name in names[1:])


READERS: Mapping[str, Callable[[Path, str, str], Dataset]] = {"voc": _open_voc, "context": _open_context, "object": _open_object}
