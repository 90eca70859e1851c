"""One picture asked for by several lists of words: what a wrong word, and all words at once, do to the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data import Sample
from ..evaluation.metrics import confusion, miou
from ..segmenter import DiffSegmenter

SHOWN = 3  # words whose maps are shown of each list


class Asked(NamedTuple):
    """What came of one list of words.

    Args:
        words: The words, those that are there first.
        maps: Score maps, H W in [0, 1], of the words with the largest areas, from the largest down.
        labels: The labels, H W; i is the i-th word.
    """

    words: tuple[str, ...]
    maps: dict[str, np.ndarray]
    labels: np.ndarray


def ask(segmenter: DiffSegmenter, sample: Sample, vocabulary: Sequence[str], seed: int = 0) -> dict[str, Asked]:
    """The labels of a picture under its true words, these and one wrong word, and the whole vocabulary, by a title with the mean IoU.

    The mean IoU is of this one picture, over the labels that occur in truth or result, the background's included.

    Args:
        segmenter: The model.
        sample: The picture with its true labels (i is the i-th of its classes) and classes.
        vocabulary: All words; the wrong one is drawn from those that are not there.
        seed: Seed of that draw.

    Raises:
        ValueError: If every word of the vocabulary is there.
    """
    there = tuple(sample.classes)
    absent = [word for word in vocabulary if word not in there]
    if not absent:
        raise ValueError(f"all {len(vocabulary)} words are in the picture: expected one at least that is not, to be the wrong one")
    wrong = absent[int(np.random.default_rng(seed).integers(len(absent)))]
    lists = {"the true words": there, f"and one wrong word, “{wrong}”": (*there, wrong), f"all {len(vocabulary)} words": (*there, *absent)}
    found = {}
    for title, words in lists.items():
        one = segmenter.segment(sample.image, words)
        areas = [(one.labels == i).mean() for i in range(1, len(words) + 1)]
        largest = sorted(range(len(words)), key=lambda i: -areas[i])[:SHOWN]
        counts = confusion(sample.truth, one.labels, len(words) + 1)
        found[f"{title}: mean IoU {miou(counts):.0f} %"] = Asked(words, {words[i]: one.scores[i] for i in largest}, one.labels)
    return found
