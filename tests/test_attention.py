"""Recording leaves the UNet as it was, and what it records is what the layers computed."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from diffseg_lib.attention import record_attention
from diffseg_lib.optimizations import OPTIMIZATIONS
from diffseg_lib.scoremaps import apply_attention, complete, self_attention

SIZES = [(16, 16), (16, 24), (32, 8)]


def call(backbone, size=(16, 16), prompts=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(1, 4, *size, generator=generator)
    embeddings = backbone.encode_prompts(["a photograph of a house", "a photograph of a red fish"][:prompts])
    return backbone.predict_noise(noisy, 100, embeddings)


def processors(unet):
    return {name: layer.processor for name, layer in unet.named_modules() if hasattr(layer, "processor")}


def token_weights(token=5, length=24):
    weights = torch.zeros(2, length)
    weights[:, token] = 1
    return weights


@pytest.mark.parametrize("size", SIZES)
def test_the_output_is_bit_identical(backbone, size):
    plain = call(backbone, size)
    with record_attention(backbone.unet, token_weights()):
        recorded = call(backbone, size)
    assert torch.equal(plain, recorded)


def test_the_very_processors_come_back(backbone):
    before = processors(backbone.unet)
    with record_attention(backbone.unet, token_weights()):
        assert all(now is not before[name] for name, now in processors(backbone.unet).items())
        call(backbone)
    assert all(now is before[name] for name, now in processors(backbone.unet).items())
    assert not backbone.unet._forward_pre_hooks


def test_the_very_processors_come_back_after_an_exception(backbone):
    before = processors(backbone.unet)
    with pytest.raises(ZeroDivisionError), record_attention(backbone.unet, token_weights()):
        call(backbone)
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="one weight a prompt and token"), record_attention(backbone.unet, token_weights(length=7)):
        call(backbone)
    assert all(now is before[name] for name, now in processors(backbone.unet).items())
    assert not backbone.unet._forward_pre_hooks


@pytest.mark.parametrize("size", SIZES)
def test_sides_follow_the_latents_and_not_the_square_root(backbone, size):
    with record_attention(backbone.unet, token_weights()) as recording:
        call(backbone, size)
    assert recording.size == size
    assert {d: tuple(m.shape) for d, m in recording.by_resolution().items()} == {d: (2, size[0] // d, size[1] // d) for d in (8, 4, 2, 1)}


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
    resolutions = []
    for heads in (False, True):
        with record_attention(backbone.unet, token_weights(), heads=heads) as recording:
            call(backbone)
        resolutions.append(recording.by_resolution())
    for stride in resolutions[0]:
        torch.testing.assert_close(resolutions[0][stride], resolutions[1][stride])


def test_only_the_finest_self_attention_is_kept_and_detached(backbone):
    with record_attention(backbone.unet, token_weights()) as recording:
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
    with pytest.raises(ValueError, match="expected one of finest, all, matrix, none"), record_attention(backbone.unet, None, self_attention="most"):
        pass
    with pytest.raises(ValueError, match="any of reuse_probabilities, share_stem"), record_attention(backbone.unet, None, optimizations=("fast",)):
        pass


def optimized_call(backbone, weights, size=(16, 24), optimizations=(), **options):
    with record_attention(backbone.unet, weights, optimizations=optimizations, **options) as recording:
        call(backbone, size)
    return recording


@pytest.mark.parametrize(
    "optimizations",
    [
        ("reuse_probabilities",),
        ("share_stem",),
        ("reuse_probabilities", "share_stem"),
        ("early_stop",),
        ("reuse_probabilities", "early_stop"),
        ("chunk_feed_forward",),
        OPTIMIZATIONS,
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_a_lean_recording_is_the_plain_one(backbone, size, optimizations):
    weights = torch.rand(2, 24, generator=torch.Generator().manual_seed(1))
    plain, found = optimized_call(backbone, weights, size), optimized_call(backbone, weights, size, optimizations)
    assert list(found.cross) == list(plain.cross) and list(found.queries) == list(plain.queries)
    for name in plain.cross:
        torch.testing.assert_close(found.cross[name], plain.cross[name], atol=1e-6, rtol=1e-4)
    maps = torch.rand(2, *size, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(complete(maps, *found.finest()), complete(maps, *plain.finest()), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("optimizations", [(), ("reuse_probabilities",), ("reuse_probabilities", "share_stem"), OPTIMIZATIONS])
@pytest.mark.parametrize("heads", [False, True])
def test_the_matrix_is_the_mean_of_the_finest_layers(backbone, optimizations, heads):
    plain = optimized_call(backbone, token_weights())
    found = optimized_call(backbone, token_weights(), optimizations=optimizations, self_attention="matrix", heads=heads)
    assert found.layers == len(plain.queries) and not found.queries
    expected = self_attention([q.expand(2, -1, -1, -1) for q in plain.queries.values()], list(plain.keys.values()))
    torch.testing.assert_close(found.matrix / found.layers, expected, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(found.matrix.sum(-1) / found.layers, torch.ones(2, 16 * 24))
    maps = torch.rand(2, 16, 24, generator=torch.Generator().manual_seed(2))
    for iterations in (1, 2):
        expected = complete(maps, *plain.finest(), iterations)
        torch.testing.assert_close(apply_attention(maps, found.matrix, found.layers, iterations), expected, atol=1e-6, rtol=1e-4)


def test_a_matrix_that_rested_is_the_same_to_a_few_parts_in_a_hundred_thousand(backbone, monkeypatch):
    awake = optimized_call(backbone, token_weights(), optimizations=OPTIMIZATIONS, self_attention="matrix")
    monkeypatch.setattr("diffseg_lib.optimizations.PACKED_FROM", 1)
    for module in ("attention", "optimizations"):
        monkeypatch.setattr(f"diffseg_lib.{module}.ROWS", 100)  # a last part that is not full
    rested = optimized_call(backbone, token_weights(), optimizations=OPTIMIZATIONS, self_attention="matrix")
    assert rested.packed is None and not torch.equal(rested.matrix, awake.matrix)
    maps = torch.rand(2, 16, 24, generator=torch.Generator().manual_seed(2))
    first, second = (apply_attention(maps, one.matrix, one.layers) for one in (awake, rested))
    torch.testing.assert_close(second, first, atol=5e-5, rtol=0)
    with (
        pytest.raises(ZeroDivisionError),
        record_attention(backbone.unet, token_weights(), self_attention="matrix", optimizations=("reuse_probabilities", "pack_matrix")) as cut,
    ):
        hook = backbone.unet.mid_block.register_forward_hook(lambda *_: 1 / 0)
        try:
            call(backbone)
        finally:
            hook.remove()
    assert cut.packed is None and cut.layers == 1 and cut.matrix is not None  # whatever ends it, the matrix is unpacked


@pytest.mark.parametrize("which", ["matrix", "finest"])
def test_one_prompt_alone_is_kept_on_request(backbone, which):
    every = optimized_call(backbone, token_weights(), optimizations=OPTIMIZATIONS, self_attention=which)
    one = optimized_call(backbone, token_weights(), optimizations=OPTIMIZATIONS, self_attention=which, first_only=True)
    if which == "matrix":
        assert one.matrix.shape[0] == 1
        torch.testing.assert_close(one.matrix, every.matrix[:1])
    else:
        assert all(query.shape[0] == 1 for query in one.queries.values())
        assert all(torch.equal(one.keys[name], every.keys[name][:1]) for name in one.keys)


def test_a_lean_recording_reads_only_the_sides_asked_for_and_leaves_no_trace(backbone):
    before, hooks = processors(backbone.unet), [len(m._forward_pre_hooks) for m in backbone.unet.modules()]
    plain = call(backbone)
    found = optimized_call(backbone, token_weights(), (16, 16), OPTIMIZATIONS, resolutions=[2], self_attention="matrix")
    assert set(found.by_resolution()) == {2} and found.layers == 3
    assert all(now is before[name] for name, now in processors(backbone.unet).items())
    assert [len(m._forward_pre_hooks) for m in backbone.unet.modules()] == hooks
    assert all(m._chunk_size is None for m in backbone.unet.modules() if hasattr(m, "_chunk_size"))
    assert torch.equal(call(backbone), plain)


def test_the_stop_comes_after_the_last_layer_that_is_read(backbone):
    calls = []
    hook = backbone.unet.conv_out.register_forward_hook(lambda *_: calls.append("end"))
    try:
        for weights, options in ((token_weights(), {}), (token_weights(), {"resolutions": [8]}), (None, {})):
            optimized_call(backbone, weights, (16, 16), ("early_stop",), **options)
        assert calls == []
        optimized_call(backbone, token_weights(), (16, 16), ("reuse_probabilities", "share_stem", "chunk_feed_forward"))
        assert calls == ["end"]
    finally:
        hook.remove()


def test_the_stem_is_done_once_and_only_where_the_latents_are_one_row(backbone):
    rows = []
    hook = backbone.unet.conv_in.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    try:
        optimized_call(backbone, token_weights(), (16, 16), OPTIMIZATIONS)
        two = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
        words = backbone.encode_prompts(["a photograph of a house", "a photograph of a red fish"])
        with record_attention(backbone.unet, token_weights()) as plain:
            backbone.predict_noise(two, 100, words)
        with record_attention(backbone.unet, token_weights(), optimizations=OPTIMIZATIONS) as found:
            backbone.predict_noise(two, 100, words)
        assert rows == [1, 2, 2]
        for name in plain.cross:
            torch.testing.assert_close(found.cross[name], plain.cross[name], atol=1e-6, rtol=1e-4)
    finally:
        hook.remove()


def test_a_layer_that_is_not_plain_attention_is_recorded_beside_its_own_processor(backbone):
    class Other:
        def __init__(self, inner):
            self.inner, self.calls = inner, 0

        def __call__(self, *args, **kwargs):
            self.calls += 1
            return self.inner(*args, **kwargs)

    layer = dict(backbone.unet.named_modules())["down_blocks.1.attentions.0.transformer_blocks.0.attn2"]
    plain, inner = optimized_call(backbone, token_weights(), (16, 16)), layer.processor
    other = Other(inner)
    layer.set_processor(other)
    try:
        found = optimized_call(backbone, token_weights(), (16, 16), OPTIMIZATIONS)
        assert other.calls == 1 and layer.processor is other
    finally:
        layer.set_processor(inner)
    for name in plain.cross:
        torch.testing.assert_close(found.cross[name], plain.cross[name], atol=1e-6, rtol=1e-4)
