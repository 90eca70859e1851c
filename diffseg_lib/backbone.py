"""Backbones: what the method asks of a diffusion model.

:class:`Backbone` is Stable Diffusion 1.x and 2.x; other families are subclasses of it, found in ``diffseg_lib.loading.FAMILIES`` by what the loaded UNet is,
not by its name. Which model, and the numbers chosen for it, is a :class:`~diffseg_lib.profiles.Profile`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .attention import record_attention, unet_lock
from .profiles import Profile
from .prompts import Prompt, weigh_tokens
from .recording import Recording
from .weights.look_alikes import guidance_condition

EMBEDDING_CACHE_SIZE = 256  # embeddings: 60 MB of a Stable Diffusion in float32
TEXT_LOCK = RLock()  # one thread at a time: a tokenizer keeps the padding of a call until the next one, and models that visit a device send others away


@dataclass(frozen=True)
class Backbone:
    """A frozen latent diffusion model, and the four things the method asks of it: Stable Diffusion 1.x and 2.x.

    Args:
        profile: Profile that the model was loaded by.
        vae: Autoencoder between pictures and latents.
        text_encoder: Encoder of the prompts' tokens.
        tokenizer: Tokenizer of the prompts.
        unet: Denoising UNet, whose attention is recorded.
        alphas_cumprod: Cumulative products of the schedule, abar_t, one a timestep.
        prediction: What the UNet's output is, "epsilon" or "v_prediction" (Salimans and Ho 2022).
        runs_on: Device that models visit while they work, where they otherwise wait in main memory; with "" they stay where they are.
        notes: Sentences on what is unusual in the files of its weights.
    """

    profile: Profile
    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    alphas_cumprod: Float[Tensor, " T"]  # cumulative products of the schedule, abar_t
    prediction: str = "epsilon"
    runs_on: str = ""
    notes: tuple[str, ...] = ()
    _embedded: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Device that the UNet works on."""
        return torch.device(self.runs_on) if self.runs_on else next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the UNet's weights."""
        return next(self.unet.parameters()).dtype

    @property
    def max_tokens(self) -> int:
        """Tokens of a padded prompt."""
        return int(self.tokenizer.model_max_length)

    @property
    def latent_factor(self) -> int:
        """Number of pixels of the image to a side of one latent pixel."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def size(self) -> int:
        """Length of an image's short side that the model works at, px."""
        return self.profile.size or self.unet.config.sample_size * self.latent_factor

    @property
    def finest_stride(self) -> int:
        """Stride, relative to the latents, at which the UNet first attends: 1, or 2 for Stable Diffusion XL."""
        return 2 ** next(i for i, kind in enumerate(self.unet.config.down_block_types) if "Attn" in kind)

    @property
    def multiple(self) -> int:
        """Number of pixels that image sides must be multiples of, since the UNet halves the latents between its levels."""
        return self.latent_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_image(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 c h w"]:
        """Latents z = E(x0), the mean, shifted where the autoencoder says so, and scaled. `image`: in [-1, 1], sides multiples of :attr:`multiple`."""
        with self._visit():
            latents = self.vae.encode(image.to(self.device, self.vae.dtype)).latent_dist.mean
        return ((latents - self._shift) * self.vae.config.scaling_factor).to(self.dtype)

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Pictures in [-1, 1] from scaled latents."""
        with self._visit():
            return self.vae.decode(latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor + self._shift).sample.clamp(-1, 1)

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    def token_weights(self, prompts: Sequence[Prompt], which: str = "all", modifiers: bool = False) -> Float[Tensor, "b l"]:
        """Weights that average a class's sub-tokens, as :func:`~diffseg_lib.prompts.weigh_tokens` makes them of the model's tokens."""
        return weigh_tokens(prompts, self.max_tokens, which, modifiers)

    def content_weights(self, prompts: Sequence[Prompt]) -> Float[Tensor, "b l"]:
        """1 at each token of a prompt's words, the start token and padding left out."""
        weights = torch.zeros(len(prompts), self.max_tokens)
        for row, prompt in zip(weights, prompts, strict=True):
            row[1 : min(len(self.tokenizer(prompt.text, verbose=False)["input_ids"]), self.max_tokens) - 1] = 1
        return weights

    def record(self, token_weights: Float[Tensor, "b *c l"] | None, **options: Any) -> AbstractContextManager[Recording]:
        """Record the attention of one call made inside the ``with`` block; `options` are those of :func:`~diffseg_lib.attention.record_attention`."""
        return record_attention(self.unet, token_weights, **options)

    def noise_notes(self, timesteps: Sequence[int]) -> tuple[str, ...]:
        """What timesteps mean to the model, where that has to be said."""
        return ()

    def _visit(self) -> AbstractContextManager[Any]:
        return TEXT_LOCK if self.runs_on else nullcontext()

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> Float[Tensor, "b l d"]:
        """Token embeddings, padded to the model's length."""
        with TEXT_LOCK:
            ids = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length, return_tensors="pt").input_ids
            return self.text_encoder(ids.to(self.device)).last_hidden_state

    def cached_embedding(self, text: str) -> Float[Tensor, "1 l d"]:
        """Token embeddings of one prompt, kept for the next time; it is encoded by itself, so that they depend on no other prompt."""
        with TEXT_LOCK:
            if text not in self._embedded:
                while len(self._embedded) >= EMBEDDING_CACHE_SIZE:
                    del self._embedded[next(iter(self._embedded))]
                self._embedded[text] = self.encode_prompts([text])
            return self._embedded[text]

    def noise_scales(self, timestep: int) -> tuple[float, float]:
        """The factors sqrt(abar_t) of the latents and sqrt(1 - abar_t) of the noise, in float64 whatever the model's precision."""
        alpha_bar = float(self.alphas_cumprod[timestep])
        return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)

    def add_noise(self, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], timestep: int) -> Float[Tensor, "b c h w"]:
        """Noisy latents z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps, at a timestep of the schedule (else a ``ValueError``)."""
        if not 0 <= timestep < len(self.alphas_cumprod):
            raise ValueError(f"timestep {timestep}: expected 0 to {len(self.alphas_cumprod) - 1}")
        kept, sigma = self.noise_scales(timestep)
        return kept * latents + sigma * noise

    def estimate_clean(self, noisy: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], timestep: int) -> Float[Tensor, "b c h w"]:
        """The latents that `noise` was added to: z = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)."""
        kept, sigma = self.noise_scales(timestep)
        return (noisy - sigma * noise) / kept

    @torch.no_grad()
    def predict_noise(self, noisy: Float[Tensor, "_ c h w"], timestep: int, embeddings: Float[Tensor, "b l d"]) -> Float[Tensor, "b c h w"]:
        """Predict the noise by one UNet call, the conditional half only. One noisy latent serves every prompt of the batch; threads take turns.

        A UNet that predicts v = sqrt(abar_t) eps - sqrt(1 - abar_t) z is asked for eps = sqrt(abar_t) v + sqrt(1 - abar_t) z_t.
        """
        batch = noisy.to(self.device, self.dtype).expand(len(embeddings), -1, -1, -1)
        with unet_lock(self.unet), self._visit():
            output = self._denoise(batch, timestep, embeddings)
        if self.prediction == "epsilon":
            return output
        kept, sigma = self.noise_scales(timestep)
        return kept * output + sigma * batch

    def _denoise(self, batch: Tensor, timestep: int, embeddings: Tensor) -> Tensor:
        return self.unet(batch, timestep, encoder_hidden_states=embeddings, **guidance_condition(self.unet)).sample


def joint_calls(backbone: Backbone, name: str) -> Any:
    """How a backbone's family is called whose text and image attend jointly, for what is called `name`.

    Raises:
        ValueError: On any other model.
    """
    calls = getattr(backbone, "calls", None)
    if calls is None or not calls.joint:
        raise ValueError(
            f"{name} reads joint attention, and the model of profile {backbone.profile.name!r} has none: expected Stable Diffusion 3, Flux or Qwen-Image"
        )
    return calls
