"""Recording attention while a UNet runs, and leaving the UNet as it was.

The recorder stands beside each attention layer's own processor: the layer's output is computed by that
processor, unchanged, and the maps are computed next to it, only for the layers and tokens asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class Recording:
    """What one UNet call left behind.

    - cross: layer name to A = softmax(Q K^T / sqrt d), Eq. (4), at the asked tokens: the mean over
      heads, b h w (with ``heads=True``: b heads h w), in the order in which the layers ran.
    - queries, keys: layer name to b heads n d, of the self-attention layers at the finest side (or of all).
    - size: height and width of the latents.
    """

    cross: dict[str, Tensor] = field(default_factory=dict)
    queries: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)

    def finest(self) -> tuple[list[Tensor], list[Tensor]]:
        """Queries and keys of the self-attention layers at the latents' own side."""
        return self.self_attention().get(self.size, ([], []))

    def self_attention(self) -> dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]]:
        """Queries and keys of the recorded layers, by the height and width they attend at."""
        groups: dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]] = {}
        for name, query in self.queries.items():
            size = next(size for size in _pyramid(self.size).values() if size[0] * size[1] == query.shape[2])
            queries, keys = groups.setdefault(size, ([], []))
            queries.append(query)
            keys.append(self.keys[name])
        return groups

    def divisor(self, name: str) -> int:
        """How many times smaller than the latents the maps of a layer are: 1, 2, 4 or 8."""
        height = self.cross[name].shape[-2]
        return next(d for d, (h, _) in _pyramid(self.size).items() if h == height)

    def by_side(self) -> dict[int, Float[Tensor, "b _ _"]]:
        """The mean over the layers of each side: divisor of the latent's side to b h w, coarse to fine."""
        groups: dict[int, list[Tensor]] = {}
        for name, maps in self.cross.items():
            groups.setdefault(self.divisor(name), []).append(maps.mean(1) if maps.ndim == 4 else maps)
        return {d: torch.stack(groups[d]).mean(0) for d in sorted(groups, reverse=True)}


def _pyramid(size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Divisor to height and width; each level halves the last, rounding up as a strided convolution does."""
    levels, (h, w) = {}, size
    for divisor in (1, 2, 4, 8, 16):
        levels[divisor] = (h, w)
        h, w = (h + 1) // 2, (w + 1) // 2
    return levels


class _Recorder:
    """An attention processor that runs another one and writes down what was attended to."""

    def __init__(self, name: str, inner: Any, recording: Recording, spans: Tensor | None, heads: bool, self_attention: str) -> None:
        self.name, self.inner, self.recording = name, inner, recording
        self.spans, self.heads, self.self_attention = spans, heads, self_attention

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            self._write(attn, hidden_states, encoder_hidden_states)
        return self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)

    def _write(self, attn: Any, hidden: Tensor, context: Tensor | None) -> None:
        count = hidden.shape[1]
        if context is None:
            h, w = self.recording.size
            if self.self_attention == "all" or (self.self_attention == "finest" and count == h * w):
                self.recording.queries[self.name] = rearrange(attn.to_q(hidden), "b n (e d) -> b e n d", e=attn.heads)
                self.recording.keys[self.name] = rearrange(attn.to_k(hidden), "b n (e d) -> b e n d", e=attn.heads)
            return
        if self.spans is None:
            return
        sizes = [size for size in _pyramid(self.recording.size).values() if size[0] * size[1] == count]
        if not sizes:
            raise ValueError(f"{self.name} attends from {count} pixels, which no halving of {self.recording.size} latents gives")
        h, w = sizes[0]
        query = rearrange(attn.to_q(hidden), "b n (e d) -> b e n d", e=attn.heads)
        key = rearrange(attn.to_k(context), "b l (e d) -> b e l d", e=attn.heads)
        spans = self.spans.to(query)
        if spans.shape != (len(key), key.shape[2]):
            raise ValueError(f"spans of shape {tuple(spans.shape)}: expected one weight a prompt and token, {(len(key), key.shape[2])}")
        maps = []
        for e in range(attn.heads):  # one head at a time: probabilities over all tokens are never kept
            probabilities = (query[:, e] @ key[:, e].mT * attn.scale).softmax(-1)  # b n l
            maps.append((probabilities @ spans[..., None])[..., 0])
        stacked = rearrange(torch.stack(maps, 1), "b e (h w) -> b e h w", h=h, w=w)
        self.recording.cross[self.name] = stacked if self.heads else stacked.mean(1)


@contextmanager
def record_attention(unet: nn.Module, spans: Float[Tensor, "b l"] | None, *, self_attention: str = "finest", heads: bool = False) -> Iterator[Recording]:
    """Record one call of `unet` made inside the ``with`` block.

    Args:
        unet: a ``UNet2DConditionModel``; its processors are put back on leaving, whatever happens.
        spans: for each prompt the weight of each token in the recorded map (1/m at each of a class's
            m sub-tokens gives their mean); None records no cross-attention.
        self_attention: keep queries and keys of the "finest" self-attention layers, of "all", or of "none".
        heads: keep every head's cross map rather than their mean.

    Raises:
        ValueError: if the model has no attention layers, or `spans` does not fit the prompts.
    """
    if self_attention not in ("finest", "all", "none"):
        raise ValueError(f"self_attention {self_attention!r}: expected 'finest', 'all' or 'none'")
    recording = Recording()
    layers = {name: m for name, m in unet.named_modules() if hasattr(m, "set_processor") and hasattr(m, "to_q")}
    if not layers:
        raise ValueError(f"{type(unet).__name__} has no attention layers to record: expected a UNet2DConditionModel")
    before = {name: layer.processor for name, layer in layers.items()}

    def note_size(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        recording.size = (sample.shape[-2], sample.shape[-1])

    hook = unet.register_forward_pre_hook(note_size, with_kwargs=True)
    try:
        for name, layer in layers.items():
            layer.set_processor(_Recorder(name, before[name], recording, spans, heads, self_attention))
        yield recording
    finally:
        hook.remove()
        for name, layer in layers.items():
            layer.set_processor(before[name])
