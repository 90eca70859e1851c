"""Recording leaves the UNet as it was, and what it records is what the layers computed."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from diffseg_lib.capture import record_attention

SIZES = [(16, 16), (16, 24), (32, 8)]


def call(backbone, size=(16, 16), prompts=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(1, 4, *size, generator=generator)
    embeddings = backbone.encode_prompts(["a photograph of a house", "a photograph of a red fish"][:prompts])
    return backbone.predict_noise(noisy, 100, embeddings)


def processors(unet):
    return {name: layer.processor for name, layer in unet.named_modules() if hasattr(layer, "processor")}


def spans(token=5, length=24):
    weights = torch.zeros(2, length)
    weights[:, token] = 1
    return weights


@pytest.mark.parametrize("size", SIZES)
def test_the_output_is_bit_identical(backbone, size):
    plain = call(backbone, size)
    with record_attention(backbone.unet, spans()):
        recorded = call(backbone, size)
    assert torch.equal(plain, recorded)


def test_the_very_processors_come_back(backbone):
    before = processors(backbone.unet)
    with record_attention(backbone.unet, spans()):
        assert all(now is not before[name] for name, now in processors(backbone.unet).items())
        call(backbone)
    assert all(now is before[name] for name, now in processors(backbone.unet).items())
    assert not backbone.unet._forward_pre_hooks


def test_the_very_processors_come_back_after_an_exception(backbone):
    before = processors(backbone.unet)
    with pytest.raises(ZeroDivisionError), record_attention(backbone.unet, spans()):
        call(backbone)
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="one weight a prompt and token"), record_attention(backbone.unet, spans(length=7)):
        call(backbone)
    assert all(now is before[name] for name, now in processors(backbone.unet).items())
    assert not backbone.unet._forward_pre_hooks


@pytest.mark.parametrize("size", SIZES)
def test_sides_follow_the_latents_and_not_the_square_root(backbone, size):
    with record_attention(backbone.unet, spans()) as recording:
        call(backbone, size)
    assert recording.size == size
    assert {d: tuple(m.shape) for d, m in recording.by_side().items()} == {d: (2, size[0] // d, size[1] // d) for d in (8, 4, 2, 1)}


@pytest.mark.parametrize("heads", [False, True])
def test_cross_maps_equal_the_layers_own_scores(backbone, heads):
    """The independent implementation: inputs caught by hooks, ``Attention.get_attention_scores`` of diffusers."""
    caught = {}

    def catch(name):
        def hook(layer, args, kwargs):
            caught[name] = (args[0], kwargs["encoder_hidden_states"])

        return hook

    layers = {n: m for n, m in backbone.unet.named_modules() if n.endswith("attn2")}
    hooks = [m.register_forward_pre_hook(catch(n), with_kwargs=True) for n, m in layers.items()]
    weights = torch.rand(2, 24, generator=torch.Generator().manual_seed(1))
    try:
        with record_attention(backbone.unet, weights, heads=heads) as recording:
            call(backbone, (16, 24))
    finally:
        for hook in hooks:
            hook.remove()
    assert list(recording.cross) and set(recording.cross) == set(layers)
    for name, layer in layers.items():
        hidden, context = caught[name]
        query, key = layer.head_to_batch_dim(layer.to_q(hidden)), layer.head_to_batch_dim(layer.to_k(context))
        scores = rearrange(layer.get_attention_scores(query, key), "(b e) n l -> b e n l", b=2)
        expected = torch.einsum("b e n l, b l -> b e n", scores, weights)
        found = recording.cross[name].flatten(-2)
        torch.testing.assert_close(found, expected if heads else expected.mean(1), atol=1e-6, rtol=1e-5)


def test_probabilities_of_all_tokens_sum_to_one(backbone):
    with record_attention(backbone.unet, torch.ones(2, 24)) as recording:
        call(backbone)
    for maps in recording.cross.values():
        torch.testing.assert_close(maps, torch.ones_like(maps))


def test_the_mean_of_sides_is_the_same_with_and_without_heads(backbone):
    sides = []
    for heads in (False, True):
        with record_attention(backbone.unet, spans(), heads=heads) as recording:
            call(backbone)
        sides.append(recording.by_side())
    for divisor in sides[0]:
        torch.testing.assert_close(sides[0][divisor], sides[1][divisor])


def test_only_the_finest_self_attention_is_kept_and_detached(backbone):
    with record_attention(backbone.unet, spans()) as recording:
        call(backbone, (16, 24))
    assert set(recording.queries) == set(recording.keys)
    assert {name.split(".")[0] for name in recording.queries} == {"down_blocks", "up_blocks"}
    for kept in (*recording.queries.values(), *recording.keys.values(), *recording.cross.values()):
        assert not kept.requires_grad
    for query in recording.queries.values():
        assert query.shape == (2, 2, 16 * 24, 4)  # b heads n d
    with record_attention(backbone.unet, None, self_attention="none") as nothing:
        call(backbone)
    assert not nothing.cross and not nothing.queries and not nothing.keys


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="no attention layers"), record_attention(torch.nn.Linear(2, 2), None):
        pass


def test_all_sides_are_kept_on_request_and_grouped_by_side(backbone):
    with record_attention(backbone.unet, None, self_attention="all") as every:
        call(backbone)
    with record_attention(backbone.unet, None) as finest:
        call(backbone)
    groups = every.self_attention()
    assert set(groups) == {(16, 16), (8, 8), (4, 4), (2, 2)}
    assert all(query.shape[2] == h * w for (h, w), (queries, _) in groups.items() for query in queries)
    assert all(torch.equal(a, b) for a, b in zip(every.finest()[0], finest.finest()[0], strict=True))
    assert sum(len(queries) for queries, _ in groups.values()) == len(every.queries) > len(finest.queries)


def test_an_unknown_choice_of_self_attention_is_refused(backbone):
    with pytest.raises(ValueError, match="expected 'finest', 'all' or 'none'"), record_attention(backbone.unet, None, self_attention="most"):
        pass
