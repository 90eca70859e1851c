"""Reading single files of a data set: pictures, masks, lists of ids, lists of names."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..support.images import Photo, to_rgb, voc_colours
from .samples import VOID, DataError

MERGED = "trainval_merged.json"  # Context's annotations, as its organisers publish them
_ORIENTATION = 0x0112  # EXIF's tag


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    """An image file, decoded to its end; what is wrong with it as a DataError with its path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                yield image
    except FileNotFoundError as error:
        raise DataError(f"no {what} at {path}: the split lists it; restore the file") from error
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a {what} ({error}): restore the file") from error


def read_picture(path: Path) -> Photo:
    """A picture's raw pixels by its content: EXIF is not applied, 16 bit are scaled and never cut; the notes say what was done.

    Args:
        path: Path of the picture.

    Raises:
        DataError: If it is missing or broken.
    """
    notes: list[str] = []
    with _opened(path, "picture") as image:
        pixels = to_rgb(image, notes)
        if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
            notes.append("its EXIF orientation is not applied: masks are drawn on raw pixels")
    return Photo(pixels, tuple(notes))


def read_mask(path: Path) -> np.ndarray:
    """Labels of a mask, H W, uint8: a palette's indices, grey values, or exact VOC colours.

    Args:
        path: Path of the mask.

    Raises:
        DataError: If it is missing or broken, or has colours that VOC's palette lacks.
    """
    with _opened(path, "mask") as image:
        if image.mode in ("P", "L"):
            return np.array(image)
        if image.mode not in ("I;16", "I;16B", "I"):
            return decode_colours(np.asarray(image.convert("RGB")), path)
        values = np.array(image)
        if values.min() < 0 or values.max() > VOID:
            raise DataError(f"{path} holds values {values.min()}..{values.max()}: expected labels 0..{VOID}")
        return values.astype(np.uint8)


def decode_colours(pixels: np.ndarray, path: Path | str = "the mask") -> np.ndarray:
    """Labels of a mask that was saved as colours, by VOC's palette, exactly.

    Args:
        pixels: Colours of the mask, H W 3, uint8.
        path: Path of the mask, for errors.

    Raises:
        DataError: On a colour that the palette lacks.

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


def read_lines(path: Path) -> dict[int, str]:
    """The lines of a text file by their numbers, stripped, without comments (``#``) and blank ones; CRLF and a byte order mark do not matter.

    Args:
        path: Path of the file.

    Raises:
        DataError: If it is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    stripped = {number: re.split(r"(?:^|\s)#", line)[0].strip() for number, line in enumerate(lines, start=1)}
    return {number: line for number, line in stripped.items() if line}


def read_list(path: Path, sizes: Sequence[int] = ()) -> tuple[str, ...]:
    """The ids of a split file, in the shapes that lists of VOC and Context have.

    A line is an id (``2007_000033``) or the path of a picture (``/JPEGImages/2007_000033.jpg``), and after it may come the path of its mask, or whole numbers,
    as in VOC's lists of a class (``2007_000033 -1``: those images are of the split, the class is not in them); neither is used.

    Args:
        path: Path of the list.
        sizes: Numbers of images that the full split has; () if they are not known. They are used for the messages only.

    Raises:
        DataError: If it is missing, empty, has a line of another shape (it is given), or lists an id twice; the counts expected and found are named.
    """
    wanted = f"{' or '.join(map(str, sizes))} ids" if sizes else "an id a line"
    if not path.is_file():
        here = sorted(p.stem for p in path.parent.glob("*.txt"))
        merged = next((one / MERGED for one in path.parents[:3] if (one / MERGED).is_file() and path.stem in ("train", "val")), None)
        told = f"{merged} is no list: write the names of its images of phase {path.stem!r}, a line each" if merged else ""
        told = told or (f"here are: {', '.join(here)}" if here else "its folder has none")
        raise DataError(f"no split file {path}: expected a text file of {wanted}; {told}")
    ids = [_id_of(path, number, line) for number, line in read_lines(path).items()]
    if not ids:
        raise DataError(f"{path} lists no image: expected {wanted}; restore the list")
    twice = [one for one, times in Counter(ids).items() if times > 1]
    if twice:
        found = f"{len(ids)} lines, {len(set(ids))} different"
        raise DataError(f"{path} lists {len(twice)} ids more than once, {twice[0]} the first: {found}, expected {wanted}; remove the repeats")
    return tuple(ids)


def _id_of(path: Path, number: int, line: str) -> str:
    """The id in a line of a list."""
    picture, *more = line.split()
    name = _stem(picture)
    if re.fullmatch(r"[\w.-]+", name) and (all(re.fullmatch(r"[+-]?\d{1,2}", word) for word in more) or [_stem(word) for word in more] == [name]):
        return name
    shown = line if len(line) <= 80 else f"{line[:80]} ..."
    raise DataError(f"{path}, line {number}, is {shown!r}: expected an id, or the path of a picture and that of its mask, of one name; restore the line")


def _stem(path: str) -> str:
    """The last part of a path, without the ending of a picture."""
    return re.sub(r"\.(jpe?g|png)$", "", re.split(r"[/\\]", path)[-1], flags=re.IGNORECASE)


def read_names(*roots: Path) -> tuple[str, ...]:
    """The names in ``classes.txt`` of the first root that has one, background first; () if none has.

    Args:
        roots: Folders, in the order in which they are looked at.

    Raises:
        DataError: On a list that does not start with the background, has no more, or repeats a name.
    """
    path = next((root / "classes.txt" for root in roots if (root / "classes.txt").is_file()), None)
    if path is None:
        return ()
    names = tuple(read_lines(path).values())
    if len(names) < 2 or names[0] != "background" or len(set(names)) < len(names):
        raise DataError(f"{path}: expected 'background' and then a different name a line, got {', '.join(names[:4])} ...")
    return names
