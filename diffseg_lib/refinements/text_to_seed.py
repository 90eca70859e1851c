"""Seeds spread by self-attention, positive and negative, after Text-to-Seed (2026)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..recording import Recording, resolution_pyramid
from ..scoremaps import complete, normalise, resize

SEEDS = (8, 16)  # short sides of the maps that seeds are read from, px


def text_to_seed(recording: Recording, maps: Float[Tensor, "k h w"], high: float = 0.8, low: float = 0.2, rounds: int = 2) -> Float[Tensor, "k h w"]:
    """Read seeds of each class off coarse maps and spread them from coarse to fine (after Text-to-Seed, 2026, without the segmenter and the CLIP that follow).

    Formula: S is the mean of the min-maxed cross maps of short sides 8 and 16 (of the coarsest where there are none), min-maxed. A class's positive seeds
    are where S >= `high` and no other class is stronger, its negative ones where S <= `low` and the positive ones of the others. From the seeds' resolution
    to the finest, P <- minmax(A_s P) of each; the score is P(positive) - P(negative). Where that is above 0, S is erased, and what is left of it gives the
    next round's seeds; the largest score counts. The bounds and the number of rounds are ours.

    Args:
        recording: Recording with all cross maps and all self-attention.
        maps: Maps at the finest resolution, of which the size alone is read.
        high: Value from which on a pixel is a positive seed, in [0, 1].
        low: Value up to which it is a negative one, in [0, 1].
        rounds: Number of times that seeds are read at most, at least 1; of a map without further ones none are.

    Raises:
        ValueError: If bounds or rounds are out of range.
    """
    if not 0 <= low < high <= 1 or rounds < 1:
        raise ValueError(f"low {low}, high {high}, rounds {rounds}: expected 0 <= low < high <= 1, and at least 1 round")
    cross = {stride: one.float() for stride, one in recording.by_resolution().items()}
    strides = [stride for stride, one in cross.items() if min(one.shape[1:]) in SEEDS] or [max(cross)]
    side = resolution_pyramid(recording.size)[min(strides)]
    whole = torch.stack([normalise(resize(cross[stride], side)) for stride in strides]).mean(0)
    left, best = normalise(whole), torch.full_like(maps, -1.0)
    for _ in range(rounds):
        positive = (left >= high) & (left >= left.amax(0))
        if not positive.any():
            break
        others = positive.sum(0, keepdim=True) > positive.long()
        negative = (left <= low) | (others & ~positive)
        found = spread(recording, positive.float(), maps.shape[1:]) - spread(recording, negative.float(), maps.shape[1:])
        best = torch.where(positive.any(2).any(1)[:, None, None], torch.maximum(best, found.to(best)), best)
        left = torch.where(resize(best, side) > 0, 0, left)
    return best


def spread(recording: Recording, seeds: Float[Tensor, "k _ _"], size: tuple[int, int]) -> Float[Tensor, "k h w"]:
    """Maps of seeds, completed at each resolution from their own to the finest, min-maxed each time, and brought to a size.

    Args:
        recording: Recording with all self-attention.
        seeds: Seeds, one map a class, of any resolution.
        size: Height and width of the result.
    """
    groups = recording.self_attention()
    own = seeds.shape[1] * seeds.shape[2]
    for side in sorted(side for side in groups if side[0] * side[1] >= own):
        seeds = normalise(complete(resize(seeds, side), *groups[side]))
    return resize(seeds, (size[0], size[1]))
