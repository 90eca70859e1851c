"""All methods that can be evaluated, by their names: the baselines and the refinements that came after the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..baselines import registry
from ..baselines.base import Method
from ..refinements.concept_attention import ConceptAttention, seg4diff
from ..refinements.registry import REFINEMENTS, make_refined
from ..segmenter import DiffSegmenter
from ..support.errors import nearest

JOINT: Mapping[str, Callable[[DiffSegmenter, str], Any]] = {  # read-outs of joint attention
    "seg4diff": lambda segmenter, source: seg4diff(segmenter),
    "conceptattention": lambda segmenter, source: ConceptAttention(segmenter),
}
METHODS: Mapping[str, Callable[[DiffSegmenter, str], Any]] = {**registry.METHODS, **{name: partial(make_refined, name) for name in REFINEMENTS}, **JOINT}


def make_method(name: str, segmenter: DiffSegmenter, source: str = "") -> Method:
    """A method by its name.

    Args:
        name: The method's name, a key of :data:`METHODS`.
        segmenter: The diffusion model, its profile naming the CLIP beside it; a rival's own model runs on its device.
        source: What the method reads beside it: folder or hub id of a rival's own model ("" takes the profile's CLIP for "denseclip" and
            ``nvidia/groupvit-gcc-yfcc`` for "groupvit"), or what :func:`~diffseg_lib.refinements.registry.make_refined` takes.

    Raises:
        ValueError: On an unknown name.
    """
    return METHODS[check_method(name)](segmenter, source)


def check_method(name: str) -> str:
    """The name itself, if a method has it.

    Raises:
        ValueError: If it is none of :data:`METHODS`.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: expected {', '.join(METHODS)}; {nearest(name, list(METHODS))}")
    return name


def reads_clip(name: str) -> bool:
    """Whether a method reads a CLIP unless it is given a model of its own."""
    return name == "denseclip" or (name in REFINEMENTS and REFINEMENTS[name].unsupervised)
