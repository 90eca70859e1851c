"""DiffCut (Couairon et al. 2024): regions by recursive normalised cuts of a diffusion model's features."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from ..propagation.operators import SMALL
from ..recording import Projections, Recording
from ..scoremaps import resize

CUTS = 32  # places along the second eigenvector at which a part is tried to be cut


def diffcut(recording: Recording, power: float = 10.0, limit: float = 0.5) -> Int[Tensor, "h w"]:
    """Cut a picture into regions without words (DiffCut, Couairon et al. 2024).

    Formula: W = minmax(cosine of the features)^power, cut in two along the second eigenvector of its normalised Laplacian where the normalised cut is least,
    and each part again as long as that is below `limit`; then each pixel at the finest resolution has the region of the nearest mean feature. The features are
    the output of the last self-attention of the UNet's way down.

    Args:
        recording: Recording of one prompt, the empty one, with the projections of self-attention.
        power: Power of the affinity. A published default.
        limit: Normalised cut from which on a part stays whole. A published default.

    Raises:
        ValueError: If no such layer was recorded, or it attends from more pixels than affinities are stored for.
    """
    down = [name for name in recording.projections if name.startswith("down_blocks") and name.endswith("attn1")]
    if not down:
        raise ValueError("features are those of the last self-attention on the way down: record with projections=('self',)")
    layer = recording.projections[down[-1]]
    if layer.query.shape[2] > SMALL:
        raise ValueError(
            f"{down[-1]} attends from {layer.query.shape[2]} pixels: an affinity of every two is stored for {SMALL} at most; use a smaller picture"
        )
    features = output_features(layer)
    parts = cut_recursively(affinity(features, power), limit)
    means = torch.stack([normalize(features[part], dim=-1).mean(0) for part in parts])
    fine = resize(features.mT.unflatten(-1, layer.size), recording.finest_size).flatten(1)
    return (normalize(means, dim=-1) @ normalize(fine, dim=0)).argmax(0).unflatten(0, recording.finest_size)


def output_features(layer: Projections) -> Float[Tensor, "n c"]:
    """What an attention layer adds to its features, before its bias, of the first prompt: A V W."""
    query, key, value = (one[0].float() for one in (layer.query, layer.key, layer.value))
    return rearrange(scaled_dot_product_attention(query, key, value), "e n d -> n (e d)") @ layer.output.float().mT


def affinity(features: Float[Tensor, "n c"], power: float = 10.0) -> Float[Tensor, "n n"]:
    """Cosines of every two pixels' features, brought to [0, 1] by their least and largest, to a power."""
    unit = normalize(features, dim=-1)
    cosines = unit @ unit.mT
    low, high = cosines.min(), cosines.max()
    return torch.ones_like(cosines) if high <= low else ((cosines - low) / (high - low)) ** power


def normalised_cut(matrix: Float[Tensor, "n n"], part: Bool[Tensor, " n"]) -> float:
    """Cut(A, B) / assoc(A, V) + cut(A, B) / assoc(B, V) of a part A and the rest B (Shi and Malik 2000); 2 where one of them is empty.

    >>> normalised_cut(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([True, False]))
    0.0
    """
    degrees = matrix.sum(1)
    cut, whole, rest = float(matrix[part][:, ~part].sum()), float(degrees[part].sum()), float(degrees[~part].sum())
    return 2.0 if not whole or not rest else cut / whole + cut / rest


def best_cut(matrix: Float[Tensor, "n n"]) -> tuple[Bool[Tensor, " n"], float]:
    """The part of the least normalised cut among those that a threshold on the second eigenvector gives, and that cut."""
    scale = matrix.sum(1).clamp_min(torch.finfo(matrix.dtype).tiny).rsqrt()
    vector = torch.linalg.eigh(scale[:, None] * matrix * scale)[1][:, -2] * scale  # the second largest of it is the Laplacian's second least
    places = torch.linspace(float(vector.min()), float(vector.max()), CUTS + 2)[1:-1].tolist()
    candidates = [(normalised_cut(matrix, vector > place), vector > place) for place in places]
    value, part = min(candidates, key=lambda one: one[0])
    return part, value


def cut_recursively(matrix: Float[Tensor, "n n"], limit: float = 0.5) -> list[Tensor]:
    """Positions of the pixels of each region: parts are cut as long as their normalised cut is below the limit."""
    done, todo = [], [torch.arange(len(matrix), device=matrix.device)]
    while todo:
        some = todo.pop()
        part, value = best_cut(matrix[some][:, some]) if len(some) > 1 else (some == some, 2.0)
        if value < limit:
            todo += [some[~part], some[part]]
        else:
            done.append(some)
    return done
