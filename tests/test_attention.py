"""Recording leaves the UNet as it was, and what it records is what the layers computed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from conftest import Wrapper, tiny_pipeline
from einops import rearrange
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffseg_lib.attention import _Recorder, _sums_of_softmax, attention_layers, record_attention
from diffseg_lib.optimizations import OPTIMIZATIONS
from diffseg_lib.recording import Recording, RecordingOptions
from diffseg_lib.scoremaps import complete, complete_materialised

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
    with pytest.raises(ValueError, match="expected one of finest, all, none"), record_attention(backbone.unet, None, self_attention="most"):
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


def test_one_prompt_alone_is_kept_on_request(backbone):
    every = optimized_call(backbone, token_weights(), optimizations=OPTIMIZATIONS)
    one = optimized_call(backbone, token_weights(), optimizations=OPTIMIZATIONS, first_only=True)
    assert all(query.shape[0] == 1 for query in one.queries.values())
    assert all(torch.equal(one.keys[name], every.keys[name][:1]) for name in one.keys)


def test_a_lean_recording_reads_only_the_sides_asked_for_and_leaves_no_trace(backbone):
    before, hooks = processors(backbone.unet), [len(m._forward_pre_hooks) for m in backbone.unet.modules()]
    plain = call(backbone)
    found = optimized_call(backbone, token_weights(), (16, 16), OPTIMIZATIONS, resolutions=[2])
    assert set(found.by_resolution()) == {2} and len(found.queries) == 3
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


# -- one user at a time ---------------------------------------------------------------------------


def test_a_recording_inside_another_on_the_same_unet_is_refused(backbone):
    before = processors(backbone.unet)
    with record_attention(backbone.unet, token_weights()) as outer:
        with pytest.raises(RuntimeError, match="leave the outer with block first"), record_attention(Wrapper(backbone.unet), token_weights()):
            pass
        call(backbone)
    assert outer.cross and processors(backbone.unet) == before


@pytest.mark.parametrize("optimizations", [(), ("reuse_probabilities", "share_stem")])
def test_a_second_call_in_one_recording_is_refused(backbone, optimizations):
    before = processors(backbone.unet)
    with pytest.raises(RuntimeError, match="one UNet call, and this is the second"), record_attention(backbone.unet, None, optimizations=optimizations):
        call(backbone)
        call(backbone)
    assert processors(backbone.unet) == before and not backbone.unet._forward_pre_hooks


def test_other_threads_wait_for_a_recording_and_are_not_recorded(backbone):
    embeddings, plain = backbone.encode_prompts(["a fish"]), call(backbone)
    with ThreadPoolExecutor(1) as other:
        with record_attention(backbone.unet, token_weights()) as recording:
            waiting = other.submit(call, backbone)
            past = other.submit(lambda: None)
            with pytest.raises(TimeoutError):
                past.result(0.2)
            recorded = call(backbone)
        assert torch.equal(waiting.result(), plain) and torch.equal(recorded, plain)
        assert all(maps.shape[0] == 2 for maps in recording.cross.values())
        with record_attention(backbone.unet, token_weights()), pytest.raises(RuntimeError, match=r"call it by Backbone\.predict_noise"):
            other.submit(backbone.unet, torch.zeros(1, 4, 16, 16), 100, embeddings).result()


@pytest.mark.parametrize("which", ["set_chunk_feed_forward", "register_forward_pre_hook", "set_processor"])
def test_a_recording_that_cannot_begin_leaves_no_trace(backbone, monkeypatch, which):
    before, plain = processors(backbone.unet), call(backbone)
    module = next(m for name, m in backbone.unet.named_modules() if hasattr(m, which) and name.startswith("up_blocks.3"))
    kept, calls = getattr(module, which), []

    def breaks_once(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise ZeroDivisionError
        return kept(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, which, breaks_once)
        with pytest.raises(ZeroDivisionError), record_attention(backbone.unet, token_weights(), optimizations=("share_stem", "chunk_feed_forward")):
            call(backbone)
    assert processors(backbone.unet) == before and not any(m._forward_pre_hooks for m in backbone.unet.modules())
    assert all(m._chunk_size is None for m in backbone.unet.modules() if hasattr(m, "_chunk_size"))
    assert optimized_call(backbone, token_weights(), (16, 16)).cross and torch.equal(call(backbone), plain)


# -- wrapped and compiled UNets, IP-Adapters ------------------------------------------------------


def compiled(unet):
    return torch.compile(unet, backend="eager")


@pytest.mark.parametrize("wrap", [Wrapper, compiled, lambda unet: Wrapper(compiled(unet))])
@pytest.mark.parametrize("optimizations", [(), OPTIMIZATIONS])
def test_layers_of_a_wrapped_unet_have_its_own_names_and_maps(backbone, wrap, optimizations):
    plain = optimized_call(backbone, token_weights(), (16, 16), optimizations)
    found = optimized_call(replace(backbone, unet=wrap(backbone.unet)), token_weights(), (16, 16), optimizations)
    assert list(found.cross) == list(plain.cross) and list(found.queries) == list(plain.queries)
    assert all(torch.equal(found.cross[name], plain.cross[name]) for name in plain.cross)


def test_a_unet_that_was_compiled_before_is_recorded_and_goes_on_compiled(backbone):
    noisy, embeddings, compiles = torch.randn(1, 4, 8, 8), backbone.encode_prompts(["a fish"]), []

    def backend(graph, inputs):
        compiles.append(graph)
        return graph.forward

    both = replace(backbone, unet=torch.compile(backbone.unet, backend=backend))
    expected = both.predict_noise(noisy, 100, embeddings)
    count = len(compiles)
    with record_attention(both.unet, token_weights()[:1]) as recording:
        found = both.predict_noise(noisy, 100, embeddings)
    assert len(recording.cross) == 10 and torch.equal(found, expected) and count
    assert torch.equal(both.predict_noise(noisy, 100, embeddings), expected) and len(compiles) == count


def test_a_model_whose_blocks_are_not_found_is_refused(backbone):
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = next(m for name, m in backbone.unet.named_modules() if name.endswith("attn2"))

    with pytest.raises(ValueError, match="Flat has no attention layers in down_blocks and up_blocks"), record_attention(Flat(), None):
        pass


@pytest.mark.parametrize("optimizations", [(), OPTIMIZATIONS])
def test_of_an_ip_adapters_attention_the_words_is_recorded(optimizations):
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    unet = tiny_pipeline().unet.eval().requires_grad_(False)
    noisy, words, pictures = (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in ((1, 4, 16, 16), (2, 24, 16), (2, 1, 4, 16)))
    noisy = noisy.expand(2, -1, -1, -1)
    with record_attention(unet, token_weights(), optimizations=optimizations) as plain:
        unet(noisy, 100, encoder_hidden_states=words)
    for layer in unet.modules():
        if hasattr(layer, "set_processor") and layer.to_k.in_features == 16 and layer.is_cross_attention:
            torch.manual_seed(1)
            layer.set_processor(IPAdapterAttnProcessor2_0(layer.inner_dim, 16, num_tokens=(4,), scale=0.0))
    before = processors(unet)
    with record_attention(unet, token_weights(), optimizations=optimizations) as found:
        unet(noisy, 100, encoder_hidden_states=(words, [pictures]))
    assert processors(unet) == before and list(found.cross) == list(plain.cross)
    for name in plain.cross:  # of scale 0, so that the layers after it see the same
        torch.testing.assert_close(found.cross[name], plain.cross[name], atol=1e-6, rtol=1e-4)


# -- half precision -------------------------------------------------------------------------------


def large_logits(dtype, largest, **options):
    """Layers of attention to words and of self-attention whose logits reach so far, with their inputs, all in half precision."""
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    hidden, words, found = torch.randn(2, 64, 16).to(dtype), torch.randn(2, 24, 16).to(dtype), []
    for context in (words, None):
        layer = Attention(16, 16 if context is not None else None, heads=2, dim_head=8, **options).requires_grad_(False)
        query, key = layer.head_to_batch_dim(layer.to_q(hidden.float())), layer.head_to_batch_dim(layer.to_k((hidden if context is None else words).float()))
        factor = (largest / (query @ key.mT * layer.scale).abs().max()).sqrt()
        for projection in (layer.to_q, layer.to_k):
            projection.weight.mul_(factor)
        found.append((layer.to(dtype), hidden, context))
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("largest", [2_000, 200_000])
@pytest.mark.parametrize("optimizations", [(), ("reuse_probabilities",)])
@pytest.mark.parametrize("upcast", [{}, {"upcast_attention": True}, {"upcast_softmax": True}])
def test_maps_in_half_precision_are_those_of_its_queries_and_keys_in_float32(dtype, largest, optimizations, upcast):
    recording = Recording(size=(8, 8), finest_size=(8, 8))
    options = RecordingOptions(torch.rand(2, 24), False, "finest", None, False, optimizations, prompts=2)
    for name, (layer, hidden, context) in zip(("attn2", "attn1"), large_logits(dtype, largest, **upcast), strict=True):
        output = _Recorder(name, layer.processor, recording, options)(layer, hidden, context)
        plain = layer.processor(layer, hidden, context)
        assert output.dtype == dtype and output.isfinite().all()
        torch.testing.assert_close(output.float(), plain.float(), atol=8 * torch.finfo(dtype).eps * float(plain.abs().max()), rtol=0)
    (layer, hidden, words), _ = large_logits(dtype, largest)
    query, key = (rearrange(projected.double(), "b n (e d) -> b e n d", e=2) for projected in (layer.to_q(hidden), layer.to_k(words)))
    probabilities = (query @ key.mT * layer.scale).softmax(-1)
    expected = torch.einsum("b e n l, b l -> b n", probabilities, options.token_weights.double()) / 2
    found = recording.cross["attn2"].flatten(1)
    assert (found - expected).abs().max() < 1e-3 * (expected.max() - expected.min())
    maps = torch.rand(2, 8, 8)
    attended = complete(maps.double(), [recording.queries["attn1"].double()], [recording.keys["attn1"].double()])
    for completed in (complete(maps, *recording.finest()), complete_materialised(maps, *recording.finest())):
        assert (completed - attended).abs().max() < 1e-3 * (attended.max() - attended.min())


def test_side_prompts_are_held_against_the_queries_of_the_row_that_drives(backbone):
    """A row that is driven by a prompt has that prompt's own maps as its side prompt's, and those of another prompt leave its output alone."""
    texts = ["a photograph of a house", "a photograph of a red fish"]
    embeddings, noisy = backbone.encode_prompts(texts), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = backbone.predict_noise(noisy, 100, embeddings[:1])
    with record_attention(backbone.unet, token_weights()[:1]) as own:
        backbone.predict_noise(noisy, 100, embeddings[:1])
    for optimizations in ((), ("reuse_probabilities",)):
        with record_attention(backbone.unet, token_weights(), side_prompts=embeddings, optimizations=optimizations) as recording:
            output = backbone.predict_noise(noisy, 100, embeddings[:1])
        torch.testing.assert_close(output, plain, atol=1e-5, rtol=0)
        for name, maps in recording.cross.items():
            torch.testing.assert_close(maps[:1], own.cross[name], atol=1e-6, rtol=1e-4)
            assert not torch.allclose(maps[1], maps[0], atol=1e-6)
        assert all(len(query) == 1 for query in recording.queries.values())


def side_by_side(backbone, count=5):
    """Side prompts whose tokens count unequally, drawn; their token weights, and a call of the UNet that a prompt drives."""
    generator = torch.Generator().manual_seed(1)
    texts = [f"a photograph of a {name}" for name in ("house", "fish", "red fish", "zebra", "owl")]
    embeddings = backbone.encode_prompts([texts[i % len(texts)] for i in range(count)])
    counts, weights = torch.randint(0, 4, (count, 24), generator=generator).float(), torch.rand(count, 24, generator=generator)
    counts[:, 0] = 1
    return {"side_prompts": embeddings, "side_counts": counts}, weights, torch.randn(1, 4, 16, 16, generator=generator), backbone.encode_prompts(["a house"])


@pytest.mark.parametrize("optimizations", [(), OPTIMIZATIONS])
def test_side_prompts_are_those_of_a_naive_loop(backbone, optimizations):
    """A token that counts three times gives what three of it give, side by side; one that does not count gives nothing."""
    side, weights, noisy, driving = side_by_side(backbone)
    with record_attention(backbone.unet, weights, projections=("cross",), **side) as kept:
        backbone.predict_noise(noisy, 100, driving)
    with record_attention(backbone.unet, weights, optimizations=optimizations, **side) as recording:
        backbone.predict_noise(noisy, 100, driving)
    layers = attention_layers(backbone.unet)
    for name, maps in recording.cross.items():
        layer, query = layers[name], kept.projections[name].query[0]  # heads n d
        for embedding, counts, weight, found in zip(side["side_prompts"], side["side_counts"].long(), weights, maps, strict=True):
            repeated = embedding.repeat_interleave(counts, 0)
            key = rearrange(layer.to_k(repeated), "l (e d) -> e l d", e=layer.heads)
            naive = ((query @ key.mT * layer.scale).softmax(-1) @ weight.repeat_interleave(counts)).mean(0)
            torch.testing.assert_close(found.flatten(), naive, atol=1e-5, rtol=0)


def test_maps_by_resolution_are_the_means_of_the_layers(backbone):
    side, weights, noisy, driving = side_by_side(backbone)
    found = []
    for layers in (True, False):
        with record_attention(backbone.unet, weights, layers=layers, **side) as recording:
            backbone.predict_noise(noisy, 100, driving)
        found.append(recording)
    assert len(found[1].cross) == len(found[0].by_resolution()) < len(found[0].cross)
    for stride, maps in found[0].by_resolution().items():
        torch.testing.assert_close(found[1].by_resolution()[stride], maps, atol=1e-6, rtol=1e-5)


def test_no_tensor_grows_with_classes_times_tokens_times_pixels(backbone):
    """Two hundred side prompts make no larger tensor than one does, but for their own embeddings and maps."""

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.seen = max([getattr(self, "seen", 0), *(one.numel() for one in tree_leaves(out) if isinstance(one, torch.Tensor))])
            return out

    largest = []
    for count in (1, 200):
        side, weights, noisy, driving = side_by_side(backbone, count)
        with Largest() as mode, record_attention(backbone.unet, weights, layers=False, optimizations=OPTIMIZATIONS, **side) as recording:
            backbone.predict_noise(noisy, 100, driving)
        largest.append(mode.seen)
    maps, embeddings = max(one.numel() for one in recording.cross.values()), side["side_prompts"].numel()
    assert largest[1] <= max(largest[0], maps, embeddings)
    assert largest[1] < 200 * 24 * 16 * 16  # classes tokens pixels, of one head


def test_side_counts_that_do_not_fit_are_refused(backbone):
    side, weights, noisy, driving = side_by_side(backbone)
    side["side_counts"] = side["side_counts"][:2]
    refused = pytest.raises(ValueError, match=r"side counts of shape \(2, 24\): expected one weight a prompt and token, \(5, 24\)")
    with refused, record_attention(backbone.unet, weights, **side):
        backbone.predict_noise(noisy, 100, driving)


def test_one_prompt_gives_several_maps(backbone):
    weights, noisy = torch.zeros(1, 2, 24), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    weights[0, 0, 4], weights[0, 1, 5] = 1, 1
    embeddings = backbone.encode_prompts(["a photograph of a red fish"])
    found = []
    for given in (weights, weights[:, 0], weights[:, 1]):
        with record_attention(backbone.unet, given, heads=True) as recording:
            backbone.predict_noise(noisy, 100, embeddings)
        found.append(recording.cross)
    for name, maps in found[0].items():
        torch.testing.assert_close(maps, torch.cat([found[1][name], found[2][name]]), atol=1e-7, rtol=1e-5)


def test_projections_are_all_that_a_layer_computes_with(backbone):
    """From what is kept, each layer's output follows, as its own processor computes it."""
    caught, hooks = {}, []
    layers = {name: m for name, m in backbone.unet.named_modules() if hasattr(m, "to_q")}
    for name, layer in layers.items():
        hooks.append(layer.register_forward_hook(lambda module, args, output, name=name: caught.update({name: output})))
    with record_attention(backbone.unet, None, self_attention="none", projections=("self", "cross")) as recording:
        call(backbone)
    for hook in hooks:
        hook.remove()
    assert recording.projections.keys() == layers.keys()
    for name, kept in recording.projections.items():
        attended = (kept.query @ kept.key.mT * kept.query.shape[-1] ** -0.5).softmax(-1) @ kept.value
        output = rearrange(attended, "b e n d -> b n (e d)") @ kept.output.T + layers[name].to_out[0].bias
        torch.testing.assert_close(output, caught[name], atol=1e-5, rtol=1e-4)
        assert kept.size[0] * kept.size[1] == kept.query.shape[2] == kept.hidden.shape[1]
    with record_attention(backbone.unet, None, self_attention="none", projections=("cross",), optimizations=OPTIMIZATIONS) as recording:
        call(backbone)
    assert recording.projections.keys() == {name for name in layers if name.endswith("attn2")}


def test_prompts_whose_scores_lie_far_apart_have_each_their_own_softmax():
    scores = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    scores[:, 3:] -= 200
    prompts = [(torch.tensor([[0.0, 1.0, 0.0]]), torch.ones(3)), (torch.tensor([[0.5, 0.5, 0.0, 0.0]]), torch.tensor([1.0, 1.0, 1.0, 9.0]))]
    found = _sums_of_softmax(scores.clone(), prompts)
    expected = [each @ (part + counts.log()[:, None]).softmax(1) for part, (each, counts) in zip(scores.split([3, 4], 1), prompts, strict=True)]
    torch.testing.assert_close(found, torch.cat(expected, 1).movedim(1, 0))
