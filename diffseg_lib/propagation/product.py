"""The product over heads of self-attention, in place of their mean (CLIPer, Sun et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .operators import Operator, propagate, rescale


def product_of_heads(
    maps: Float[Tensor, "k h w"], queries: Sequence[Float[Tensor, "_ _ n _"]], keys: Sequence[Float[Tensor, "_ _ n _"]], floor: float = 0.1
) -> Float[Tensor, "k h w"]:
    """Spread maps along the matrix product over heads of self-attention, the mean over layers; no matrix is stored.

    Formula: each head's A <- A / (maximum of the column), entries below `floor` to 0, rows brought to a sum of 1; M <- A_1 A_2 ... A_H M.

    Args:
        maps: Maps at the resolution that the layers attend at.
        queries: Queries of the layers, b heads n d, n = h*w; b is k (each map by its own row of the batch) or 1 (one row for all).
        keys: Keys of the same layers, of the same shapes.
        floor: Share of a column's maximum below which an entry counts as 0, in [0, 1]. A published default.

    Raises:
        ValueError: If there are no layers, or the shapes do not fit.
    """

    def rule(layers: list[list[Operator]], columns: Tensor) -> Tensor:
        products = []
        for heads in layers:
            product = columns
            for head in reversed(heads):
                product = rescale(head, lambda rows: torch.where(rows < floor, 0, rows)).apply(product)
            products.append(product)
        return torch.stack(products).mean(0)

    return propagate(maps, queries, keys, rule)
