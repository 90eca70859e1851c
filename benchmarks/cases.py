"""What is timed: a bare UNet call, and the ways to a score map, each from the same latents and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from diffseg_lib.backbone import Backbone
from diffseg_lib.config import Config
from diffseg_lib.optimizations import OPTIMIZATIONS
from diffseg_lib.profiles import PAPER_WEIGHTS
from diffseg_lib.scoremaps import label, upsample
from diffseg_lib.segmenter import DiffSegmenter

from .models import inputs
from .released import released_maps

TIMESTEP = 100


@dataclass(frozen=True)
class Variant:
    """How a score map is come by: the self-attention kept, the savings, and whether all classes share one completion."""

    self_attention: str
    optimizations: tuple[str, ...] = ()
    share_self_attention: bool = False


# Each adds one saving to the last.
STEPS: Mapping[str, Variant] = {
    "plain": Variant("finest"),
    "+ probabilities once": Variant("finest", ("reuse_probabilities",)),
    "+ stop after the last layer read": Variant("finest", ("reuse_probabilities", "early_stop")),
    "+ stem shared by all classes": Variant("finest", ("reuse_probabilities", "early_stop", "share_stem")),
    "+ feed-forward in chunks (all: ours)": Variant("finest", OPTIMIZATIONS),
}
OURS = list(STEPS)[-1]
SHARED = "one self-attention for all classes"
OTHERS: Mapping[str, Variant] = {SHARED: Variant("finest", OPTIMIZATIONS, True)}


def ours_in(names: Iterable[str]) -> str | None:
    """The case of a run that is today's way; None if an earlier run did not measure it. Before the matrix was given up it had another name."""
    return next((name for name in (OURS, "optimized, queries and keys kept") if name in names), None)


def bare(backbone: Backbone, given: Mapping[str, Tensor]) -> Tensor:
    """The UNet alone, on the same batch."""
    return backbone.predict_noise(backbone.add_noise(given["latents"], given["noise"], TIMESTEP), TIMESTEP, given["embeddings"])


def segment(backbone: Backbone, given: Mapping[str, Tensor], way: Variant, weights: Mapping[int, float] = PAPER_WEIGHTS) -> Tensor:
    """Completed maps of all classes, k h w, upsampled to the image and labelled on the way out."""
    segmenter = DiffSegmenter(backbone, Config(weights=weights, share_self_attention=way.share_self_attention))
    arguments = (given["latents"], given["noise"], TIMESTEP, given["embeddings"], given["token_weights"])
    recording = segmenter.attend(*arguments, way.self_attention, optimizations=way.optimizations, first_only=way.share_self_attention)
    _, completed = segmenter.score(recording)
    del recording
    h, w = completed.shape[1:]
    label(upsample(completed, (8 * h, 8 * w)), 0.5)
    return completed


def cases(
    backbone: Backbone, classes: int, size: tuple[int, int], names: tuple[str, ...], weights: Mapping[int, float] = PAPER_WEIGHTS
) -> dict[str, Callable[[], Any]]:
    """Cases by name, ready to call: "bare", "released", or of :data:`STEPS` and :data:`OTHERS`."""
    given, ways = inputs(backbone, classes, size), {**STEPS, **OTHERS}
    known: dict[str, Callable[[], Any]] = {"bare": partial(bare, backbone, given), "released": partial(released_maps, backbone, given, TIMESTEP, weights)}
    known |= {name: partial(segment, backbone, given, way, weights) for name, way in ways.items()}
    return {name: known[name] for name in names}
