"""Seeds spread by self-attention, positive and negative, after Text-to-Seed (2026)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..recording import Recording, resolution_pyramid
from ..scoremaps import complete, normalise, resize

SEEDS = (8, 4)  # strides of the maps that seeds are read from: sides 8 and 16 of latents of 64


def text_to_seed(recording: Recording, maps: Float[Tensor, "k h w"], high: float = 0.8, low: float = 0.2, rounds: int = 2) -> Float[Tensor, "k h w"]:
    """Read seeds of each class off coarse maps and spread them from coarse to fine (after Text-to-Seed, 2026, without the segmenter and the CLIP that follow).

    Formula: S is the mean of the min-maxed cross maps of the coarse strides. A class's positive seeds are where S >= `high` and no other class is stronger, its
    negative ones where S <= `low` and the positive ones of the others. From coarse to fine, P <- minmax(A_s P) of each; the score is P(positive) -
    P(negative). What scores above 0 is then erased from S, and the rest, min-maxed anew, gives the next round's seeds; the largest score counts. The bounds and
    the number of rounds are ours.

    Args:
        recording: Recording with all cross maps and all self-attention.
        maps: Maps at the finest resolution, of which the size alone is read.
        high: Value from which on a pixel is a positive seed, in [0, 1].
        low: Value up to which it is a negative one, in [0, 1].
        rounds: Number of times that seeds are read, at least 1.

    Raises:
        ValueError: If bounds or rounds are out of range.
    """
    if not 0 <= low < high <= 1 or rounds < 1:
        raise ValueError(f"low {low}, high {high}, rounds {rounds}: expected 0 <= low < high <= 1, and at least 1 round")
    cross = {stride: one.float() for stride, one in recording.by_resolution().items()}
    strides = [stride for stride in SEEDS if stride in cross] or [max(cross)]
    side = resolution_pyramid(recording.size)[min(strides)]
    whole = torch.stack([normalise(resize(cross[stride], side)) for stride in strides]).mean(0)
    left, best = whole, torch.full_like(maps, -1.0)
    for _ in range(rounds):
        values = normalise(left)
        positive = (values >= high) & (values >= values.amax(0))
        others = positive.sum(0, keepdim=True) > positive.long()
        negative = (values <= low) | (others & ~positive)
        found = spread(recording, positive.float(), maps.shape[1:]) - spread(recording, negative.float(), maps.shape[1:])
        best = torch.maximum(best, found.to(best))
        left = torch.where(resize(best, side) > 0, 0, left)
        if not (left > 0).any():
            break
    return best


def spread(recording: Recording, seeds: Float[Tensor, "k _ _"], size: tuple[int, int]) -> Float[Tensor, "k h w"]:
    """Maps of seeds, completed at each resolution from coarse to fine, min-maxed each time, and brought to a size.

    Args:
        recording: Recording with all self-attention.
        seeds: Seeds, one map a class, of any resolution.
        size: Height and width of the result.
    """
    groups = recording.self_attention()
    for side in sorted(groups):
        seeds = normalise(complete(resize(seeds, side), *groups[side]))
    return resize(seeds, (size[0], size[1]))
