"""Layers that cannot sleep: cross-attention layers are silenced at random while a UNet trains, so that each of them learns to find words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

SHARE = 0.65  # of the samples, in which layers are dropped
KEPT = 0.5  # the probability that a layer of such a sample is kept


def draw_layers(layers: int, samples: int, generator: torch.Generator, share: float = SHARE, kept: float = KEPT) -> Bool[Tensor, "layers b"]:
    """Which layers speak for which samples: all of them for most, some of them, and at least one, for the others.

    Args:
        layers: Number of layers.
        samples: Number of samples in the batch, b.
        generator: Source of the random numbers.
        share: Share of samples in which layers are dropped, in [0, 1].
        kept: Probability that a layer of such a sample is kept, in [0, 1].
    """
    chosen = torch.rand(layers, samples, generator=generator) < kept
    spared = torch.randint(layers, (samples,), generator=generator)
    chosen[spared, torch.arange(samples)] = True
    return chosen | (torch.rand(samples, generator=generator) >= share)


@contextmanager
def dropped_layers(unet: nn.Module, chosen: Bool[Tensor, "layers b"]) -> Iterator[None]:
    """Multiply the outputs of a UNet's cross-attention layers by 0 where they were not chosen, as long as the block runs.

    Args:
        unet: Its cross-attention layers are the modules called ``attn2``, in the order of their names.
        chosen: For each of them and each sample of the batch whether it speaks.

    Raises:
        ValueError: If there are more or fewer such layers than rows of `chosen`.
    """
    layers = [module for name, module in unet.named_modules() if name.rpartition(".")[2] == "attn2"]
    if len(layers) != len(chosen):
        raise ValueError(f"{len(chosen)} rows of chosen layers for {len(layers)} cross-attention layers: expected one row a layer")

    def hook(row: Tensor) -> Any:
        return lambda module, inputs, output: output * row.to(output).view(-1, 1, 1)

    handles = [layer.register_forward_hook(hook(row)) for layer, row in zip(layers, chosen, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
