"""DiffSeg (Tian et al. 2024): self-attention maps merged until each is a region."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..propagation.operators import Operator, attention_head
from ..recording import Recording
from ..scoremaps import resize


def diffseg(recording: Recording, grid: int = 16, limit: float = 1.0, rounds: int = 3) -> Int[Tensor, "h w"]:
    """Merge the self-attention of a picture into regions without words (DiffSeg, Tian et al. 2024).

    Formula: every pixel's distribution A_p is the mean over layers of its row of A_self, brought to the finest resolution, a layer's weight its side. Each
    anchor of a grid becomes the mean of all A_p within a symmetric divergence (KL(p, q) + KL(q, p)) / 2 of `limit`; then proposals within it are merged with
    each other, `rounds` - 1 times; each pixel belongs to the proposal of the largest probability there. Rows are computed some at a time, and those of the
    anchors alone are kept. DiffSeg's limit is tuned by data set, from 0.9 to 1.1 there. The one row of the empty prompt is all that is recorded, so that
    ``share_self_attention`` changes nothing here.

    Args:
        recording: Recording of one prompt, the empty one, with all self-attention.
        grid: Number of anchors to a side; at most as many as pixels.
        limit: Divergence up to which two distributions are one.
        rounds: Number of rounds, at least 1.

    Raises:
        ValueError: If rounds, grid or limit are out of range, or no self-attention was recorded.
    """
    if grid < 1 or limit <= 0 or rounds < 1 or not recording.queries:
        raise ValueError(
            f"grid {grid}, limit {limit}, rounds {rounds}, {len(recording.queries)} layers: expected at least 1, above 0, at least 1, and one layer"
        )
    (h, w), operator = recording.finest_size, aggregate(recording)
    down, across = (torch.linspace(0, side - 1, min(grid, side)).round().long().tolist() for side in (h, w))
    proposals = torch.cat([operator.rows(y * w, (y + 1) * w)[across] for y in down])
    sums, counts = torch.zeros_like(proposals), proposals.new_zeros(len(proposals), 1)
    for _, rows in operator.chunks():
        near = (divergence(proposals, rows) <= limit).to(rows)
        sums, counts = sums + near @ rows, counts + near.sum(1, keepdim=True)
    proposals = sums / counts.clamp_min(1)
    for _ in range(rounds - 1):
        proposals = merge(proposals, limit)
    return proposals.argmax(0).unflatten(0, (h, w))


def aggregate(recording: Recording) -> Operator:
    """The mean of all layers' self-attention, of the first prompt, at the finest resolution, each with its side as weight; rows sum to 1."""
    h, w = recording.finest_size
    layers = []
    for side, (queries, keys) in recording.self_attention().items():
        for query, key in zip(queries, keys, strict=True):
            layers.append((side, [attention_head(q, k) for q, k in zip(query[0], key[0], strict=True)]))

    def rows(start: int, stop: int) -> Tensor:
        y, x = torch.arange(start, stop) // w, torch.arange(start, stop) % w
        total = torch.zeros(())
        for (height, width), heads in layers:
            own = (y * height // h) * width + x * width // w
            first, last = int(own.min()), int(own.max())
            seen = torch.stack([head.rows(first, last + 1) for head in heads]).mean(0)
            fine = resize(seen.unflatten(1, (height, width)), (h, w)).flatten(1)
            fine = fine / fine.sum(1, keepdim=True)
            total = total.to(fine) + height * fine[(own - first).to(fine.device)]
        return total / total.sum(1, keepdim=True)

    return Operator(rows, h * w)


def divergence(some: Float[Tensor, "a n"], others: Float[Tensor, "b n"]) -> Float[Tensor, "a b"]:
    """D = (KL(p, q) + KL(q, p)) / 2 of every two distributions, in nats."""
    tiny = torch.finfo(some.dtype).tiny
    log_some, log_others = some.clamp_min(tiny).log(), others.clamp_min(tiny).log()
    own = (some * log_some).sum(1)[:, None] + (others * log_others).sum(1)
    return (own - some @ log_others.mT - log_some @ others.mT) / 2


def merge(proposals: Float[Tensor, "a n"], limit: float) -> Float[Tensor, "_ n"]:
    """Merge proposals: the first and all within the limit of it become their mean, then the first of the rest, and so on."""
    merged = []
    while len(proposals):
        near = (divergence(proposals[:1], proposals)[0] <= limit) | (torch.arange(len(proposals), device=proposals.device) == 0)
        merged.append(proposals[near].mean(0))
        proposals = proposals[~near]
    return torch.stack(merged)
