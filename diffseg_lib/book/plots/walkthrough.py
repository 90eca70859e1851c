"""Charts of the chapters that walk through the method: figures with their intervals in, a Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from . import axes as draw
from .axes import NARROW, Size, grid, stack


def curves(
    lines: Mapping[str, Mapping[float, Any]], xlabel: str, ylabel: str, size: Size = (NARROW, 3.2), styles: Sequence[Mapping[str, Any]] = (), zero: bool = False
) -> Figure:
    """Figures with 95 % intervals over a number, a line each.

    Args:
        lines: Figures by the number for each label; a figure has ``value`` and ``ci95``.
        xlabel: What the number is.
        ylabel: What the figures are.
        size: Size of the figure, inches.
        styles: Styles of the lines, as :func:`~diffseg_lib.book.plots.curve` takes them; none takes the defaults.
        zero: Whether to draw a line at zero.
    """
    figure, [[ax]] = grid(1, 1, size, layout=None)
    for (label, figures), style in zip(lines.items(), styles or [{}] * len(lines), strict=True):
        values, bands = [one.value for one in figures.values()], [one.ci95 for one in figures.values()]
        draw.curve(ax, list(figures), values, label, intervals=bands, **style)
    if zero:
        ax.axhline(0, color=draw.INK, linewidth=0.8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if any(lines):
        ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def cost_curve(runs: Mapping[str, Any], draws_of: Any, attention: str) -> Figure:
    """Mean IoU of the ELBO baseline over UNet evaluations an image, and one attention call as a star, a colour a run.

    Args:
        runs: Results by title (``rows``, ``calls``, ``numbers``), or None for a run that there is not.
        draws_of: From a number of draws to its row's key.
        attention: The key of the attention call's row.
    """
    figure, [[ax]] = grid(1, 1, (NARROW, 3.4), layout=None)
    for title, run in runs.items():
        if run is None:
            continue
        rows = [(run.calls[draws_of(k)], run.rows[draws_of(k)]) for k in run.numbers]
        draw.curve(ax, [x for x, _ in rows], [one.value for _, one in rows], f"ELBO, {title}", intervals=[one.ci95 for _, one in rows])
        colour, one, calls = ax.lines[-1].get_color(), run.rows[attention], run.calls[attention]
        ax.plot(calls, one.value, "*", markersize=13, color=colour, label=f"attention, {title}")
        ax.plot([calls] * 2, one.ci95 or [one.value] * 2, color=colour)
    ax.set(xlabel="UNet evaluations an image", ylabel="mean IoU, %", xscale="log", ylim=(0, 100), xlim=(1, 100))
    ax.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    ax.set_xticks([], minor=True)
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def auc_bars(layers: Mapping[str, Any]) -> Figure:
    """AUC of each layer with its 95 % interval, the best one strong, chance as a dotted line."""
    figure, [ax] = stack([len(layers)])
    best = max(layers.values(), key=lambda one: one.value)
    draw.bars(ax, {one.label: one.value for one in layers.values()}, {one.label: one.ci95 for one in layers.values()}, "AUC, %", best.label)
    ax.axvline(50, color=draw.INK, linewidth=0.8, linestyle=":", zorder=1)
    ax.set_xlim(30, 105)
    return figure


def effects_and_exponents(runs: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """Paired effects of prompts about zero, beside the mean IoU over the number of "+", a colour a run.

    Args:
        runs: Results by title (``effects``, ``curve()``), or None for a run that there is not.
        names: Keys of the effects, from the top.
    """
    figure, axes = stack([len(names), 5])
    draw.forest(axes[0], {title: run and run.effects for title, run in runs.items()}, names)
    for title, run in runs.items():
        if run:
            x, y, bands = run.curve()
            draw.curve(axes[1], x, y, title, intervals=bands)
    axes[1].set(xlabel="number of “+” on the class, p", ylabel="mean IoU, %")
    axes[1].legend(frameon=False, loc="lower left")
    return figure


def timestep_curves(runs: Mapping[str, Any], row_of: Any, average: str) -> Figure:
    """Mean IoU over the timestep and over the signal-to-noise ratio, a colour a run; dotted, the row of the mean of timesteps.

    Args:
        runs: Results by title (``rows``, ``timesteps``, ``snr``), or None for a run that there is not.
        row_of: From a timestep to its row's key.
        average: The key of the row of the mean.
    """
    figure, axes = stack([5, 5])
    for title, run in runs.items():
        if run is None:
            continue
        rows = [run.rows[row_of(t)] for t in run.timesteps]
        for ax, x in zip(axes, (run.timesteps, run.snr), strict=True):
            draw.curve(ax, x, [one.value for one in rows], title, intervals=[one.ci95 for one in rows])
        axes[0].axhline(run.rows[average].value, linewidth=0.8, linestyle=":", color=axes[0].lines[-1].get_color())
    axes[0].set(xlabel="timestep t (dotted: mean of four)", ylabel="mean IoU, %")
    axes[1].set(xlabel="signal-to-noise ratio", ylabel="mean IoU, %", xscale="log")
    axes[1].invert_xaxis()
    axes[0].legend(frameon=False)
    return figure


def precision_recall(curves_of: Mapping[str, Sequence[Any]], chosen: float) -> Figure:
    """Precision over recall of the words kept, a line a source, a star where there is one point, a ring at the chosen threshold.

    Args:
        curves_of: Points (``relative``, ``precision``, ``recall``) by source.
        chosen: The relative threshold that is ringed.
    """
    figure, [[ax]] = grid(1, 1, (NARROW, 3.6), layout=None)
    for source, points in curves_of.items():
        marker, size = ("o-", 4) if len(points) > 1 else ("*", 12)
        ax.plot([p.recall for p in points], [p.precision for p in points], marker, markersize=size, label=source)
        ring = min(points, key=lambda p: abs(p.relative - chosen))
        ax.plot(ring.recall, ring.precision, "o", markersize=10, fillstyle="none", color=ax.lines[-1].get_color())
    ax.set(xlabel="recall of the classes present", ylabel="precision of the classes kept", xlim=(0, 1.02), ylim=(0, 1.02))
    ax.legend(frameon=False, loc="lower left")
    return figure
