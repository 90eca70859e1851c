"""Figures of what the experiments measured: results in, a Figure out.

Results are read by attribute: a row and an effect have ``label``, ``value`` and ``ci95``, a result has ``rows`` and ``effects``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from . import axes as draw
from .axes import LONGEST, NARROW, grid, stack


def study_rows(*lines: Mapping[str, Any], strong: str = "") -> Figure:
    """Mean IoU of a study's variants as bars with 95 % intervals, a chart a run, one below the other.

    Args:
        lines: Charts by title: a result (its ``rows`` are drawn), rows by key, or None for a run that there is not.
        strong: The key of a row to stand out.
    """
    runs = {title: getattr(run, "rows", run) for line in lines for title, run in line.items()}
    figure, axes = stack([[one.label or name for name, one in (found or {}).items()] or 1 for found in runs.values()])
    draw.rows(axes, runs, strong)
    return figure


def study_effects(runs: Mapping[str, Any], names: Sequence[str] = ()) -> Figure:
    """Paired effects of a study about zero, with 95 % intervals, a mark a run.

    Args:
        runs: Results by title (their ``effects`` are drawn), or None for a run that there is not.
        names: Keys of the effects, from the top; none takes all of the first run's.
    """
    effects = {title: run and run.effects for title, run in runs.items()}
    named = names or list(next(iter(effects.values())))
    labels = {name: one.label or name for found in effects.values() if found for name, one in found.items()}
    figure, [ax] = stack([[labels.get(name, name) for name in named]])
    draw.forest(ax, effects, named)
    return figure


def class_confusion(names: Sequence[str], confusion: np.ndarray | Sequence[Sequence[int]]) -> Figure:
    """Of each true class that occurs the share of its pixels that got each label.

    Args:
        names: The classes in the order of their labels.
        confusion: Pixels by true class and label given, C C.
    """
    matrix = np.asarray(confusion, float)
    occurs = matrix.sum(1) > 0
    shares = matrix[occurs] / matrix[occurs].sum(1, keepdims=True)
    figure, [ax] = stack([12], 7.2)
    draw.confusion(ax, shares, [name for name, there in zip(names, occurs, strict=True) if there], names)
    return figure


def class_bars(iou: Mapping[str, float | None]) -> Figure:
    """IoU by class, percent, from the highest down; None for a class that does not occur, which is left out."""
    known = {name: value for name, value in iou.items() if value is not None}
    figure, [ax] = stack([len(known)])
    draw.bars(ax, dict(sorted(known.items(), key=lambda one: -one[1])), xlabel="IoU, %")
    ax.set_xlim(0, 110)
    return figure


def measure_bars(measures: Mapping[str, Mapping[str, Any]], strong: str = "", alike: bool = False) -> Figure:
    """Several measures of the same rows, a chart each, with 95 % intervals.

    Args:
        measures: Rows by key for the text below each chart, each row with ``label``, ``value`` and ``ci95`` as attributes.
        strong: The key of a row to stand out.
        alike: Whether the charts have one scale, for measures of one unit.
    """
    figure, axes = stack([[row.label for row in rows.values()] for rows in measures.values()])
    for ax, (unit, rows) in zip(axes, measures.items(), strict=True):
        values, intervals = ({row.label: getattr(row, part) for row in rows.values()} for part in ("value", "ci95"))
        draw.bars(ax, values, intervals, unit, rows[strong].label if strong else "")
    if alike:
        most = max(ax.get_xlim()[1] for ax in axes)
        for ax in axes:
            ax.set_xlim(0, most)
    return figure


def bar_figure(values: Mapping[str, float], xlabel: str) -> Figure:
    """Values as horizontal bars, the first on top."""
    figure, [ax] = stack([len(values)])
    draw.bars(ax, values, xlabel=xlabel)
    return figure


def claim_forest(rows: Sequence[Any]) -> Figure:
    """The claims that were measured as effects about zero, by verdict; rows of a ledger, see :func:`verdicts`."""
    measured = [row for row in rows if row.effect is not None]
    figure, [ax] = stack([[row.claim for row in measured] or 1])
    draw.verdicts(ax, measured)
    return figure


def accuracy_against_cost(panels: Mapping[str, Mapping[str, Any]], strong: Sequence[str] = ()) -> Figure:
    """Methods by what they cost and how well they segment, with 95 % intervals, a panel a data set; the number beside a mark is that of the list below.

    Args:
        panels: Rows by title and key; each has ``label``, ``seconds`` (an image), ``value`` and ``ci95`` as attributes.
        strong: Keys of rows to stand out.
    """
    names = list(dict.fromkeys(key for rows in panels.values() for key in rows))
    numbers, labels = {key: i for i, key in enumerate(names, start=1)}, {key: row.label for rows in panels.values() for key, row in rows.items()}
    figure, axes = stack([7] * len(panels))
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        for key, row in rows.items():
            colour = "#cc3311" if key in strong else "#0077bb"
            ax.plot([row.seconds] * 2, row.ci95 or [row.value] * 2, color=colour, linewidth=1.2)
            ax.plot(row.seconds, row.value, "o", color=colour, markersize=5)
        ax.set_xscale("log")
        draw.number_marks(ax, [(row.seconds, row.value, str(numbers[key])) for key, row in rows.items()])
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.xaxis.set_minor_formatter("{x:g}")
        ax.set_title(title)
        ax.set_xlabel("seconds per image, one core")
        ax.set_ylabel("mean IoU, %")
    told = [textwrap.fill(f"{numbers[key]} {labels[key]}", LONGEST, subsequent_indent="    ") for key in names]
    figure.text(0.02, -0.02, "\n".join(told), va="top")
    return figure


def ratio_panels(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], reference: str = "bare") -> Figure:
    """Times against a reference: a panel a number of classes, a dot and its range a case.

    Args:
        tables: Cases by the number of classes, each with ``ratio``: ``median`` and ``range``.
        reference: The case that all are compared with, and that is not drawn.
    """
    figure, axes = stack([len(rows) - (reference in rows) for rows in tables.values()])
    draw.ratios(axes, {f"C = {k}": {name: row["ratio"] for name, row in rows.items() if name != reference} for k, rows in tables.items()})
    return figure


def cost_by_classes(grown: Mapping[str, Any], result: Any = None, datasets: Sequence[str] = (), asked: str = "true") -> Figure:
    """Time against the number of classes, a line a way, on logarithmic axes; below it what each way loses, with 95 % intervals.

    Args:
        grown: Measured ratios: ``rows`` has by number of classes and way a ``ratio`` with its ``median``.
        result: A study of the ways, whose ``effects`` are named data set, `asked`, way; None draws the costs alone.
        datasets: Data sets whose effects are drawn.
        asked: What the study asked.
    """
    numbers = [int(k) for k in grown["rows"]]
    names = [f"{name}_{asked}_{way}" for name in datasets for way in ("joint", "side")] if result is not None else []
    figure, [above, *below] = stack([6, len(names)] if names else [6])
    for way, mark in zip(next(iter(grown["rows"].values())), "os^D", strict=False):
        above.plot(numbers, [ways[way]["ratio"]["median"] for ways in grown["rows"].values()], f"{mark}-", markersize=4, label=way)
    above.set(xscale="log", yscale="log", xlabel="classes", ylabel="time, bare forward of one row = 1")
    above.set_xticks(numbers, [str(k) for k in numbers])
    above.minorticks_off()
    above.legend(frameon=False)
    for ax in below:
        draw.forest(ax, {"points against a row a class": result.effects}, names)
        draw.name_rows(ax, [name.replace(f"_{asked}_", ": ") for name in names])
    return figure


def stage_bars(models: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Each stage's share of one image's time, a bar a model: name of a model to stages, each with its ``median`` in seconds."""
    figure, [ax] = stack([len(models) + 3])  # of which three are the key
    draw.stages(ax, {name: {stage: row["median"] for stage, row in rows.items()} for name, rows in models.items()})
    return figure


def recall_by_size(sizes: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> Figure:
    """The share of an object that is found, by its size, with 95 % intervals over objects.

    Args:
        sizes: The share by row and size: ``label`` (of the size), ``value``, ``ci95``, ``objects`` as attributes.
        labels: The rows to draw, with their names.
    """
    figure, [[ax]] = grid(1, 1, (NARROW, 3.6), layout=None)
    for i, (row, label) in enumerate(labels.items()):
        found = list(sizes[row].values())
        ends = [one.ci95 or (one.value, one.value) for one in found]
        low, high = ([sign * (one.value - end[i]) for one, end in zip(found, ends, strict=True)] for i, sign in enumerate((1, -1)))
        places = [j + (i - (len(labels) - 1) / 2) * 0.14 for j in range(len(found))]
        ax.errorbar(places, [one.value for one in found], [low, high], fmt="o", markersize=5, label=label)
    first = list(sizes[next(iter(labels))].values())
    ax.set_xticks(range(len(first)), [f"{one.label} of it\n({one.objects} objects)" for one in first])
    ax.set_ylabel("found of an object, %")
    ax.legend(frameon=False, bbox_to_anchor=(0, 1), loc="lower left")
    return figure


def sure_curves(curves: Mapping[str, Sequence[Any]], most: float = 0.7) -> Figure:
    """Mean IoU on the pixels that are kept, as the least probability of a label rises; the numbers at the points are those probabilities.

    Args:
        curves: Points by label: ``sure``, ``kept`` (both 0 to 1), ``miou`` (percent) as attributes.
        most: The largest probability that is drawn, 0 to 1.
    """
    figure, [[ax]] = grid(1, 1, (NARROW, 3.4), layout=None)
    for label, points in curves.items():
        shown = [one for one in points if one.sure <= most]
        ax.plot([100 * one.kept for one in shown], [one.miou for one in shown], "o-", label=label)
    ax.set(xlabel="pixels kept, %", ylabel="mean IoU on them, %")
    ax.invert_xaxis()
    draw.number_marks(ax, [(100 * one.kept, one.miou, f"{one.sure:g}") for points in curves.values() for one in points[1:] if one.sure <= most])
    ax.legend(frameon=False, bbox_to_anchor=(0, 1), loc="lower left")
    return figure


def losses_and_rows(curves: Mapping[str, Sequence[tuple[int, float]]], rows: Mapping[str, Any], title: str, strong: str = "") -> Figure:
    """Loss curves of networks, above their mean IoU as bars with 95 % intervals.

    Args:
        curves: Points (update, loss) by row.
        rows: Mean IoU by row: ``label``, ``value``, ``ci95`` as attributes.
        title: Title above the bars.
        strong: The key of a row to stand out.
    """
    figure, [left, right] = stack([5, len(rows)])
    for name, curve in curves.items():
        left.plot(*zip(*curve, strict=True), label=rows[name].label)
    left.set(xlabel="update", ylabel="loss on its own masks")
    left.legend()
    draw.rows([right], {title: rows}, strong)
    return figure
