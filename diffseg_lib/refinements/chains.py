"""Attention chains and TokenRank (Erel et al. 2025): self-attention as the steps of a Markov chain."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..propagation.operators import Operator, mean_of, propagate
from ..recording import Recording


def attention_chain(recording: Recording, maps: Float[Tensor, "k h w"], bounces: int = 2, steps: int = 12) -> Float[Tensor, "k h w"]:
    """Let each map walk along self-attention as a distribution over pixels (attention chains, Erel et al. 2025).

    Formula: v <- v A, `bounces` times, from v = M divided by its sum; A is the mean of all heads, each with the size of its second eigenvalue as weight, since
    heads that mix slowly keep to one thing.

    Args:
        recording: Recording with the finest self-attention.
        maps: Maps at the finest resolution, none negative.
        bounces: Number of steps of the chain. A published default.
        steps: Number of steps of the power iteration for the eigenvalues (ours); 0 weighs all heads alike.
    """

    def rule(layers: list[list[Operator]], columns: Tensor) -> Tensor:
        heads = [head for heads in layers for head in heads]
        weights = [second_eigenvalue(head, steps) for head in heads] if steps else None
        matrix = mean_of(heads, weights if weights and sum(weights) > 0 else None).kept()
        sums = columns.sum(0)
        columns = columns / torch.where(sums > 0, sums, 1)
        for _ in range(bounces):
            columns = matrix.apply_transposed(columns)
        return columns

    return propagate(maps, *recording.finest(), rule)


def second_eigenvalue(operator: Operator, steps: int = 12) -> float:
    """Size of the second eigenvalue of a matrix whose rows sum to 1, by power iteration on A - 1 (mean of the rows), which has no first one.

    Args:
        operator: Matrix whose rows sum to 1.
        steps: Number of times that it is applied; the value is the mean growth over the second half of them.
    """
    matrix = operator.kept()
    generator = torch.Generator().manual_seed(0)
    first = matrix.rows(0, 1)
    vector = torch.randn(matrix.size, 1, generator=generator).to(first)
    vector = vector - vector.mean()
    growth = []
    for _ in range(steps):
        size = vector.norm()
        if not float(size) > torch.finfo(vector.dtype).tiny:
            return 0.0
        vector = matrix.apply(vector / size)
        vector = vector - vector.mean()
        growth.append(float(vector.norm()))
    late = torch.tensor(growth[len(growth) // 2 :], dtype=torch.float64)
    return float(late.log().mean().exp())


def token_rank(operator: Operator, damping: float = 0.85, tolerance: float = 1e-6) -> Float[Tensor, " n"]:
    """Share of time that an endless walk spends at each pixel (TokenRank, Erel et al. 2025): the stationary vector of a A + (1 - a) / n.

    Formula: v <- a v A + (1 - a) / n from v = 1 / n, until v moves by no more than `tolerance` in all; each step moves it a times as far at most.

    Args:
        operator: Matrix whose rows sum to 1.
        damping: Weight a of the matrix, 0 or more and below 1 (PageRank's usual value).
        tolerance: Sum of absolute changes at which the iteration ends, above 0.

    Raises:
        ValueError: If `damping` or `tolerance` is out of range.
    """
    if not 0 <= damping < 1 or tolerance <= 0:
        raise ValueError(f"damping {damping}, tolerance {tolerance}: expected 0 or more and below 1, and above 0")
    matrix = operator.kept()
    start = torch.full((matrix.size, 1), 1 / matrix.size).to(matrix.rows(0, 1))
    vector, moved = start, 2.0
    while moved > max(tolerance, 8 * torch.finfo(start.dtype).eps):
        before, vector = vector, damping * matrix.apply_transposed(vector) + (1 - damping) * start
        moved = float((vector - before).abs().sum())
    return vector[:, 0]
