"""Names for regions that were found without words: CLIP's patches, averaged over each region."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..scoremaps import resize


def name_regions(regions: Int[Tensor, "h w"], similarities: Float[Tensor, "k _ _"]) -> Float[Tensor, "k h w"]:
    """The mean of each class's similarity over each region, at every pixel of the region.

    Args:
        regions: Numbers of the regions.
        similarities: Similarities of the picture's patches with the classes, on a grid of any size.
    """
    h, w = regions.shape
    fine = resize(similarities.float(), (h, w)).flatten(1)
    numbers = regions.flatten().unique(return_inverse=True)[1]
    count = int(numbers.max()) + 1
    sums = torch.zeros(len(fine), count).index_add_(1, numbers, fine)
    sizes = torch.bincount(numbers, minlength=count)
    return (sums / sizes)[:, numbers].unflatten(1, (h, w))
