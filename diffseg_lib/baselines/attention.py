"""The diffusion model's maps as methods: completed, fused alone, and the plain sum of DAAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..scoremaps import resize, upsample
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from ..support.settings import OBJECT, one_of, settings
from .base import Prediction


def attention_scores(segmenter: DiffSegmenter, image: np.ndarray, classes: Sequence[str]) -> dict[str, Prediction]:
    """The three maps that one pass gives, each min-maxed by class at the image's size.

    - "diffsegmenter": The completed maps, Eq. (7), Wang et al. 2023.
    - "cross": The fused cross-attention alone, Eq. (5).
    - "daam": The plain sum over layers and heads (Tang et al. 2023), at the same timestep.
    """
    found = segmenter.segment(image, classes, return_intermediates=True, merge=False)
    if (kept := found.intermediates) is None:
        raise RuntimeError("the segmenter kept no intermediates although it was asked to")
    maps = {"diffsegmenter": kept.completed, "cross": kept.fused, "daam": daam_maps(kept.layers, (kept.fused.shape[1], kept.fused.shape[2]))}
    calls = segmenter.unet_rows(classes) * len(segmenter.timesteps)
    norm = segmenter.config.final_norm
    notes = _of_the_picture(segmenter, found.notes)
    return {name: Prediction(to_numpy(upsample(one, image.shape[:2], norm)), calls, notes) for name, one in maps.items()}


def daam_maps(layers: Mapping[str, Float[Tensor, "k _ _"]], size: tuple[int, int]) -> Float[Tensor, "k h w"]:
    """The sum of every layer's probabilities, none scaled: the heat maps of DAAM (Tang et al. 2023), at one timestep.

    Args:
        layers: Layer name to maps, the mean over heads (which differs from the sum by a factor).
        size: Height and width of the result.
    """
    return torch.stack([resize(maps.float(), size) for maps in layers.values()]).sum(0)


def _of_the_picture(segmenter: DiffSegmenter, notes: Sequence[str]) -> tuple[str, ...]:
    """Notes without those on the model, which are of no picture."""
    of_the_model = (*segmenter.backbone.notes, *segmenter.backbone.noise_notes(segmenter.timesteps))
    return tuple(note for note in notes if note not in of_the_model)


@settings
class Attention:
    """One of the maps of :func:`attention_scores` as a method.

    Args:
        segmenter: The diffusion model that the maps are read from.
        kind: The name of the map: "diffsegmenter", "cross" or "daam", as of :func:`attention_scores`.

    Raises:
        ValueError: On another name.
    """

    segmenter: Annotated[DiffSegmenter, OBJECT]
    kind: Annotated[str, one_of(("diffsegmenter", "cross", "daam"))] = "diffsegmenter"

    def __call__(self, image: np.ndarray, classes: Sequence[str]) -> Prediction:
        """Scores of an image (H W 3, uint8), min-maxed by class; UNet evaluations are one a class and timestep."""
        if self.kind == "diffsegmenter":  # reads fewer layers than the other maps do
            found = self.segmenter.segment(image, classes, merge=False)
            return Prediction(found.scores, self.segmenter.unet_rows(classes) * len(self.segmenter.timesteps), _of_the_picture(self.segmenter, found.notes))
        return attention_scores(self.segmenter, image, classes)[self.kind]
