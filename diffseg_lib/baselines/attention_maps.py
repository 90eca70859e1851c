"""The cross-attention maps themselves: of any layer, head, timestep and token, as the model computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..prompts import Prompt
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy

TOKENS = ("word", "start", "end")


@dataclass(frozen=True)
class AttentionMaps:
    """Cross-attention maps of one token, or the mean over a word's.

    Args:
        prompt: Prompt that the model was given.
        positions: Positions of the tokens whose mean the maps are; the start token is position 0.
        timesteps: Timesteps of the noise, along the first axis of every map.
        heads: Heads along the second axis; () means that it has one place, the mean over heads.
        layers: Name of a layer to its maps, timesteps heads h w, in the order in which the layers run; values are probabilities.
    """

    prompt: Prompt
    positions: tuple[int, ...]
    timesteps: tuple[int, ...]
    heads: tuple[int, ...]
    layers: dict[str, np.ndarray]


def attention_maps(
    segmenter: DiffSegmenter,
    image: np.ndarray,
    word: str,
    *,
    layers: Sequence[str] = (),
    heads: Sequence[int] = (),
    timesteps: Sequence[int] = (),
    token: str | int = "word",
) -> AttentionMaps:
    """The cross-attention of a prompt's tokens, one UNet call a timestep; what was not asked for is let go of after each call.

    Args:
        segmenter: The diffusion model, with the template, caption and seed of its configuration.
        image: Picture, H W 3, uint8.
        word: Word, or several, that the prompt is written with.
        layers: Parts of the names of the layers that are kept, as in "up_blocks.1"; () keeps all.
        heads: Heads that are kept, from 0; () gives the mean over all.
        timesteps: Timesteps of the noise; () takes the segmenter's.
        token: Token whose maps are taken: "word" (the mean over the word's sub-tokens), "start", "end" (the first of the end tokens), or a position.

    Raises:
        ValueError: On a token, layer or head that there is not.
    """
    [prompt] = segmenter.prompts([word], image)
    length, steps = segmenter.backbone.max_tokens, tuple(timesteps) or segmenter.timesteps
    positions = _positions(prompt, token, len(segmenter.backbone.tokenizer(prompt.text)["input_ids"]), length)
    embeddings, _ = segmenter.embed([prompt])
    weights = torch.zeros(1, length).to(embeddings)
    weights[0, list(positions)] = 1 / len(positions)
    latents = segmenter.encode(image)
    noise = segmenter.noise(image, latents)
    found: dict[str, list[np.ndarray]] = {}
    for timestep in steps:
        cross = segmenter.attend(latents, noise, timestep, embeddings, weights, "none", heads=bool(heads)).cross
        kept = [name for name in cross if not layers or any(part in name for part in layers)]
        if not kept:
            raise ValueError(f"no layer's name has {' or '.join(layers)} in it: the layers are {', '.join(cross)}")
        for name in kept:
            found.setdefault(name, []).append(_heads_of(name, to_numpy(cross[name][0]), heads))
    return AttentionMaps(prompt, positions, steps, tuple(heads), {name: np.stack(maps) for name, maps in found.items()})


def _positions(prompt: Prompt, token: str | int, used: int, length: int) -> tuple[int, ...]:
    if token == "word":
        return prompt.span
    named = {"start": 0, "end": used - 1}
    place = named.get(str(token), token)
    if not str(place).isdigit() or int(place) >= length:
        raise ValueError(f"token {token!r}: expected word, start, end, or a position from 0 to {length - 1}; the words end before {used - 1}")
    return (int(place),)


def _heads_of(name: str, maps: np.ndarray, heads: Sequence[int]) -> np.ndarray:
    if not heads:
        return maps[None]
    if wrong := [head for head in heads if not 0 <= head < len(maps)]:
        raise ValueError(f"{name} has no head {wrong[0]}: its heads are 0 to {len(maps) - 1}")
    return maps[list(heads)]
