"""A gallery of a folder: every photo by words that are given or that its caption names, and the stages that its maps go through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..category_filter import nouns
from ..data import Sample
from ..pocket.scenes import photo_or_scene
from ..segmenter import DiffSegmenter
from ..support.images import load_photo, pictures_in, to_numpy
from ..vision_language import Captioner

OF_PICTURES = ("photograph", "photo", "picture", "image", "view")  # what captions call the picture itself


@dataclass(frozen=True)
class Shown:
    """One photo of the gallery.

    Args:
        sample: The photo; its classes are the words that were asked for, none if its caption names nothing that the model knows.
        caption: Its caption; "" if it was not needed.
        word: The first word, whose maps are shown; "" where no word was asked for.
        stages: Maps of that word by their names, h w each: one a resolution, fused, completed.
        labels: The labels, H W; 0 is the background, i the i-th word.
        areas: The share of the picture that each word takes, 0 to 1.
    """

    sample: Sample
    caption: str
    word: str
    stages: dict[str, np.ndarray]
    labels: np.ndarray
    areas: dict[str, float]


def open_gallery(folder: str, count: int = 10, first: int = 0) -> list[Sample]:
    """The first photos of a folder, sorted by name; without a folder, test scenes of the pocket world.

    Args:
        folder: The folder, or "".
        count: The number of photos at most.
        first: Number of the first test scene.

    Raises:
        ImageError: On a folder without pictures, and on one that cannot be read.
        ValueError: On a count below 1.
        FileNotFoundError: If there is no such folder.
    """
    if count < 1:
        raise ValueError(f"{count} photos: expected at least one")
    if not folder:
        return [photo_or_scene(index=first + i) for i in range(count)]
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is no folder: expected one with photos in it")
    photos = [(path, load_photo(path).pixels) for path in pictures_in([Path(folder)])[:count]]
    return [Sample(path.name, pixels, np.full(pixels.shape[:2], 255, np.uint8), ()) for path, pixels in photos]


def words_of(caption: str, segmenter: DiffSegmenter, most: int = 4) -> list[str]:
    """The words of a caption that name a thing and that the model's tokenizer knows, in their order.

    Args:
        caption: The caption.
        segmenter: The model.
        most: The number of words at most.
    """
    kept = []
    for word in dict.fromkeys(nouns(caption)):
        if word in OF_PICTURES:
            continue
        try:
            segmenter.prompts([word])
        except ValueError:
            continue
        kept.append(word)
    return kept[:most]


def look(segmenter: DiffSegmenter, captioner: Captioner, sample: Sample, words: Sequence[str] = ()) -> Shown:
    """One photo through all stages.

    Args:
        segmenter: The model.
        captioner: BLIP, which is asked where no words are given.
        sample: The photo.
        words: What to look for; none takes what the caption names.
    """
    caption = "" if words else captioner.caption([sample.image])[0]
    asked = tuple(words) or tuple(words_of(caption, segmenter))
    shown = Sample(sample.id, sample.image, sample.truth, asked)
    if not asked:
        return Shown(shown, caption, "", {}, np.zeros(sample.image.shape[:2], np.int32), {})
    found = segmenter.segment(sample.image, asked, return_intermediates=True)
    areas = {word: float((found.labels == i).mean()) for i, word in enumerate(found.classes, start=1)}
    held = found.intermediates
    assert held is not None  # asked for
    stages = {f"stride {stride}": to_numpy(maps[0]) for stride, maps in sorted(held.cross.items(), reverse=True)}
    stages |= {"fused": to_numpy(held.fused[0]), "completed": to_numpy(held.completed[0])}
    return Shown(shown, caption, asked[0], stages, found.labels, areas)
