"""Methods of segmentation, the diffusion model's and its rivals, behind one call.

Adding a method is one class with this call, and one line in :data:`METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .prompts import nearest
from .scoremaps import sum_layers, upsample
from .segmenter import DiffSegmenter


@dataclass(frozen=True)
class Scored:
    """scores: k H W in [0, 1], float32; calls: UNet evaluations, one a prompt and noise draw (0: none); notes: of the picture."""

    scores: np.ndarray
    calls: int = 0
    notes: tuple[str, ...] = ()


class Method(Protocol):
    """Scores of the classes named, each a map of the image's size."""

    def __call__(self, image: np.ndarray, classes: Sequence[str]) -> Scored: ...


def attention_scores(segmenter: DiffSegmenter, image: np.ndarray, classes: Sequence[str]) -> dict[str, Scored]:
    """The three maps that one pass gives, each min-maxed by class at the image's size.

    - diffsegmenter: completed maps, Eq. (7), Wang et al. 2023;
    - cross: fused cross-attention alone, Eq. (5);
    - daam: the plain sum over layers and heads (Tang et al. 2023), at the same timestep.
    """
    found = segmenter.segment(image, classes, keep=True)
    if (kept := found.intermediates) is None:
        raise RuntimeError("the segmenter kept no intermediates although it was asked to")
    maps = {"diffsegmenter": kept.completed, "cross": kept.fused, "daam": sum_layers(kept.layers, (kept.fused.shape[1], kept.fused.shape[2]))}
    calls = len(classes) * len(segmenter.timesteps)
    norm = segmenter.config.final_norm
    return {name: Scored(upsample(one, image.shape[:2], norm).cpu().numpy(), calls, found.notes) for name, one in maps.items()}


@dataclass(frozen=True)
class Attention:
    """One of the maps of :func:`attention_scores` as a method."""

    segmenter: DiffSegmenter
    kind: str = "diffsegmenter"

    def __call__(self, image: np.ndarray, classes: Sequence[str]) -> Scored:
        if self.kind == "diffsegmenter":  # reads fewer layers than the other maps do
            found = self.segmenter.segment(image, classes)
            return Scored(found.scores, len(classes) * len(self.segmenter.timesteps), found.notes)
        return attention_scores(self.segmenter, image, classes)[self.kind]


def _elbo(segmenter: DiffSegmenter, source: str) -> Method:
    from .elbo import ElboMethod

    return ElboMethod(segmenter)


def _dense_clip(segmenter: DiffSegmenter, source: str) -> Method:
    from .rivals import DenseClip

    return DenseClip.from_path(source or segmenter.backbone.profile.clip)


def _group_vit(segmenter: DiffSegmenter, source: str) -> Method:
    from .rivals import GroupVit

    return GroupVit.from_path(source or "nvidia/groupvit-gcc-yfcc")


METHODS: Mapping[str, Callable[[DiffSegmenter, str], Any]] = {
    "diffsegmenter": lambda segmenter, source: Attention(segmenter),
    "cross": lambda segmenter, source: Attention(segmenter, "cross"),
    "daam": lambda segmenter, source: Attention(segmenter, "daam"),
    "elbo": _elbo,
    "denseclip": _dense_clip,
    "groupvit": _group_vit,
}


def make_method(name: str, segmenter: DiffSegmenter, source: str = "") -> Method:
    """A method by its name.

    Args:
        name: of :data:`METHODS`.
        segmenter: the diffusion model, its profile naming the CLIP beside it.
        source: of the rival's own model; "" takes the profile's.

    Raises:
        ValueError: on an unknown name.
    """
    return METHODS[check_method(name)](segmenter, source)


def check_method(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: if it is none of :data:`METHODS`.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: expected {', '.join(METHODS)}; {nearest(name, list(METHODS))}")
    return name
