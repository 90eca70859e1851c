"""The whole method on a tiny random model: identities, determinism, and its arithmetic done again."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import Wrapper
from PIL import Image

from diffseg_lib.config import Config, recipe
from diffseg_lib.profiles import load_profile
from diffseg_lib.prompts import thin_padding
from diffseg_lib.segmenter import DiffSegmenter

CLASSES = ["house", "cat", "red fish"]


@pytest.fixture
def segmenter(backbone) -> DiffSegmenter:
    return DiffSegmenter(backbone, Config())


def with_config(segmenter: DiffSegmenter, **changes) -> DiffSegmenter:
    return replace(segmenter, config=replace(segmenter.config, **changes))


def scaled(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / (high - low)


def test_the_result_has_the_photos_own_size(segmenter, picture):
    found = segmenter.segment(picture, CLASSES)
    assert found.labels.shape == (48, 80) and found.scores.shape == (3, 48, 80)
    assert found.scores.min() >= 0 and found.scores.max() <= 1 and set(np.unique(found.labels)) <= {0, 1, 2, 3}
    assert found.classes == tuple(CLASSES) and found.threshold == 0.5 and found.intermediates is None
    assert sum(found.areas.values()) == pytest.approx(1, abs=1e-5)
    assert all(found.areas[name] == pytest.approx((found.labels == i + 1).mean(), abs=1e-6) for i, name in enumerate(CLASSES))


def test_the_arithmetic_can_be_done_again_from_what_is_kept(segmenter, picture):
    found = segmenter.segment(picture, CLASSES, return_intermediates=True)
    kept = found.intermediates
    assert kept.latents.shape == (1, 4, 16, 24) and kept.timesteps == (100,)
    assert {d: tuple(m.shape) for d, m in kept.cross.items()} == {8: (3, 2, 3), 4: (3, 4, 6), 2: (3, 8, 12), 1: (3, 16, 24)}
    fused = np.zeros((3, 16, 24))
    for stride, weight in ((8, 0.3), (4, 0.5), (2, 0.1), (1, 0.1)):
        grown = torch.nn.functional.interpolate(kept.cross[stride][None], size=(16, 24), mode="bilinear")[0]
        fused += weight * scaled(grown.numpy())
    np.testing.assert_allclose(kept.fused.numpy(), fused, atol=1e-5)
    scores = scaled(torch.nn.functional.interpolate(kept.completed[None], size=(48, 80), mode="bilinear")[0].numpy())
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert np.array_equal(found.labels, np.where(found.scores.max(0) > 0.5, found.scores.argmax(0) + 1, 0))
    for stride, maps in kept.cross.items():
        of_side = [m for m in kept.layers.values() if m.shape == maps.shape]
        torch.testing.assert_close(torch.stack(of_side).mean(0), maps, msg=f"stride {stride}")


def test_same_seed_same_bytes_other_seed_other_noise(segmenter, picture):
    first, again = segmenter.segment(picture, CLASSES), segmenter.segment(picture, CLASSES)
    assert np.array_equal(first.scores, again.scores)
    other = with_config(segmenter, seed=1).segment(picture, CLASSES)
    assert not np.array_equal(first.scores, other.scores)


def test_noise_depends_on_the_picture_and_not_on_its_name(segmenter, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).save(tmp_path / "b.png")
    a, b = (segmenter.segment(tmp_path / name, CLASSES, return_intermediates=True).intermediates.noise for name in ("a.png", "b.png"))
    assert torch.equal(a, b)
    assert not torch.equal(a, segmenter.segment(255 - picture, CLASSES, return_intermediates=True).intermediates.noise)


@pytest.mark.parametrize("shared", [False, True])
def test_any_batch_of_classes_gives_the_same(segmenter, picture, shared):
    segmenter = with_config(segmenter, share_self_attention=shared, timesteps=(50, 100))
    whole = segmenter.segment(picture, CLASSES).scores
    for size in (1, 2):
        np.testing.assert_allclose(with_config(segmenter, class_batch=size).segment(picture, CLASSES).scores, whole, atol=1e-5)


def test_a_class_scores_the_same_in_any_company(segmenter, picture):
    whole = segmenter.segment(picture, CLASSES).scores
    for i, name in enumerate(CLASSES):
        np.testing.assert_allclose(segmenter.segment(picture, [name]).scores[0], whole[i], atol=1e-5)


def test_shared_completion_differs_from_each_classs_own(segmenter, picture):
    own = segmenter.segment(picture, CLASSES).scores
    shared = with_config(segmenter, share_self_attention=True).segment(picture, CLASSES).scores
    np.testing.assert_allclose(own[0], shared[0], atol=1e-5)
    assert np.abs(own[1:] - shared[1:]).max() > 1e-4


def test_one_pass_of_one_class_is_a_row_of_its_own(segmenter, picture, monkeypatch):
    """With a single class the sentence is its prompt, so that all ways are one (of side prompts: without emphasis, which the driving row has not, and but for
    the padding, of which they have a few tokens)."""
    plain = with_config(segmenter, emphasis=0.0)
    for way in ("side", "joint"):
        one = with_config(plain, one_pass=way)
        monkeypatch.setattr("diffseg_lib.segmenter.thin_padding", partial(thin_padding, runs=24))  # which is all of it
        np.testing.assert_allclose(one.segment(picture, ["house"]).scores, plain.segment(picture, ["house"]).scores, atol=1e-5)
        assert np.abs(one.segment(picture, CLASSES).scores - plain.segment(picture, CLASSES).scores).max() > 1e-4
    with pytest.raises(ValueError, match="names all in a sentence"):
        replace(segmenter, config=recipe("paper", one_pass="joint"), captioner=object())


@pytest.mark.parametrize(
    ("way", "names", "rows"),
    [("none", CLASSES, [3]), ("side", CLASSES, [1]), ("joint", ["house", "fish"], [1]), ("joint", ["house", "zebra", "fish", "monkey"], [1, 1])],
)
def test_rows_of_the_unet(segmenter, picture, way, names, rows):
    batches, one = [], with_config(segmenter, one_pass=way, class_batch=2 if way == "side" else 32)
    hook = one.backbone.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    try:
        one.segment(picture, names)
    finally:
        hook.remove()
    assert batches == rows and one.unet_rows(names) == sum(rows)


def test_one_call_the_conditional_half_only(segmenter, picture):
    batches = []
    hook = segmenter.backbone.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    try:
        segmenter.segment(picture, CLASSES)
    finally:
        hook.remove()
    assert batches == [3]


def test_several_timesteps_are_averaged(segmenter, picture):
    singles = [with_config(segmenter, timesteps=(t,)).segment(picture, CLASSES, return_intermediates=True).intermediates for t in (1, 150)]
    both = with_config(segmenter, timesteps=(1, 150)).segment(picture, CLASSES, return_intermediates=True).intermediates
    torch.testing.assert_close(both.completed, (singles[0].completed + singles[1].completed) / 2)
    torch.testing.assert_close(both.cross[4], (singles[0].cross[4] + singles[1].cross[4]) / 2)
    assert not torch.allclose(singles[0].completed, singles[1].completed)


def test_recipes_set_the_switches(segmenter, pipeline_folder):
    released, paper = recipe("released"), recipe("paper")
    assert (released.span, released.scale, released.final_norm, released.emphasis) == ("last", "minmax", "after", 2)
    assert paper.span == "all" and paper.final_norm == "before" and recipe("paper", seed=3).seed == 3
    made = DiffSegmenter.from_profile(replace(load_profile(pipeline_folder), captioner="pocket"), recipe="released", threshold=0.4)
    assert recipe("released", "context").template == recipe("released", "object").template == "a photography of {class}"
    assert recipe("released", "voc").template == released.template and recipe("paper", "object") == paper
    assert made.config == replace(released, threshold=0.4) and made.threshold == 0.4
    assert made.prompts(["owl"])[0].text == "a photograph of owl"
    assert segmenter.prompts(["owl"])[0].text == "a photograph of an owl"
    with pytest.raises(ValueError, match="unknown recipe 'papers': expected paper, released, best"):
        recipe("papers")


def test_every_switch_reaches_the_maps(segmenter, picture):
    base = segmenter.segment(picture, CLASSES).scores
    changes = [
        {"template": "a photograph of {class}"},
        {"span": "last"},
        {"emphasis": 0.0},
        {"scale": "none"},
        {"final_norm": "before"},
        {"iterations": 0},
        {"timesteps": (150,)},
        {"weights": {1: 1.0}},
    ]
    for change in changes:
        assert np.abs(with_config(segmenter, **change).segment(picture, CLASSES).scores - base).max() > 1e-6, change


def test_without_completion_the_fused_map_is_the_result(segmenter, picture):
    kept = with_config(segmenter, iterations=0).segment(picture, CLASSES, return_intermediates=True).intermediates
    assert torch.equal(kept.fused, kept.completed)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "at least one name"),
        (["house", " "], "a class name is empty"),
        (["background", "fish"], "label 0 without being asked"),
        (["红"], "no token that the model's tokenizer knows"),
        ([f"{a}{b}" for a in "abcdefghijklmnop" for b in "abcdefghijklmnop"], "255 or fewer"),
    ],
)
def test_classes_that_cannot_be_used(segmenter, picture, classes, message):
    with pytest.raises(ValueError, match=message):
        segmenter.segment(picture, classes)


def test_a_word_the_model_was_never_shown_gets_the_nearest(segmenter, picture):
    known = replace(segmenter.backbone.profile, words=("house", "red", "fish"))
    segmenter = replace(segmenter, backbone=replace(segmenter.backbone, profile=known))
    with pytest.raises(ValueError, match=r"never shown the word 'hous': did you mean house\?"):
        segmenter.segment(picture, ["hous"])
    segmenter.prompts(["red zebra"])  # one known word is enough


@pytest.mark.parametrize("change", [{"threshold": 1.2}, {"seed": -1}, {"class_batch": 0}, {"iterations": -1}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=rf"{next(iter(change))} -?[\d.]+"):
        Config(**change)


def test_pictures_come_as_paths_pil_or_arrays(segmenter, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    expected = segmenter.segment(picture, CLASSES).scores
    for image in (tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(picture)):
        assert np.array_equal(segmenter.segment(image, CLASSES).scores, expected)
    gray = segmenter.segment(Image.fromarray(picture).convert("L"), CLASSES)
    assert gray.notes == ("converted from mode L",)
    with pytest.raises(ValueError, match=r"expected H x W x 3, uint8 RGB, got shape \(48, 80, 3\), float64"):
        segmenter.segment(picture / 255, CLASSES)


def test_a_constant_map_gives_background_and_a_note(segmenter, picture, monkeypatch):
    import diffseg_lib.segmenter as module

    monkeypatch.setattr(module, "complete", lambda maps, *rest: torch.cat([torch.full_like(maps[:1], 0.2), maps[1:]]))
    found = segmenter.segment(picture, CLASSES)
    assert not found.scores[0].any() and not (found.labels == 1).any()
    assert found.notes == ("the map of house is constant",)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_self_attention": True},
        {"class_batch": 2},
        {"timesteps": (50, 100)},
        {"weights": {2: 1.0}},
        {"iterations": 2},
        {"iterations": 0},
        {"share_self_attention": True, "class_batch": 1},
        {"one_pass": "side", "class_batch": 2},
        {"one_pass": "joint", "timesteps": (50, 100)},
        {"one_pass": "joint", "share_self_attention": True, "emphasis": 0.0},
    ],
)
def test_the_lean_way_gives_what_the_plain_one_gives(segmenter, picture, changes):
    optimized, plain = (segmenter.with_config(optimized=way, **changes) for way in (True, False))
    for keep in (False, True):
        found, expected = (one.segment(picture, ["house", "fish", "red fish"], return_intermediates=keep) for one in (optimized, plain))
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        if keep:
            assert set(found.intermediates.layers) == set(expected.intermediates.layers)


def test_prompts_are_encoded_once_and_by_themselves(segmenter, picture, monkeypatch):
    asked = []
    fresh = replace(segmenter, backbone=replace(segmenter.backbone, _embedded={}))
    inner = type(fresh.backbone).encode_prompts
    monkeypatch.setattr(type(fresh.backbone), "encode_prompts", lambda self, texts: asked.append(list(texts)) or inner(self, texts))
    first = fresh.segment(picture, ["house", "fish"]).scores
    again = fresh.segment(picture, ["fish", "house"]).scores
    assert asked == [["a photograph of a house"], ["a photograph of a fish"], [""]]
    np.testing.assert_allclose(again[::-1], first, atol=1e-5)


def test_out_of_memory_halves_the_classes_of_a_call_once(segmenter, picture, monkeypatch):
    calls, inner = [], type(segmenter)._attend_optimized

    def limited(self, latents, noise, timestep, embeddings, *rest):
        calls.append(len(embeddings))
        if len(embeddings) > most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return inner(self, latents, noise, timestep, embeddings, *rest)

    expected = segmenter.segment(picture, ["house", "fish", "red fish"])
    monkeypatch.setattr(type(segmenter), "_attend_optimized", limited)
    most = 2
    found = segmenter.segment(picture, ["house", "fish", "red fish"])
    assert calls == [3, 2, 1] and "2 at a time" in found.notes[-1]
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    most = 1
    with pytest.raises(RuntimeError, match="allocate memory"):
        segmenter.segment(picture, ["house", "fish", "red fish"])


def test_out_of_memory_with_one_class_a_call_is_not_tried_again(segmenter, picture, monkeypatch):
    calls = []

    def nothing_left(self, *arguments):
        calls.append(arguments)
        raise MemoryError

    monkeypatch.setattr(type(segmenter), "_attend_optimized", nothing_left)
    for one, classes in ((with_config(segmenter, class_batch=1), CLASSES), (segmenter, ["house"])):
        calls.clear()
        with pytest.raises(MemoryError):
            one.segment(picture, classes)
        assert len(calls) == 1


def test_the_second_try_begins_when_what_the_first_held_is_freed(segmenter, picture, monkeypatch):
    held, inner = [], type(segmenter)._attend_optimized

    def limited(self, latents, noise, timestep, embeddings, *rest):
        if len(embeddings) == 3:
            recording = inner(self, latents, noise, timestep, embeddings, *rest)
            cycle = [next(iter(recording.cross.values()))]
            cycle.append(cycle)
            held.extend(weakref.ref(tensor) for tensor in (embeddings, cycle[0], *recording.keys.values()))
            raise MemoryError
        assert held and not any(reference() is not None for reference in held)
        return inner(self, latents, noise, timestep, embeddings, *rest)

    monkeypatch.setattr(type(segmenter), "_attend_optimized", limited)
    assert "out of memory with 3 classes at once: done 2 at a time" in segmenter.segment(picture, CLASSES).notes


@pytest.mark.parametrize("optimized", [True, False])
def test_ten_threads_give_what_ten_calls_in_a_row_give(segmenter, picture, optimized):
    segmenter = replace(with_config(segmenter, optimized=optimized), backbone=replace(segmenter.backbone, _embedded={}))
    before = {name: layer.processor for name, layer in segmenter.backbone.unet.named_modules() if hasattr(layer, "processor")}
    pictures = [np.roll(picture, 7 * i, axis=1) for i in range(10)]
    classes = [[("house", "cat", "red fish", "fish", "red house")[(i + j) % 5] for j in range(1 + i % 3)] for i in range(10)]
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(segmenter.segment, pictures, classes))
    assert all(layer.processor is before[name] for name, layer in segmenter.backbone.unet.named_modules() if hasattr(layer, "processor"))
    assert not any(module._forward_pre_hooks for module in segmenter.backbone.unet.modules())
    for one, pixels, names in zip(found, pictures, classes, strict=True):
        alone = segmenter.segment(pixels, names)
        assert np.array_equal(one.scores, alone.scores) and np.array_equal(one.labels, alone.labels)


def test_a_wrapped_unet_segments_as_the_plain_one(segmenter, picture):
    plain, unet = segmenter.segment(picture, CLASSES), segmenter.backbone.unet
    for wrapped in (Wrapper(unet), torch.compile(unet, backend="eager")):
        found = replace(segmenter, backbone=replace(segmenter.backbone, unet=wrapped)).segment(picture, CLASSES)
        assert np.array_equal(found.scores, plain.scores) and np.array_equal(found.labels, plain.labels)


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_half_precision_runs_and_stays_near(pipeline_folder, segmenter, picture, dtype):
    found = DiffSegmenter.from_profile(pipeline_folder, dtype=dtype).segment(picture, ["house", "fish"])
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, segmenter.segment(picture, ["house", "fish"]).scores, atol=0.2)
    with pytest.raises(ValueError, match="float32, bfloat16, float16"):
        DiffSegmenter.from_profile(pipeline_folder, dtype="half")
