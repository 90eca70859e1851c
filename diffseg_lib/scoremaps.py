"""From attention to labels: fuse (Eq. 5), complete (Eq. 6, 7), normalise, label. Tensors in, tensors out.

Shapes: k classes, h w latent height and width, n = h*w pixels, H W image. See the glossary in :mod:`diffseg_lib`. Nothing here knows what a UNet is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention


def normalise(maps: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
    """Min-max each map to [0, 1]; a constant map becomes zeros.

    Raises:
        ValueError: If a map holds NaN or infinity.

    >>> normalise(torch.tensor([[[2.0, 4.0]], [[5.0, 5.0]]])).tolist()
    [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    if not torch.isfinite(maps).all():
        broken = [i for i, m in enumerate(maps) if not torch.isfinite(m).all()]
        raise ValueError(f"score maps {broken} hold NaN or infinity: use float32, or another timestep")
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = constant_maps(maps)[:, None, None]
    return torch.where(flat, 0, (maps - low) / torch.where(flat, 1, high - low))


def constant_maps(maps: Float[Tensor, "k h w"]) -> Bool[Tensor, " k"]:
    """Which maps have one value everywhere, up to rounding (interpolation leaves some), and so say nothing."""
    low, high = maps.amin((1, 2)), maps.amax((1, 2))
    return high - low <= 8 * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())


def resize(maps: Float[Tensor, "k h w"], size: tuple[int, int]) -> Float[Tensor, "k H W"]:
    """Bilinear interpolation to `size`, pixel centres aligned (``align_corners=False``)."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def fuse(cross: Mapping[int, Float[Tensor, "k _ _"]], weights: Mapping[int, float], size: tuple[int, int], scale: str = "minmax") -> Float[Tensor, "k h w"]:
    """Weighted sum of the cross-attention maps of all resolutions, Eq. (5), Wang et al. 2023: M_c = sum_l w_l A_{c,l}, every A brought to `size` first.

    Args:
        cross: Stride relative to the latents (8, 4, 2, 1) to maps, the mean over the layers of that resolution.
        weights: Weights w by stride; resolutions of weight 0 are not read.
        size: Height and width of the result, the latents' own.
        scale: Scaling of each map before it is weighted: "minmax" brings it to [0, 1] (the released code; the paper does not say), "none" takes the
            probabilities as they are.

    Raises:
        ValueError: If a weighted resolution is missing, all weights are 0, or `scale` is unknown.

    >>> one = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    >>> fuse({1: one, 2: one * 3}, {1: 0.5, 2: 0.5}, (2, 2)).tolist()
    [[[0.0, 1.0], [0.0, 0.0]]]
    """
    used = {stride: w for stride, w in weights.items() if w != 0}
    missing = sorted(set(used) - set(cross))
    if missing or not used:
        raise ValueError(f"fusion weights {dict(weights)} need maps at strides or blocks {missing or '?'}; recorded: {sorted(cross)}")
    if scale not in ("minmax", "none"):
        raise ValueError(f"scale {scale!r}: expected 'minmax' or 'none'")
    total = torch.zeros(())
    for stride, weight in used.items():
        maps = resize(cross[stride], size)
        term = weight * (normalise(maps) if scale == "minmax" else maps)
        total = total.to(term) + term
    return total


def complete(
    maps: Float[Tensor, "k h w"],
    queries: Sequence[Float[Tensor, "_ _ n _"]],
    keys: Sequence[Float[Tensor, "_ _ n _"]],
    iterations: int = 1,
) -> Float[Tensor, "k h w"]:
    """Complete maps along self-attention, Eq. (6) (7), without ever building an n x n matrix.

    The mean over layers and heads of A_self, applied to a vector, is the mean of each one applied: mean(A) v = mean(A v). So attention is asked for A v
    directly, with the maps as its value matrix, padded to the width of a head so that fused kernels take it; more maps than that are multiplied by some rows
    of the mean matrix at a time, so that no score is formed twice. Half-precision queries and keys are multiplied in float32.

    Args:
        maps: Fused maps, one a class, k h w.
        queries: Queries of the finest self-attention layers, b heads n d, n = h*w; of each layer b = k (each class completed by its own row of the batch) or b
            = 1 (one row shared by all classes).
        keys: Keys of the same layers, of the same shapes.
        iterations: Number of times that A is applied (the paper: once).

    Returns:
        A_self vec(M) as maps, k h w, not normalised.

    Raises:
        ValueError: If there are no layers or the shapes do not fit.
    """
    _check(maps, queries, keys)
    k, h, w = maps.shape
    for _ in range(iterations):
        if len(queries[0]) == 1 and k > queries[0].shape[-1]:
            maps = _complete_rows(maps, queries, keys)
            continue
        total = torch.zeros_like(maps)
        for query, key in zip(map(_precise, queries), map(_precise, keys), strict=True):
            _, heads, n, d = query.shape
            shared = query.shape[0] == 1
            vectors = maps.reshape(1, k, n).mT if shared else maps.reshape(k, n, 1)
            parts = []
            for columns in vectors.to(query).split(d, dim=-1):
                value = pad(columns, (0, d - columns.shape[-1]))[:, None].expand(-1, heads, n, d)
                parts.append(scaled_dot_product_attention(query, key, value)[..., : columns.shape[-1]].mean(1))
            applied = torch.cat(parts, dim=-1)  # b n (k or 1)
            total += (applied.mT if shared else applied).reshape(k, h, w).to(maps.dtype)
        maps = total / len(queries)
    return maps


def _complete_rows(maps: Tensor, queries: Sequence[Tensor], keys: Sequence[Tensor], rows: int = 64) -> Tensor:
    """:func:`complete` of more maps than a head has columns, by one self-attention: some rows of the mean matrix at a time, applied to all maps at once."""
    vectors, applied = maps.flatten(1), []
    ready = [(_precise(query[0]), _precise(key[0]).mT) for query, key in zip(queries, keys, strict=True)]
    room = ready[0][0].new_empty(max(len(query) for query, _ in ready) * rows * vectors.shape[1])  # made once: to make it anew takes as long as to fill it
    for top in range(0, vectors.shape[1], rows):
        mean = vectors.new_zeros(())
        for query, key in ready:
            part = query[:, top : top + rows]
            scores = room[: part[..., 0].numel() * key.shape[-1]].view(*part.shape[:2], -1)
            torch.baddbmm(scores.new_zeros(()), part, key, beta=0, alpha=part.shape[-1] ** -0.5, out=scores)
            mean = mean + torch.softmax(scores, -1, out=scores).sum(0) / (len(ready) * len(part))
        applied.append(vectors @ mean.to(vectors).mT)
    return torch.cat(applied, dim=1).reshape(maps.shape)


def self_attention(queries: Sequence[Float[Tensor, "b _ n _"]], keys: Sequence[Float[Tensor, "b _ n _"]]) -> Float[Tensor, "b n n"]:
    """A_self of Eq. (6): the mean over layers and heads of softmax(Q K^T / sqrt d), materialised."""
    total = torch.zeros((), device=queries[0].device)
    for query, key in zip(map(_precise, queries), map(_precise, keys), strict=True):
        total = total + (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(1)
    return total / len(queries)


def complete_materialised(
    maps: Float[Tensor, "k h w"],
    queries: Sequence[Float[Tensor, "b _ n _"]],
    keys: Sequence[Float[Tensor, "b _ n _"]],
    iterations: int = 1,
) -> Float[Tensor, "k h w"]:
    """The readable twin of :func:`complete`: build the n x n matrix, then multiply. For reference."""
    _check(maps, queries, keys)
    matrix, vectors = self_attention(queries, keys), maps.flatten(1)[..., None]
    for _ in range(iterations):
        vectors = matrix.to(maps.dtype) @ vectors
    return vectors.reshape(maps.shape)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check(maps: Tensor, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> None:
    if not queries or len(queries) != len(keys):
        raise ValueError(f"completion needs queries and keys of the same layers, at least one; got {len(queries)} and {len(keys)}")
    k, n = maps.shape[0], maps.shape[1] * maps.shape[2]
    for query in (*queries, *keys):
        if query.shape[0] not in (1, k) or query.shape[2] != n:
            raise ValueError(
                f"self-attention of shape {tuple(query.shape)} (b heads n d) does not fit maps {tuple(maps.shape)}: expected b = {k} or 1, n = {n}"
            )


def upsample(maps: Float[Tensor, "k h w"], size: tuple[int, int], final_norm: str = "after") -> Float[Tensor, "k H W"]:
    """Scores in [0, 1] at the image's size.

    Args:
        maps: Completed maps, k h w.
        size: Height H and width W of the image, px.
        final_norm: Whether min-max comes "after" upsampling (the released code), so that every class peaks at 1, or "before" it (the paper, Eq. (7)).
    """
    if final_norm not in ("after", "before"):
        raise ValueError(f"final_norm {final_norm!r}: expected 'after' or 'before'")
    return normalise(resize(maps, size)) if final_norm == "after" else resize(normalise(maps), size)


def label_rows(
    maps: Float[Tensor, "k h w"], size: tuple[int, int], threshold: float, final_norm: str = "after", rows: int = 0
) -> tuple[Int[Tensor, "H W"], Float[Tensor, "k h w"]]:
    """The labels of :func:`label` of :func:`upsample`, of which no more than some rows are held at once.

    Args:
        maps: Completed maps, k h w.
        size: Height H and width W of the image, px.
        threshold: Background threshold, in [0, 1].
        final_norm: Place of min-max, as :func:`upsample` takes it.
        rows: Number of rows of the image that are made at once; 0 takes as many as have two million scores, 256 at most.

    Returns:
        Labels, int32, and the maps scaled so that bilinear interpolation to the image's size gives the scores.
    """
    scaled = normalise(maps)  # refuses what is not finite, too
    maps, (height, width), h = (scaled if final_norm == "before" else maps), size, maps.shape[1]
    wide, rows = resize(maps, (h, width)), rows or min(256, 1 + 2**21 // (len(maps) * width))
    at = ((torch.arange(height, device=maps.device, dtype=maps.dtype) + 0.5) * (h / height) - 0.5).clamp(min=0)
    above = at.long().clamp(max=h - 1)

    def scores(which: Tensor) -> Tensor:
        share = (at[which] - above[which])[:, None]
        low, high = wide.index_select(1, above[which]), wide.index_select(1, (above[which] + 1).clamp(max=h - 1))
        return low.mul_(1 - share).add_(high.mul_(share))

    low, span = maps.new_zeros(len(maps), 1, 1), maps.new_ones(len(maps), 1, 1)
    flat = torch.zeros_like(low, dtype=torch.bool)
    every = torch.arange(height, device=maps.device)
    if final_norm == "after":
        turns = above.diff() != 0  # linear between two rows of the map: the extremes are at the first or the last row of the image there
        ends = torch.cat([every[:1], every[1:][turns], every[:-1][turns], every[-1:]])
        low, high = (end[:, None, None] for end in torch.aminmax(scores(ends).flatten(1), dim=1))
        flat = constant_maps(torch.cat([low, high], dim=1))[:, None, None]
        span = torch.where(flat, 1, high - low)
        scaled = torch.where(flat, 0, (maps - low) / span)
    labels = torch.empty(height, width, dtype=torch.int32, device=maps.device)
    for part in every.split(rows):
        labels[part[0] : part[-1] + 1] = label(scores(part).sub_(low).div_(span).masked_fill_(flat, 0), threshold)
    return labels, scaled


def label(scores: Float[Tensor, "k H W"], threshold: float) -> Int[Tensor, "H W"]:
    """Label map: 0 where no class scores above `threshold`, else i for the i-th class (from 1).

    >>> label(torch.tensor([[[0.9, 0.2]], [[0.6, 0.3]]]), 0.5).tolist()
    [[1, 0]]
    """
    best, which = scores.max(0)
    return torch.where(best > threshold, which + 1, 0)
