"""NERVE (Mahatha et al. 2026): a random walk along self-attention to its limit."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, softmax, tensor, xlogy

from ..propagation.operators import Operator, mean_of, propagate
from ..recording import Recording


def nerve(recording: Recording, maps: Float[Tensor, "k h w"], alpha: float = 0.8, tolerance: float = 1e-4) -> Float[Tensor, "k h w"]:
    """Let maps walk along self-attention, with a return to where they began, to the limit (NERVE, Mahatha et al. 2026).

    Formula: P = (1 - a) (I - a S)^-1 G, by P <- a S P + (1 - a) G; S is the mean of the heads, head h with the weight softmax_h(-H_h), H_h the mean entropy of
    its rows, in nats. NERVE's local neighbourhood beside S is left out, and G is CLIP's there and that of cross-attention here. The values of `alpha` and
    `tolerance` and the form of the weights are ours.

    Args:
        recording: Recording with the finest self-attention.
        maps: Maps G at the finest resolution.
        alpha: Chance a of a further step, 0 or more and below 1; 0 gives back the maps.
        tolerance: Distance from the limit, relative to the largest entry of G, at which the iteration ends, above 0.

    Raises:
        ValueError: If `alpha` or `tolerance` is out of range.
    """
    if not 0 <= alpha < 1 or tolerance <= 0:
        raise ValueError(f"alpha {alpha}, tolerance {tolerance}: expected 0 or more and below 1, and above 0")

    def rule(layers: list[list[Operator]], columns: Tensor) -> Tensor:
        heads = [head for heads in layers for head in heads]
        matrix = mean_of(heads, softmax(-tensor([mean_entropy(head) for head in heads]), 0).tolist()).kept()
        found, left, bound = columns, 2 * float(columns.abs().max()), tolerance * float(columns.abs().max())
        while left > bound and alpha:  # rows of S sum to 1, so that each step leaves at most a times the distance to the limit
            before, found = found, alpha * matrix.apply(found) + (1 - alpha) * columns
            left = min(alpha * left, alpha / (1 - alpha) * float((found - before).abs().max()))
        return found

    return propagate(maps, *recording.finest(), rule)


def mean_entropy(operator: Operator) -> float:
    """The mean over rows of -sum A log A, in nats."""
    return sum(float(-xlogy(rows, rows).sum()) for _, rows in operator.chunks()) / operator.size
