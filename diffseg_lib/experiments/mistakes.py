"""Where masks are wrong: their mistakes by kind."""

from __future__ import annotations

import numpy as np

from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import boundary_band, mean_interval
from .measure import Estimate

EDGE = 3  # px from a true edge within which an error is called one of the boundary
KINDS = (f"within {EDGE} px of a true edge", "thing called background", "background called a thing", "thing called another thing")


def kinds_of_errors(drawn: Dataset, made: Dataset) -> dict[str, Estimate]:
    """Wrong labels of masks by kind, in percent of the pixels that both label: the boundary's first, the others are those farther inside.

    Args:
        drawn: The images with their true labels.
        made: The same images under the masks.
    """
    shares = []
    for name in made.ids:
        truth, mask = drawn.load(name).truth, made.load(name).truth
        seen = (truth != VOID) & (mask != VOID)
        wrong, edge = seen & (truth != mask), boundary_band(truth, EDGE)
        parts = (edge, ~edge & (truth > 0) & (mask == 0), ~edge & (truth == 0), ~edge & (truth > 0) & (mask > 0))
        shares.append([100 * (wrong & part).sum() / max(1, seen.sum()) for part in parts])
    values = np.array(shares)
    return {kind: Estimate(label=kind, value=float(one.mean()), ci95=mean_interval(one), images=len(one)) for kind, one in zip(KINDS, values.T, strict=True)}
