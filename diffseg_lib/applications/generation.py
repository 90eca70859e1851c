"""What the denoiser knows, seen from outside: its error with and without the right words, and generation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..backbone import Backbone
from ..support.images import to_numpy


def denoising_error(backbone: Backbone, latents: Tensor, caption: str, timestep: int, seeds: Sequence[int]) -> float:
    """The error ||eps - eps_theta(z_t, t, c)||^2 a latent value, Eq. (3) without a weight, mean over noise seeds.

    Args:
        backbone: The model.
        latents: Latents of the picture, 1 c h w.
        caption: The condition c; "" is no words.
        timestep: The timestep t of the noise, 0 to 999.
        seeds: Seeds of the noise; the same seeds for two captions compare them on the same noise.
    """
    noise = torch.cat([torch.randn(latents.shape, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(latents)
    embedding = backbone.encode_prompts([caption]).expand(len(seeds), -1, -1)
    guess = backbone.predict_noise(backbone.add_noise(latents.expand_as(noise), noise, timestep), timestep, embedding)
    return float((guess - noise).square().mean())


def one_step(backbone: Backbone, latents: Tensor, caption: str, timestep: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The noisy picture and the clean one that a single step guesses: two arrays H W 3, uint8."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    noisy = backbone.add_noise(latents, noise, timestep)
    guess = backbone.estimate_clean(noisy, backbone.predict_noise(noisy, timestep, backbone.encode_prompts([caption])), timestep)
    return to_uint8(backbone.decode_latents(noisy))[0], to_uint8(backbone.decode_latents(guess))[0]


def to_uint8(pictures: Tensor) -> np.ndarray:
    """Turn pictures b 3 H W in [-1, 1] into b H W 3, uint8."""
    return to_numpy(((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1))


def generate(backbone: Backbone, captions: Sequence[str], seed: int, steps: int = 20, guidance: float = 4.0, side: int = 0) -> np.ndarray:
    """Draw a picture for each caption by DDIM with classifier-free guidance: b H W 3, uint8.

    Args:
        backbone: The model.
        captions: The captions, one a picture.
        seed: Seed of the first noise.
        steps: The number of steps of the sampler.
        guidance: Weight of the caption against no words; 1 is no guidance.
        side: Side of the latents, in their pixels; 0 is the model's own.
    """
    from diffusers import DDIMScheduler

    betas = 1 - backbone.alphas_cumprod / torch.cat([torch.ones(1), backbone.alphas_cumprod[:-1]])
    scheduler = DDIMScheduler(len(betas), trained_betas=to_numpy(betas), clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(steps)
    side = side or backbone.unet.config.sample_size
    shape = (len(captions), backbone.unet.config.in_channels, side, side)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(backbone.device, backbone.dtype)
    words, none = backbone.encode_prompts(captions), backbone.encode_prompts([""])
    for t in scheduler.timesteps.tolist():
        without = backbone.predict_noise(latents, t, none.expand_as(words))
        guess = without + guidance * (backbone.predict_noise(latents, t, words) - without)
        latents = scheduler.step(guess, t, latents).prev_sample
    return to_uint8(backbone.decode_latents(latents))
