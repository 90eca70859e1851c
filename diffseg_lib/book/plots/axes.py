"""Pictures on one Axes: every function takes an Axes (or several) and gives it back."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .panels import MAPS

INK = "#222222"
NARROW = 4.3  # width of a chart, inches: a phone shows it at eight tenths, and its text of 12 points, the page's 16 px, as 12 to 13 px
LONGEST = 46  # characters of a line that such a chart has room for
Size = tuple[float, float]  # of a figure, inches


def use_style() -> None:
    """Charts as SVG whose text is as large as a page's (12 points are 16 px), on a white ground that dark pages can carry too."""
    import matplotlib.pyplot as plt
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None})
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "font.size": 12,
            "axes.titlesize": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "book",
        }
    )


def bare(ax: Axes, title: str = "") -> Axes:
    """No ticks, no frame; a title."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title)
    return ax


def wrapped(name: str) -> str:
    """A row's name in lines that a chart is wide enough for."""
    return textwrap.fill(name, LONGEST)


def name_rows(ax: Axes, names: Sequence[str]) -> Axes:
    """Names of the rows 0, 1, ... of a chart, the first on top, each above its row, so that they take none of its width."""
    ax.set_yticks([place - 0.3 for place in range(len(names))], [wrapped(name) for name in names], ha="left", va="bottom", linespacing=1.1)
    ax.tick_params(axis="y", length=0, pad=-2)
    for name in ax.get_yticklabels():
        name.set_bbox({"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.5})
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(names) - 0.55, -0.85)
    return ax


PLACES = ((6, 4), (6, -14), (-20, 4), (-20, -14), (-5, 12), (-5, -22), (20, 4), (20, -14), (-36, 4), (-36, -14))  # points from a mark to its text


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (left, low, right, high) do."""
    return one[0] <= other[2] and one[2] >= other[0] and one[1] <= other[3] and one[3] >= other[1]


def number_marks(ax: Axes, marks: Sequence[tuple[float, float, str]]) -> Axes:
    """A short text beside each mark (x, y, text), where it covers no mark and no earlier text; a line joins them where the first place is taken.

    Scales and limits are set before.
    """
    ax.autoscale_view()
    at = ax.transData.transform([(x, y) for x, y, _ in marks]) * 72 / ax.figure.dpi
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in at]
    for (x, y), (across, up, text) in zip(at, marks, strict=True):
        boxes = {place: (x + place[0], y + place[1] - 1, x + place[0] + 8 * len(text), y + place[1] + 10) for place in PLACES}
        free = [place for place, box in boxes.items() if not any(_overlap(box, other) for other in taken)]
        place = [*free, PLACES[0]][0]
        taken.append(boxes[place])
        line = {"arrowstyle": "-", "linewidth": 0.6, "color": "#777777", "shrinkA": 0, "shrinkB": 2} if place != PLACES[0] else None
        ax.annotate(text, (across, up), place, textcoords="offset points", arrowprops=line)
    return ax


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
    ax.barh(range(len(names)), heights, 0.45, color=["#0077bb" if n == strong or not strong else "#bbbbbb" for n in names])
    for i, name in enumerate(names):
        interval = intervals[name] if intervals else None
        if interval:
            ax.plot(interval, [i, i], color=INK, linewidth=1.2)
        end = max(interval[1] if interval else values[name], values[name])
        ax.annotate(f"{values[name]:.1f}", (end, i), xytext=(5, 0), textcoords="offset points", va="center")
    name_rows(ax, names)
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
        ax.set_title(title, loc="left")
        ax.set_xlim(0, 105)
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
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)  # behind the rows' names
    name_rows(ax, [row.claim for row in claims])
    ax.set_xlabel("effect, points")
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax


def confusion(ax: Axes, shares: np.ndarray, true: Sequence[str], found: Sequence[str]) -> Axes:
    """Shares 0..1 of each true class (a row) that got each label (a column); those of a hundredth or more are written as percent."""
    import seaborn

    text = np.where(shares >= 0.01, np.round(100 * shares).astype(int).astype(str), "")
    seaborn.heatmap(shares, ax=ax, cmap=MAPS, vmin=0, vmax=1, cbar=False, annot=text, fmt="", annot_kws={"size": 9}, xticklabels=found, yticklabels=true)
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
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)  # behind the rows' names
    name_rows(ax, [labels.get(name, name) for name in names])
    ax.set_xlabel(xlabel)
    if shown:
        ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=1)
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
        ax.axvline(1, color="#999999", linewidth=1, zorder=1)
        ax.hlines(places, low, high, color=INK, linewidth=1.2)
        ax.plot(middle, places, "o", color=INK, markersize=5)
        for place, value, end in zip(places, middle, high, strict=True):
            ax.annotate(f"{value:.2f}", (end, place), xytext=(4, 0), textcoords="offset points", va="center")
        name_rows(ax, list(cases))
        ax.margins(x=0.15)
        ax.set_xlabel(xlabel)
        ax.set_title(name, loc="left")
    return axes


def stages(ax: Axes, bars_of: Mapping[str, Mapping[str, float]]) -> Axes:
    """One stacked bar a model, each stage's share of its time.

    Args:
        ax: The Axes to draw on.
        bars_of: Seconds by stage for each model's name; what recording saves (below 0) is drawn as nothing.
    """
    import seaborn as sns

    names = list(next(iter(bars_of.values())))
    name_rows(ax, list(bars_of))
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    for place, (_, parts) in enumerate(bars_of.items()):
        kept = {name: max(value, 0.0) for name, value in parts.items()}
        total, left = sum(kept.values()), 0.0
        for name, value in kept.items():
            share = value / total
            ax.barh(place, share, 0.45, left=left, color=colours[name], edgecolor="white", linewidth=0.8, label=name if place == 0 else None)
            if share > 0.1:
                ax.text(left + share / 2, place, f"{share:.0%}", ha="center", va="center", color="white")
            left += share
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_xlabel("share of one image's time")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False)
    return ax


def grid(rows: int, columns: int, size: Size, layout: str | None = "constrained", **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns Axes; without a layout, what stands beside them makes the picture larger, and not them smaller."""
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, **options)


def stack(charts: Sequence[int | Sequence[str]], width: float = NARROW) -> tuple[Figure, list[Axes]]:
    """A figure of charts one below the other, narrow enough for a phone to show its text.

    Args:
        charts: Number of rows of each chart, or their names: it is as high as they ask for.
        width: Width of the figure, inches.
    """
    rows = [chart if isinstance(chart, int) else len(chart) * (0.6 + 0.4 * max(wrapped(name).count("\n") + 1 for name in chart)) for chart in charts]
    heights = [0.47 * count + 0.75 for count in rows]
    figure, axes = grid(len(rows), 1, (width, sum(heights)), height_ratios=heights)
    return figure, list(axes[:, 0])
