"""Editing a picture by its words: Prompt-to-Prompt (Hertz et al. 2023) on an inverted picture, and our masks as its gate (Fig. 7, Wang et al. 2023).

A picture is inverted to noise under a prompt that describes it; the edited picture is then drawn from that noise under another
prompt, while its attention is held to that of the first. Three things may limit where it changes: nothing (Prompt-to-Prompt), its own
:class:`LocalBlend`, or a :class:`Gate`, which is a mask of the thing that is edited.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, scaled_dot_product_attention

from ..attention import is_plain_attention, replaced_processors
from ..backbone import Backbone
from ..recording import resolution_pyramid
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from ..support.settings import OBJECT, PLAIN, Count, Number, Share, settings
from .generation import to_uint8

StepShare = Annotated[float, Field(ge=0, le=1, description="a share of the steps, from 0 to 1"), PLAIN]


@dataclass(frozen=True)
class Trajectory:
    """A picture on its way to noise under a prompt.

    Args:
        pixels: The picture, H W 3, uint8.
        prompt: The prompt that describes it.
        timesteps: The timesteps, ascending: 0 and those of the steps.
        latents: The latents at each of them, 1 c h w; the first are the picture's own.
    """

    pixels: np.ndarray
    prompt: str
    timesteps: tuple[int, ...]
    latents: tuple[Tensor, ...]


@settings
class PromptToPrompt:
    """How strongly the source holds the edit (Hertz et al. 2022).

    Args:
        cross_replace_steps: Share of the steps, from the noisiest, in which cross-attention is the source's.
        self_replace_steps: Share of the steps, from the noisiest, in which self-attention is the source's.
        stride: Stride, relative to the latents, from which self-attention is replaced: in layers at this stride and coarser ones.
        guidance: Weight of the target prompt against no words; 1 is none, 7.5 is usual for Stable Diffusion.

    Raises:
        ValueError: On shares outside 0 to 1, values of another type, or an unknown name.
    """

    cross_replace_steps: StepShare = 0.8
    self_replace_steps: StepShare = 0.4
    stride: Count = 2
    guidance: Number = 4.0


USUAL = PromptToPrompt()


@settings
class Gate:
    """A mask outside which nothing may change.

    Args:
        mask: The mask, H W of the picture, true where the edit may change it.
        attention: Whether the output of every attention layer outside it is held to the source's.
        latents: Whether the source's latents are put outside it after every step.
        pixels: Whether the picture's own pixels are put outside it.

    Raises:
        ValueError: On values of another type, or an unknown name.
    """

    mask: Annotated[np.ndarray, OBJECT]
    attention: bool = True
    latents: bool = True
    pixels: bool = True


@settings
class LocalBlend:
    """Prompt-to-Prompt's own limit: where the cross-attention of some words, the mean over steps so far, is high (its Sec. 3.2).

    Args:
        source: The words in the source's prompt.
        target: The words in the target's prompt.
        threshold: Threshold of the maps divided by their maximum, 0 to 1.
        start: Share of the steps before the first blend, 0 to 1.
        stride: Stride, relative to the latents, of the layers that are read; 4 is 16 x 16 in Stable Diffusion at 512 px.

    Raises:
        ValueError: On a start outside 0 to 1, values of another type, or an unknown name.
    """

    source: str
    target: str
    threshold: Number = 0.3
    start: Share = 0.2
    stride: Count = 4


@dataclass(frozen=True)
class Edited:
    """An edited picture, and where it could change.

    Args:
        picture: The picture after the edit, H W 3, uint8.
        allowed: Where its latents could change in the last step, h w, 0 or 1; None where nothing limited them.
    """

    picture: np.ndarray
    allowed: np.ndarray | None = None


def token_indices(text: str, word: str, tokenizer: Any) -> list[int]:
    """Tokens of a word, or of some words in a row, wherever they stand in a text.

    Raises:
        ValueError: If the text does not have these words.
    """
    found = [match.span() for match in re.finditer(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)]
    if not found:
        raise ValueError(f"{word!r} is not in the prompt {text!r}: expected words of it")
    coded = tokenizer(text, return_offsets_mapping=True, truncation=True)["offset_mapping"]
    return [i for i, (a, b) in enumerate(coded) if b > a and any(a < end and b > begin for begin, end in found)]


def align(source: str, target: str, tokenizer: Any) -> tuple[Float[Tensor, "l l"], Float[Tensor, " l"]]:
    """Which tokens of two prompts are the same, or stand in each other's place.

    Words in both prompts keep their attention; a word that is swapped for another hands its attention on, shared evenly if there are
    several tokens; added words have none to take over.

    Returns:
        The mapper and what is taken. The mapper leads from source tokens to target tokens, l l, so that M_source @ mapper is attention to
        the target's tokens; its columns of added words are zero. The other, l, is 1 for tokens that take attention over, 0 for added ones.

    Raises:
        ValueError: If a prompt has more tokens than the model reads.
    """
    length = tokenizer.model_max_length
    for text in (source, target):
        if (count := len(tokenizer(text, verbose=False).input_ids)) > length:
            raise ValueError(f"the prompt {text!r} has {count} tokens, the model reads {length}: shorten it")
    mapper, taken = torch.zeros(length, length), torch.ones(length)
    (words_s, ends_s), (words_t, ends_t) = _words(source, tokenizer), _words(target, tokenizer)
    mapper[0, 0] = 1
    for kind, a, b, c, d in difflib.SequenceMatcher(None, [w for w, _ in words_s], [w for w, _ in words_t], autojunk=False).get_opcodes():
        pairs = [(words_s[a + i][1], words_t[c + i][1]) for i in range(b - a)] if b - a == d - c else [(_join(words_s[a:b]), _join(words_t[c:d]))]
        for given, taking in pairs:
            if kind in ("equal", "replace"):
                for i in given:
                    mapper[i, taking] = 1 / len(taking)
            if len(given) == len(taking):
                mapper[given, :] = 0
                mapper[given, taking] = 1
        if kind == "insert":
            taken[_join(words_t[c:d])] = 0
    for j in range(ends_t, length):  # the end token, and the padding behind it
        mapper[min(ends_s + j - ends_t, length - 1), j] = 1
    return mapper, taken


def _words(text: str, tokenizer: Any) -> tuple[list[tuple[str, list[int]]], int]:
    """Words of a text with their tokens, and the position of the end token."""
    coded = tokenizer(text, return_offsets_mapping=True, truncation=True)
    places = [(match.group().lower(), match.span()) for match in re.finditer(r"[\w'-]+|[^\w\s]", text)]
    offsets = coded["offset_mapping"]
    found = [(word, [i for i, (a, b) in enumerate(offsets) if b > a and a < end and b > begin]) for word, (begin, end) in places]
    return [one for one in found if one[1]], len(coded["input_ids"]) - 1


def _join(words: Sequence[tuple[str, list[int]]]) -> list[int]:
    return [i for _, tokens in words for i in tokens]


@torch.no_grad()
def ddim_invert(segmenter: DiffSegmenter, pixels: np.ndarray, prompt: str, steps: int = 20, rounds: int = 1) -> Trajectory:
    """Deterministic inversion (DDIM, Song et al. 2021): the latents from which sampling under the prompt leads back to a picture.

    A step from t_{k-1} to t_k needs the noise that is predicted at z_k, which is not known yet; it is taken at z_{k-1}, and then, for
    further rounds, at the z_k that came out.

    Args:
        segmenter: The segmenter whose backbone is used.
        pixels: The picture, H W 3, uint8.
        prompt: The prompt that describes it.
        steps: The number of steps to noise.
        rounds: The number of rounds of each step, 1 or more.

    Raises:
        ValueError: On fewer than one step or round, or more steps than the model has.
    """
    backbone = segmenter.backbone
    if not 1 <= steps < len(backbone.alphas_cumprod) or rounds < 1:
        raise ValueError(f"steps {steps}, rounds {rounds}: expected 1 to {len(backbone.alphas_cumprod) - 1} steps, and at least 1 round")
    spacing = len(backbone.alphas_cumprod) // steps
    timesteps = (0, *range(1, 1 + steps * spacing, spacing))
    words, latents = backbone.cached_embedding(prompt), [segmenter.encode(pixels)]
    for before, after in zip(timesteps, timesteps[1:], strict=False):
        guess = latents[-1]
        for _ in range(rounds):
            guess = ddim_step(backbone, latents[-1], backbone.predict_noise(guess, after, words), before, after)
        latents.append(guess)
    return Trajectory(pixels, prompt, timesteps, tuple(latents))


def ddim_step(backbone: Backbone, latents: Tensor, noise: Tensor, before: int, after: int) -> Tensor:
    """One deterministic step: the clean latents that the noise says, and the same noise added for another timestep."""
    return backbone.add_noise(backbone.estimate_clean(latents, noise, before), noise, after)


@torch.no_grad()
def edit(
    backbone: Backbone,
    source: Trajectory,
    target: str,
    settings: PromptToPrompt = USUAL,
    *,
    weights: Mapping[str, float] | None = None,
    gate: Gate | None = None,
    blend: LocalBlend | None = None,
) -> Edited:
    """Draw a picture again as another prompt has it (Prompt-to-Prompt; of its edits swap, refinement and re-weighting follow from the words).

    At every step the source's latents are those of its inversion, so that what is kept is kept exactly (after Ju et al. 2024); its
    attention is handed to the target's tokens by :func:`align`.

    Args:
        backbone: The model of the inversion.
        source: The picture, inverted.
        target: The prompt of the edited picture.
        settings: How strongly the source holds.
        weights: Words of the target prompt, and the factors of their attention (re-weighting; 1 changes nothing).
        gate: A mask outside which nothing may change. Without any true pixel the picture comes back; true everywhere it limits nothing.
        blend: Prompt-to-Prompt's own limit.

    Raises:
        ValueError: On a mask of another size, a word that is not in its prompt, a gate and a blend at once, or a model whose attention
            is not diffusers' own.
    """
    control = _control(backbone, source, target, settings, weights or {}, gate, blend)
    rows = [backbone.cached_embedding(source.prompt), backbone.cached_embedding(target)]
    if settings.guidance != 1:
        rows.insert(1, backbone.cached_embedding(""))
    embeddings, latents, steps = torch.cat(rows), source.latents[-1], len(source.timesteps) - 1
    with _controlled(backbone.unet, control):
        for k in range(steps, 0, -1):
            control.done = (steps - k) / steps
            noise = backbone.predict_noise(torch.cat([source.latents[k], *[latents] * (len(rows) - 1)]), source.timesteps[k], embeddings)
            guided = noise[-1:] if settings.guidance == 1 else noise[1:2] + settings.guidance * (noise[2:] - noise[1:2])
            latents = ddim_step(backbone, latents, guided, source.timesteps[k], source.timesteps[k - 1])
            allowed = control.where(k, steps)
            if allowed is not None:
                latents = (allowed * latents + (1 - allowed) * source.latents[k - 1]).to(noise)
    h, w = source.pixels.shape[:2]
    limit = control.where(1, steps)
    picture = np.asarray(Image.fromarray(to_uint8(backbone.decode_latents(latents))[0]).resize((w, h), Image.Resampling.BICUBIC))
    if gate is not None and gate.pixels:
        picture = np.where(gate.mask[..., None], picture, source.pixels)
    return Edited(picture, None if limit is None else to_numpy(limit))


@dataclass
class AttentionControl:
    """What the layers of one edit share.

    Args:
        settings: How strongly the source holds.
        mapper: The mapper of :func:`align`, l l.
        taken: What is taken, as of :func:`align`, l.
        weights: Factors of the attention to the target's tokens, l.
        size: Height and width of the latents.
        gate: A mask outside which nothing may change, or None.
        blend: Prompt-to-Prompt's own limit, or None.
        token_weights: The tokens of the blend's words, 1 for each and else 0, source and target, 2 l; None without a blend.
        done: The share of the steps that is done, 0 to 1.
        sums: Sums over layers and steps of the maps that a local blend reads, source and target, 2 h w; None before the first.
        masks: The gate's masks by a layer's height and width, as they were resized.
    """

    settings: PromptToPrompt
    mapper: Tensor
    taken: Tensor
    weights: Tensor
    size: tuple[int, int]
    gate: Gate | None
    blend: LocalBlend | None
    token_weights: Tensor | None
    done: float = 0.0
    sums: Tensor | None = None
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def mask(self, size: tuple[int, int]) -> Tensor | None:
        """The gate's mask at a layer's height and width, 0 or 1: h w."""
        if self.gate is None:
            return None
        if size not in self.masks:
            mask = torch.from_numpy(np.asarray(self.gate.mask, dtype=np.float32))[None, None]
            self.masks[size] = (interpolate(mask, size, mode="area")[0, 0] >= 0.5).to(self.mapper)
        return self.masks[size]

    def where(self, k: int, steps: int) -> Tensor | None:
        """Where the latents may have changed after step k, counted down from `steps`: h w, or None for everywhere."""
        if self.gate is not None and self.gate.latents:
            return self.mask(self.size)
        if self.blend is None or self.sums is None or (steps - k + 1) / steps <= self.blend.start:
            return None
        maps = interpolate(max_pool2d(self.sums[None], 3, 1, 1), self.size)[0]
        return (maps / maps.amax((1, 2), keepdim=True) > self.blend.threshold).any(0).to(self.mapper)

    def read(self, maps: Tensor) -> None:
        """Add the maps of one layer, source and target, 2 h w, to the sums that a local blend reads."""
        self.sums = maps if self.sums is None else self.sums + maps


def _control(
    backbone: Backbone, source: Trajectory, target: str, settings: PromptToPrompt, weights: Mapping[str, float], gate: Gate | None, blend: LocalBlend | None
) -> AttentionControl:
    tokenizer, like = backbone.tokenizer, source.latents[0].float()  # probabilities are float32 in every precision of the model
    if gate is not None and blend is not None:
        raise ValueError("a gate and a local blend: expected one limit of where the picture may change, or none")
    if gate is not None and gate.mask.shape != source.pixels.shape[:2]:
        raise ValueError(f"the gate's mask is {gate.mask.shape}: expected the picture's own size, {source.pixels.shape[:2]}")
    mapper, taken = align(source.prompt, target, tokenizer)
    scale, token_weights = torch.ones(len(taken)), None
    for word, weight in weights.items():
        scale[token_indices(target, word, tokenizer)] = weight
    if blend is not None:
        token_weights = torch.zeros(2, len(taken))
        for row, (text, words) in zip(token_weights, ((source.prompt, blend.source), (target, blend.target)), strict=True):
            row[token_indices(text, words, tokenizer)] = 1
        token_weights = token_weights.to(like)
    return AttentionControl(settings, mapper.to(like), taken.to(like), scale.to(like), (like.shape[-2], like.shape[-1]), gate, blend, token_weights)


class _Controlled:
    """An attention processor: the source's rows and those without words as they were, the target's (the last) as the edit has it."""

    def __init__(self, inner: Any, control: AttentionControl) -> None:
        self.inner, self.control = inner, control

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        context = None if encoder_hidden_states is None else encoder_hidden_states[:-1]
        kept = self.inner(attn, hidden_states[:-1], context, attention_mask, *args, **kwargs)
        pair = hidden_states[[0, -1]]
        words = pair if encoder_hidden_states is None else encoder_hidden_states[[0, -1]]
        query, key, value = (rearrange(one, "b n (e d) -> b e n d", e=attn.heads) for one in (attn.to_q(pair), attn.to_k(words), attn.to_v(words)))
        stride, size = next((d, s) for d, s in resolution_pyramid(self.control.size).items() if s[0] * s[1] == pair.shape[1])
        if encoder_hidden_states is None:
            held = stride >= self.control.settings.stride and self.control.done < self.control.settings.self_replace_steps
            row = slice(0, 1) if held else slice(1, 2)
            output = scaled_dot_product_attention(query[row], key[row], value[1:])
        else:
            output = self._cross(query, key, attn.scale, stride, size).to(value) @ value[1:]
        changed = attn.to_out[1](attn.to_out[0](rearrange(output, "b e n d -> b n (e d)")))
        mask = self.control.mask(size) if self.control.gate is not None and self.control.gate.attention else None
        rows = torch.cat([kept, changed])
        if mask is not None:  # the rows without words as well, so that guidance adds nothing outside
            inside = mask.flatten()[:, None].to(rows)
            rows = inside * rows + (1 - inside) * kept[:1]
        return rows

    def _cross(self, query: Tensor, key: Tensor, scale: float, stride: int, size: tuple[int, int]) -> Tensor:
        """The target's cross-attention: the source's where tokens take it over, weighted; 1 e n l."""
        control = self.control
        source, target = torch.softmax(query.float() @ key.float().mT * scale, -1).split(1)
        if control.done < control.settings.cross_replace_steps:
            target = control.taken * (source @ control.mapper) + (1 - control.taken) * target
        target = target * control.weights
        if control.token_weights is not None and control.blend is not None and stride == control.blend.stride:
            maps = torch.cat([source.mean(1) @ control.token_weights[0, :, None], target.mean(1) @ control.token_weights[1, :, None]])
            control.read(maps[..., 0].unflatten(1, size))
        return target


@contextmanager
def _controlled(unet: nn.Module, control: AttentionControl) -> Iterator[None]:
    """Every attention layer under control; its processor is put back on leaving."""

    def controlled(name: str, layer: Any, processor: Any) -> _Controlled:
        if not is_plain_attention(layer, processor):
            raise ValueError(f"{name} is not plain attention: expected a UNet2DConditionModel with diffusers' own processors")
        return _Controlled(processor, control)

    with replaced_processors(unet, controlled):
        yield
