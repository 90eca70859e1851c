"""Where masks are wrong: their mistakes by kind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import boundary_band, mean_interval
from .measure import Estimate

EDGE = 3  # px from a true edge within which an error is called one of the boundary
KINDS = (f"within {EDGE} px of a true edge", "thing called background", "background called a thing", "thing called another thing")


def mistakes(truth: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Where a mask is wrong, by kind: H W, bool each, no pixel in two; void of either is never among them.

    Args:
        truth: Labels, H W, 255 void.
        mask: The mask, H W, labels or 255.
    """
    wrong, edge = (truth != VOID) & (mask != VOID) & (truth != mask), boundary_band(truth, EDGE)
    parts = (edge, ~edge & (truth > 0) & (mask == 0), ~edge & (truth == 0), ~edge & (truth > 0) & (mask > 0))
    return {kind: wrong & part for kind, part in zip(KINDS, parts, strict=True)}


def _shares(drawn: Dataset, made: Dataset) -> Iterator[list[float]]:
    """Of each image the percent of the pixels that both label that are wrong, by kind."""
    for name in made.ids:
        truth, mask = drawn.load(name).truth, made.load(name).truth
        seen = max(1, int(((truth != VOID) & (mask != VOID)).sum()))
        yield [100 * int(one.sum()) / seen for one in mistakes(truth, mask).values()]


def kinds_of_errors(drawn: Dataset, made: Dataset) -> dict[str, Estimate]:
    """Wrong labels of masks by kind, in percent of the pixels that both label: the boundary's first, the others are those farther inside.

    Args:
        drawn: The images with their true labels.
        made: The same images under the masks.
    """
    values = np.array(list(_shares(drawn, made)))
    return {kind: Estimate(label=kind, value=float(one.mean()), ci95=mean_interval(one), images=len(one)) for kind, one in zip(KINDS, values.T, strict=True)}


def most_of_each(drawn: Dataset, made: Dataset) -> dict[str, str]:
    """By kind of mistake the id of the image that has more of it than any other, the first of several; kinds that no image has are left out.

    Args:
        drawn: The images with their true labels.
        made: The same images under the masks.
    """
    values = np.array(list(_shares(drawn, made)))
    return {kind: made.ids[int(one.argmax())] for kind, one in zip(KINDS, values.T, strict=True) if one.any()}
