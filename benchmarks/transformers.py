"""``python -m benchmarks.transformers NAME``: a family's transformer, as wide as published and less deep, with random weights: recording is exact, memory.

Its depth is cut so that the weights fit a machine of 16 GB; widths, heads, tokens of text and of the image at 1024 px are whole. In a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffseg_lib.config import Config
from diffseg_lib.dit.attention import blocks_of
from diffseg_lib.dit.calls import Calls, FluxCalls, PixArtCalls, Sd3Calls
from diffseg_lib.dit.language import Flux2Calls, LanguageCalls, QwenImageCalls
from diffseg_lib.profiles import Profile
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.transformer import TransformerBackbone, flow_schedule

from .families import alone, run_once

TIMESTEP = 500
# The published settings, and of the depths how many blocks are kept here: blocks of a kind are alike.
CONFIGS: Mapping[str, tuple[str, type[Calls], dict[str, Any], dict[str, int]]] = {
    "sd3": (
        "SD3Transformer2DModel",
        Sd3Calls,
        {"sample_size": 128, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192, "num_layers": 24},
        {"num_layers": 10},
    ),
    "sd35": (
        "SD3Transformer2DModel",
        Sd3Calls,
        {
            "sample_size": 128,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
            "dual_attention_layers": tuple(range(13)),
            "num_layers": 24,
        },
        {"num_layers": 10},
    ),
    "flux": (
        "FluxTransformer2DModel",
        FluxCalls,
        {"guidance_embeds": True, "num_layers": 19, "num_single_layers": 38},
        {"num_layers": 2, "num_single_layers": 2},
    ),
    "pixart": (
        "PixArtTransformer2DModel",
        PixArtCalls,
        {"sample_size": 128, "use_additional_conditions": False, "caption_channels": 4096, "num_layers": 28},
        {"num_layers": 10},
    ),
    "flux2": ("Flux2Transformer2DModel", Flux2Calls, {"num_layers": 8, "num_single_layers": 48}, {"num_layers": 1, "num_single_layers": 1}),
    "qwen-image": ("QwenImageTransformer2DModel", QwenImageCalls, {"num_layers": 60}, {"num_layers": 5}),
}
TOKENS = {"sd3": 77 + 256, "sd35": 77 + 256, "flux": 512, "pixart": 300, "flux2": 512, "qwen-image": 512}


class _Padded:
    """A tokenizer of which only the length is asked."""

    def __init__(self, tokens: int) -> None:
        self.model_max_length = tokens


def text_width(config: Mapping[str, Any]) -> int:
    """The channels of a token of text, from a transformer's settings: of PixArt those before its own projection."""
    return config["caption_channels"] if "caption_channels" in config else config["joint_attention_dim"]


def random_backbone(name: str, changes: Mapping[str, Any]) -> TransformerBackbone:
    """A family's adapter around a transformer of its published settings with some changed, seed 0; without autoencoder and text encoders."""
    import diffusers

    kind, calls, published, _ = CONFIGS[name]
    torch.manual_seed(0)
    transformer = getattr(diffusers, kind)(**published | dict(changes)).requires_grad_(False).eval()
    places = ("tokenizer", "tokenizer_2", "tokenizer_3")
    made = calls({}, dict.fromkeys(places, _Padded(TOKENS[name])))
    weights = {block: 1.0 for block in (9,) if block < len(blocks_of(transformer))} or {1: 1.0}
    profile = Profile("random", "random weights", weights=weights)
    return TransformerBackbone(profile, None, None, None, transformer, flow_schedule()[:1000], "flow" if calls.flow else "epsilon", calls=made)


def measured(name: str, changes: Mapping[str, Any] | None = None, side: int = 128) -> dict[str, Any]:
    """What recording one block costs, and that the output stays as it is.

    Args:
        name: Name of the family, of :data:`CONFIGS`.
        changes: Settings in place of the published ones; None cuts the depth alone.
        side: Height and width of the latents.

    Returns:
        ``parameters``, ``blocks`` kept and published, ``latents``; ``output_equal``: bit for bit; ``optimized_difference``: of the completed maps of the way
        that stops early and the plain one, of their maximum; ``seconds``, and ``mib`` above the loaded model, of a bare call and both ways.
    """
    _, calls, published, cut = CONFIGS[name]
    backbone = random_backbone(name, cut if changes is None else changes)
    config, generator = backbone.unet.config, torch.Generator().manual_seed(0)
    channels = config.in_channels // 4 if issubclass(calls, (FluxCalls, LanguageCalls)) else config.in_channels
    width = text_width(config)
    marked = calls in (PixArtCalls, QwenImageCalls)
    more = -(-TOKENS[name] // width) if marked else 0 if calls is Flux2Calls else 1  # rows that are no tokens: marks of the padding, or the pooled embedding
    noisy, embeddings = torch.randn(1, channels, side, side, generator=generator), torch.randn(1, TOKENS[name] + more, width, generator=generator)
    if marked:
        embeddings[:, TOKENS[name] :] = 1
    token_weights = torch.zeros(1, backbone.max_tokens)
    token_weights[0, 5] = 1
    segmenter = DiffSegmenter(backbone, Config())
    backbone.predict_noise(noisy[..., : side // 4, : side // 4], TIMESTEP, embeddings)  # what is loaded once
    outputs: dict[str, Tensor] = {}

    def bare() -> None:
        outputs["bare"] = backbone.predict_noise(noisy, TIMESTEP, embeddings)

    def plain() -> None:
        with backbone.record(token_weights) as recording:
            outputs["recorded"] = backbone.predict_noise(noisy, TIMESTEP, embeddings)
        outputs["plain"] = segmenter.score(recording)[1]

    def optimizations() -> None:
        with backbone.record(token_weights, optimizations=("early_stop",), resolutions=list(segmenter.weights)) as recording:
            backbone.predict_noise(noisy, TIMESTEP, embeddings)
        outputs["optimized"] = segmenter.score(recording)[1]

    facts: dict[str, Any] = {"parameters": sum(p.numel() for p in backbone.unet.parameters()), "latents": list(noisy.shape[1:])}
    of = {key: value for key, value in published.items() if key.startswith("num_") and key.endswith("layers")}
    facts["blocks"] = {"kept": len(blocks_of(backbone.unet)), "published": sum(of.values()), "recorded": list(segmenter.weights)}
    facts |= run_once((bare, optimizations, plain))
    facts["output_equal"] = torch.equal(outputs["bare"], outputs["recorded"])
    facts["optimized_difference"] = float((outputs["optimized"] - outputs["plain"]).abs().max() / outputs["plain"].abs().max())
    return facts | {"completed": list(outputs["plain"].shape)}


def measured_alone(name: str) -> dict[str, Any] | str:
    """:func:`measured` of a family, in a fresh process; "not run: ..." where it does not fit."""
    return alone("benchmarks.transformers", name)


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps(measured(sys.argv[1])))
