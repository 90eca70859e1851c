"""Families that read prompts by a language model: Flux.2 and Qwen-Image. A prompt stands in a frame of other text; words have places in the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .calls import Calls, pack, places, unpack, with_marks, without_marks

FLUX2_GUIDANCE = 4.0  # of the distilled model: its pipeline's default
FLUX2_LAYERS = (10, 20, 30)  # of the language model, whose outputs stand side by side in a token: its pipeline's default
_PROMPT = "\ue000"  # stands for the prompt while its frame is made: a character that no text has


@dataclass(frozen=True)
class Framed:
    """A tokenizer that reads a prompt in a frame of other text, and tells tokens by their places in the embedding.

    Called with a text, it gives ``input_ids`` of the embedding's tokens up to the last that is no padding, and ``offset_mapping``: where in the text,
    without its frame, each of them stands, (0, 0) for those of the frame and of padding before it.

    Args:
        tokenizer: The tokenizer, whose ``model_max_length`` is the number of the embedding's tokens.
        write: Function that puts a prompt into its frame.
        dropped: Number of tokens at the beginning that the embedding leaves out.
        padding: To what prompts are padded before they are read: "max_length", the padding being part of the embedding, or "longest", which it is not.
    """

    tokenizer: Any
    write: Callable[[str], str]
    dropped: int = 0
    padding: str = "max_length"

    @cached_property
    def frame(self) -> tuple[str, str]:
        """What stands before a prompt and behind it.

        Raises:
            ValueError: If the prompt does not come through the frame as it is.
        """
        parts = self.write(_PROMPT).split(_PROMPT)
        if len(parts) != 2:
            raise ValueError(f"the chat template of the tokenizer holds a prompt {len(parts) - 1} times: expected once, as the family's own does")
        return parts[0], parts[1]

    @property
    def model_max_length(self) -> int:
        """Number of tokens of an embedding."""
        return int(self.tokenizer.model_max_length)

    @property
    def unk_token_id(self) -> int | None:
        """The token of what the tokenizer does not know."""
        return self.tokenizer.unk_token_id  # type: ignore[no-any-return]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Tokens as text."""
        return list(self.tokenizer.convert_ids_to_tokens(ids))

    def __call__(self, text: str, **options: Any) -> Any:
        from transformers import BatchEncoding

        before, _ = self.frame
        read = self._tokens([text], **options | {"return_offsets_mapping": True, "verbose": False})
        ids, offsets = read["input_ids"][0][self.dropped :], read["offset_mapping"][0][self.dropped :]
        begin, end = len(before), len(before) + len(text)
        found = [(max(a, begin) - begin, min(b, end) - begin) if a < end and b > begin else (0, 0) for a, b in offsets]
        before_it = self.padding == "max_length" and self.tokenizer.padding_side == "left"
        padding = max(0, self.model_max_length - len(ids)) if before_it else 0
        return BatchEncoding({"input_ids": [self.tokenizer.pad_token_id] * padding + ids, "offset_mapping": [(0, 0)] * padding + found})

    def read(self, texts: Sequence[str], device: torch.device) -> Any:
        """Token ids and marks of what is no padding, of framed prompts, cut where the embedding ends."""
        options = {"padding": self.padding, "truncation": True, "max_length": self.model_max_length + self.dropped}
        return self._tokens(texts, **options, return_tensors="pt").to(device)

    def _tokens(self, texts: Sequence[str], **options: Any) -> Any:
        before, after = self.frame
        start = self.tokenizer.bos_token
        special = start is None or not before.startswith(start)  # else the frame brings them
        return self.tokenizer([before + text + after for text in texts], add_special_tokens=special, **options)


class LanguageCalls(Calls):
    """What both families have in common: one language model, latents packed two by two, standardised by statistics of their channels."""

    text_first: ClassVar[bool] = True
    standardised: ClassVar[bool] = True
    reads_on: ClassVar[bool] = True

    @cached_property
    def framed(self) -> Framed:
        """The tokenizer, in the family's frame."""
        raise NotImplementedError

    @property
    def spans(self) -> tuple[tuple[int, Any], ...]:
        """The language model's tokens alone."""
        return ((0, self.framed),)

    def _hidden(self, read: Any) -> Any:
        """The language model's hidden states by layer; its scores of words, which nobody asks for, are of the last token alone."""
        given = {"output_hidden_states": True, "use_cache": False, "logits_to_keep": 1}
        return self.encoders["text_encoder"](input_ids=read.input_ids, attention_mask=read.attention_mask, **given).hidden_states


class Flux2Calls(LanguageCalls):
    """Flux.2 (Black Forest Labs 2025): three layers of Mistral 3 side by side, padding before the prompt; latents standardised in their packed form."""

    @cached_property
    def framed(self) -> Framed:
        """The tokenizer, its chat template around the prompt, and the family's word to the system before it."""
        from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

        tokenizer = self.tokenizers["tokenizer"]

        def write(prompt: str) -> str:
            said = (("system", SYSTEM_MESSAGE), ("user", prompt))
            chat = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
            return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=False))

        return Framed(tokenizer, write)

    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "b r d"]:
        """The tokens, of the frame and of padding too."""
        hidden = self._hidden(self.framed.read(texts, device))
        return torch.cat([hidden[layer] for layer in FLUX2_LAYERS], dim=-1)

    def denoise(self, transformer: Any, latents: Float[Tensor, "b c h w"], timestep: int, embeddings: Float[Tensor, "b r d"]) -> Float[Tensor, "b c h w"]:
        """The velocity eps - z."""
        h, w = latents.shape[2] // 2, latents.shape[3] // 2
        like, length = {"device": latents.device, "dtype": latents.dtype}, embeddings.shape[1]
        output = transformer(
            pack(latents),
            encoder_hidden_states=embeddings,
            timestep=torch.full((len(latents),), timestep / 1000, **like),
            img_ids=torch.cat([places(h, w), torch.zeros(h * w, 1)], dim=1).to(latents.device),
            txt_ids=torch.cat([torch.zeros(length, 3), torch.arange(length)[:, None]], dim=1).to(latents.device),
            guidance=torch.full((len(latents),), FLUX2_GUIDANCE, device=latents.device) if transformer.config.guidance_embeds else None,
        ).sample
        return unpack(output, h, w)

    def to_latents(self, vae: Any, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """The mean of an image's latents, standardised by the autoencoder's batch normalisation."""
        latents = vae.encode(image).latent_dist.mean
        mean, deviation = self._statistics(vae, latents)
        return (latents - mean) / deviation

    def to_image(self, vae: Any, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """The image of standardised latents."""
        mean, deviation = self._statistics(vae, latents)
        return vae.decode(latents * deviation + mean).sample

    @staticmethod
    def _statistics(vae: Any, latents: Tensor) -> list[Tensor]:
        """Mean and deviation of packed channels, each at its place in the latents."""
        h, w = latents.shape[2] // 2, latents.shape[3] // 2
        found = vae.bn.running_mean, torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
        return [repeat(one.to(latents), "(c y x) -> 1 c (h y) (w x)", h=h, w=w, y=2, x=2) for one in found]


class QwenImageCalls(LanguageCalls):
    """Qwen-Image (Wu et al. 2025): the last layer of Qwen 2.5 VL without the frame's beginning, and an autoencoder of videos."""

    @cached_property
    def framed(self) -> Framed:
        """The tokenizer, the frame of the family's pipeline, and the number of tokens that the pipeline leaves out."""
        import diffusers

        pipeline = diffusers.QwenImagePipeline(None, None, None, None, None)  # of no models: it holds the frame
        dropped = int(pipeline.prompt_template_encode_start_idx)
        return Framed(self.tokenizers["tokenizer"], pipeline.prompt_template_encode.format, dropped, "longest")

    def encode(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "b r d"]:
        """The tokens, of the frame's end too, zeros behind them, and rows that say which are none of these."""
        read = self.framed.read(texts, device)
        rows = [hidden[mask.bool()][self.framed.dropped :] for hidden, mask in zip(self._hidden(read)[-1], read.attention_mask, strict=True)]
        longest = rows[0].new_zeros(self.tokens, rows[0].shape[1])
        words = pad_sequence([*rows, longest], batch_first=True)[:-1]
        marks = pad_sequence([*(one.new_ones(len(one)) for one in rows), longest[:, 0]], batch_first=True)[:-1]
        return with_marks(words, marks)

    def denoise(self, transformer: Any, latents: Float[Tensor, "b c h w"], timestep: int, embeddings: Float[Tensor, "b r d"]) -> Float[Tensor, "b c h w"]:
        """The velocity eps - z; what is behind the longest of the prompts is left out, and nothing attends to what is behind a shorter one."""
        words, marks = without_marks(embeddings, self.tokens)
        there = marks > 0
        length = int(there.sum(1).max())
        h, w = latents.shape[2] // 2, latents.shape[3] // 2
        output = transformer(
            pack(latents),
            encoder_hidden_states=words[:, :length],
            encoder_hidden_states_mask=None if there[:, :length].all() else there[:, :length],
            timestep=torch.full((len(latents),), timestep / 1000, device=latents.device, dtype=latents.dtype),
            img_shapes=[[(1, h, w)]] * len(latents),
        ).sample
        return unpack(output, h, w)

    def embed_text(self, transformer: Any, words: Float[Tensor, "b l d"]) -> Float[Tensor, "b l c"]:
        """Tokens as the first block gets them."""
        return transformer.txt_in(transformer.txt_norm(words))

    def turn(self, rotations: Sequence[Tensor], rows: Sequence[int], image_tokens: int) -> tuple[Tensor, ...]:
        """Rotations of the image, which stand apart, and those of some of the text's tokens."""
        image, text = rotations
        return image, text[list(rows)]

    def to_latents(self, vae: Any, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """The mean of an image's latents, as a video of one picture, standardised by the autoencoder's settings."""
        latents = vae.encode(image[:, :, None]).latent_dist.mean[:, :, 0]
        mean, deviation = self._statistics(vae, latents)
        return (latents - mean) / deviation

    def to_image(self, vae: Any, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """The image of standardised latents."""
        mean, deviation = self._statistics(vae, latents)
        return vae.decode((latents * deviation + mean)[:, :, None]).sample[:, :, 0]

    @staticmethod
    def _statistics(vae: Any, latents: Tensor) -> list[Tensor]:
        return [rearrange(torch.tensor(one), "c -> 1 c 1 1").to(latents) for one in (vae.config.latents_mean, vae.config.latents_std)]
