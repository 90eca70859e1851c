"""Prompts: from a class name to text, to the span of its sub-tokens, to a re-weighted embedding."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """A text, and the positions of a class's sub-tokens in it (the start token counts as position 0)."""

    text: str
    name: str
    span: tuple[int, ...]


def write(name: str, template: str = "a photograph of a {class}") -> str:
    """The template with the class in it, its article chosen by the first letter.

    >>> write("umbrella"), write("red house")
    ('a photograph of an umbrella', 'a photograph of a red house')
    """
    if "{class}" not in template:
        raise ValueError(f"prompt template {template!r}: expected the place of the class, '{{class}}', in it")
    if name[:1].lower() in "aeiou":
        template = template.replace(" a {class}", " an {class}")
    return template.replace("{class}", name)


def make_prompt(name: str, tokenizer: Any, template: str = "a photograph of a {class}") -> Prompt:
    """Write a prompt and find the class in it, by character offsets: names of several tokens work.

    Args:
        name: the class, e.g. "fish" or "potted plant"; no "++" in it (see :func:`emphasise`).
        tokenizer: a CLIP tokenizer with offsets.
        template: with ``{class}`` in it.

    Raises:
        ValueError: if the name is empty, has no token the tokenizer knows, or is cut off.
    """
    name = " ".join(name.split())
    if not name:
        raise ValueError("a class name is empty: give at least one word a class")
    if "+" in name:
        raise ValueError(f"class {name!r} has a '+' in it: emphasis is a setting (plus=2 is '++'), the name is plain words")
    text = write(name, template)
    start = text.index(name, template.index("{class}"))
    limit = tokenizer.model_max_length
    coded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    span = tuple(i for i, (a, b) in enumerate(coded["offset_mapping"]) if b > a and a < start + len(name) and b > start)
    ids = [coded["input_ids"][i] for i in span]
    if (length := len(coded["input_ids"])) > limit:
        raise ValueError(f"the prompt {text!r} has {length} tokens, the model reads {limit}: shorten the class name or the template")
    if all(i == tokenizer.unk_token_id for i in ids):
        raise ValueError(f"class {name!r} has no token that the model's tokenizer knows: use a plain English name")
    return Prompt(text, name, span)


def span_weights(prompts: Sequence[Prompt], length: int, which: str = "all") -> Float[Tensor, "b l"]:
    """Weights that average a class's sub-tokens: 1/m at each of its m positions.

    Args:
        prompts: one a class.
        length: tokens of a padded prompt.
        which: "all" sub-tokens, or the "last" only (the released code).
    """
    if which not in ("all", "last"):
        raise ValueError(f"span {which!r}: expected 'all' or 'last'")
    weights = torch.zeros(len(prompts), length)
    for row, prompt in zip(weights, prompts, strict=True):
        positions = prompt.span if which == "all" else prompt.span[-1:]
        row[list(positions)] = 1 / len(positions)
    return weights


def emphasise(embeddings: Float[Tensor, "b l d"], empty: Float[Tensor, "1 l d"], spans: Float[Tensor, "b l"], plus: float) -> Float[Tensor, "b l d"]:
    """Re-weight the class's tokens as "++" does: z <- z_empty + 1.1^plus (z - z_empty) on the span.

    The formula is compel's, which the released code uses; plus = 2 is "++", a weight of 1.21.
    """
    gain = torch.where(spans > 0, 1.1**plus, 1.0).to(embeddings)[..., None]
    return empty + gain * (embeddings - empty)


def unknown_words(name: str, words: Collection[str]) -> list[str]:
    """Words of a class name outside a vocabulary."""
    return [word for word in name.lower().split() if word not in words]


def nearest(word: str, words: Collection[str]) -> str:
    """A hint for an error message: the closest known words, or some of them.

    >>> nearest("hous", ["house", "fish"])
    'did you mean house?'
    """
    close = difflib.get_close_matches(word, list(words), n=3)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(words))}"
