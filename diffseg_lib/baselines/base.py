"""What every method of segmentation answers: scores of the classes that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """What a method answers for one image.

    Args:
        scores: Scores of the k classes, k H W in [0, 1], float32.
        calls: The number of UNet evaluations, one a prompt and noise draw; 0 for a method that makes none.
        notes: Notes on the picture, a sentence each.
    """

    scores: np.ndarray
    calls: int = 0
    notes: tuple[str, ...] = ()


class Method(Protocol):
    """Scores of the classes named, each a map of the image's size."""

    def __call__(self, image: np.ndarray, classes: Sequence[str]) -> Prediction: ...
