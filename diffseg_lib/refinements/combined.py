"""Parts of several refinements put together: one's maps, another's completion, a third's calibration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..recording import Recording
from ..scoremaps import complete, normalise
from .chains import attention_chain
from .cliper import cliper
from .fa_seg import fa_seg
from .goca import weighted_maps
from .heads import Head, head_maps
from .iseg import iseg
from .nerve import nerve

MAPS = ("fused", "heads", "goca")  # what is completed: Eq. (5), the mean of chosen heads, GoCA's weighted heads and layers
COMPLETIONS: Mapping[str, Any] = {
    "mean": lambda recording, maps: complete(maps, *recording.finest()),
    "iseg": iseg,
    "product": cliper,
    "product2": partial(cliper, floor=0.2),
    "product3": partial(cliper, floor=0.3),
    "faseg": fa_seg,
    "chains": attention_chain,
    "nerve": nerve,
}


@dataclass(frozen=True)
class Combination:
    """Parts of refinements that are used together.

    Args:
        label: Its name, for people.
        completions: Completions, keys of :data:`COMPLETIONS`; of several the mean of their min-maxed results.
        maps: Maps that are completed, of :data:`MAPS`.
        calibrated: Whether the maps are first raised to the exponents of ELBO-T2IAlign.
        share: Share of the completed maps beside the maps themselves, both min-maxed, in (0, 1]: the walk's return to where it began, as NERVE has it, after
            one step.
    """

    label: str
    completions: tuple[str, ...]
    maps: str = "fused"
    calibrated: bool = False
    share: float = 1.0

    def refine(
        self,
        recording: Recording,
        fused: Float[Tensor, "k h w"],
        powers: Float[Tensor, " k"] | None = None,
        heads: Collection[Head] = (),
        content: Recording | None = None,
    ) -> Float[Tensor, "k h w"]:
        """New maps of a recording.

        Args:
            recording: Recording with every head's cross maps and all self-attention.
            fused: Fused maps, Eq. (5).
            powers: Exponents of :func:`~diffseg_lib.refinements.elbo_t2i.exponents`, where they are calibrated.
            heads: Chosen heads, where their maps are taken.
            content: Recording as :func:`~diffseg_lib.refinements.goca.goca` asks for it, where its maps are taken.

        Raises:
            ValueError: If what the combination needs is not given.
        """
        if (self.calibrated and powers is None) or (self.maps == "goca" and content is None):
            raise ValueError(f"{self.label}: expected {'exponents of the losses' if self.calibrated else 'a recording with projections and content'}")
        maps = fused
        if self.maps == "heads":
            maps = head_maps(recording, fused, heads)
        elif self.maps == "goca" and content is not None:
            maps = weighted_maps(content, fused)
        if powers is not None and self.calibrated:
            maps = normalise(maps) ** powers[:, None, None]
        found = [COMPLETIONS[name](recording, maps) for name in self.completions]
        if len(found) == 1 and self.share == 1:
            return found[0]
        completed = torch.stack([normalise(one) for one in found]).mean(0)
        return self.share * normalise(completed) + (1 - self.share) * normalise(maps)


SINGLES: Mapping[str, Combination] = {  # one completion of the fused maps, CLIPer's with other bounds too
    "ours": Combination("the paper's: mean of heads, once", ("mean",)),
    "iseg": Combination("iSeg", ("iseg",)),
    "cliper": Combination("CLIPer", ("product",)),
    "faseg": Combination("FA-Seg", ("faseg",)),
    "chains": Combination("attention chains", ("chains",)),
    "nerve": Combination("NERVE", ("nerve",)),
    "product2": Combination("CLIPer's product, floor .2", ("product2",)),
    "product3": Combination("CLIPer's product, floor .3", ("product3",)),
}
PAIRS: Mapping[str, Combination] = {  # parts of two refinements or three
    "product_return": Combination("CLIPer's product + NERVE's return, .75", ("product",), share=0.75),
    "product_return2": Combination("CLIPer's product + NERVE's return, .5", ("product",), share=0.5),
    "product2_return": Combination("CLIPer's product, floor .2 + NERVE's return, .75", ("product2",), share=0.75),
    "product2_return2": Combination("CLIPer's product, floor .2 + NERVE's return, .5", ("product2",), share=0.5),
    "product_mean": Combination("CLIPer's product + the paper's mean", ("product", "mean")),
    "product_nerve": Combination("CLIPer's product + NERVE's walk", ("product", "nerve")),
    "product_elbo": Combination("CLIPer's product + ELBO-T2IAlign", ("product",), calibrated=True),
    "nerve_elbo": Combination("NERVE's walk + ELBO-T2IAlign", ("nerve",), calibrated=True),
    "heads_product": Combination("chosen heads + CLIPer's product", ("product",), "heads"),
    "heads_nerve": Combination("chosen heads + NERVE's walk", ("nerve",), "heads"),
    "heads_product_elbo": Combination("chosen heads + CLIPer's product + ELBO-T2IAlign", ("product",), "heads", True),
    "goca_product": Combination("GoCA's weights + CLIPer's product", ("product",), "goca"),
    "goca_nerve": Combination("GoCA's weights + NERVE's walk", ("nerve",), "goca"),
}
