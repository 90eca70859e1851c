"""Methods of segmentation, the diffusion model's and the discriminative ones, behind one call.

Adding a method is one class with this call, and one line in :data:`METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..segmenter import DiffSegmenter
from .attention import Attention
from .base import Method


def _elbo(segmenter: DiffSegmenter, source: str) -> Method:
    from .elbo import ElboMethod

    return ElboMethod(segmenter)


def _dense_clip(segmenter: DiffSegmenter, source: str) -> Method:
    from .dense_clip import DenseClip

    backbone = segmenter.backbone
    return DenseClip.from_path(source or backbone.profile.clip, device=str(backbone.device), pickled=backbone.profile.pickled_weights)


def _group_vit(segmenter: DiffSegmenter, source: str) -> Method:
    from .group_vit import GroupVit

    backbone = segmenter.backbone
    return GroupVit.from_path(source or GROUP_VIT, device=str(backbone.device), pickled=backbone.profile.pickled_weights)


GROUP_VIT = "nvidia/groupvit-gcc-yfcc"  # where no other is named
METHODS: Mapping[str, Callable[[DiffSegmenter, str], Any]] = {
    "diffsegmenter": lambda segmenter, source: Attention(segmenter),
    "cross": lambda segmenter, source: Attention(segmenter, "cross"),
    "daam": lambda segmenter, source: Attention(segmenter, "daam"),
    "elbo": _elbo,
    "denseclip": _dense_clip,
    "groupvit": _group_vit,
}
