"""Figures of what the experiments measured: results in, a Figure out.

Results are read by attribute: a row and an effect have ``label``, ``value`` and ``ci95``, a result has ``rows`` and ``effects``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import axes as draw
from .axes import Size, grid


def study_rows(*lines: Mapping[str, Any], strong: str = "", size: Size = (9.5, 3.2)) -> Figure:
    """Mean IoU of a study's variants as bars with 95 % intervals, a panel a run.

    Args:
        lines: Lines of panels, each by title: a result (its ``rows`` are drawn), rows by key, or None for a run that there is not.
        strong: The key of a row to stand out.
        size: Size of the figure, inches.
    """
    figure, axes = grid(len(lines), max(len(line) for line in lines), size)
    for panels, line in zip(axes, lines, strict=True):
        draw.rows(panels, {title: getattr(run, "rows", run) for title, run in line.items()}, strong)
    return figure


def study_effects(runs: Mapping[str, Any], names: Sequence[str] = (), size: Size = (7, 4.2)) -> Figure:
    """Paired effects of a study about zero, with 95 % intervals, a mark a run.

    Args:
        runs: Results by title (their ``effects`` are drawn), or None for a run that there is not.
        names: Keys of the effects, from the top; none takes all of the first run's.
        size: Size of the figure, inches.
    """
    figure, [[ax]] = grid(1, 1, size, layout=None)
    effects = {title: run and run.effects for title, run in runs.items()}
    draw.forest(ax, effects, names or list(next(iter(effects.values()))))
    return figure


def class_report(names: Sequence[str], confusion: np.ndarray | Sequence[Sequence[int]], iou: Mapping[str, float | None], size: Size = (11, 4.6)) -> Figure:
    """Of each true class the share of its pixels that got each label, beside the classes' IoU from the highest down.

    Args:
        names: The classes in the order of their labels.
        confusion: Pixels by true class and label given, C C.
        iou: IoU by class, percent; None for a class that does not occur.
        size: Size of the figure, inches.
    """
    matrix = np.asarray(confusion, float)
    occurs = matrix.sum(1) > 0
    shares = matrix[occurs] / matrix[occurs].sum(1, keepdims=True)
    figure, [[left, right]] = grid(1, 2, size, gridspec_kw={"width_ratios": [3, 2]})
    draw.confusion(left, shares, [name for name, there in zip(names, occurs, strict=True) if there], names)
    known = {name: value for name, value in iou.items() if value is not None}
    draw.bars(right, dict(sorted(known.items(), key=lambda one: -one[1])), xlabel="IoU, %", strong="background")
    right.set_xlim(0, 110)
    return figure


def measure_bars(measures: Mapping[str, Mapping[str, Any]], strong: str = "", columns: int = 2, size: Size = (8.4, 3.6)) -> Figure:
    """Several measures of the same rows, a panel each, with 95 % intervals; rows are named in the first column alone.

    Args:
        measures: Rows by key for the text below each panel, each row with ``label``, ``value`` and ``ci95`` as attributes.
        strong: The key of a row to stand out.
        columns: Panels beside each other.
        size: Size of the figure, inches.
    """
    figure, axes = grid(-(-len(measures) // columns), columns, size)
    for ax, (unit, rows) in zip(axes.flat, measures.items(), strict=False):
        values, intervals = ({row.label: getattr(row, part) for row in rows.values()} for part in ("value", "ci95"))
        draw.bars(ax, values, intervals, unit, rows[strong].label if strong else "")
    for ax in axes[:, 1:].flat:
        ax.set_yticklabels([])
    return figure


def bar_figure(values: Mapping[str, float], xlabel: str, size: Size = (7, 2.2)) -> Figure:
    """Values as horizontal bars, the first on top."""
    figure, [[ax]] = grid(1, 1, size, layout=None)
    draw.bars(ax, values, xlabel=xlabel)
    return figure


def claim_forest(rows: Sequence[Any]) -> Figure:
    """The claims that were measured as effects about zero, by verdict; rows of a ledger, see :func:`verdicts`."""
    measured = [row for row in rows if row.effect is not None]
    figure, [[ax]] = grid(1, 1, (8, 0.27 * len(measured) + 0.8), layout=None)
    draw.verdicts(ax, measured)
    return figure


def ratio_panels(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], reference: str = "bare") -> Figure:
    """Times against a reference: a panel a number of classes, a dot and its range a case.

    Args:
        tables: Cases by the number of classes, each with ``ratio``: ``median`` and ``range``.
        reference: The case that all are compared with, and that is not drawn.
    """
    figure, axes = grid(1, len(tables), (3.2 * len(tables) + 2.5, 2.9))
    draw.ratios(axes[0], {f"C = {k}": {name: row["ratio"] for name, row in rows.items() if name != reference} for k, rows in tables.items()})
    return figure


def cost_by_classes(grown: Mapping[str, Any], result: Any = None, datasets: Sequence[str] = (), asked: str = "true") -> Figure:
    """Time against the number of classes, a line a way, on logarithmic axes; beside it what each way loses, with 95 % intervals.

    Args:
        grown: Measured ratios: ``rows`` has by number of classes and way a ``ratio`` with its ``median``.
        result: A study of the ways, whose ``effects`` are named data set, `asked`, way; None draws the costs alone.
        datasets: Data sets whose effects are drawn.
        asked: What the study asked.
    """
    figure, [[left, right]] = grid(1, 2, (10, 3.2), gridspec_kw={"width_ratios": [3, 2]})
    numbers = [int(k) for k in grown["rows"]]
    for way, mark in zip(next(iter(grown["rows"].values())), "os^D", strict=False):
        left.plot(numbers, [ways[way]["ratio"]["median"] for ways in grown["rows"].values()], f"{mark}-", markersize=4, label=way)
    left.set(xscale="log", yscale="log", xlabel="classes", ylabel="time, bare forward of one row = 1")
    left.set_xticks(numbers, [str(k) for k in numbers])
    left.minorticks_off()
    left.legend(frameon=False)
    names = [f"{name}_{asked}_{way}" for name in datasets for way in ("joint", "side")]
    if result is not None:
        draw.forest(right, {"points against a row a class": result.effects}, names)
        right.set_yticks(range(len(names)), [name.replace(f"_{asked}_", ": ") for name in names])
    else:
        right.set_axis_off()
    return figure


def stage_bars(models: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Each stage's share of one image's time, a bar a model: name of a model to stages, each with its ``median`` in seconds."""
    figure, [[ax]] = grid(1, 1, (8.5, 1.6), layout=None)
    draw.stages(ax, {name: {stage: row["median"] for stage, row in rows.items()} for name, rows in models.items()})
    return figure


def recall_by_size(sizes: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> Figure:
    """The share of an object that is found, by its size, with 95 % intervals over objects.

    Args:
        sizes: The share by row and size: ``label`` (of the size), ``value``, ``ci95``, ``objects`` as attributes.
        labels: The rows to draw, with their names.
    """
    figure, [[ax]] = grid(1, 1, (7, 2.8), layout=None)
    for i, (row, label) in enumerate(labels.items()):
        found = list(sizes[row].values())
        ends = [one.ci95 or (one.value, one.value) for one in found]
        low, high = ([sign * (one.value - end[i]) for one, end in zip(found, ends, strict=True)] for i, sign in enumerate((1, -1)))
        places = [j + (i - (len(labels) - 1) / 2) * 0.14 for j in range(len(found))]
        ax.errorbar(places, [one.value for one in found], [low, high], fmt="o", markersize=5, label=label)
    first = list(sizes[next(iter(labels))].values())
    ax.set_xticks(range(len(first)), [f"{one.label} of the picture\n({one.objects} objects)" for one in first])
    ax.set_ylabel("found of an object, %")
    ax.legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def sure_curves(curves: Mapping[str, Sequence[Any]], most: float = 0.7) -> Figure:
    """Mean IoU on the pixels that are kept, as the least probability of a label rises; the numbers at the points are those probabilities.

    Args:
        curves: Points by label: ``sure``, ``kept`` (both 0 to 1), ``miou`` (percent) as attributes.
        most: The largest probability that is drawn, 0 to 1.
    """
    figure, [[ax]] = grid(1, 1, (5.5, 3), layout=None)
    for label, points in curves.items():
        shown = [one for one in points if one.sure <= most]
        ax.plot([100 * one.kept for one in shown], [one.miou for one in shown], "o-", label=label)
        for one in shown[1:]:
            ax.annotate(f"{one.sure:g}", (100 * one.kept, one.miou), textcoords="offset points", xytext=(4, 4), fontsize=7)
    ax.set(xlabel="pixels kept, %", ylabel="mean IoU on them, %")
    ax.invert_xaxis()
    ax.legend()
    return figure


def losses_and_rows(curves: Mapping[str, Sequence[tuple[int, float]]], rows: Mapping[str, Any], title: str, strong: str = "") -> Figure:
    """Loss curves of networks, beside their mean IoU as bars with 95 % intervals.

    Args:
        curves: Points (update, loss) by row.
        rows: Mean IoU by row: ``label``, ``value``, ``ci95`` as attributes.
        title: Title above the bars.
        strong: The key of a row to stand out.
    """
    figure, axes = grid(1, 2, (9.5, 2.6), gridspec_kw={"width_ratios": [3, 2]})
    left, right = axes[0]
    for name, curve in curves.items():
        left.plot(*zip(*curve, strict=True), label=rows[name].label)
    left.set(xlabel="update", ylabel="loss on its own masks")
    left.legend()
    draw.rows([right], {title: rows}, strong)
    return figure
