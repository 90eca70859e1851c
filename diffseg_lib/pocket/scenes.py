"""Scenes as an evaluator sees them: picture, ground truth in a layout's labels, the classes present."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ..data import Sample
from ..support.images import load_photo
from ..support.words import class_names
from .world import CLASS_NAMES, GROUND_NAMES, GROUND_OFFSET, WORLD_SEED, Scene, compose, paint, trace

VOC_NAMES = ("background", *CLASS_NAMES)
CONTEXT_NAMES = ("background", *CLASS_NAMES, *GROUND_NAMES)


def voc_truth(scene: Scene) -> np.ndarray:
    """Pocket-VOC labels: objects 1..16, grounds 0, and a void rim of 255, one px to each side of an edge."""
    labels = trace(scene)
    labels[labels >= GROUND_OFFSET] = 0
    image = Image.fromarray(labels)
    edge = np.asarray(image.filter(ImageFilter.MaxFilter(3))) != np.asarray(image.filter(ImageFilter.MinFilter(3)))
    return np.where(edge, 255, labels).astype(np.uint8)


def scene_id(split: str, index: int, seed: int) -> str:
    """A stable name, as VOC's year_number: ``val0_000007``."""
    return f"{split}{seed}_{index:06d}"


def voc_samples(split: str, n: int, seed: int = WORLD_SEED) -> Iterator[Sample]:
    """The first `n` Pocket-VOC samples of a split, drawn in memory (on disk the picture is a JPEG)."""
    for index in range(n):
        scene = compose(split, index, seed)
        yield Sample(scene_id(split, index, seed), paint(scene), voc_truth(scene), scene.classes)


def photo_or_scene(image: str = "", classes: str | Sequence[str] = (), index: int = 0) -> Sample:
    """The user's photo, or, where none is named, test scene `index` with its own classes.

    Args:
        image: Path of a photo, or "".
        classes: The classes to look for, or one text with commas between them; a photo needs them, a scene has its own.
        index: Number of the test scene, from 0.

    Returns:
        A sample; a photo's truth is void everywhere.

    Raises:
        ValueError: For a photo without classes.
        ImageError: If the photo cannot be read.
    """
    if not image:
        scene = compose("test", index)
        names = class_names(classes)[0] or scene.classes
        truth = np.zeros((scene.size, scene.size), np.uint8)
        drawn = voc_truth(scene)
        for i, name in enumerate(names, start=1):
            truth[drawn == VOC_NAMES.index(name) if name in VOC_NAMES else np.zeros_like(drawn, bool)] = i
        truth[drawn == 255] = 255
        return Sample(f"test scene {index}", paint(scene), truth, names)
    if not classes:
        raise ValueError("a photo needs classes: say what to look for, e.g. classes: [house, fish]")
    classes, _ = class_names(classes)
    pixels = load_photo(image).pixels
    return Sample(Path(image).name, pixels, np.full(pixels.shape[:2], 255, np.uint8), tuple(classes))
