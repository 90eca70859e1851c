"""CLIPer (Sun et al. 2025): the matrix product over the heads of self-attention."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..recording import Recording
from .operators import Operator, propagate, rescale


def cliper(recording: Recording, maps: Float[Tensor, "k h w"], floor: float = 0.1) -> Float[Tensor, "k h w"]:
    """Spread maps along the matrix product over heads of self-attention (CLIPer, Sun et al. 2025), the mean over layers.

    Formula: each head's A <- A / (maximum of the column), entries below `floor` to 0, rows brought to a sum of 1; M <- A_1 A_2 ... A_H M. The maps are those of
    cross-attention here and of CLIP there, and the prompt that drives the UNet is the class's own rather than empty.

    Args:
        recording: Recording with the finest self-attention.
        maps: Maps at the finest resolution.
        floor: Share of a column's maximum below which an entry counts as 0, in [0, 1]. A published default.
    """

    def rule(layers: list[list[Operator]], columns: Tensor) -> Tensor:
        products = []
        for heads in layers:
            product = columns
            for head in reversed(heads):
                product = rescale(head, lambda rows: torch.where(rows < floor, 0, rows)).apply(product)
            products.append(product)
        return torch.stack(products).mean(0)

    return propagate(recording, maps, rule)
