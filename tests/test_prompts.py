"""Prompts: text, spans of sub-tokens, emphasis."""

from __future__ import annotations

import pytest
import torch

from diffseg_lib.prompts import emphasise, make_prompt, nearest, span_weights, unknown_words, write


@pytest.fixture(scope="module")
def tokenizer(backbone):
    return backbone.tokenizer


@pytest.mark.parametrize("name", ["house", "fish", "red house", "cat", "umbrella", "potted plant", "House", "a", "of", "photograph", "hot air balloon"])
@pytest.mark.parametrize("template", ["a photograph of a {class}", "a photograph of {class}", "{class} in a photograph of a house"])
def test_the_span_spells_the_name_and_nothing_else(tokenizer, name, template):
    prompt = make_prompt(name, tokenizer, template)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt.text).input_ids)
    spelt = "".join(tokens[i] for i in prompt.span).replace("</w>", " ").strip()
    assert spelt == name.lower()
    assert prompt.span == tuple(range(prompt.span[0], prompt.span[-1] + 1))


def test_span_of_one_and_of_several_tokens(tokenizer):
    assert make_prompt("house", tokenizer).span == (5,)  # start a photograph of a HOUSE
    assert make_prompt("cat", tokenizer).span == (5, 6, 7)  # c a t</w>
    assert make_prompt("red house", tokenizer).span == (5, 6)


def test_the_article_follows_the_first_letter():
    assert write("owl") == "a photograph of an owl" and write("Owl") == "a photograph of an Owl"
    assert write("house") == "a photograph of a house"
    assert write("owl", "a photograph of {class}") == "a photograph of owl"
    with pytest.raises(ValueError, match="expected the place of the class"):
        write("owl", "a photograph")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a class name is empty"),
        ("  ", "a class name is empty"),
        ("红", "no token that the model's tokenizer knows"),
        ("house++", "has a '\\+' in it"),
        ("a very long name of many letters", "tokens, the model reads 24"),
    ],
)
def test_names_that_cannot_be_used(tokenizer, name, message):
    with pytest.raises(ValueError, match=message):
        make_prompt(name, tokenizer)


def test_span_weights_average_the_span(tokenizer):
    prompts = [make_prompt(name, tokenizer) for name in ("house", "cat")]
    every, last = span_weights(prompts, 24), span_weights(prompts, 24, "last")
    assert every.sum(1).tolist() == pytest.approx([1, 1]) and last.sum(1).tolist() == [1, 1]
    assert every[1].nonzero().flatten().tolist() == [5, 6, 7] and last[1].nonzero().flatten().tolist() == [7]
    with pytest.raises(ValueError, match="'all' or 'last'"):
        span_weights(prompts, 24, "first")


def test_emphasis_scales_the_distance_from_the_empty_prompt_on_the_span_only(backbone):
    prompts = [make_prompt(name, backbone.tokenizer) for name in ("house", "cat")]
    plain, empty = backbone.encode_prompts([p.text for p in prompts]), backbone.encode_prompts([""])
    spans = span_weights(prompts, 24)
    strong = emphasise(plain, empty, spans, 2.0)
    for row, prompt in enumerate(prompts):
        for token in range(24):
            gain = 1.21 if token in prompt.span else 1.0
            torch.testing.assert_close(strong[row, token] - empty[0, token], gain * (plain[row, token] - empty[0, token]))
    torch.testing.assert_close(emphasise(plain, empty, spans, 0.0), plain)
    assert not torch.allclose(strong, plain)


def test_hints():
    assert nearest("pockt", ["pocket", "sd15"]) == "did you mean pocket?"
    assert nearest("zzz", ["pocket", "sd15"]) == "known: pocket, sd15"
    assert unknown_words("Red zebra", {"red", "fish"}) == ["zebra"]
