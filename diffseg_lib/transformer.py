"""Diffusion transformers as backbones: Stable Diffusion 3, Flux, PixArt, Qwen-Image. Their blocks take the place of the UNet's resolutions."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .attention import SELF_ATTENTION, unet_lock
from .backbone import TEXT_LOCK, Backbone
from .dit.attention import Finished, Seen, block_number, layers_of, watch_attention, word_maps
from .dit.calls import Calls
from .prompts import Prompt, spans_in, weigh_tokens
from .recording import Recording


@dataclass
class BlockRecording(Recording):
    """What one call of a transformer left behind: all layers attend at one size, and the number of a layer's block takes the place of its stride.

    Args:
        blocks: Layer name to the number of its block.
    """

    unit: ClassVar[str] = "block"
    blocks: dict[str, int] = field(default_factory=dict)

    def stride(self, name: str) -> int:
        """Number of a layer's block, by which its maps are weighted."""
        return self.blocks[name]

    def finest(self, weights: Mapping[int, float] | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Queries and keys of the image tokens, of the blocks whose weight is not 0, or of all that were recorded."""
        names = [name for name in self.queries if weights is None or weights.get(self.blocks[name])]
        return [self.queries[name] for name in names], [self.keys[name] for name in names]


def flow_schedule() -> Float[Tensor, " T"]:
    """The abar_t of a model trained by flow matching: the share of the signal's variance where noise and signal are scaled to a variance of one together."""
    s = torch.arange(1001) / 1000
    return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)


@dataclass(frozen=True)
class _Asked:
    """The options of a recording; those without a field here are unknown."""

    self_attention: str = "finest"
    heads: bool = False
    optimizations: Collection[str] = ()
    resolutions: Collection[int] | None = None
    first_only: bool = False
    layers: bool = True
    side_prompts: Tensor | None = None
    side_counts: Tensor | None = None
    projections: Collection[str] = ()
    content: Tensor | None = None


@dataclass(frozen=True)
class TransformerBackbone(Backbone):
    """A diffusion transformer, in the field ``unet``.

    A timestep t of the method is the noise level s = t / 1000 of a model that was trained by flow matching (Liu et al. 2023; Esser et al. 2024): noisy latents
    are (1 - s) z + s eps, the model says the velocity v = eps - z, and the noise is z_s + (1 - s) v.

    Args:
        calls: How the family's prompts are read and its transformer is called.
    """

    calls: Calls | None = None
    _open: list[BlockRecording] = field(default_factory=list, repr=False, compare=False)

    @property
    def family(self) -> Calls:
        """How the family is called."""
        if self.calls is None:
            raise ValueError("a transformer's backbone needs the calls of its family: load it by load_backbone")
        return self.calls

    @property
    def max_tokens(self) -> int:
        """Tokens of a padded prompt, all tokenizers together."""
        return self.family.tokens

    @property
    def latent_factor(self) -> int:
        """Number of pixels of the image to a side of one latent pixel, also where the autoencoder is one of videos."""
        halvings = getattr(self.vae.config, "temperal_downsample", None)
        return super().latent_factor if halvings is None else 2 ** len(halvings)

    @property
    def size(self) -> int:
        """Length of an image's short side that the model works at, px; Flux and Qwen-Image say none, and work at 1024."""
        return self.profile.size or getattr(self.unet.config, "sample_size", 128) * self.latent_factor

    @property
    def finest_stride(self) -> int:
        """Stride of the tokens relative to the latents: patches are two by two."""
        return 2

    @property
    def multiple(self) -> int:
        """Number of pixels that image sides must be multiples of."""
        return 2 * self.latent_factor

    @torch.no_grad()
    def encode_image(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 c h w"]:
        """Latents of an image in [-1, 1], the mean: shifted and scaled, or standardised, as the family has it."""
        if not self.family.standardised:
            return super().encode_image(image)
        with self._visit():
            return self.family.to_latents(self.vae, image.to(self.device, self.vae.dtype)).to(self.dtype)

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Pictures in [-1, 1] from such latents."""
        if not self.family.standardised:
            return super().decode_latents(latents)
        with self._visit():
            return self.family.to_image(self.vae, latents.to(self.device, self.vae.dtype)).clamp(-1, 1)

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> Float[Tensor, "b l d"]:
        """Token embeddings, and behind them what conditions the model besides, as :mod:`diffseg_lib.dit.calls` says."""
        with TEXT_LOCK:
            return self.family.encode(texts, self.device)

    def noise_scales(self, timestep: int) -> tuple[float, float]:
        """The factors of the latents and of the noise: 1 - s and s under flow matching."""
        return (1 - timestep / 1000, timestep / 1000) if self.family.flow else super().noise_scales(timestep)

    def noise_notes(self, timesteps: Sequence[int]) -> tuple[str, ...]:
        """What timesteps mean to a model that was trained by flow matching."""
        said = ", ".join(f"{self.noise_scales(t)[1]:g}" for t in timesteps)
        return (f"noise level s = {said}: latents (1 - s) z + s eps",) if self.family.flow else ()

    @torch.no_grad()
    def predict_noise(self, noisy: Float[Tensor, "_ c h w"], timestep: int, embeddings: Float[Tensor, "b l d"]) -> Float[Tensor, "b c h w"]:
        """Predict the noise by one call, the conditional half only: eps = z_s + (1 - s) v under flow matching."""
        batch = noisy.to(self.device, self.dtype).expand(len(embeddings), -1, -1, -1)
        with unet_lock(self.unet), self._visit():
            output = self._denoise(batch, timestep, embeddings.to(self.dtype))
        return batch + self.noise_scales(timestep)[0] * output if self.family.flow else output

    def _denoise(self, batch: Tensor, timestep: int, embeddings: Tensor) -> Tensor:
        for recording in self._open:
            if recording.size != (0, 0):
                raise RuntimeError("a recording is of one call, and this is the second: open another with block for it")
            recording.size = (batch.shape[-2], batch.shape[-1])
            recording.finest_size = (batch.shape[-2] // 2, batch.shape[-1] // 2)
        return self.family.denoise(self.unet, batch, timestep, embeddings)

    def token_weights(self, prompts: Sequence[Prompt], which: str = "all", modifiers: bool = False) -> Float[Tensor, "b l"]:
        """Weights that average a class's sub-tokens, of each tokenizer's reading of the prompt, and the readings."""
        spans, first = self.family.spans, self.tokenizer
        weights = torch.zeros(len(prompts), self.max_tokens)
        for start, tokenizer in spans:
            read = prompts if tokenizer is first else [spans_in(prompt, first, tokenizer) for prompt in prompts]
            length = int(tokenizer.model_max_length)
            weights[:, start : start + length] = weigh_tokens(read, length, which, modifiers) / len(spans)
        return weights

    def content_weights(self, prompts: Sequence[Prompt]) -> Float[Tensor, "b l"]:
        """1 at each token of a prompt's words, in every tokenizer's reading of it."""
        weights = torch.zeros(len(prompts), self.max_tokens)
        for start, tokenizer in self.family.spans:
            for row, prompt in zip(weights, prompts, strict=True):
                words = [a < b for a, b in tokenizer(prompt.text, return_offsets_mapping=True, verbose=False)["offset_mapping"]]
                row[start : start + len(words)] = torch.tensor(words)[: int(tokenizer.model_max_length)].float()
        return weights

    @contextmanager
    def record(self, token_weights: Float[Tensor, "b *c l"] | None, **options: Any) -> Iterator[BlockRecording]:
        """Record one call of the transformer inside the ``with`` block, as :func:`~diffseg_lib.attention.record_attention` does a UNet's.

        Args:
            token_weights: Weight of each token in a recorded map, as there.
            options: Those of ``record_attention``, with another meaning of some. ``resolutions`` are numbers of blocks. ``self_attention="finest"`` keeps the
                image tokens' queries and keys of every wanted block, "all" also those of layers in which the image attends to itself alone (Stable Diffusion
                3.5 medium has some). Of the optimizations "early_stop" is done; the others are a UNet's, and ``layers`` has no meaning, since each block is one
                layer. Side prompts and projections are refused. ``content``, the b l weights of a prompt's words, makes a map the share of a word in what a
                pixel gives to all words, head by head; None takes attention as the softmax over all tokens left it.

        Raises:
            ValueError: On what is refused, an unknown choice, or blocks that the model has not.
            RuntimeError: On a block inside another one, or a second call of the transformer.
        """
        asked = _Asked(**options)
        if asked.side_prompts is not None or asked.projections:
            raise ValueError(
                "side prompts and projections are recorded of UNets alone: take one_pass='joint', which reads all classes off one sentence, or 'none'; "
                "and a refinement that needs neither values nor hidden states"
            )
        if asked.self_attention not in SELF_ATTENTION:
            raise ValueError(f"self_attention {asked.self_attention!r}: expected one of {', '.join(SELF_ATTENTION)}")
        numbers = {name: block_number(self.unet, name) for name in layers_of(self.unet)}
        if missing := sorted(set(asked.resolutions or ()) - set(numbers.values())):
            raise ValueError(f"block{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}: the model's are 0 to {max(numbers.values())}")
        alone = {name for name in numbers if self.family.joint and not name.endswith(".attn")}
        wanted = [
            name
            for name, block in numbers.items()
            if (asked.resolutions is None or block in asked.resolutions) and (name not in alone or asked.self_attention == "all")
        ]
        recording = BlockRecording()
        weights = token_weights if token_weights is None or token_weights.ndim == 3 else token_weights[:, None]
        if weights is not None and asked.content is not None:
            weights = torch.cat([weights, asked.content.to(weights)[:, None]], dim=1)

        def see(seen: Seen) -> None:
            recording.blocks[seen.layer] = numbers[seen.layer]
            if seen.key is not None and asked.self_attention != "none":
                kept = slice(0, 1) if asked.first_only else slice(None)
                recording.queries[seen.layer], recording.keys[seen.layer] = seen.query[kept], seen.key[kept]
            if seen.text_key is not None and weights is not None:
                found = word_maps(seen, weights)  # b heads n c
                found = found if asked.content is None else found[..., :-1] / found[..., -1:].clamp(min=torch.finfo(found.dtype).tiny)
                maps = found.mT.unflatten(-1, recording.finest_size).transpose(1, 2).flatten(0, 1)  # (b c) heads h w
                recording.cross[seen.layer] = maps if asked.heads else maps.mean(1)
                recording.added[seen.layer] += 1
            if "early_stop" in asked.optimizations and seen.layer == wanted[-1]:
                raise Finished

        with unet_lock(self.unet):  # other threads wait for the end of the block
            if self._open:
                raise RuntimeError("the attention of this transformer is being recorded already: leave the outer with block first")
            self._open.append(recording)
            try:
                with watch_attention(self.unet, wanted, self.family.text_first, lambda: math.prod(recording.finest_size), see):
                    yield recording
            finally:
                self._open.clear()
