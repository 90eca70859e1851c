"""Pictures of more than eight bits a sample: what their files say of the depth, and how they are brought to eight."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BITS_PER_SAMPLE, MAX_SAMPLE, S_MAX_SAMPLE = 258, 281, 341  # tags of TIFF
GUESSES = (8, 10, 12)  # depths that are put into sixteen bits without a word of it; 14 cannot be told from a dark picture


def raw_mode(image: Image.Image) -> str:
    """How the samples lie in the file of a picture that is opened and not loaded yet, in Pillow's words, as in "RGB;16B"; "" if that is not known."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3]
        return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    return ""


def stated_top(image: Image.Image) -> int:
    """The largest value that a sample can have by what the file says; 0 if it says nothing beyond the size of its samples.

    TIFF says it by BitsPerSample and the two tags of the largest sample, PNG by its chunk sBIT.

    Args:
        image: A picture, opened.
    """
    tags: Any = getattr(image, "tag_v2", None)
    if tags is not None:
        bits = _largest(tags.get(BITS_PER_SAMPLE))
        tops = [top for tag in (MAX_SAMPLE, S_MAX_SAMPLE) if 255 < (top := _largest(tags.get(tag))) < 65535]
        return min(tops) if tops else (1 << bits) - 1 if 8 < bits < 16 else 0
    bits = _significant_bits(getattr(image, "filename", "")) if image.format == "PNG" else 0
    return (1 << bits) - 1 if 8 <= bits < 16 else 0


def _largest(value: Any) -> int:
    try:
        return int(max(value)) if isinstance(value, tuple) else int(value or 0)
    except (TypeError, ValueError):
        return 0


def _significant_bits(path: Any) -> int:
    """The chunk sBIT of a PNG: the most bits that a colour had before it was stored; 0 without one."""
    if not path or not Path(path).is_file():
        return 0
    with Path(path).open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"sBIT":
                return max(file.read(min(length, 4)), default=0)
            if name in (b"IDAT", b"PLTE", b"IEND"):
                break
            file.seek(length + 4, 1)
    return 0


def to_eight(values: np.ndarray, stated: int, notes: list[str]) -> np.ndarray:
    """Samples of sixteen bits as eight, by a table.

    The scale is what the file says. PNG wants samples stretched to sixteen bits whatever sBIT says, so its word counts only where no sample is above it.
    Where nothing is said and every sample would fit fewer bits than sixteen, those bits are taken, since else the picture would be all but black.

    Args:
        values: Samples, of any shape, uint16.
        stated: Largest value by the file, of :func:`stated_top`.
        notes: List that what was done is added to, where it is not the scale of sixteen bits.
    """
    brightest, top = int(values.max(initial=0)), 65535
    if stated > 0 and brightest <= stated:
        top = stated
        notes.append(f"scaled by its largest possible value, {top}, as the file says")
    elif fitting := [bits for bits in GUESSES if brightest < 1 << bits]:
        top = (1 << fitting[0]) - 1
        notes.append(f"no sample of its 16 bits is above {brightest}: taken as {fitting[0]} bits, or the picture would be all but black")
    table = (np.arange(65536).clip(max=top) / top * 255).round().astype(np.uint8)
    return table[values]


def deep_samples(image: Image.Image, high: np.ndarray, raw: str) -> np.ndarray | None:
    """All sixteen bits of a picture of which Pillow keeps the upper eight: its file is read once more, for the lower ones.

    Args:
        image: The picture, loaded from a file.
        high: What Pillow made of it, H W c, uint8.
        raw: How the samples lie in the file, of :func:`raw_mode` before it was loaded: of ``;16B``, ``;16L`` or ``;16N``.

    Returns:
        Samples, H W c, uint16; None where there is no file, or Pillow has no way to read its lower bytes.
    """
    mode, _, order = raw.partition(";16")
    path = getattr(image, "filename", "")
    if not path or mode not in ("RGB", "RGBA"):
        return None
    native = "L" if sys.byteorder == "little" else "B"
    swapped = "B" if (native if order == "N" else order) == "L" else "L"
    with Image.open(path) as again:
        again.tile = [tile._replace(args=_with_raw(tile.args, f"{mode};16{swapped}")) for tile in again.tile]  # type: ignore[attr-defined]
        again.load()
        low = np.asarray(again)
    return (high.astype(np.uint16) << 8) | low if low.shape == high.shape else None


def _with_raw(arguments: Any, raw: str) -> Any:
    return (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
