"""GoCA (2026): heads and layers of cross-attention weighted without learning."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..propagation.operators import CHUNK
from ..recording import Projections, Recording
from ..scoremaps import complete, resize


def goca(recording: Recording, maps: Float[Tensor, "k h w"], iterations: int = 2) -> Float[Tensor, "k h w"]:
    """Weigh heads at every pixel and layers as a whole, then complete by the square of self-attention (GoCA, 2026).

    Formula: in a layer, M^l(p) = sum_n w_n(p) A_n(p), w of :func:`head_weights`; M = sum_l v_l M^l, v of :func:`layer_agreement`, divided by their sum;
    A_self^2 M. Probabilities are those among the tokens of the prompt's words, which the recording is asked for.

    Args:
        recording: Recording with every head's cross maps, the projections of both kinds of attention, and the finest self-attention.
        maps: Maps at the finest resolution, of which the size alone is read.
        iterations: Number of times that A_self is applied. A published default.

    Raises:
        ValueError: If the recording lacks a projection or the heads.
    """
    return complete(weighted_maps(recording, maps), *recording.finest(), iterations=iterations)


def weighted_maps(recording: Recording, maps: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
    """The maps of :func:`goca` before they are completed: sum_l v_l sum_n w_n(p) A_n(p), divided by the sum of v; arguments and errors are its own."""
    size, total, weight = (maps.shape[1], maps.shape[2]), torch.zeros_like(maps), torch.zeros(len(maps), 1, 1).to(maps)
    for name, cross in recording.cross.items():
        beside = name.replace("attn2", "attn1")
        if cross.ndim != 4 or not {name, beside} <= recording.projections.keys():
            raise ValueError(f"layer {name}: expected every head's maps and the projections of both its kinds of attention; record with heads and projections")
        heads = head_weights(recording.projections[name]).unflatten(-1, (cross.shape[2], cross.shape[3]))
        layer = layer_agreement(recording.projections[beside])[:, None, None]
        total = total + layer * resize((heads * cross).sum(1).to(maps), size)
        weight = weight + layer
    return total / weight


def head_weights(layer: Projections) -> Float[Tensor, "b heads n"]:
    """Weight of each head at each pixel: max(0, <A_n V_n W_n, sum_m A_m V_m W_m>), divided by the sum over heads; all alike where that is 0.

    A_n V_n W_n is what head n adds to the layer's output, before its bias.
    """
    query, key, value, output = (one.float() for one in (layer.query, layer.key, layer.value, layer.output))
    weights = []
    for q, k, v in zip(query.expand(len(key), -1, -1, -1), key, value, strict=True):
        attended = scaled_dot_product_attention(q, k, v)  # heads n d
        whole = rearrange(attended, "e n d -> n (e d)") @ output.mT
        parts = output.unflatten(1, (attended.shape[0], -1))  # c heads d
        weights.append(torch.stack([((attended[e] @ parts[:, e].mT) * whole).sum(-1) for e in range(len(attended))]))
    positive = torch.stack(weights).clamp_min(0)
    sums = positive.sum(1, keepdim=True)
    return torch.where(sums > 0, positive / torch.where(sums > 0, sums, 1), 1 / positive.shape[1])


def layer_agreement(layer: Projections) -> Float[Tensor, " b"]:
    """How much a layer's self-attention agrees with the likeness of its features: <softmax(F F^T / sqrt c), A_self>, as a cosine of the two matrices.

    F are the features that the layer attends from, A_self the mean over heads. That the product is divided by the norms is ours: so resolutions compare.
    """
    query, key, hidden = (one.float() for one in (layer.query, layer.key, layer.hidden))
    found = []
    for q, k, f in zip(query, key, hidden, strict=True):
        sums = torch.zeros(3).to(f)
        for start in range(0, len(f), CHUNK):
            rows = slice(start, start + CHUNK)
            likeness = (f[rows] @ f.mT / f.shape[-1] ** 0.5).softmax(-1)
            attention = torch.stack([(one[rows] @ other.mT / one.shape[-1] ** 0.5).softmax(-1) for one, other in zip(q, k, strict=True)]).mean(0)
            sums += torch.stack([(likeness * attention).sum(), likeness.square().sum(), attention.square().sum()])
        found.append(sums[0] / (sums[1] * sums[2]).sqrt())
    return torch.stack(found)
