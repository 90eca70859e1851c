"""Layers of cross-attention that fall silent, a sample at a time, so that every one of them learns to find words."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LayerDrop:
    """Multiplies the output of each cross-attention layer by 0 or 1, for each sample and layer, while a network trains.

    A network with many layers of cross-attention lets a few of them find the words, and the rest sleep. Where some
    layers are silent the others have to speak. The layers are the modules whose name ends in ``attn2``; forward hooks
    are on them within a ``with`` block and are gone after it. Nothing is dropped before the first :meth:`draw`, after
    :meth:`off`, or in a network that is in evaluation.

    Attributes:
        layers: The names of the layers, in the order of the columns of :attr:`kept`.
        share: Of the samples, how many lose layers at all.
        keep: The chance of each layer to stay in such a sample; at least one does.
        kept: What the last draw left, samples layers, 0 or 1; None is everything.
    """

    def __init__(self, network: nn.Module, share: float = 0.65, keep: float = 0.5) -> None:
        self._modules = {name: module for name, module in network.named_modules() if name.endswith("attn2")}
        if not self._modules:
            raise ValueError("the network has no module whose name ends in attn2: nothing to drop")
        self.layers, self.share, self.keep = tuple(self._modules), share, keep
        self.kept: Tensor | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> LayerDrop:
        self._hooks = [module.register_forward_hook(self._hook(i)) for i, module in enumerate(self._modules.values())]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.off()

    def _hook(self, column: int) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def multiply(module: nn.Module, _: object, output: Tensor) -> Tensor:
            if self.kept is None or not module.training:
                return output
            return output * self.kept[:, column].to(output).view(-1, *[1] * (output.ndim - 1))

        return multiply

    def draw(self, samples: int, generator: torch.Generator) -> Tensor:
        """Choose the layers of the next forward pass of so many samples; the choice is a function of the generator's state."""
        size = (samples, len(self.layers))
        stays = torch.rand(size, generator=generator) < self.keep
        spared = torch.randint(len(self.layers), (samples, 1), generator=generator)
        stays |= ~stays.any(1, keepdim=True) & (torch.arange(len(self.layers)) == spared)
        whole = torch.rand((samples, 1), generator=generator) >= self.share
        self.kept = (stays | whole).float()
        return self.kept

    def off(self) -> None:
        """Drop nothing until the next draw."""
        self.kept = None
