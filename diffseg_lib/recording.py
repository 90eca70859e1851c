"""What one call of a UNet leaves behind, and the sizes at which its layers attend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Projections:
    """All that one attention layer computes with; whatever it gives follows from these.

    Args:
        query: Queries, b heads n d.
        key: Keys, b heads m d: m is n in self-attention, the number of tokens in cross-attention.
        value: Values, b heads m d.
        output: Weight of the projection that follows, c (heads*d).
        hidden: What the layer attends from, b n c.
        size: Height and width of its n pixels.
    """

    query: Float[Tensor, "b heads n d"]
    key: Float[Tensor, "b heads m d"]
    value: Float[Tensor, "b heads m d"]
    output: Float[Tensor, "c heads_d"]
    hidden: Float[Tensor, "b n c"]
    size: tuple[int, int]


@dataclass
class Recording:
    """What one UNet call left behind; b is 1 where one row serves all prompts.

    Args:
        cross: Layer name to A = softmax(Q K^T / sqrt d), Eq. (4), at the asked tokens, in the order in which the layers ran: the mean over heads, b h w (with
            ``heads=True``: b heads h w). With ``layers=False`` it is the mean over the layers of a resolution, by height and width.
        queries: Layer name to queries, b heads n d, of the self-attention layers at the finest resolution (or of all).
        keys: Layer name to keys of the same layers, b heads n d.
        size: Height and width of the latents.
        finest_size: Height and width at the finest resolution at which the model attends to itself, which is that of the latents in Stable Diffusion 1.x and
            2.x, and half of it in XL.
        projections: Layer name to all that its attention is made of, of the kinds asked for.
        added: Number of layers that each of the cross maps is the mean of.
        unit: What the keys of fusion weights are numbers of: "stride", or "block" of a transformer.
    """

    unit: ClassVar[str] = "stride"
    cross: dict[str, Tensor] = field(default_factory=dict)
    queries: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    finest_size: tuple[int, int] = (0, 0)
    projections: dict[str, Projections] = field(default_factory=dict)
    added: Counter[str] = field(default_factory=Counter, repr=False)

    def finest(self, weights: Mapping[int, float] | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Queries and keys of the self-attention layers at the finest resolution, whatever the fusion weights are (transformers ask them)."""
        return self.self_attention().get(self.finest_size, ([], []))

    def self_attention(self) -> dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]]:
        """Queries and keys of the recorded layers, by the height and width they attend at."""
        groups: dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]] = {}
        for name, query in self.queries.items():
            size = next(size for size in resolution_pyramid(self.size).values() if size[0] * size[1] == query.shape[2])
            queries, keys = groups.setdefault(size, ([], []))
            queries.append(query)
            keys.append(self.keys[name])
        return groups

    def stride(self, name: str) -> int:
        """Stride of a layer's maps, relative to the latents: how many times smaller they are, 1, 2, 4, 8 or 16."""
        height = self.cross[name].shape[-2]
        return next(d for d, (h, _) in resolution_pyramid(self.size).items() if h == height)

    def by_resolution(self) -> dict[int, Float[Tensor, "b _ _"]]:
        """The mean over the layers of each resolution: stride to b h w, coarse to fine."""
        groups: dict[int, list[Tensor]] = {}
        for name, maps in self.cross.items():
            groups.setdefault(self.stride(name), []).append(maps.mean(1) if maps.ndim == 4 else maps)
        return {d: torch.stack(groups[d]).mean(0) for d in sorted(groups, reverse=True)}


def resolution_pyramid(size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Stride to height and width; each level halves the last, rounding up as a strided convolution does."""
    levels, (h, w) = {}, size
    for stride in (1, 2, 4, 8, 16):
        levels[stride] = (h, w)
        h, w = (h + 1) // 2, (w + 1) // 2
    return levels


def words_of(context: Any) -> Any:
    """The prompts' embeddings, which an IP-Adapter hands to the layers in a tuple with those of pictures."""
    return context[0] if isinstance(context, tuple) else context


@dataclass
class RecordingOptions:
    """What is to be recorded, and which layers see the same rows for every prompt."""

    token_weights: Tensor | None
    heads: bool
    self_attention: str
    resolutions: Collection[int] | None
    first_only: bool
    optimizations: Collection[str]
    side_prompts: Tensor | None = None
    projections: Collection[str] = ()
    layers: bool = True
    side_counts: Tensor | None = None
    prompts: int = 0
    last: str = ""
    same: tuple[str, ...] = ()
