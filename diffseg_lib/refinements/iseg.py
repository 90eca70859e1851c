"""iSeg (Sun et al. 2024): self-attention of less entropy, applied again and again."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..propagation.operators import Operator, mean_of, propagate, rescale
from ..recording import Recording


def iseg(recording: Recording, maps: Float[Tensor, "k h w"], epsilon: float = 0.015, rounds: int = 8) -> Float[Tensor, "k h w"]:
    """Spread maps along self-attention whose entropy is reduced first (iSeg, Sun et al. 2024), its mean over heads and layers.

    Formula: A <- A / (maximum of the column), A <- max(0, A + epsilon log10(e A)), rows brought to a sum of 1; then so many times M <- A M, its minimum taken
    off, divided by its sum. What iSeg does to the prompt (a word's embedding made stronger) is the segmenter's ``emphasis``.

    Args:
        recording: Recording with the finest self-attention.
        maps: Maps at the finest resolution.
        epsilon: Size of the step against entropy; 0 leaves the entries as they are. A published default.
        rounds: Number of times that A is applied. A published default.
    """

    def rule(layers: list[list[Operator]], columns: Tensor) -> Tensor:
        matrix = rescale(mean_of([head for heads in layers for head in heads]), lambda rows: lower_entropy(rows, epsilon)).kept()
        for _ in range(rounds):
            columns = matrix.apply(columns)
            columns = columns - columns.amin(0)
            sums = columns.sum(0)
            columns = columns / torch.where(sums > 0, sums, 1)
        return columns

    return propagate(maps, *recording.finest(), rule)


def lower_entropy(rows: Float[Tensor, "r n"], epsilon: float) -> Float[Tensor, "r n"]:
    """A + epsilon log10(e A), 0 where that is negative: small entries vanish, large ones stay."""
    tiny = torch.finfo(rows.dtype).tiny
    return (rows + epsilon * torch.log10(math.e * rows.clamp_min(tiny))).clamp_min(0)
