"""Self-attention as matrices over pixels that are applied to maps and never stored whole: rows are computed some at a time.

Shapes: n pixels of the finest resolution, k maps, d width of a head. Up to :data:`SMALL` pixels an operator may keep its rows, one matrix at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK, SMALL = 256, 1024  # rows that are computed at once, pixels up to which rows are kept


@dataclass(frozen=True)
class Operator:
    """A square matrix over n pixels, known by its rows.

    Args:
        rows: Function from a first row and the one after the last to these rows, r n.
        size: Number of pixels n.
    """

    rows: Callable[[int, int], Tensor]
    size: int

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows, r n, some at a time, and where they stand."""
        for start in range(0, self.size, CHUNK):
            stop = min(start + CHUNK, self.size)
            yield slice(start, stop), self.rows(start, stop)

    def apply(self, vectors: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """A v, of each column."""
        return torch.cat([rows @ vectors for _, rows in self.chunks()])

    def apply_transposed(self, vectors: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """A^T v of each column, or v A of each as a row."""
        total = torch.zeros_like(vectors)
        for place, rows in self.chunks():
            total += rows.mT @ vectors[place]
        return total

    def column_maxima(self) -> Float[Tensor, " n"]:
        """The largest entry of each column."""
        return torch.stack([rows.amax(0) for _, rows in self.chunks()]).amax(0)

    def kept(self) -> Operator:
        """The same matrix, its rows computed once for all, where it has no more than :data:`SMALL` pixels."""
        if self.size > SMALL:
            return self
        matrix = torch.cat([rows for _, rows in self.chunks()])
        return Operator(lambda start, stop: matrix[start:stop], self.size)


def attention_head(query: Float[Tensor, "n d"], key: Float[Tensor, "n d"]) -> Operator:
    """A = softmax(Q K^T / sqrt d) of one head, in float32 at least."""
    query, key = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in (query, key))
    return Operator(lambda start, stop: (query[start:stop] @ key.mT / query.shape[-1] ** 0.5).softmax(-1), len(query))


def mean_of(operators: Sequence[Operator], weights: Sequence[float] | None = None) -> Operator:
    """The mean of matrices, each with its weight if there are any; the weights are divided by their sum.

    Raises:
        ValueError: On no matrix, a negative weight, or weights that are all 0.
    """
    given = [1.0] * len(operators) if weights is None else list(weights)
    if not given or min(given) < 0 or not sum(given) > 0:
        raise ValueError(f"weights {given} of {len(operators)} matrices: expected one each, none negative, and one at least above 0")
    shares = [weight / sum(given) for weight in given]

    def rows(start: int, stop: int) -> Tensor:
        return torch.stack([share * one.rows(start, stop) for share, one in zip(shares, operators, strict=True)]).sum(0)

    return Operator(rows, operators[0].size)


def rescale(operator: Operator, change: Callable[[Tensor], Tensor]) -> Operator:
    """Divide each column by its maximum, change the entries, and bring rows to a sum of 1; a row without entries stays without.

    Args:
        operator: Matrix of entries that are not negative.
        change: Function from rows, r n, with entries in [0, 1], to their new entries, none negative.
    """
    maxima = operator.column_maxima()

    def rows(start: int, stop: int) -> Tensor:
        changed = change(operator.rows(start, stop) / maxima)
        sums = changed.sum(-1, keepdim=True)
        return changed / torch.where(sums > 0, sums, 1)

    return Operator(rows, operator.size)


def propagate(
    maps: Float[Tensor, "k h w"],
    queries: Sequence[Float[Tensor, "_ _ n _"]],
    keys: Sequence[Float[Tensor, "_ _ n _"]],
    rule: Callable[[list[list[Operator]], Float[Tensor, "n _"]], Float[Tensor, "n _"]],
) -> Float[Tensor, "k h w"]:
    """Apply a rule to each map along the self-attention of its own prompt, or to all at once along that of the one prompt recorded.

    Args:
        maps: Maps at the resolution that the layers attend at.
        queries: Queries of the layers, b heads n d, n = h*w; b is k (each map by its own row of the batch) or 1 (one row for all).
        keys: Keys of the same layers, of the same shapes.
        rule: Function from the heads of each layer, and maps as columns, to new columns.

    Raises:
        ValueError: If there are no layers, or the shapes do not fit.
    """
    k, h, w = maps.shape
    batch = max((len(one) for one in queries), default=0)
    if batch not in (1, k) or any(one.shape[2] != h * w for one in queries):
        raise ValueError(
            f"self-attention of shapes {[tuple(one.shape) for one in queries]} (b heads n d) does not fit maps {tuple(maps.shape)}: "
            f"record with self_attention='finest' or 'all', of b = {k} or 1 prompts, n = {h * w}"
        )

    def heads(i: int) -> list[list[Operator]]:
        rows = ((query[i if len(query) > 1 else 0], key[i if len(key) > 1 else 0]) for query, key in zip(queries, keys, strict=True))
        return [[attention_head(q, k) for q, k in zip(query, key, strict=True)] for query, key in rows]

    columns = maps.flatten(1).mT.float()
    parts = [rule(heads(0), columns)] if batch == 1 else [rule(heads(i), columns[:, i : i + 1]) for i in range(k)]
    return torch.cat(parts, dim=1).mT.reshape(k, h, w)
