"""Figures of the chapters that walk through the method: pictures, maps and figures in, a Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from . import axes as draw
from .axes import Size, grid

GROUND = (0.9, 0.9, 0.9)  # the background's colour where labels are drawn flat


def found_in(pixels: np.ndarray, scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figure:
    """A picture, the score map of each word (0 to 1), and the labels.

    Args:
        pixels: The picture, H W 3, uint8.
        scores: Score maps of the k words, k H W in [0, 1].
        labels: Labels found, H W; i is the i-th name, 0 the background.
        names: The k words.
    """
    count = len(names) + 2
    figure, [axes] = grid(1, count, (2.1 * count, 2.6), layout=None)
    draw.picture(axes[0], pixels, "the picture")
    for ax, name, values in zip(axes[1:], names, scores, strict=False):
        draw.heat(ax, values, f"score of “{name}”", limits=(0, 1))
    draw.labels(axes[-1], pixels, labels, names, "the labels")
    return figure


def tiles(rows: Sequence[Sequence[np.ndarray]], size: Size, titles: Sequence[str] = (), row_titles: Sequence[str] = ()) -> Figure:
    """Pictures close together, a row after the other.

    Args:
        rows: Rows of pictures, H W 3, uint8, or of heat maps, H W.
        size: Size of the figure, inches.
        titles: Titles of the columns; none leaves them out.
        row_titles: Titles of the rows; none leaves them out.
    """
    figure, axes = grid(len(rows), len(rows[0]), size, layout=None)
    for line, shown in zip(axes, rows, strict=True):
        for ax, one in zip(line, shown, strict=True):
            draw.picture(ax, one) if one.ndim == 3 else draw.heat(ax, one)
    for ax, text in zip(axes[0], titles, strict=False):
        ax.set_title(text)
    for ax, text in zip(axes[:, 0], row_titles, strict=False):
        ax.set_ylabel(text)
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    return figure


def titled_pictures(pictures: Mapping[str, np.ndarray], size: Size) -> Figure:
    """Pictures in a row under their titles."""
    figure, [axes] = grid(1, len(pictures), size, layout=None)
    for ax, (title, pixels) in zip(axes, pictures.items(), strict=True):
        draw.picture(ax, pixels, title)
    return figure


def flat_labels(panels: Mapping[str, np.ndarray], names: Sequence[str], columns: int, size: Size) -> Figure:
    """Label pictures in flat colours under their titles, and below them what the colours mean; void is white.

    Args:
        panels: Labels by title, H W, 255 void.
        names: Names of the labels, background first.
        columns: The number of pictures in a line.
        size: Size of the figure, inches.
    """
    figure, axes = grid(-(-len(panels) // columns), columns, size, layout="constrained")
    colours = np.ones((256, 3))
    colours[: len(names)] = [GROUND, *(draw.class_colour(label) for label in range(1, len(names)))]
    for ax in axes.flat:
        draw.bare(ax)
    for ax, (title, labels) in zip(axes.flat, panels.items(), strict=False):
        draw.bare(ax, title).imshow(colours[labels], interpolation="nearest")
    handles = [Patch(color=colours[label], label=name) for label, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncol=len(names), frameon=False)
    return figure


def things_and_ground(pixels: np.ndarray, things: np.ndarray, ground: np.ndarray, names: Sequence[str], grounds: Sequence[str]) -> Figure:
    """A scene, the labels of its things and those of its ground: H W each, 0 for what is neither."""
    figure, [axes] = grid(1, 3, (7, 2.4), layout=None)
    draw.picture(axes[0], pixels, "the picture")
    draw.labels(axes[1], pixels, things, names, "things", legend=False)
    draw.labels(axes[2], pixels, ground, grounds, "ground", legend=False)
    return figure


def curves(
    lines: Mapping[str, Mapping[float, Any]], xlabel: str, ylabel: str, size: Size = (4.6, 2.6), styles: Sequence[Mapping[str, Any]] = (), zero: bool = False
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
        ax.legend(frameon=False)
    return figure


def errors_by_word(pixels: np.ndarray, without: np.ndarray, better: Mapping[str, np.ndarray]) -> Figure:
    """A scene, the denoising error without words, and by how much each word lowers it, at one symmetric scale (99th percentile)."""
    figure, [axes] = grid(1, 2 + len(better), (2.3 * (2 + len(better)), 2.4), layout=None)
    limit = max(float(np.quantile(np.abs(one), 0.99)) for one in better.values())
    draw.picture(axes[0], pixels, "scene")
    draw.heat(axes[1], without, "error without words")
    for ax, (name, one) in zip(axes[2:], better.items(), strict=True):
        draw.heat(ax, one, name, limits=(-limit, limit))
    return figure


def score_strip(scores: Mapping[str, np.ndarray], size: Size) -> Figure:
    """Score maps in a row under their titles, all from 0 to 1."""
    figure, [axes] = grid(1, len(scores), size, layout=None)
    for ax, (title, one) in zip(axes, scores.items(), strict=True):
        draw.heat(ax, one, title, limits=(0, 1))
    return figure


def cost_curve(runs: Mapping[str, Any], draws_of: Any, attention: str) -> Figure:
    """Mean IoU of the ELBO baseline over UNet evaluations an image, and one attention call as a star, a colour a run.

    Args:
        runs: Results by title (``rows``, ``calls``, ``numbers``), or None for a run that there is not.
        draws_of: From a number of draws to its row's key.
        attention: The key of the attention call's row.
    """
    figure, [[ax]] = grid(1, 1, (5.6, 3), layout=None)
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
    ax.legend(frameon=False, fontsize=8)
    return figure


def layer_maps(pixels: np.ndarray, word: str, layers: Mapping[str, np.ndarray], mask: np.ndarray, columns: int = 6) -> Figure:
    """A picture and the map of one word in every layer, each at its own scale, with the object's outline."""
    lines = len(layers) // columns + 1
    figure, axes = grid(lines, columns, (10, 1.9 * lines), layout=None)
    draw.picture(axes.flat[0], pixels, f"“{word}” in")
    draw.strip(list(axes.flat[1 : len(layers) + 1]), layers, mask)
    for ax in axes.flat[len(layers) + 1 :]:
        ax.set_visible(False)
    return figure


def maps_by_word(
    pixels: np.ndarray, truth: np.ndarray, words: Sequence[str], maps: Mapping[str, np.ndarray], size: Size, inside: bool = False, labels: Any = None
) -> Figure:
    """A row a word: the picture, then its maps, each at its own scale, with the object's outline; labels last, if they are given.

    Args:
        pixels: The picture, H W 3, uint8.
        truth: The true labels, H W; i is the i-th word.
        words: The k words.
        maps: Maps of the k words by title, of any height and width.
        size: Size of the figure, inches.
        inside: Whether the title says "in" after the word.
        labels: Labels to show last, H W, or None.
    """
    figure, axes = grid(len(words), 1 + len(maps) + (labels is not None), size, layout=None)
    for k, (word, line) in enumerate(zip(words, axes, strict=True)):
        draw.picture(line[0], pixels, f"“{word}”" + (" in" if inside else ""))
        draw.strip(line[1 : 1 + len(maps)], {title: one[k] for title, one in maps.items()}, truth == k + 1)
        if labels is not None:
            draw.labels(line[-1], pixels, labels, words, "labels")
    return figure


def map_strip(pixels: np.ndarray | None, word: str, maps: Mapping[str, np.ndarray], mask: np.ndarray, size: Size) -> Figure:
    """A picture, unless it is None, and maps of one word beside it, each at its own scale, with the object's outline."""
    figure, [axes] = grid(1, len(maps) + (pixels is not None), size, layout=None)
    if pixels is not None:
        draw.picture(axes[0], pixels, f"“{word}” in")
    draw.strip(axes[int(pixels is not None) :], maps, mask)
    return figure


def auc_bars(layers: Mapping[str, Any]) -> Figure:
    """AUC of each layer with its 95 % interval, the best one strong, chance as a dotted line."""
    figure, [[ax]] = grid(1, 1, (6, 3.2), layout=None)
    best = max(layers.values(), key=lambda one: one.value)
    draw.bars(ax, {one.label: one.value for one in layers.values()}, {one.label: one.ci95 for one in layers.values()}, "AUC, %", best.label)
    ax.axvline(50, color=draw.INK, linewidth=0.8, linestyle=":")
    ax.set_xlim(30, 105)
    return figure


def score_bars(panels: Mapping[str, Mapping[str, Any]], strong: str, size: Size) -> Figure:
    """Mean IoU (``miou``, ``ci95``) as bars, panels beside each other under their titles ("" for none), one bar strong."""
    figure, [axes] = grid(1, len(panels), size, layout=None, sharex=True)
    for ax, (title, scores) in zip(axes, panels.items(), strict=True):
        draw.bars(ax, {n: s.miou for n, s in scores.items()}, {n: s.ci95 for n, s in scores.items()}, "pocket mean IoU, %", strong)
        ax.set_title(title)
    for ax in axes[1:]:
        ax.set_yticklabels([])
    if len(axes) > 1:
        axes[0].set_xlim(0, 90)
    return figure


def attention_rows(pixels: np.ndarray, truth: np.ndarray, matrix: np.ndarray, points: Sequence[tuple[int, int]], size: tuple[int, int]) -> Figure:
    """Where some pixels look: a picture with the pixels marked, and for each its row of a self-attention matrix, as a square root.

    Args:
        pixels: The picture, H W 3, uint8.
        truth: The true labels, H W; 1 is the object that is outlined.
        matrix: The self-attention matrix, n n.
        points: Places of the pixels, row and column of the picture each.
        size: Height and width of the maps, h * w = n.
    """
    (h, w), (height, width) = size, truth.shape
    figure, [axes] = grid(1, 1 + len(points), (2.1 * (1 + len(points)), 2.3), layout=None)
    draw.picture(axes[0], pixels, "three pixels")
    for ax, (y, x), colour in zip(axes[1:], points, ("#ee7733", "#ee3377", "#33bbee"), strict=True):
        row = matrix[(y * h // height) * w + x * w // width].reshape(h, w)
        draw.strip([ax], {"what this pixel attends to": np.sqrt(row)}, truth == 1)
        axes[0].plot(x, y, "o", markersize=8, markeredgecolor="white", color=colour)
        ax.plot(x * w / width - 0.5, y * h / height - 0.5, "o", markersize=7, markeredgecolor="white", color=colour)
    return figure


def effects_and_exponents(runs: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """Paired effects of prompts about zero, beside the mean IoU over the number of "+", a colour a run.

    Args:
        runs: Results by title (``effects``, ``curve()``), or None for a run that there is not.
        names: Keys of the effects, from the top.
    """
    figure, [axes] = grid(1, 2, (10.5, 3), layout=None, gridspec_kw={"width_ratios": [3, 2], "wspace": 0.3})
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
    figure, [axes] = grid(1, 2, (9.5, 3), layout=None, sharey=True)
    for title, run in runs.items():
        if run is None:
            continue
        rows = [run.rows[row_of(t)] for t in run.timesteps]
        for ax, x in zip(axes, (run.timesteps, run.snr), strict=True):
            draw.curve(ax, x, [one.value for one in rows], title, intervals=[one.ci95 for one in rows])
        axes[0].axhline(run.rows[average].value, linewidth=0.8, linestyle=":", color=axes[0].lines[-1].get_color())
    axes[0].set(xlabel="timestep t (dotted: mean of four)", ylabel="mean IoU, %")
    axes[1].set(xlabel="signal-to-noise ratio", xscale="log")
    axes[1].invert_xaxis()
    axes[0].legend(frameon=False)
    return figure


def precision_recall(curves_of: Mapping[str, Sequence[Any]], chosen: float) -> Figure:
    """Precision over recall of the words kept, a line a source, a star where there is one point, a ring at the chosen threshold.

    Args:
        curves_of: Points (``relative``, ``precision``, ``recall``) by source.
        chosen: The relative threshold that is ringed.
    """
    figure, [[ax]] = grid(1, 1, (4.6, 3), layout=None)
    for source, points in curves_of.items():
        marker, size = ("o-", 4) if len(points) > 1 else ("*", 12)
        ax.plot([p.recall for p in points], [p.precision for p in points], marker, markersize=size, label=source)
        ring = min(points, key=lambda p: abs(p.relative - chosen))
        ax.plot(ring.recall, ring.precision, "o", markersize=10, fillstyle="none", color=ax.lines[-1].get_color())
    ax.set(xlabel="recall of the classes present", ylabel="precision of the classes kept", xlim=(0, 1.02), ylim=(0, 1.02))
    ax.legend(frameon=False, loc="lower left")
    return figure
