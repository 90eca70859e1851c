"""FA-Seg (2026): the square of self-attention at several resolutions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..recording import Recording, resolution_pyramid
from ..scoremaps import complete, normalise, resize

WEIGHTS = {8: 0.1, 4: 0.1, 2: 0.5, 1: 0.3}  # by stride relative to the latents, coarse to fine


def fa_seg(recording: Recording, maps: Float[Tensor, "k h w"], weights: Mapping[int, float] = WEIGHTS, rounds: int = 2) -> Float[Tensor, "k h w"]:
    """Complete maps at several resolutions by powers of self-attention (FA-Seg, 2026).

    Formula: sum over resolutions s of w_s minmax(A_s^rounds M), M brought to each resolution and the results back to the finest. A_s is the mean over the heads
    and layers of a resolution. FA-Seg's one prompt for all classes is the segmenter's ``one_pass="joint"``; its second pass over the mirrored picture is left
    out.

    Args:
        recording: Recording with all self-attention.
        maps: Maps at the finest resolution.
        weights: Weights w by stride; of strides at which the model does not attend none is used, and the others are divided by their sum. Published defaults.
        rounds: Power of A. A published default.

    Raises:
        ValueError: If none of the strides was recorded.
    """
    groups, strides = recording.self_attention(), {size: stride for stride, size in reversed(resolution_pyramid(recording.size).items())}
    shares = {size: weights.get(strides[size], 0.0) for size in groups}
    total = sum(shares.values())
    if not total:
        raise ValueError(
            f"weights {dict(weights)} by stride: expected one above 0 among strides {sorted(strides[size] for size in groups)}, which were recorded"
        )
    size = (maps.shape[1], maps.shape[2])
    parts = [share / total * resize(normalise(complete(resize(maps, side), *groups[side], iterations=rounds)), size) for side, share in shares.items() if share]
    return torch.stack(parts).sum(0)
