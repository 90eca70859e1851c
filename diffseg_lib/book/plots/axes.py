"""Pictures on one Axes: every function takes an Axes (or several) and gives it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ...support.images import PALETTE

MAPS = "cividis"  # of every heat map: even in lightness, fit for colour-blind readers
INK = "#222222"
Size = tuple[float, float]  # of a figure, inches


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
    """The colour of a label, 0..1; 0 is the background. The palette starts again after its last colour.

    Raises:
        ValueError: If the label is negative.

    >>> class_colour(0), class_colour(1) == class_colour(2)
    ((0.0, 0.0, 0.0), False)
    """
    if label < 0:
        raise ValueError(f"label {label}: expected 0 for the background, or the number of a class, 1 and up")
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
    """A picture: H W 3, uint8.

    Raises:
        ValueError: If the array has another shape.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"picture of shape {pixels.shape}: expected H x W x 3")
    ax.imshow(pixels)
    return bare(ax, title)


def heat(ax: Axes, values: np.ndarray, title: str = "", over: np.ndarray | None = None, limits: tuple[float, float] | None = None) -> Axes:
    """A map h w as colours from its least to its greatest value, or half-transparent over a picture.

    Args:
        ax: The Axes to draw on.
        values: The map, h w, of any range.
        title: Title above the panel.
        over: A picture to lie under the map, H W 3, uint8; the map is stretched to its size.
        limits: Values of the darkest and the brightest colour; needed where maps are to be compared.

    Raises:
        ValueError: If `values` is no single map, or is not finite.
    """
    if values.ndim != 2:
        raise ValueError(f"heat map of shape {values.shape}: expected one map h x w; index its class first")
    if not np.isfinite(values).all():
        raise ValueError("a heat map has values that are not finite: expected real numbers everywhere")
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
    """Labels H W over a picture, each class in its colour with an outline, and named.

    Args:
        ax: The Axes to draw on.
        pixels: The picture, H W 3, uint8.
        found: The labels, H W; i is the i-th class, 0 and what lies above the number of classes (void) stay uncovered.
        classes: Names of the classes, in the order of the labels.
        title: Title above the panel.
        legend: Whether the colours are named below the picture.

    Raises:
        ValueError: If labels and picture differ in size.
    """
    if found.shape != pixels.shape[:2]:
        raise ValueError(f"labels of shape {found.shape} over a picture of shape {pixels.shape}: expected the same height and width")
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


def bars(ax: Axes, values: Mapping[str, float], intervals: Mapping[str, tuple[float, float] | None] | None = None, xlabel: str = "", strong: str = "") -> Axes:
    """Horizontal bars, first on top, with 95 % intervals as whiskers (None has none); `strong` names one to stand out.

    Raises:
        ValueError: If a bar has no interval while others have.
    """
    without = [name for name in values if intervals is not None and name not in intervals]
    if without:
        raise ValueError(f"no interval for {', '.join(without)}: expected one (low, high) a bar")
    names = list(values)
    heights = [values[n] for n in names]
    ax.barh(names, heights, color=["#0077bb" if n == strong or not strong else "#bbbbbb" for n in names])
    for i, name in enumerate(names):
        interval = intervals[name] if intervals else None
        if interval:
            ax.plot(interval, [i, i], color=INK, linewidth=1.2)
        ax.text(max(interval[1] if interval else values[name], values[name]) + 0.6, i, f"{values[name]:.1f}", va="center")
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.margins(x=0.12)
    return ax


def curve(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    label: str = "",
    marker: str = "o",
    intervals: Sequence[tuple[float, float] | None] | None = None,
    **style: object,
) -> Axes:
    """A line with markers and, where given, its 95 % intervals as a band in the line's colour; where one is None the band has a gap.

    Raises:
        ValueError: If there is not one interval a point.
    """
    if intervals is not None and len(intervals) != len(x):
        raise ValueError(f"{len(intervals)} intervals for {len(x)} points: expected one (low, high) a point")
    (line,) = ax.plot(x, y, marker=marker, markersize=4, label=label, **style)  # type: ignore[arg-type]
    if intervals is not None:
        low, high = zip(*(one or (np.nan, np.nan) for one in intervals), strict=True)
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
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


def rows(axes: Sequence[Axes], runs: Mapping[str, Mapping[str, Any] | None], strong: str = "", xlabel: str = "mean IoU, %") -> Sequence[Axes]:
    """Rows of a study as bars with 95 % intervals, a panel a run.

    Args:
        axes: One Axes a run.
        runs: Rows by key for each title, each row with ``label``, ``value`` and ``ci95`` as attributes; a run that is None says "not run".
        strong: The key of a row to stand out.
        xlabel: Text below every panel.
    """
    for ax, (title, found) in zip(axes, runs.items(), strict=True):
        if found is None:
            bare(ax, title).text(0.5, 0.5, "not run", ha="center", va="center", transform=ax.transAxes)
            continue
        named = {one.label or name: one for name, one in found.items()}
        stands_out = found[strong].label or strong if strong in found else ""
        bars(ax, {name: one.value for name, one in named.items()}, {name: one.ci95 for name, one in named.items()}, xlabel, stands_out)
        ax.set_title(title)
        ax.set_xlim(0, 105)
    for ax in axes[1:]:
        ax.set_yticklabels([])
    return axes


VERDICT_COLOURS = {"reproduced": "#0077bb", "not reproduced": "#cc3311", "inconclusive": "#999999", "undecided": "#cccccc"}


def verdicts(ax: Axes, claims: Sequence[Any]) -> Axes:
    """Claims as effects with their 95 % intervals about zero, coloured and marked by verdict.

    Args:
        ax: The Axes to draw on.
        claims: The claims from the top; each has ``claim``, ``effect``, ``ci95`` and ``verdict`` as attributes.
    """
    marks = dict(zip(VERDICT_COLOURS, "osDx", strict=True))
    for kind, colour in VERDICT_COLOURS.items():
        places = [(y, row) for y, row in enumerate(claims) if row.verdict.split(":")[0] == kind]
        if kind == "undecided" and not places:
            continue
        ax.plot([row.effect for _, row in places], [y for y, _ in places], marks[kind], color=colour, label=f"{kind} ({len(places)})", markersize=5)
        for y, row in places:
            ax.plot(row.ci95 or [row.effect] * 2, [y, y], color=colour, linewidth=1.4)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(claims)), [row.claim for row in claims])
    ax.invert_yaxis()
    ax.set_xlabel("effect, points")
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(VERDICT_COLOURS))
    return ax


def confusion(ax: Axes, shares: np.ndarray, true: Sequence[str], found: Sequence[str]) -> Axes:
    """Shares 0..1 of each true class (a row) that got each label (a column); those of a hundredth or more are written as percent."""
    import seaborn

    text = np.where(shares >= 0.01, np.round(100 * shares).astype(int).astype(str), "")
    seaborn.heatmap(shares, ax=ax, cmap=MAPS, vmin=0, vmax=1, cbar=False, annot=text, fmt="", annot_kws={"size": 6}, xticklabels=found, yticklabels=true)
    ax.set(xlabel="label given", ylabel="true class, % of its pixels")
    return ax


def forest(ax: Axes, runs: Mapping[str, Mapping[str, Any] | None], names: Sequence[str], xlabel: str = "points of mean IoU") -> Axes:
    """Paired effects with their 95 % intervals about zero: a line an effect, a mark a run.

    Args:
        ax: The Axes to draw on.
        runs: Effects by key for each title, each effect with ``label``, ``value`` and ``ci95`` as attributes; a run that is None is left out.
        names: Keys of the effects, from the top.
        xlabel: Text below the axis.
    """
    shown = {title: found for title, found in runs.items() if found is not None}
    for i, (title, found) in enumerate(shown.items()):
        lift = (i - (len(shown) - 1) / 2) * 0.25
        places = [(row + lift, found[name]) for row, name in enumerate(names) if name in found]
        (marks,) = ax.plot([one.value for _, one in places], [y for y, _ in places], "os"[i % 2], markersize=5, label=title)
        for y, one in places:
            ax.plot(one.ci95 or [one.value] * 2, [y, y], color=marks.get_color(), linewidth=1.4)
    labels = {name: one.label or name for found in shown.values() for name, one in found.items()}
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(names)), [labels.get(name, name) for name in names])
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, 1.16), ncol=2)
    return ax


def ratios(axes: Sequence[Axes], groups: Mapping[str, Mapping[str, Mapping[str, Any]]], xlabel: str = "time, bare UNet forward = 1") -> Sequence[Axes]:
    """A dot and its range for every case, a panel a group; the line at 1 is what they are compared with.

    Args:
        axes: One Axes a group.
        groups: Cases by the name of their group, each with ``median`` and ``range``.
        xlabel: Text below every panel.
    """
    for ax, (name, cases) in zip(axes, groups.items(), strict=True):
        places = range(len(cases))
        low, middle, high = ([case["range"][0] for case in cases.values()], [c["median"] for c in cases.values()], [c["range"][1] for c in cases.values()])
        ax.axvline(1, color="#999999", linewidth=1)
        ax.hlines(places, low, high, color=INK, linewidth=1.2)
        ax.plot(middle, places, "o", color=INK, markersize=5)
        for place, value, end in zip(places, middle, high, strict=True):
            ax.annotate(f"{value:.2f}", (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        ax.set_yticks(places, list(cases))
        ax.invert_yaxis()
        ax.margins(x=0.15)
        ax.set_xlabel(xlabel)
        ax.set_title(name)
    for ax in list(axes)[1:]:
        if list(groups.values())[0].keys() == groups[ax.get_title()].keys():
            ax.set_yticklabels([])
    return axes


def stages(ax: Axes, bars_of: Mapping[str, Mapping[str, float]]) -> Axes:
    """One stacked bar a model, each stage's share of its time.

    Args:
        ax: The Axes to draw on.
        bars_of: Seconds by stage for each model's name; what recording saves (below 0) is drawn as nothing.
    """
    import seaborn as sns

    names = list(next(iter(bars_of.values())))
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    for place, (_, parts) in enumerate(bars_of.items()):
        kept = {name: max(value, 0.0) for name, value in parts.items()}
        total, left = sum(kept.values()), 0.0
        for name, value in kept.items():
            share = value / total
            ax.barh(place, share, left=left, color=colours[name], edgecolor="white", linewidth=0.8, label=name if place == 0 else None)
            if share > 0.05:
                ax.text(left + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=8, color="white")
            left += share
    ax.set_yticks(range(len(bars_of)), list(bars_of))
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_xlabel("share of one image's time")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), frameon=False, fontsize=8)
    return ax


def score_gallery(axes: np.ndarray, pictures: Sequence[np.ndarray], truths: Sequence[np.ndarray], scores: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """A column a picture: itself, then each method's score map of one word, from 0 to 1, with the outline of the truth.

    Args:
        axes: An array of Axes, (1 + methods) x pictures.
        pictures: The pictures, H W 3, uint8 each.
        truths: Where the word is, H W, bool each; nowhere draws no outline.
        scores: Score maps by method, H W in [0, 1], one mapping a picture.
    """
    for column, pixels, truth, maps in zip(axes.T, pictures, truths, scores, strict=True):
        picture(column[0], pixels)
        for ax, (name, values) in zip(column[1:], maps.items(), strict=True):
            heat(ax, values, limits=(0, 1))
            if truth.any():
                outline(ax, truth)
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel(name)
    return axes


def label_gallery(axes: np.ndarray, pictures: Sequence[np.ndarray], found: Sequence[Mapping[str, np.ndarray]], classes: Sequence[Sequence[str]]) -> np.ndarray:
    """A column a picture: labels by method (or the truth) over it, one under the other, the classes named under the last.

    Args:
        axes: An array of Axes, methods x pictures.
        pictures: The pictures, H W 3, uint8 each.
        found: Labels by method, H W, one mapping a picture; i is the i-th of its classes.
        classes: Names of the classes, one list a picture.
    """
    for column, pixels, maps, names in zip(axes.T, pictures, found, classes, strict=True):
        for ax, (method, values) in zip(column, maps.items(), strict=True):
            labels(ax, pixels, values, names, legend=False)
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel(method)
        handles = [Patch(color=class_colour(i), label=name) for i, name in enumerate(names, start=1)]
        column[-1].legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.02, 0), ncol=2, frameon=False, handlelength=0.9, columnspacing=1)
    return axes


def grid(rows: int, columns: int, size: Size, layout: str | None = "constrained", **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns Axes; without a layout, what stands beside them makes the picture larger, and not them smaller."""
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, **options)
