"""The refinements by their names: adding one is one file with its function, and one line in :data:`REFINEMENTS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ..baselines.dense_clip import DenseClip
from ..segmenter import DiffSegmenter
from .base import Refined, Refinement
from .chains import attention_chain
from .cliper import cliper
from .diffcut import diffcut
from .diffseg_merge import diffseg
from .elbo_t2i import elbo_t2i
from .fa_seg import fa_seg
from .goca import goca
from .heads import read_heads, selected_heads
from .iseg import iseg
from .nerve import nerve
from .text_to_seed import text_to_seed

REFINEMENTS: Mapping[str, Refinement] = {
    "iseg": Refinement(iseg),
    "cliper": Refinement(cliper),
    "faseg": Refinement(fa_seg, "all"),
    "chains": Refinement(attention_chain),
    "nerve": Refinement(nerve),
    "goca": Refinement(goca, heads=True, projections=("self", "cross"), content=True),
    "heads": Refinement(selected_heads, heads=True),
    "elbo-t2i": Refinement(elbo_t2i, calibrated=True),
    "diffcut": Refinement(diffcut, "none", projections=("self",), unsupervised=True),
    "text-to-seed": Refinement(text_to_seed, "all"),
    "diffseg": Refinement(diffseg, "all", unsupervised=True),
}


def make_refined(name: str, segmenter: DiffSegmenter, source: str = "") -> Refined:
    """A refinement as a method.

    Args:
        name: Name of the refinement, a key of :data:`REFINEMENTS`.
        segmenter: The diffusion model.
        source: Folder or hub id of the CLIP that names the regions of an unsupervised one, "" takes the profile's; of "heads" the file of the choice, as
            :func:`~diffseg_lib.refinements.heads.write_heads` writes it.

    Raises:
        ValueError: If `source` is given to a refinement that loads nothing, or is no choice of heads.
    """
    refinement = REFINEMENTS[name]
    if refinement.unsupervised:
        return Refined(segmenter, refinement, DenseClip.from_path(source or segmenter.backbone.profile.clip, device=str(segmenter.backbone.device)))
    if name == "heads":
        return Refined(segmenter, replace(refinement, refine=partial(selected_heads, heads=read_heads(source))))
    if source:
        raise ValueError(f"{name} has no model of its own, so that {source!r} cannot be one: leave --model out")
    return Refined(segmenter, refinement)
