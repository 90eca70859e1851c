"""Pictures of the first chapter: small matrices with their numbers, one scene's truths, a bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .axes import INK, NARROW, bare, grid
from .panels import MAPS, Panels, labels, picture


def _panels(count: int, columns: int, height: float) -> tuple[Figure, list[Any]]:
    rows = -(-count // columns)
    figure, axes = grid(rows, columns, (1.1 * NARROW, height * rows))  # squares, which leave room beside them
    flat = list(np.ravel(axes))
    for ax in flat[count:]:
        ax.axis("off")
    return figure, flat[:count]


def number_grids(grids: Mapping[str, np.ndarray], rows: Sequence[str] = (), columns: Sequence[str] = (), beside: int = 2, height: float = 2.1) -> Figure:
    """Matrices as squares with their numbers in them, all on one scale from 0 to 1.

    Args:
        grids: Title to a matrix, r x s.
        rows: Names of the rows of the first matrix.
        columns: Names of the columns of the first matrix.
        beside: Number of panels beside each other.
        height: Height of a panel, inches.
    """
    figure, axes = _panels(len(grids), beside, height)
    for i, (ax, (title, values)) in enumerate(zip(axes, grids.items(), strict=True)):
        ax.imshow(values, cmap=MAPS, vmin=0, vmax=1)
        bare(ax, title)
        for (row, column), value in np.ndenumerate(values):
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=10, color="white" if value < 0.6 else INK)
        if i == 0:
            ax.set_yticks(range(len(rows)), rows)
            ax.set_xticks(range(len(columns)), columns)
            ax.tick_params(length=0)
    return figure


def truths(pixels: np.ndarray, labelled: Mapping[str, tuple[np.ndarray, Sequence[str]]]) -> Panels:
    """A picture, and its true labels as several data sets have them.

    Args:
        pixels: The picture, H W 3, uint8.
        labelled: Title to labels H W (255 is void) and the names of all labels, background first.
    """
    drawn = [labels(truth, names[1:], title) for title, (truth, names) in labelled.items()]
    return Panels([[picture(pixels, "picture"), *drawn]], columns=2)


def resampled(means: Mapping[str, np.ndarray], difference: np.ndarray, unit: str) -> Figure:
    """Means of resampled images as histograms: those of each method above, those of their paired difference below.

    Args:
        means: Method to its means, one a resample.
        difference: Means of the paired difference, one a resample.
        unit: Label of the axes.
    """
    figure, axes = grid(2, 1, (NARROW, 4))
    above, below = np.ravel(axes)
    for (name, values), colour in zip(means.items(), ("#0077bb", "#ee7733"), strict=False):
        above.hist(values, bins=30, alpha=0.6, color=colour, label=name)
    above.legend(frameon=False)
    below.hist(difference, bins=30, color="#5a6b7b")
    below.axvline(0, color=INK, lw=1, ls=":")
    above.set_xlabel(f"{unit}: each by itself")
    below.set_xlabel(f"{unit}:\nsecond minus first, on the same images")
    for ax in (above, below):
        ax.set_yticks([])
    return figure
