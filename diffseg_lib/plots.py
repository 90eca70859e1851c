"""Pictures for the chapters: every function takes an Axes (or several) and gives it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from .images import PALETTE

MAPS = "cividis"  # of every heat map: even in lightness, fit for colour-blind readers
INK = "#222222"


def use_style() -> None:
    """Small, sharp figures with little ink, on a white ground that dark pages can carry too."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.dpi": 90,
            "savefig.dpi": 90,
            "figure.facecolor": "white",
            "savefig.bbox": "tight",
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "image.interpolation": "nearest",
        }
    )


def class_colour(label: int) -> tuple[float, float, float]:
    """The colour of a label, 0..1; 0 is the background."""
    r, g, b = PALETTE[(label - 1) % (len(PALETTE) - 1) + 1] if label else PALETTE[0]
    return r / 255, g / 255, b / 255


def bare(ax: Axes, title: str = "") -> Axes:
    """No ticks, no frame; a title."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title)
    return ax


def picture(ax: Axes, pixels: np.ndarray, title: str = "") -> Axes:
    """A picture: H W 3, uint8."""
    ax.imshow(pixels)
    return bare(ax, title)


def heat(ax: Axes, values: np.ndarray, title: str = "", over: np.ndarray | None = None, limits: tuple[float, float] | None = None) -> Axes:
    """A map h w as colours from its least to its greatest value, or half-transparent over a picture."""
    low, high = limits or (float(values.min()), float(values.max()))
    if over is not None:
        h, w = over.shape[:2]
        ax.imshow(over)
        ax.imshow(values, cmap=MAPS, vmin=low, vmax=high, alpha=0.6, extent=(-0.5, w - 0.5, h - 0.5, -0.5))
    else:
        ax.imshow(values, cmap=MAPS, vmin=low, vmax=high)
    return bare(ax, title)


def outline(ax: Axes, mask: np.ndarray, colour: str = "white") -> Axes:
    """The edge of a mask H W, on an Axes that already shows something of that size."""
    h, w = mask.shape
    ax.contour(np.arange(w), np.arange(h), mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.2)
    return ax


def labels(ax: Axes, pixels: np.ndarray, found: np.ndarray, classes: Sequence[str], title: str = "", legend: bool = True) -> Axes:
    """Labels H W over a picture, each class in its colour with an outline, and named."""
    colours = ListedColormap([class_colour(i) for i in range(1, len(classes) + 1)])
    ax.imshow(pixels)
    ax.imshow(np.ma.masked_where((found == 0) | (found > len(classes)), found), cmap=colours, vmin=1, vmax=max(len(classes), 2), alpha=0.6)
    for i in range(1, len(classes) + 1):
        if (found == i).any() and not (found == i).all():
            outline(ax, found == i)
    if legend:
        handles = [Patch(color=class_colour(i), label=name) for i, name in enumerate(classes, start=1)]
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncol=min(3, len(classes)), frameon=False)
    return bare(ax, title)


def bars(ax: Axes, values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]] | None = None, xlabel: str = "", strong: str = "") -> Axes:
    """Horizontal bars, first on top, with 95 % intervals as whiskers; `strong` names one to stand out."""
    names = list(values)
    heights = [values[n] for n in names]
    ax.barh(names, heights, color=["#0077bb" if n == strong or not strong else "#bbbbbb" for n in names])
    for i, name in enumerate(names):
        low, high = intervals[name] if intervals else (values[name], values[name])
        if intervals:
            ax.plot([low, high], [i, i], color=INK, linewidth=1.2)
        ax.text(max(high, values[name]) + 0.6, i, f"{values[name]:.1f}", va="center")
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.margins(x=0.12)
    return ax


def curve(ax: Axes, x: Sequence[float], y: Sequence[float], label: str = "", marker: str = "o", **style: object) -> Axes:
    """A line with markers."""
    ax.plot(x, y, marker=marker, markersize=4, label=label, **style)  # type: ignore[arg-type]
    return ax


def strip(axes: Sequence[Axes], maps: Mapping[str, np.ndarray], truth: np.ndarray | None = None) -> Sequence[Axes]:
    """One heat map an Axes, each under its name, the outline of a mask drawn at each map's own scale."""
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        heat(ax, values, name)
        if truth is not None:
            h, w = values.shape
            H, W = truth.shape
            ax.contour((np.arange(W) + 0.5) * w / W - 0.5, (np.arange(H) + 0.5) * h / H - 0.5, truth.astype(float), levels=[0.5], colors="white", linewidths=1)
    return axes
