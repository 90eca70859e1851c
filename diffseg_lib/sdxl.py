"""Stable Diffusion XL (Podell et al. 2023): two text encoders, a pooled embedding and sizes as further conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from .backbone import TEXT_LOCK, Backbone
from .weights.look_alikes import guidance_condition


@dataclass(frozen=True)
class SdxlBackbone(Backbone):
    """Stable Diffusion XL, with two text encoders.

    Its token embeddings are the last but one hidden states of both text encoders, side by side. A prompt's pooled embedding travels with them as one more row,
    filled up with zeros, so that prompts are cut, stacked and re-weighted as for every other model; weights of tokens never reach that row.
    """

    text_encoder_2: Any = None
    tokenizer_2: Any = None

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> Float[Tensor, "b l d"]:
        """Token embeddings, and the pooled embedding as the last row: l is one more than the tokens."""
        outputs = []
        with TEXT_LOCK:
            for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
                ids = tokenizer(list(texts), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt").input_ids
                outputs.append(encoder(ids.to(self.device), output_hidden_states=True))
        tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = outputs[1].text_embeds
        return torch.cat([tokens, pad(pooled, (0, tokens.shape[-1] - pooled.shape[-1]))[:, None]], dim=1)

    def _denoise(self, batch: Tensor, timestep: int, embeddings: Tensor) -> Tensor:
        h, w = (side * self.latent_factor for side in batch.shape[2:])
        sizes = torch.tensor([h, w, 0, 0, h, w], device=batch.device, dtype=batch.dtype)  # original size, crop, target size
        width = self.text_encoder_2.config.projection_dim
        conditions = {"text_embeds": embeddings[:, -1, :width], "time_ids": sizes.expand(len(embeddings), -1)}
        given = guidance_condition(self.unet)
        return self.unet(batch, timestep, encoder_hidden_states=embeddings[:, :-1], added_cond_kwargs=conditions, **given).sample
