"""Prompts: from a class name to text, to the span of its sub-tokens, to a re-weighted embedding."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .support.words import inflector

PADDING_RUNS = 4  # tokens that stand for the padding of a side prompt

# Beginnings, in lower case, that are spoken as they are spelt: a consonant and later a vowel, but "heir", "hon", "hour"; a vowel, but "eu", "ew", "on",
# "ou", "uni" and most with "u".
_SAYS_A = re.compile(r"(?:[bcdfgjklmnpqrstvwz]|h(?!eir|on|our))[a-z]*[aeiou]")
_SAYS_AN = re.compile(r"(?:a|i|e(?![uw])|o(?![nu])|u(?=m|n[^i]))[a-z]{2}")


@dataclass(frozen=True)
class Prompt:
    """A text, and the positions of a class's sub-tokens in it (the start token counts as position 0).

    Args:
        text: Text that the model is given.
        name: Name of the class.
        span: Positions of the class's sub-tokens.
        modifiers: Positions of the tokens that describe the class: adjectives before it, a participle after it.
    """

    text: str
    name: str
    span: tuple[int, ...]
    modifiers: tuple[int, ...] = ()


def without_article(name: str) -> str:
    """A name without "a", "an" or "the" before it: templates bring their own.

    >>> without_article("a red umbrella"), without_article("The cat"), without_article("a")
    ('red umbrella', 'cat', 'a')
    """
    return re.sub(r"^(an?|the)\s+(?=\S)", "", name, flags=re.IGNORECASE)


def fill_template(name: str, template: str = "a photograph of a {class}") -> str:
    """The template with the class in it, " a " before it as the class is spoken.

    Raises:
        ValueError: If the template has no place for the class.

    >>> fill_template("umbrella"), fill_template("a unicorn"), fill_template("hour glass")
    ('a photograph of an umbrella', 'a photograph of a unicorn', 'a photograph of an hour glass')
    """
    if "{class}" not in template:
        raise ValueError(f"prompt template {template!r}: expected the place of the class, '{{class}}', in it")
    name = without_article(name)
    if name and " a {class}" in template:
        template = template.replace(" a {class}", f" {_article(name)} {{class}}")
    return template.replace("{class}", name)


def _article(name: str) -> str:
    """ "a" or "an"; inflect, which takes seconds to load, is asked only where spelling may not tell the sound ("hour", "unicorn", "MRI")."""
    if _SAYS_A.match(name):
        return "a"
    return "an" if _SAYS_AN.match(name) else str(inflector().a(name).split()[0])


def make_prompt(name: str, tokenizer: Any, template: str = "a photograph of a {class}", before: str = "", after: str = "") -> Prompt:
    """Write a prompt and find the class in it, by character offsets: names of several tokens work.

    Args:
        name: Name of the class, e.g. "fish", "potted plant" or "a red umbrella" (its article is the template's); no "++" in it (see :func:`reweight`).
        tokenizer: A CLIP tokenizer with offsets.
        template: Template of the prompt, with ``{class}`` in it.
        before: Adjectives to stand before the class (Sec. 3.5, augmented prompts).
        after: Continuation of the template by a captioner (Sec. 4.1); it is cut at a word where the model's tokens end.

    Raises:
        ValueError: If the name is empty, has a "+" in it, has no token that the tokenizer knows, or is cut off.
    """
    name = " ".join(name.split())
    if not name:
        raise ValueError("a class name is empty: give at least one word a class")
    if "+" in name:
        raise ValueError(f"class {name!r} has a '+' in it: emphasis is a setting (emphasis=2 is '++'), the name is plain words")
    spoken = without_article(name)
    described = " ".join([*before.split(), spoken])
    stem, limit = fill_template(described, template), tokenizer.model_max_length
    start = stem.index(described, template.index("{class}"))
    words, glue = after.split(), "" if after[:1] in ",.;:" else " "
    while True:
        text = stem + glue + " ".join(words) if words else stem
        coded = tokenizer(text, return_offsets_mapping=True, verbose=False)
        if len(coded["input_ids"]) <= limit or not words:
            break
        words = words[:-1]
    if (length := len(coded["input_ids"])) > limit:
        raise ValueError(f"the prompt {text!r} has {length} tokens, the model reads {limit}: shorten the class name or the template")

    offsets = coded["offset_mapping"]
    end = start + len(described)
    span = _tokens_within(offsets, end - len(spoken), end)
    if all(coded["input_ids"][i] == tokenizer.unk_token_id for i in span):
        raise ValueError(f"class {name!r} has no token that the model's tokenizer knows: use a plain English name")
    participle = re.match(r"\s\w+ing\b", text[end:])
    around = _tokens_within(offsets, start, end - len(spoken))
    around += _tokens_within(offsets, end + 1, end + participle.end()) if participle else ()
    return Prompt(text, name, span, tuple(i for i in around if i not in span))


def multi_object_prompt(names: Sequence[str], template: str = "a photograph of a {class}") -> str:
    """A prompt that names several things.

    >>> multi_object_prompt(["house", "umbrella"])
    'a photograph of a house and an umbrella'
    """
    first, *others = names
    return " and ".join([fill_template(first, template), *(fill_template(name, " a {class}").strip() for name in others)])


def joint_prompts(prompts: Sequence[Prompt], tokenizer: Any, template: str = "a photograph of a {class}") -> list[Prompt]:
    """The same classes, each found in a sentence that names as many of them as the model's tokens hold; the order stays.

    Args:
        prompts: One prompt a class, from :func:`make_prompt`.
        tokenizer: The tokenizer that those were made with.
        template: Template of the first class of a sentence, with ``{class}`` in it.
    """
    found: list[Prompt] = []

    def fits(text: str) -> bool:
        return len(tokenizer(text, verbose=False)["input_ids"]) <= tokenizer.model_max_length

    while len(found) < len(prompts):
        rest = [without_article(prompt.name) for prompt in prompts[len(found) :]]
        texts = (multi_object_prompt(rest[:count], template) for count in range(len(rest), 1, -1))
        text = next(filter(fits, texts), multi_object_prompt(rest[:1], template))
        offsets, end = tokenizer(text, return_offsets_mapping=True)["offset_mapping"], max(0, template.index("{class}") - 1)
        for spoken in rest:
            start = text.find(f" {spoken}", end) + 1
            if not start:
                break
            end = start + len(spoken)
            found.append(Prompt(text, prompts[len(found)].name, _tokens_within(offsets, start, end)))
    return found


def _tokens_within(offsets: Sequence[tuple[int, int]], begin: int, end: int) -> tuple[int, ...]:
    """Positions of the tokens that share characters with a stretch of the text."""
    return tuple(i for i, (a, b) in enumerate(offsets) if b > a and a < end and b > begin)


def spans_in(prompt: Prompt, tokenizer: Any, other: Any) -> Prompt:
    """The same prompt with the positions that its words have in another tokenizer's reading of the text.

    Args:
        prompt: Prompt, from :func:`make_prompt`.
        tokenizer: Tokenizer that it was made with.
        other: Tokenizer whose positions are wanted.
    """
    offsets, read = (one(prompt.text, return_offsets_mapping=True, verbose=False)["offset_mapping"] for one in (tokenizer, other))
    span, modifiers = (tuple(sorted({i for p in some for i in _tokens_within(read, *offsets[p])})) for some in (prompt.span, prompt.modifiers))
    return Prompt(prompt.text, prompt.name, span, modifiers)


def weigh_tokens(prompts: Sequence[Prompt], length: int, which: str = "all", modifiers: bool = False) -> Float[Tensor, "b l"]:
    """Weights that average a class's sub-tokens: 1/m at each of its m positions.

    Args:
        prompts: One prompt a class.
        length: Number of tokens of a padded prompt.
        which: Sub-tokens that count: "all", or the "last" only (the released code).
        modifiers: Whether the class's modifiers are averaged over too (Sec. 3.5: their maps are fused with the class's).
    """
    if which not in ("all", "last"):
        raise ValueError(f"span {which!r}: expected 'all' or 'last'")
    weights = torch.zeros(len(prompts), length)
    for row, prompt in zip(weights, prompts, strict=True):
        positions = (prompt.span if which == "all" else prompt.span[-1:]) + (prompt.modifiers if modifiers else ())
        row[list(positions)] = 1 / len(positions)
    return weights


def reweight(embeddings: Float[Tensor, "b l d"], empty: Float[Tensor, "1 l d"], token_weights: Float[Tensor, "b l"], emphasis: float) -> Float[Tensor, "b l d"]:
    """Re-weight the class's tokens as "++" does: z <- z_empty + 1.1^emphasis (z - z_empty) where `token_weights` is above 0.

    The formula is compel's, which the released code uses; an emphasis of 2 is "++", a weight of 1.21.
    """
    gain = torch.where(token_weights > 0, 1.1**emphasis, 1.0).to(embeddings)[..., None]
    return empty + gain * (embeddings - empty)


def thin_padding(embeddings: Float[Tensor, "b l d"], lengths: Sequence[int], runs: int = PADDING_RUNS) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m"]]:
    """Prompts whose padding is a few tokens: of each of so many runs of it the mean, which is to be counted as often as the run has tokens.

    Args:
        embeddings: Embeddings of padded prompts.
        lengths: Number of tokens of each text; the rest is padding.
        runs: Number of runs, as equally long as may be; 0 leaves the padding out.

    Returns:
        Embeddings of the longest text's length and so many more, and how often each token counts, 0 behind the shorter ones.
    """
    texts = [one[:length] for one, length in zip(embeddings, lengths, strict=True)]
    padding = [[run for run in one[length:].tensor_split(max(runs, 1)) if len(run) and runs] for one, length in zip(embeddings, lengths, strict=True)]
    thin = pad_sequence([torch.stack([*text, *(run.mean(0) for run in rest)]) for text, rest in zip(texts, padding, strict=True)], batch_first=True)
    counts = [torch.tensor([*[1.0] * len(text), *(float(len(run)) for run in rest)]) for text, rest in zip(texts, padding, strict=True)]
    return thin, pad_sequence(counts, batch_first=True).to(thin)


def unknown_words(name: str, words: Collection[str]) -> list[str]:
    """The words of a class name that are outside a vocabulary."""
    return [word for word in name.lower().split() if word not in words]
