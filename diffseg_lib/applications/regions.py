"""Regions of a label map as COCO writes them: runs, or polygons along the pixels' borders, with what is inside and what is a hole kept.

A polygon of the borders, with corners at whole numbers, is drawn by pycocotools as exactly the pixels that it came from; simplified, it stays within so
many pixels of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

TOLERANCE = 1.0  # px, that a polygon may leave a border


def encode(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """A mask as COCO's compressed runs, plain values: ``size`` [height, width], ``counts`` a string.

    >>> encode(np.ones((2, 3), bool))
    {'size': [2, 3], 'counts': '06'}
    """
    from pycocotools import mask as runs

    coded = runs.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in coded["size"]], "counts": coded["counts"].decode("ascii")}


def decode(runs: dict[str, Any]) -> Bool[np.ndarray, "H W"]:
    """The mask of compressed runs."""
    from pycocotools import mask

    return np.asarray(mask.decode(runs), bool)


def parts(mask: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """The connected parts of a mask, pixels that share a side, numbered from 1 by their first pixels, row by row; 0 is outside."""
    return np.asarray(ndimage.label(mask)[0])


def polygons(mask: Bool[np.ndarray, "H W"], tolerance: float = TOLERANCE) -> list[list[float]]:
    """A mask as COCO's polygons, one for each connected part: x and y in turn, px from the upper left corner of the picture.

    A hole is reached by a bridge of no width from the outline, along which the polygon goes there and back, since COCO has no holes: pycocotools, and whatever
    else fills by parity, draws it as a hole.

    Args:
        mask: The mask.
        tolerance: How far, px, a simplified outline may be from the true one; 0 keeps every corner, and pycocotools then draws the very mask.
    """
    numbers, found = parts(mask), []
    for i, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
        loops = [_simplified(loop, tolerance) for loop in _outlines(numbers[rows, columns] == i)]
        joined = _joined(sorted(loops, key=lambda loop: -abs(_area(loop)))) + (columns.start, rows.start)
        found.append([float(value) for value in joined.ravel()])
    return found


def _outlines(mask: Bool[np.ndarray, "H W"]) -> list[Float[np.ndarray, "n 2"]]:
    """The closed borders of a connected mask, corners (x, y) alone, the first one again at the end; what is inside lies to the right."""
    padded = np.pad(mask, 1)
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}  # of the borders that leave a corner
    for dy, dx, start, end in ((-1, 0, (0, 0), (1, 0)), (1, 0, (1, 1), (0, 1)), (0, 1, (1, 0), (1, 1)), (0, -1, (0, 1), (0, 0))):
        outside = np.roll(padded, (-dy, -dx), (0, 1))
        for y, x in np.argwhere(padded & ~outside) - 1:
            ends.setdefault((int(x) + start[0], int(y) + start[1]), []).append((int(x) + end[0], int(y) + end[1]))
    loops = []
    while ends:
        here = next(iter(ends))
        way, loop = (0, 0), []
        while here in ends:
            out = ends[here]  # where two parts meet at a corner, keep to the same pixel: turn right
            there = next((one for one in out if (one[0] - here[0], one[1] - here[1]) == (-way[1], way[0])), out[0])
            out.remove(there)
            if not out:
                del ends[here]
            turn = (there[0] - here[0], there[1] - here[1])
            if turn != way:
                loop.append(here)
            here, way = there, turn
        loops.append(np.array([*loop, loop[0]], float))
    return loops


def _simplified(loop: Float[np.ndarray, "n 2"], tolerance: float) -> Float[np.ndarray, "m 2"]:
    """A closed line of fewer corners, none of its old ones further than the tolerance from it; a line that would vanish stays as it is."""
    from skimage.measure import approximate_polygon

    if tolerance <= 0:
        return loop
    half = int(np.abs(loop - loop[0]).sum(1).argmax())  # two ends that stay, far from each other
    there, back = (approximate_polygon(way, tolerance) for way in (loop[: half + 1], loop[half:]))
    fewer = np.concatenate([there[:-1], back])
    return fewer if len(fewer) > 3 and abs(_area(fewer)) >= 0.5 * abs(_area(loop)) else loop


def _area(loop: Float[np.ndarray, "n 2"]) -> float:
    """The area inside a closed line, negative for a hole."""
    x, y = loop.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _joined(loops: list[Float[np.ndarray, "n 2"]]) -> Float[np.ndarray, "m 2"]:
    """An outline and its holes as one line, not closed: each hole is entered from the corner next to it, and left the same way."""
    line = loops[0][:-1]
    for hole in loops[1:]:
        apart = ((line[:, None] - hole[None, :-1]) ** 2).sum(-1)
        at, start = np.unravel_index(apart.argmin(), apart.shape)
        ring = np.concatenate([hole[start:-1], hole[: start + 1]])
        line = np.concatenate([line[: at + 1], ring, line[at:]])
    return line
