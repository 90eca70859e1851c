"""The families of diffusion transformers: what each is found by, how it is called, and the blocks whose maps are fused where nobody chose any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .calls import Calls, FluxCalls, PixArtCalls, Sd3Calls
from .language import Flux2Calls, QwenImageCalls

EQUAL = "equal weights of all blocks: not tuned, no source names better ones"


@dataclass(frozen=True)
class TransformerFamily:
    """A family of diffusion transformers.

    Args:
        name: What it is called, and what its folder holds.
        transformer: Name of its transformer's class.
        calls: How it is called.
        weights: Fusion weights by number of block; without any all blocks weigh the same.
        told: Phrase on where the weights are from.
    """

    name: str
    transformer: str
    calls: type[Calls]
    weights: Mapping[int, float]
    told: str


TRANSFORMERS = (
    TransformerFamily(
        "Stable Diffusion 3 and 3.5 (SD3Transformer2DModel, two CLIP towers, T5 or none)",
        "SD3Transformer2DModel",
        Sd3Calls,
        {9: 1.0},
        "block 9 of Stable Diffusion 3's 24, as Seg4Diff has it: not tuned here",
    ),
    TransformerFamily(
        "Flux.1 (FluxTransformer2DModel, CLIP, T5)",
        "FluxTransformer2DModel",
        FluxCalls,
        dict.fromkeys(range(15, 19), 0.25),
        "double blocks 15 to 18, as ConceptAttention has it: not tuned here",
    ),
    TransformerFamily("PixArt-alpha and Sigma (PixArtTransformer2DModel, T5)", "PixArtTransformer2DModel", PixArtCalls, {}, EQUAL),
    TransformerFamily(
        "Flux.2 (Flux2Transformer2DModel, Mistral 3)",
        "Flux2Transformer2DModel",
        Flux2Calls,
        dict.fromkeys(range(5, 8), 1 / 3),
        "double blocks 5 to 7, as ConceptAttention's code has it: not tuned here",
    ),
    TransformerFamily("Qwen-Image (QwenImageTransformer2DModel, Qwen 2.5 VL)", "QwenImageTransformer2DModel", QwenImageCalls, {}, EQUAL),
)
