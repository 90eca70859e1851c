"""Figures of pictures, maps and labels: arrays in, :class:`~diffseg_lib.book.plots.Panels` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .panels import Panel, Panels, heat, labels, marked, outlined, picture


def titled_pictures(pictures: Mapping[str, np.ndarray], columns: int = 0) -> Panels:
    """Pictures (H W 3, uint8), each over its title, so many beside each other; 0 is all of them."""
    return Panels([[picture(pixels, title) for title, pixels in pictures.items()]], columns=columns)


def titled_labels(found: Mapping[str, np.ndarray], names: Sequence[str], columns: int) -> Panels:
    """Labels H W by title, so many beside each other; the names are those of the labels from 1, and what lies above them is void."""
    return Panels([[labels(one, names, title) for title, one in found.items()]], columns=columns)


def tiles(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = (), row_titles: Sequence[str] = (), way: str = "grid") -> Panels:
    """Pictures (H W 3, uint8) or maps (H W) close together, a row after the other.

    Args:
        rows: Rows of pictures or maps, as long as each other.
        titles: Titles of the columns; none leaves them out.
        row_titles: Titles of the rows; none leaves them out.
        way: How a page shows it, as of :class:`Panels`.
    """
    named = titles or [""] * len(rows[0])
    heads = row_titles or [""] * len(rows)
    drawn = [
        [
            picture(one, name, f"{head or 'picture'}, {name or f'number {i}'}, as it is") if one.ndim == 3 else heat(one, name)
            for i, (one, name) in enumerate(zip(row, named, strict=True), 1)
        ]
        for row, head in zip(rows, heads, strict=True)
    ]
    return Panels(drawn, row_titles, way)


def sheet(pixels: np.ndarray, names: Sequence[str], across: int) -> Panels:
    """A contact sheet taken apart: each of its pictures over its name.

    Args:
        pixels: The sheet, H W 3, uint8, of pictures of one size.
        names: Names of the pictures, row by row; as many are shown.
        across: The number of pictures beside each other and below each other.
    """
    side = pixels.shape[0] // across
    places = [divmod(i, across) for i in range(len(names))]
    return Panels(
        [[picture(pixels[y * side : (y + 1) * side, x * side : (x + 1) * side], name) for (y, x), name in zip(places, names, strict=True)]], columns=across
    )


def wipe(before: Panel, after: Panel) -> Panels:
    """Two panels of the same picture, the second of which a page draws over the first under a slider; side by side where no script runs."""
    return Panels([[before, after]], way="wipe")


def found_in(pixels: np.ndarray, scores: np.ndarray, found: np.ndarray, names: Sequence[str]) -> Panels:
    """A picture, the labels, and the score map of each word (0 to 1).

    Args:
        pixels: The picture, H W 3, uint8.
        scores: Score maps of the k words, k H W in [0, 1].
        found: Labels found, H W; i is the i-th name, 0 the background.
        names: The k words.
    """
    maps = [heat(values, f"score of “{name}”", limits=(0, 1)) for name, values in zip(names, scores, strict=True)]
    return Panels([[picture(pixels, "the picture"), *maps, labels(found, names, "the labels")]])


def things_and_ground(pixels: np.ndarray, things: np.ndarray, ground: np.ndarray, names: Sequence[str], grounds: Sequence[str]) -> Panels:
    """A scene, the labels of its things and those of its ground: H W each, 0 for what is neither."""
    return Panels([[picture(pixels, "the picture"), labels(things, names, "things"), labels(ground, grounds, "ground")]])


def errors_by_word(pixels: np.ndarray, without: np.ndarray, better: Mapping[str, np.ndarray], inside: Sequence[np.ndarray]) -> Panels:
    """A scene beside the denoising error without words; below, what each word takes off it, at one symmetric scale (99th percentile).

    Args:
        pixels: The picture, H W 3, uint8.
        without: The error without words, h w.
        better: What each word takes off it, h w each, by title.
        inside: Where each word's object is, H W, bool each.
    """
    limit = max(float(np.quantile(np.abs(one), 0.99)) for one in better.values())
    maps = [heat(one, title, mask, (-limit, limit)) for (title, one), mask in zip(better.items(), inside, strict=True)]
    return Panels([[picture(pixels, "scene"), heat(without, "error without words")], maps], scale=f"of the words: {-limit:.2g} to {limit:.2g}")


def map_strip(pixels: np.ndarray | None, word: str, maps: Mapping[str, np.ndarray], mask: np.ndarray, way: str = "grid", columns: int = 5) -> Panels:
    """A picture, unless it is None, and maps of one word beside it, each at its own scale, with the object's outline."""
    drawn = [heat(values, title, mask) for title, values in maps.items()]
    return Panels([([picture(pixels, f"“{word}” in")] if pixels is not None else []) + drawn], way=way, columns=columns if way == "grid" else 0)


def score_strip(scores: Mapping[str, np.ndarray], mask: np.ndarray, way: str = "grid") -> Panels:
    """Score maps beside each other, all from 0 to 1, with the object's outline."""
    return Panels([[heat(one, title, mask, (0, 1)) for title, one in scores.items()]], way=way)


def maps_by_word(pixels: np.ndarray, truth: np.ndarray, words: Sequence[str], maps: Mapping[str, np.ndarray], found: np.ndarray | None = None) -> Panels:
    """A row a word: the picture, then its maps, each at its own scale, with the object's outline; a last row of labels, if they are given.

    Args:
        pixels: The picture, H W 3, uint8.
        truth: The true labels, H W; i is the i-th word.
        words: The k words.
        maps: Maps of the k words by title, of any height and width.
        found: Labels to show last, H W, beside the true ones; None shows none.
    """
    rows = [[picture(pixels, "the picture"), *(heat(one[k], title, truth == k + 1) for title, one in maps.items())] for k in range(len(words))]
    heads = [f"“{word}”" for word in words]
    if found is not None:
        rows, heads = [*rows, [labels(truth, words, "truth"), labels(found, words, "labels found")]], [*heads, "all words"]
    return Panels(rows, heads)


def layer_maps(pixels: np.ndarray, word: str, layers: Mapping[str, np.ndarray], mask: np.ndarray, columns: int = 4) -> Panels:
    """A picture and the map of one word in every layer, each at its own scale, with the object's outline."""
    return map_strip(pixels, word, layers, mask, columns=columns)


def attention_rows(pixels: np.ndarray, truth: np.ndarray, matrix: np.ndarray, points: Sequence[tuple[int, int]], size: tuple[int, int]) -> Panels:
    """Where some pixels look: a picture with the pixels marked, and for each its row of a self-attention matrix, as a square root.

    Args:
        pixels: The picture, H W 3, uint8.
        truth: The true labels, H W; 1 is the object that is outlined.
        matrix: The self-attention matrix, n n.
        points: Places of the pixels, row and column of the picture each.
        size: Height and width of the maps, h * w = n.
    """
    (h, w), (height, width) = size, truth.shape
    dots = {colour: ((y + 0.5) / height, (x + 0.5) / width) for (y, x), colour in zip(points, ("#ee7733", "#ee3377", "#33bbee"), strict=False)}
    drawn = [marked(picture(pixels, "the pixels"), dots)]
    for (y, x), colour in zip(points, dots, strict=True):
        row = matrix[(y * h // height) * w + x * w // width].reshape(h, w)
        drawn.append(marked(heat(np.sqrt(row), "what this pixel attends to", truth == 1), {colour: dots[colour]}))
    return Panels([drawn])


def map_gallery(pixels: np.ndarray, truth: np.ndarray, classes: Sequence[str], maps: Mapping[str, np.ndarray], columns: int = 4) -> Panels:
    """A picture beside its true labels, and after them maps of its first class, each at its own scale, with the true outline.

    Args:
        pixels: The picture, H W 3, uint8.
        truth: The true labels, H W; i is the i-th of `classes`.
        classes: Names of the classes.
        maps: Maps by title, H W each.
        columns: Panels beside each other, the picture's included.
    """
    drawn = [heat(one, title, truth == 1) for title, one in maps.items()]
    return Panels([[picture(pixels, f"“{classes[0]}” in"), labels(truth, classes, "truth"), *drawn]], columns=columns)


def label_rows(pictures: Sequence[np.ndarray], found: Sequence[Mapping[str, np.ndarray]], names: Sequence[str], titles: Sequence[str] = ()) -> Panels:
    """A row a picture: itself, and beside it label maps, each over its name.

    Args:
        pictures: The pictures, H W 3, uint8 each.
        found: Labels by name, H W, one mapping a picture, all of the same length.
        names: The classes in the order of their labels, the background left out.
        titles: Titles of the rows; none leaves them out.
    """
    return Panels(
        [[picture(pixels, "the picture"), *(labels(one, names, title) for title, one in maps.items())] for pixels, maps in zip(pictures, found, strict=True)],
        titles,
    )


def truth_and_found(samples: Sequence[Any], found: Sequence[Any], names: Sequence[str], titles: Sequence[str] = ()) -> Panels:
    """A row a picture: itself, its true labels with their classes, and the labels found with the words that were asked for.

    Args:
        samples: The samples, each with ``image``, ``truth`` and ``classes`` as attributes.
        found: What was found in each, with ``labels`` (H W) and ``words`` as attributes.
        names: The classes in the order of their labels, the background left out.
        titles: Titles of the rows; none leaves them out.
    """
    maps = [
        {"truth: " + ", ".join(sample.classes): sample.truth, "asked for: " + (", ".join(one.words) or "no words"): one.labels}
        for sample, one in zip(samples, found, strict=True)
    ]
    return label_rows([one.image for one in samples], maps, names, titles)


def outlined_mistakes(
    pictures: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    wrong: Sequence[np.ndarray],
    names: Sequence[str],
    titles: Sequence[str],
) -> Panels:
    """A row a picture: itself with its wrong pixels outlined, its true labels, and the labels found with the same outline.

    Args:
        pictures: The pictures, H W 3, uint8 each.
        truths: True labels, H W each.
        found: Labels found, H W each.
        wrong: The pixels that are outlined, H W, bool each.
        names: The classes in the order of their labels, the background left out.
        titles: Titles of the rows.
    """
    rows = [
        [outlined(picture(pixels, "the picture"), region), labels(truth, names, "truth"), outlined(labels(one, names, "the mask"), region)]
        for pixels, truth, one, region in zip(pictures, truths, found, wrong, strict=True)
    ]
    return Panels(rows, titles)


def score_rows(samples: Sequence[Any], scores: Sequence[Mapping[str, np.ndarray]]) -> Panels:
    """A row a picture: itself, and each method's score map of its first class from 0 to 1, with the true outline.

    Args:
        samples: The samples, each with ``image``, ``truth`` (1 is the first class) and ``classes``.
        scores: Score maps by method, H W, one mapping a picture.
    """
    rows = [
        [picture(one.image, f"“{one.classes[0]}” in"), *(heat(values, name, one.truth == 1, (0, 1)) for name, values in maps.items())]
        for one, maps in zip(samples, scores, strict=True)
    ]
    return Panels(rows)


def label_comparison(samples: Sequence[Any], found: Sequence[Mapping[str, np.ndarray]], names: Sequence[str] = (), columns: int = 0) -> Panels:
    """A row a picture: itself, the truth and each method's labels; samples and maps as of :func:`score_rows`.

    Args:
        samples: The samples, each with ``image``, ``truth`` and ``classes``.
        found: Labels by method, H W, one mapping a picture.
        names: Names of the labels from 1; none takes each sample's own classes.
        columns: Panels beside each other at most; 0 is all of a picture's.
    """
    rows = [
        [
            picture(one.image, ", ".join(one.classes)),
            *(labels(values, names or one.classes, name) for name, values in ({"truth": one.truth} | dict(maps)).items()),
        ]
        for one, maps in zip(samples, found, strict=True)
    ]
    return Panels(rows, columns=columns)


def edit_rows(tasks: Sequence[Any], edits: Sequence[Mapping[str, np.ndarray]]) -> Panels:
    """A row an edit: the picture before, the mask that it was held to, and the pictures after.

    Args:
        tasks: The edits, each with ``pixels`` (H W 3, uint8), ``mask`` (H W, bool), ``word`` and ``new`` as attributes.
        edits: Pictures after the edit by title, one mapping a task.
    """
    rows = [
        [
            picture(task.pixels, "before"),
            labels(task.mask.astype(int), [task.word], f"mask of “{task.word}”"),
            *(picture(pixels, title) for title, pixels in drawn.items()),
        ]
        for task, drawn in zip(tasks, edits, strict=True)
    ]
    return Panels(rows, [f"“{task.word}” to “{task.new}”" for task in tasks])


def word_rows(
    pixels: np.ndarray, rows: Mapping[str, tuple[Sequence[str], Mapping[str, np.ndarray], np.ndarray]], truth: np.ndarray, names: Sequence[str]
) -> Panels:
    """The same picture asked for by several lists of words: a row a list, its maps from 0 to 1 beside its labels.

    Args:
        pixels: The picture, H W 3, uint8.
        rows: By title the words asked for, the maps to show by word (H W in [0, 1]), and the labels, H W (i is the i-th word asked for).
        truth: The true labels, H W; i is the i-th of `names`.
        names: Names of the classes that are there.
    """
    drawn = [
        [labels(found, words, "labels"), *(heat(one, f"score of “{word}”", limits=(0, 1)) for word, one in maps.items())]
        for words, maps, found in rows.values()
    ]
    return Panels([[picture(pixels, "the picture"), labels(truth, names, "truth")], *drawn], ["what is there", *rows], columns=4)


def stage_rows(shown: Sequence[Any]) -> Panels:
    """A row a photo: itself, its labels, and the maps of one of its words through the stages, each at its own scale.

    Args:
        shown: The photos, each with ``sample`` (``id``, ``image``, ``classes``), ``caption``, ``word``, ``stages`` (maps by name) and ``labels``.
    """
    rows = []
    for one in shown:
        named = "labels" if one.sample.classes else "the caption names nothing that the model knows"
        maps = [heat(values, f"“{one.word}”, {name}") for name, values in one.stages.items()]
        rows.append([picture(one.sample.image, "the photo"), labels(one.labels, one.sample.classes, named), *maps])
    heads = [one.sample.id + (f": “{one.caption}”" if one.caption else "") for one in shown]
    return Panels(rows, heads, columns=4)
