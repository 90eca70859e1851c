"""Figures of several pictures: pictures, maps and labels in, a Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from . import axes as draw
from .axes import grid


def map_gallery(pixels: np.ndarray, truth: np.ndarray, classes: Sequence[str], maps: Mapping[str, np.ndarray], columns: int = 5) -> Figure:
    """A picture over its true labels, and beside them heat maps of its first class, each at its own scale, with the true outline.

    Args:
        pixels: The picture, H W 3, uint8.
        truth: The true labels, H W; i is the i-th of `classes`.
        classes: Names of the classes.
        maps: Maps by title, H W each.
        columns: Panels beside each other, the picture's included.
    """
    figure, axes = grid(2, columns, (2.1 * columns, 4.8))
    draw.picture(axes[0, 0], pixels, f"“{classes[0]}” in")
    draw.labels(axes[1, 0], pixels, truth, classes, "truth", legend=False)
    draw.strip([*axes[0, 1:], *axes[1, 1:]], maps, truth == 1)
    return figure


def label_columns(
    pictures: Sequence[np.ndarray],
    found: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str],
    titles: Sequence[str] = (),
    side: float = 2.2,
) -> Figure:
    """A column a picture: itself, if it has a title, and below it label maps over it, each under its name.

    Args:
        pictures: The pictures, H W 3, uint8 each.
        found: Labels by name, H W, one mapping a picture, all of the same length.
        names: The classes in the order of their labels, the background left out.
        titles: Titles of the pictures; none leaves the pictures out.
        side: Side of a panel, inches.
    """
    above = 1 if titles else 0
    figure, axes = grid(above + len(found[0]), len(pictures), (side * len(pictures), side * (above + len(found[0]))))
    for i, (column, pixels, maps) in enumerate(zip(axes.T, pictures, found, strict=True)):
        if titles:
            draw.picture(column[0], pixels, titles[i])
        for ax, (name, labels) in zip(column[above:], maps.items(), strict=True):
            draw.labels(ax, pixels, labels, names, name, legend=False)
    return figure


def truth_and_found(samples: Sequence[Any], found: Sequence[Any], names: Sequence[str]) -> Figure:
    """A column a picture: its true labels above, with their classes, and the labels found below, with the words that were asked for.

    Args:
        samples: The samples, each with ``image``, ``truth`` and ``classes`` as attributes.
        found: What was found in each, with ``labels`` (H W) and ``words`` as attributes.
        names: The classes in the order of their labels, the background left out.
    """
    figure, axes = grid(2, len(samples), (1.9 * len(samples), 4.6))
    for (above, below), sample, one in zip(axes.T, samples, found, strict=True):
        draw.labels(above, sample.image, sample.truth, names, "truth: " + ", ".join(sample.classes), legend=False)
        draw.labels(below, sample.image, one.labels, names, "found: " + (", ".join(one.words) or "no words"), legend=False)
    return figure


def score_columns(samples: Sequence[Any], scores: Sequence[Mapping[str, np.ndarray]]) -> Figure:
    """A column a picture: itself, and each method's score map of its first class from 0 to 1, with the true outline.

    Args:
        samples: The samples, each with ``image``, ``truth`` (1 is the first class) and ``classes``.
        scores: Score maps by method, H W, one mapping a picture.
    """
    figure, axes = grid(1 + len(scores[0]), len(samples), (2.1 * len(samples), 2.1 * (1 + len(scores[0]))))
    draw.score_gallery(axes, [one.image for one in samples], [one.truth == 1 for one in samples], scores)
    for ax, one in zip(axes[0], samples, strict=True):
        ax.set_title(f"“{one.classes[0]}” in")
    return figure


def label_comparison(samples: Sequence[Any], found: Sequence[Mapping[str, np.ndarray]]) -> Figure:
    """A column a picture: the truth and each method's labels over it, its classes named below; samples and maps as of :func:`score_columns`."""
    figure, axes = grid(1 + len(found[0]), len(samples), (2.1 * len(samples), 2.1 * (1 + len(found[0]))))
    maps = [{"truth": one.truth} | dict(labels) for one, labels in zip(samples, found, strict=True)]
    draw.label_gallery(axes, [one.image for one in samples], maps, [one.classes for one in samples])
    return figure


VOID_GREY = 0.3  # of void, which no class has


def flat_label_gallery(samples: Sequence[Any], found: Sequence[Mapping[str, np.ndarray]], names: Sequence[str], side: float = 1.25) -> Figure:
    """A column a picture: itself, its truth, and each method's labels below it, every class in one flat colour on white, void dark.

    Args:
        samples: The samples, each with ``image`` and ``truth`` as attributes.
        found: Labels by method, H W, one mapping a picture, all of the same methods.
        names: The classes in the order of their labels, the background left out; those that occur are named below.
        side: Side of a panel, inches.
    """
    lines = [{"truth": one.truth} | dict(labels) for one, labels in zip(samples, found, strict=True)]
    seen = sorted({int(label) for maps in lines for one in maps.values() for label in np.unique(one)} & set(range(1, len(names) + 1)))
    figure, axes = grid(1 + len(lines[0]), len(samples), (side * len(samples) + 1.7, side * (len(lines[0]) + 1.4)))
    shown = {label: draw.class_colour(i) for i, label in enumerate(seen, start=1)}  # of those that occur, so that few share a colour
    colours = np.array([(1.0, 1.0, 1.0), *(shown.get(i, (1.0, 1.0, 1.0)) for i in range(1, len(names) + 1))])
    for i, (column, sample, maps) in enumerate(zip(axes.T, samples, lines, strict=True)):
        draw.picture(column[0], sample.image)
        for ax, (method, labels) in zip(column[1:], maps.items(), strict=True):
            known = np.where(labels < len(colours), labels, 0)
            ax.imshow(np.where((labels < len(colours))[..., None], colours[known], VOID_GREY))
            draw.bare(ax)
            for spine in ax.spines.values():
                spine.set_visible(True)
                spine.set_color("#bbbbbb")
            if not i:
                ax.set_ylabel(fill(method, 24), rotation=0, ha="right", va="center")
    axes[0, 0].set_ylabel("picture", rotation=0, ha="right", va="center")
    handles = [Patch(color=colour, label=names[i - 1]) for i, colour in shown.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
    return figure


def edit_rows(tasks: Sequence[Any], edits: Sequence[Mapping[str, np.ndarray]]) -> Figure:
    """A row an edit: the picture before, the mask on it, and the pictures after.

    Args:
        tasks: The edits, each with ``pixels`` (H W 3, uint8), ``mask`` (H W, bool), ``word`` and ``new`` as attributes.
        edits: Pictures after the edit by title, one mapping a task.
    """
    figure, axes = grid(len(tasks), 2 + len(edits[0]), (10, 2.1 * len(tasks)))
    for i, (row, task, drawn) in enumerate(zip(axes, tasks, edits, strict=True)):
        draw.picture(row[0], task.pixels, f"{task.word} to {task.new}")
        shaded = task.mask[..., None].repeat(3, 2) * 90 + task.pixels // 3
        draw.outline(draw.picture(row[1], shaded, "" if i else "our mask"), task.mask)
        for ax, (title, pixels) in zip(row[2:], drawn.items(), strict=True):
            draw.picture(ax, pixels, "" if i else title)
    return figure


def picture_strip(pictures: Mapping[str, np.ndarray]) -> Figure:
    """Pictures (H W 3, uint8) beside each other, each under its title."""
    figure, axes = grid(1, len(pictures), (2 * len(pictures), 2.3))
    for ax, (title, pixels) in zip(axes[0], pictures.items(), strict=True):
        draw.picture(ax, pixels, title)
    return figure
