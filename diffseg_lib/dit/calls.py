"""How each family of diffusion transformers reads prompts and is called: texts and latents in, tensors out.

A prompt's embedding is one tensor, b r d: first the tokens, in the order in which the transformer sees them, then what conditions the model beside them, as
further rows filled up with zeros, so that embeddings are cut, stacked and re-weighted as for every other model; weights of tokens never reach those rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

T5_TOKENS = 256  # that Stable Diffusion 3's pipeline lets T5 read
FLUX_GUIDANCE = 3.5  # of the distilled model: its pipeline's default


@dataclass(frozen=True)
class Calls:
    """What a family's transformer asks for; a subclass is one family.

    Args:
        encoders: Text encoders by the names of their folders.
        tokenizers: Tokenizers by the names of their folders, padding to the length that the transformer reads.
        unread: Number of tokens, all zeros, that stand where Stable Diffusion 3 has no T5.
    """

    encoders: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    unread: int = T5_TOKENS
    flow: ClassVar[bool] = True  # trained by flow matching: z_s = (1 - s) z + s eps, and the output is eps - z
    text_first: ClassVar[bool] = False  # text tokens stand before the image's in a joint layer
    joint: ClassVar[bool] = True  # text and image are one sequence
    reads_on: ClassVar[bool] = False  # text is read by a language model: the last of a word's tokens knows the whole word, the first none of the others
    standardised: ClassVar[bool] = False  # latents are standardised by statistics of their channels, in place of a shift and a factor

    @property
    def spans(self) -> tuple[tuple[int, Any], ...]:
        """Where each tokenizer's tokens begin in an embedding, and the tokenizer."""
        raise NotImplementedError

    @property
    def tokens(self) -> int:
        """Number of tokens of an embedding."""
        start, last = self.spans[-1]
        return start + int(last.model_max_length)

    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "b r d"]:
        """Embeddings of prompts."""
        raise NotImplementedError

    def denoise(self, transformer: Any, latents: Float[Tensor, "b c h w"], timestep: int, embeddings: Float[Tensor, "b r d"]) -> Float[Tensor, "b c h w"]:
        """The transformer's output at a timestep from 0 to 1000."""
        raise NotImplementedError

    def embed_text(self, transformer: Any, words: Float[Tensor, "b l d"]) -> Float[Tensor, "b l c"]:
        """Tokens as a joint transformer's first block gets them."""
        return transformer.context_embedder(words)

    def turn(self, rotations: Sequence[Tensor], rows: Sequence[int], image_tokens: int) -> tuple[Tensor, ...]:
        """The rotations of some of the text's tokens in place of all of them, and those of the image, as a block of the joint transformer takes them."""
        return tuple(torch.cat([one[list(rows)], one[-image_tokens:]]) for one in rotations)

    def to_latents(self, vae: Any, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """The mean of an image's latents, standardised."""
        raise NotImplementedError

    def to_image(self, vae: Any, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """The image of standardised latents."""
        raise NotImplementedError

    def _ids(self, name: str, texts: Sequence[str], device: torch.device) -> Any:
        tokenizer = self.tokenizers[name]
        return tokenizer(list(texts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").to(device)


def pack(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c4"]:
    """Latents as tokens, two by two of them side by side in one, row by row."""
    return rearrange(latents, "b c (h y) (w x) -> b (h w) (c y x)", y=2, x=2)


def unpack(tokens: Float[Tensor, "b n c4"], h: int, w: int) -> Float[Tensor, "b c h2 w2"]:
    """Latents of packed tokens that stand in h rows and w columns."""
    return rearrange(tokens, "b (h w) (c y x) -> b c (h y) (w x)", h=h, w=w, y=2, x=2)


def places(h: int, w: int) -> Float[Tensor, "n 3"]:
    """Places of an image's tokens: 0, row and column."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([torch.zeros(h * w), rows.flatten(), columns.flatten()], dim=1)


def with_marks(words: Float[Tensor, "b l d"], marks: Float[Tensor, "b l"]) -> Float[Tensor, "b r d"]:
    """Tokens, and behind them rows of marks, which say which of them are none of the padding's."""
    return torch.cat([words, pad(marks, (0, -marks.shape[1] % words.shape[2])).unflatten(1, (-1, words.shape[2]))], dim=1)


def without_marks(embeddings: Float[Tensor, "b r d"], tokens: int) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b l"]]:
    """So many tokens, and their marks."""
    return embeddings[:, :tokens], embeddings[:, tokens:].flatten(1)[:, :tokens]


class Sd3Calls(Calls):
    """Stable Diffusion 3 and 3.5 (Esser et al. 2024): two CLIP towers side by side, then T5; their pooled embeddings side by side beside the tokens.

    A folder may leave T5 out: its tokens are zeros then, as the family's pipeline makes them.
    """

    @property
    def spans(self) -> tuple[tuple[int, Any], ...]:
        """CLIP's tokens come first; T5's follow where there is a T5."""
        clip = self.tokenizers["tokenizer"]
        return ((0, clip), *(((int(clip.model_max_length), self.tokenizers["tokenizer_3"]),) if "text_encoder_3" in self.encoders else ()))

    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "b r d"]:
        """CLIP's tokens, T5's tokens, and a row of pooled embeddings."""
        made = [self.encoders[f"text_encoder{n}"](self._ids(f"tokenizer{n}", texts, device).input_ids, output_hidden_states=True) for n in ("", "_2")]
        clip, pooled = torch.cat([one.hidden_states[-2] for one in made], -1), torch.cat([one.text_embeds for one in made], -1)
        rows = [clip]
        if "text_encoder_3" in self.encoders:
            rows.append(self.encoders["text_encoder_3"](self._ids("tokenizer_3", texts, device).input_ids)[0].to(clip))
        width = max(one.shape[-1] for one in (*rows, pooled))
        return torch.cat([pad(one, (0, width - one.shape[-1])) for one in (*rows, pooled[:, None])], dim=1)

    def denoise(self, transformer: Any, latents: Float[Tensor, "b c h w"], timestep: int, embeddings: Float[Tensor, "b r d"]) -> Float[Tensor, "b c h w"]:
        """The velocity eps - z."""
        config = transformer.config
        words, pooled = pad(embeddings[:, :-1], (0, config.joint_attention_dim - embeddings.shape[-1])), embeddings[:, -1, : config.pooled_projection_dim]
        if "text_encoder_3" not in self.encoders:
            words = pad(words, (0, 0, 0, self.unread))
        times = torch.full((len(latents),), float(timestep), device=latents.device)
        return transformer(latents, words, pooled, times).sample


class FluxCalls(Calls):
    """Flux.1 (Black Forest Labs 2024): T5's tokens, CLIP's pooled embedding beside them, latents packed two by two."""

    text_first: ClassVar[bool] = True

    @property
    def spans(self) -> tuple[tuple[int, Any], ...]:
        """T5's tokens alone."""
        return ((0, self.tokenizers["tokenizer_2"]),)

    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "b r d"]:
        """T5's tokens, and a row of CLIP's pooled embedding."""
        pooled = self.encoders["text_encoder"](self._ids("tokenizer", texts, device).input_ids).pooler_output
        words = self.encoders["text_encoder_2"](self._ids("tokenizer_2", texts, device).input_ids)[0].to(pooled)
        width = max(words.shape[-1], pooled.shape[-1])
        return torch.cat([pad(words, (0, width - words.shape[-1])), pad(pooled, (0, width - pooled.shape[-1]))[:, None]], dim=1)

    def denoise(self, transformer: Any, latents: Float[Tensor, "b c h w"], timestep: int, embeddings: Float[Tensor, "b r d"]) -> Float[Tensor, "b c h w"]:
        """The velocity eps - z."""
        h, w = latents.shape[2] // 2, latents.shape[3] // 2
        config, like = transformer.config, {"device": latents.device, "dtype": latents.dtype}
        output = transformer(
            pack(latents),
            encoder_hidden_states=embeddings[:, :-1, : config.joint_attention_dim],
            pooled_projections=embeddings[:, -1, : config.pooled_projection_dim],
            timestep=torch.full((len(latents),), timestep / 1000, **like),
            img_ids=places(h, w).to(**like),
            txt_ids=torch.zeros(embeddings.shape[1] - 1, 3, **like),
            guidance=torch.full((len(latents),), FLUX_GUIDANCE, device=latents.device) if config.guidance_embeds else None,
        ).sample
        return unpack(output, h, w)


class PixArtCalls(Calls):
    """PixArt-alpha and Sigma (Chen et al. 2023, 2024): a transformer with cross-attention to T5's tokens, without those of the padding, that predicts noise."""

    flow: ClassVar[bool] = False
    joint: ClassVar[bool] = False

    @property
    def spans(self) -> tuple[tuple[int, Any], ...]:
        """T5's tokens alone."""
        return ((0, self.tokenizers["tokenizer"]),)

    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "b r d"]:
        """T5's tokens, and rows that say which of them are none of the padding's."""
        ids = self._ids("tokenizer", texts, device)
        words = self.encoders["text_encoder"](ids.input_ids, attention_mask=ids.attention_mask)[0]
        return with_marks(words, ids.attention_mask.to(words))

    def denoise(self, transformer: Any, latents: Float[Tensor, "b c h w"], timestep: int, embeddings: Float[Tensor, "b r d"]) -> Float[Tensor, "b c h w"]:
        """The noise; what a model says of its variance is left out."""
        words, marks = without_marks(embeddings, self.tokens)
        height, width = (8.0 * side for side in latents.shape[2:])
        like, count = {"device": latents.device, "dtype": latents.dtype}, len(latents)
        sizes = {"resolution": torch.tensor([[height, width]], **like).expand(count, -1), "aspect_ratio": torch.full((count, 1), height / width, **like)}
        given = sizes if transformer.use_additional_conditions else {"resolution": None, "aspect_ratio": None}
        times = torch.full((count,), timestep, device=latents.device)
        output = transformer(latents, encoder_hidden_states=words, encoder_attention_mask=marks, timestep=times, added_cond_kwargs=given).sample
        return output[:, : latents.shape[1]]
