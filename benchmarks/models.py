"""Models of Stable Diffusion 1.5's exact architecture and size with random weights, and the shipped pocket ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from diffseg_lib.backbone import Backbone
from diffseg_lib.loading import load_backbone
from diffseg_lib.profiles import Profile

TOKENS, WIDTH = 77, 768  # of a prompt of Stable Diffusion
CLASS_TOKEN = 5  # of "a photograph of a X"


def unet_config() -> dict[str, Any]:
    """Of ``UNet2DConditionModel``: 860 M parameters; the values of Stable Diffusion 1.5's published config."""
    return {
        "sample_size": 64,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": WIDTH,
    }


def vae_config() -> dict[str, Any]:
    """Of ``AutoencoderKL``: 84 M parameters."""
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    }


def text_config() -> dict[str, Any]:
    """Of ``CLIPTextConfig``: 123 M parameters."""
    return {"hidden_size": WIDTH, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": TOKENS}


def sharpen(unet: nn.Module) -> None:
    """Queries and keys made larger, so that the attention of random weights is not uniform."""
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "to_q" in name or "to_k" in name:
                weight.mul_(4)


def full_size(device: str = "cpu", dtype: torch.dtype = torch.float32, parts: tuple[str, ...] = ("unet",)) -> Backbone:
    """A backbone of Stable Diffusion 1.5's size, seed 0; `parts` of "unet", "vae", "text" are built, the others are None.

    Weights are drawn as the classes draw them, then sharpened.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**unet_config())
    sharpen(unet)
    vae = AutoencoderKL(**vae_config()) if "vae" in parts else None
    text = CLIPTextModel(CLIPTextConfig(**text_config())) if "text" in parts else None
    for model in (unet, vae, text):
        if model is not None:
            model.requires_grad_(False).eval().to(device, dtype)
    alphas_cumprod = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
    return Backbone(Profile("sd15-random", "random weights"), vae, text, None, unet, alphas_cumprod)


@cache
def pocket(device: str = "cpu") -> Backbone:
    """The shipped models."""
    return load_backbone("pocket", device=device)


def inputs(backbone: Backbone, classes: int, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """What a segmentation starts from, drawn by seed 0: latents and noise 1 c h w, embeddings b l d, token weights b l.

    Args:
        backbone: the model.
        classes: b.
        size: h, w of the latents.
    """
    generator = torch.Generator().manual_seed(0)
    config = backbone.unet.config
    drawn = {name: torch.randn(1, config.in_channels, *size, generator=generator) for name in ("latents", "noise")}
    tokens = TOKENS if backbone.tokenizer is None else backbone.tokenizer.model_max_length
    embeddings = torch.randn(classes, tokens, config.cross_attention_dim, generator=generator)
    token_weights = torch.zeros(classes, tokens)
    token_weights[:, CLASS_TOKEN] = 1
    return {name: one.to(backbone.device, backbone.dtype) for name, one in (drawn | {"embeddings": embeddings, "token_weights": token_weights}).items()}
