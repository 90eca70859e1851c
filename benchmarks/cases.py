"""What is timed: a bare UNet call, and the ways to a score map, each from the same latents and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffseg_lib.backbone import Backbone
from diffseg_lib.config import Config
from diffseg_lib.lean_attention import LEAN
from diffseg_lib.profiles import PAPER_WEIGHTS
from diffseg_lib.scoremaps import label, upsample
from diffseg_lib.segmenter import DiffSegmenter

from .models import inputs
from .released import released_maps

TIMESTEP = 100


@dataclass(frozen=True)
class Way:
    """How a score map is come by: the self-attention kept, the savings, and whether all classes share one completion."""

    self_attention: str
    lean: tuple[str, ...] = ()
    shared: bool = False


# Each adds one saving to the last.
STEPS: Mapping[str, Way] = {
    "plain": Way("finest"),
    "+ probabilities once": Way("finest", ("once",)),
    "+ matrix kept, not queries and keys": Way("matrix", ("once",)),
    "+ stop after the last layer read": Way("matrix", ("once", "stop")),
    "+ stem shared by all classes": Way("matrix", ("once", "stop", "stem")),
    "+ feed-forward in chunks": Way("matrix", ("once", "stop", "stem", "chunks")),
    "+ matrix rests packed (all: ours)": Way("matrix", LEAN),
}
OURS = "+ matrix rests packed (all: ours)"
OTHERS: Mapping[str, Way] = {"lean, queries and keys kept": Way("finest", LEAN), "one self-attention for all classes": Way("matrix", LEAN, True)}
KEYS, SHARED = OTHERS


def bare(backbone: Backbone, given: Mapping[str, Tensor]) -> Tensor:
    """The UNet alone, on the same batch."""
    return backbone.predict_noise(backbone.add_noise(given["latents"], given["noise"], TIMESTEP), TIMESTEP, given["embeddings"])


def segment(backbone: Backbone, given: Mapping[str, Tensor], way: Way, weights: Mapping[int, float] = PAPER_WEIGHTS) -> Tensor:
    """Completed maps of all classes, k h w, upsampled to the image and labelled on the way out."""
    segmenter = DiffSegmenter(backbone, Config(weights=weights, shared=way.shared))
    arguments = (given["latents"], given["noise"], TIMESTEP, given["embeddings"], given["spans"])
    recording = segmenter.attend(*arguments, way.self_attention, lean=way.lean, first_only=way.shared)
    _, completed = segmenter.score(recording)
    del recording
    h, w = completed.shape[1:]
    label(upsample(completed, (8 * h, 8 * w)), 0.5)
    return completed


def half_way(way: Way, dtype: torch.dtype) -> Way:
    """The same way in another precision: a matrix is kept in float32 alone."""
    return way if dtype == torch.float32 else Way("finest", way.lean, way.shared)


def cases(
    backbone: Backbone, classes: int, size: tuple[int, int], names: tuple[str, ...], weights: Mapping[int, float] = PAPER_WEIGHTS
) -> dict[str, Callable[[], Any]]:
    """Cases by name, ready to call: "bare", "released", or of :data:`STEPS` and :data:`OTHERS`."""
    given, ways = inputs(backbone, classes, size), {**STEPS, **OTHERS}
    known: dict[str, Callable[[], Any]] = {"bare": partial(bare, backbone, given), "released": partial(released_maps, backbone, given, TIMESTEP, weights)}
    known |= {name: partial(segment, backbone, given, half_way(way, backbone.dtype), weights) for name, way in ways.items()}
    return {name: known[name] for name in names}
