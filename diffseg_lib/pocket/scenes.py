"""Scenes as an evaluator sees them: picture, ground truth in a layout's labels, the classes present."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .world import CLASS_NAMES, GROUND_NAMES, GROUND_OFFSET, WORLD_SEED, Scene, compose, paint, trace

VOC_NAMES = ("background", *CLASS_NAMES)
CONTEXT_NAMES = ("background", *CLASS_NAMES, *GROUND_NAMES)


@dataclass(frozen=True)
class Sample:
    """id: unique in its split; image: H W 3, uint8; truth: H W, labels, 255 void; classes: names present."""

    id: str
    image: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]


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
