"""CLIPer (Sun et al. 2025): the matrix product over the heads of self-attention."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..propagation.product import product_of_heads
from ..recording import Recording


def cliper(recording: Recording, maps: Float[Tensor, "k h w"], floor: float = 0.1) -> Float[Tensor, "k h w"]:
    """Spread maps along the matrix product over heads of the finest self-attention (Sun et al. 2025), by
    :func:`~diffseg_lib.propagation.product.product_of_heads`.

    The maps are those of cross-attention here and of CLIP there, and the prompt that drives the UNet is the class's own rather than empty: each map is spread
    by the row of its own prompt. With ``share_self_attention`` the recording holds the row of the first prompt of its call alone, and all maps of the call are
    spread by that one.

    Args:
        recording: Recording with the finest self-attention.
        maps: Maps at the finest resolution.
        floor: Share of a column's maximum below which an entry counts as 0, in [0, 1]. A published default.
    """
    return product_of_heads(maps, *recording.finest(), floor)
