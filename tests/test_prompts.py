"""Prompts: text, weights of sub-tokens, emphasis."""

from __future__ import annotations

import pytest
import torch

from diffseg_lib.pocket.world import CLASSES, COLOURS
from diffseg_lib.profiles import load_profile
from diffseg_lib.prompts import fill_template, joint_prompts, make_prompt, reweight, thin_padding, unknown_words, weigh_tokens, without_article
from diffseg_lib.support.errors import nearest
from diffseg_lib.support.words import adjectives


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


@pytest.mark.parametrize("name", ["unicorn", "university campus", "used car", "European bison", "one-way sign", "UFO", "house", "3d printer", "Übung", "-"])
def test_a_stands_before_consonants_as_spoken(name):
    assert fill_template(name) == f"a photograph of a {name}"


@pytest.mark.parametrize("name", ["hour glass", "heir", "honest man", "x-ray", "MRI scan", "umbrella", "orange house", "Owl"])
def test_an_stands_before_vowels_as_spoken(name):
    assert fill_template(name) == f"a photograph of an {name}"


def test_the_words_of_the_pocket_models_keep_the_article_that_the_models_learnt():
    words = load_profile("pocket").words
    names = [*words, *(f"{first} {second}" for first in words for second in words if first not in ("a", "an", "the"))]
    names += [f"{colour} {name}" for colour in COLOURS for one in CLASSES for name in (one.name, *(other for other, _ in one.synonyms))]
    for name in names:
        spoken = without_article(name)
        assert fill_template(name) == f"a photograph of {'an' if spoken[0] in 'aeiou' else 'a'} {spoken}"


def test_the_article_belongs_to_the_template():
    assert fill_template("owl") == "a photograph of an owl" and fill_template("Owl") == "a photograph of an Owl"
    assert fill_template("house") == "a photograph of a house"
    assert fill_template("owl", "a photograph of {class}") == "a photograph of owl"
    with pytest.raises(ValueError, match="expected the place of the class"):
        fill_template("owl", "a photograph")


def test_articles_are_inflects_and_it_is_asked_only_where_spelling_may_not_tell(monkeypatch):
    from diffseg_lib import prompts
    from diffseg_lib.data.names import CONTEXT, VOC
    from diffseg_lib.pocket.world import CLASS_NAMES

    doubtful = ["hour glass", "heirloom", "honey", "unicorn", "onion", "one-way sign", "eucalyptus", "ewer", "yew", "MRI", "TV", "x-ray", "8-ball"]
    plain = [*VOC, *CONTEXT, *CLASS_NAMES, "umbrella", "untidy desk", "igloo", "egg", "owl"]
    engine = prompts.inflector()
    for name in doubtful + plain:
        assert prompts._article(name) == engine.a(name).split()[0], name
    monkeypatch.setattr(prompts, "inflector", lambda: pytest.fail("inflect was asked"))
    for name in CLASS_NAMES:
        prompts.fill_template(name)


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


def test_weights_of_tokens_average_the_span(tokenizer):
    prompts = [make_prompt(name, tokenizer) for name in ("house", "cat")]
    every, last = weigh_tokens(prompts, 24), weigh_tokens(prompts, 24, "last")
    assert every.sum(1).tolist() == pytest.approx([1, 1]) and last.sum(1).tolist() == [1, 1]
    assert every[1].nonzero().flatten().tolist() == [5, 6, 7] and last[1].nonzero().flatten().tolist() == [7]
    with pytest.raises(ValueError, match="'all' or 'last'"):
        weigh_tokens(prompts, 24, "first")


def test_emphasis_scales_the_distance_from_the_empty_prompt_on_the_span_only(backbone):
    prompts = [make_prompt(name, backbone.tokenizer) for name in ("house", "cat")]
    plain, empty = backbone.encode_prompts([p.text for p in prompts]), backbone.encode_prompts([""])
    token_weights = weigh_tokens(prompts, 24)
    strong = reweight(plain, empty, token_weights, 2.0)
    for row, prompt in enumerate(prompts):
        for token in range(24):
            gain = 1.21 if token in prompt.span else 1.0
            torch.testing.assert_close(strong[row, token] - empty[0, token], gain * (plain[row, token] - empty[0, token]))
    torch.testing.assert_close(reweight(plain, empty, token_weights, 0.0), plain)
    assert not torch.allclose(strong, plain)


def test_hints():
    assert nearest("pockt", ["pocket", "sd15"]) == "did you mean pocket?"
    assert nearest("zzz", ["pocket", "sd15"]) == "known: pocket, sd15"
    assert unknown_words("Red zebra", {"red", "fish"}) == ["zebra"]


@pytest.mark.parametrize(
    ("caption", "name", "words"),
    [
        ("a photograph of a red house", "house", "red"),
        ("two big red houses and a fish", "house", "big red"),
        ("a house, a blue fish", "fish", "blue"),
        ("a fish", "house", ""),
        ("a tall potted plant", "potted plant", "tall"),
        ("house", "house", ""),
    ],
)
def test_adjectives_stand_right_before_the_class(caption, name, words):
    assert adjectives(caption, name) == words


def test_a_continuation_is_cut_at_a_word_where_the_model_ends(tokenizer):
    long = make_prompt("house", tokenizer, after="and a fish " * 40)
    assert long.text.startswith("a photograph of a house and a fish") and len(tokenizer(long.text).input_ids) <= tokenizer.model_max_length
    assert long.span == make_prompt("house", tokenizer).span


def test_a_participle_after_the_class_is_a_modifier(tokenizer):
    prompt = make_prompt("fish", tokenizer, after="swimming in water")
    assert prompt.text == "a photograph of a fish swimming in water"
    assert prompt.modifiers and min(prompt.modifiers) == prompt.span[-1] + 1
    assert make_prompt("fish", tokenizer, after="and a ring").modifiers == ()


def test_modifiers_share_the_map_with_the_class(tokenizer):
    prompt = make_prompt("house", tokenizer, before="red")
    weights = weigh_tokens([prompt], 24, modifiers=True)[0]
    assert set(weights.nonzero().flatten().tolist()) == {*prompt.span, *prompt.modifiers} and abs(float(weights.sum()) - 1) < 1e-6
    assert set(weigh_tokens([prompt], 24)[0].nonzero().flatten().tolist()) == set(prompt.span)


@pytest.mark.parametrize("emphasis", [1, 2, 3])
def test_plus_signs_are_those_of_compel(emphasis):
    """compel 2 re-weights a token as z_empty + 1.1^plus (z - z_empty)."""
    from compel import Compel

    from diffseg_lib import load_backbone

    pocket = load_backbone("pocket")
    theirs = Compel(tokenizer=pocket.tokenizer, text_encoder=pocket.text_encoder)("a photograph of a red fish" + "+" * emphasis)
    prompt = make_prompt("fish", pocket.tokenizer, before="red")
    plain, empty = pocket.encode_prompts([prompt.text]), pocket.encode_prompts([""])
    ours = reweight(plain, empty, weigh_tokens([prompt], plain.shape[1]), float(emphasis))
    assert not torch.allclose(ours, plain, atol=1e-3)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_phrase_may_bring_its_article(tokenizer):
    prompt = make_prompt("a red house", tokenizer)
    assert prompt.text == "a photograph of a red house" and prompt.name == "a red house"
    assert prompt.span == make_prompt("red house", tokenizer).span
    assert make_prompt("the owl", tokenizer).text == "a photograph of an owl"
    assert make_prompt("an owl", tokenizer, before="red").text == "a photograph of a red owl"


def test_padding_is_thinned_to_means_that_count_as_often_as_what_they_stand_for():
    embeddings, lengths = torch.rand(3, 24, 8), [5, 23, 24]
    thin, counts = thin_padding(embeddings, lengths, 4)
    assert thin.shape == (3, 24, 8) and counts.sum(1).tolist() == [24, 24, 24]
    for row, length in enumerate(lengths):
        torch.testing.assert_close(thin[row, :length], embeddings[row, :length])
        runs = [run for run in embeddings[row, length:].tensor_split(4) if len(run)]
        for i, run in enumerate(runs, start=length):
            torch.testing.assert_close(thin[row, i], run.mean(0))
            assert counts[row, i] == len(run)
    bare, counts = thin_padding(embeddings[:1], [5], 0)
    assert torch.equal(bare, embeddings[:1, :5]) and torch.equal(counts, torch.ones(1, 5))


def test_joint_prompts_name_as_many_classes_as_fit_in_their_order():
    from diffseg_lib.loading import load_backbone
    from diffseg_lib.pocket.world import CLASS_NAMES

    tokenizer = load_backbone("pocket").tokenizer
    own = [make_prompt(name, tokenizer) for name in (*CLASS_NAMES, "red house")]
    joint = joint_prompts(own, tokenizer)
    assert [p.name for p in joint] == [p.name for p in own] and 1 < len({p.text for p in joint}) < len(own)
    for prompt, alone in zip(joint, own, strict=True):
        ids, before = tokenizer(prompt.text)["input_ids"], tokenizer(alone.text)["input_ids"]
        assert len(ids) <= tokenizer.model_max_length and [ids[i] for i in prompt.span] == [before[i] for i in alone.span]
    assert joint_prompts(own[:1], tokenizer)[0].span == own[0].span
