"""Editing on a tiny random model: identities of the gate, Prompt-to-Prompt's formulas done again, processors put back."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffseg_lib.applications.generation import to_uint8
from diffseg_lib.applications.prompt_to_prompt import (
    AttentionControl,
    Gate,
    LocalBlend,
    PromptToPrompt,
    _Controlled,
    align,
    ddim_invert,
    edit,
    token_indices,
)
from diffseg_lib.attention import record_attention
from diffseg_lib.cli.main import main
from diffseg_lib.config import Config
from diffseg_lib.segmenter import DiffSegmenter

SOURCE, TARGET = "a photograph of a house", "a photograph of a fish"
HARD = PromptToPrompt(0.5, 0.5, guidance=5.0)


@pytest.fixture
def segmenter(backbone) -> DiffSegmenter:
    return DiffSegmenter(backbone, Config())


@pytest.fixture
def inverted(segmenter, picture):
    return ddim_invert(segmenter, picture, SOURCE, steps=4)


def left_half(picture: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(picture.shape[1]) < picture.shape[1] // 2, picture.shape[:2])


def coded(segmenter: DiffSegmenter, picture: np.ndarray) -> np.ndarray:
    """The picture encoded and decoded, at the size that the model works at."""
    return to_uint8(segmenter.backbone.decode_latents(segmenter.encode(picture)))[0]


def test_inversion_goes_from_the_picture_to_the_last_timestep(segmenter, picture, inverted):
    assert inverted.timesteps == (0, 1, 251, 501, 751) and len(inverted.latents) == 5
    assert torch.equal(inverted.latents[0], segmenter.encode(picture))
    backbone, words = segmenter.backbone, segmenter.backbone.cached_embedding(SOURCE)
    noise = backbone.predict_noise(inverted.latents[1], 251, words)
    before, after = backbone.alphas_cumprod[1], backbone.alphas_cumprod[251]
    clean = (inverted.latents[1] - (1 - before).sqrt() * noise) / before.sqrt()
    torch.testing.assert_close(inverted.latents[2], after.sqrt() * clean + (1 - after).sqrt() * noise)


def test_more_rounds_of_inversion_lead_back_more_closely(segmenter, picture):
    def back(rounds: int) -> float:
        source = ddim_invert(segmenter, picture, SOURCE, steps=4, rounds=rounds)
        found = edit(segmenter.backbone, source, SOURCE, PromptToPrompt(guidance=1.0), gate=None)
        whole = edit(segmenter.backbone, source, SOURCE, PromptToPrompt(guidance=1.0), gate=Gate(np.zeros(picture.shape[:2], bool), pixels=False))
        return float(np.abs(found.picture.astype(float) - whole.picture).mean())

    assert back(4) < back(1)


@pytest.mark.parametrize("attention", [False, True])
def test_an_empty_mask_returns_the_original(segmenter, picture, inverted, attention):
    nothing = np.zeros(picture.shape[:2], bool)
    found = edit(segmenter.backbone, inverted, TARGET, HARD, gate=Gate(nothing, attention=attention))
    assert np.array_equal(found.picture, picture)
    latents = edit(
        segmenter.backbone, replace(inverted, pixels=np.zeros((64, 96, 3), np.uint8)), TARGET, HARD, gate=Gate(np.zeros((64, 96), bool), pixels=False)
    )
    assert np.array_equal(latents.picture, coded(segmenter, picture))


def test_a_mask_of_everything_returns_prompt_to_prompt(segmenter, picture, inverted):
    plain = edit(segmenter.backbone, inverted, TARGET, HARD)
    found = edit(segmenter.backbone, inverted, TARGET, HARD, gate=Gate(np.ones(picture.shape[:2], bool)))
    assert plain.allowed is None and found.allowed is not None and found.allowed.all()
    assert np.array_equal(found.picture, plain.picture)
    assert not np.array_equal(plain.picture, edit(segmenter.backbone, inverted, SOURCE, HARD).picture)


@pytest.mark.parametrize("which", ["attention", "latents", "pixels"])
def test_each_gate_alone_changes_the_outcome(segmenter, picture, inverted, which):
    on = {name: name == which for name in ("attention", "latents", "pixels")}
    plain, found = edit(segmenter.backbone, inverted, TARGET, HARD), edit(segmenter.backbone, inverted, TARGET, HARD, gate=Gate(left_half(picture), **on))
    assert not np.array_equal(plain.picture, found.picture)


def test_an_empty_gate_on_attention_leaves_the_words_nothing_to_say(segmenter, picture, inverted):
    gate = Gate(np.zeros(picture.shape[:2], bool), latents=False, pixels=False)
    one, other = (edit(segmenter.backbone, inverted, text, HARD, gate=gate).picture for text in (TARGET, "a red house of red"))
    again = edit(segmenter.backbone, inverted, SOURCE, PromptToPrompt(0.0, 0.0, guidance=1.0)).picture
    assert np.array_equal(one, other) and not np.array_equal(one, edit(segmenter.backbone, inverted, TARGET, HARD).picture)
    assert one.shape == again.shape


def test_outside_the_gate_nothing_changes_and_inside_something_does(segmenter, picture, inverted):
    mask = left_half(picture)
    found = edit(segmenter.backbone, inverted, TARGET, HARD, gate=Gate(mask)).picture
    assert np.array_equal(found[~mask], picture[~mask]) and not np.array_equal(found[mask], picture[mask])


def test_words_that_stay_take_attention_over_and_swapped_ones_hand_it_on(backbone):
    mapper, taken = align(SOURCE, TARGET, backbone.tokenizer)
    assert torch.equal(mapper, torch.eye(len(mapper))) and bool(taken.all())


def test_a_swap_for_more_tokens_keeps_the_sum_of_attention(backbone):
    mapper, taken = align(SOURCE, "a photograph of a cup", backbone.tokenizer)
    new, [old] = token_indices("a photograph of a cup", "cup", backbone.tokenizer), token_indices(SOURCE, "house", backbone.tokenizer)
    assert len(new) == 3 and mapper[old, new].tolist() == pytest.approx([1 / 3] * 3) and bool(taken.all())
    used = len(backbone.tokenizer(SOURCE).input_ids)
    torch.testing.assert_close(mapper[:used].sum(1), torch.ones(used))


def test_an_added_word_keeps_its_own_attention(backbone):
    target = "a photograph of a red house"
    mapper, taken = align(SOURCE, target, backbone.tokenizer)
    [red], [house] = token_indices(target, "red", backbone.tokenizer), token_indices(target, "house", backbone.tokenizer)
    assert taken[red] == 0 and float(taken.sum()) == len(taken) - 1 and not mapper[:, red].any()
    assert mapper[house - 1, house] == 1 and mapper[house, house + 1] == 1  # the noun, and the end token behind it


def test_cross_attention_is_the_papers_formula(segmenter, inverted):
    """Swap: M_edit = M_source A until the given share of the steps, M_target after it; re-weighting multiplies a word's column."""
    from diffseg_lib.applications.prompt_to_prompt import _control, _Controlled

    control = _control(segmenter.backbone, inverted, TARGET, PromptToPrompt(0.5, 0.0), {"fish": 3.0}, None, None)
    query, key = torch.randn(2, 2, 96, 4), torch.randn(2, 2, 24, 4)
    source, target = torch.softmax(query @ key.mT / 2, -1)
    [fish] = token_indices(TARGET, "fish", segmenter.backbone.tokenizer)
    for done, expected in ((0.0, source), (0.5, target)):
        control.done = done
        found = _Controlled(None, control)._cross(query, key, 0.5, 2, (8, 12))[0]
        expected = expected.clone()
        expected[..., fish] *= 3
        torch.testing.assert_close(found, expected)


def test_a_weight_of_one_changes_nothing_and_of_five_does(segmenter, inverted):
    plain = edit(segmenter.backbone, inverted, TARGET, HARD).picture
    assert np.array_equal(plain, edit(segmenter.backbone, inverted, TARGET, HARD, weights={"fish": 1.0}).picture)
    assert not np.array_equal(plain, edit(segmenter.backbone, inverted, TARGET, HARD, weights={"fish": 5.0}).picture)


def test_a_blend_with_no_threshold_is_prompt_to_prompt_and_with_the_highest_keeps_the_latents(segmenter, picture, inverted):
    plain = edit(segmenter.backbone, inverted, TARGET, HARD)
    everywhere = edit(segmenter.backbone, inverted, TARGET, HARD, blend=LocalBlend("house", "fish", -1.0, start=0.0, stride=2))
    assert np.array_equal(everywhere.picture, plain.picture)
    nowhere = edit(segmenter.backbone, inverted, TARGET, HARD, blend=LocalBlend("house", "fish", 1.0, start=0.0, stride=2))
    assert nowhere.allowed is not None and not nowhere.allowed.any()
    kept = edit(segmenter.backbone, inverted, TARGET, HARD, gate=Gate(np.zeros(picture.shape[:2], bool), pixels=False))
    assert np.array_equal(nowhere.picture, kept.picture)


def test_processors_are_put_back_whatever_happens(segmenter, inverted):
    unet = segmenter.backbone.unet
    before = dict(unet.attn_processors)
    edit(segmenter.backbone, inverted, TARGET, HARD)
    assert unet.attn_processors == before
    with pytest.raises(RuntimeError):
        edit(segmenter.backbone, replace(inverted, latents=tuple(z[:, :2] for z in inverted.latents)), TARGET, HARD)
    assert unet.attn_processors == before


def test_what_cannot_be_done_is_refused(segmenter, picture, inverted):
    backbone, mask = segmenter.backbone, np.ones(picture.shape[:2], bool)
    with pytest.raises(ValueError, match="expected the picture's own size"):
        edit(backbone, inverted, TARGET, gate=Gate(mask[:-1]))
    with pytest.raises(ValueError, match="one limit"):
        edit(backbone, inverted, TARGET, gate=Gate(mask), blend=LocalBlend("house", "fish"))
    with pytest.raises(ValueError, match="'cat' is not in the prompt"):
        edit(backbone, inverted, TARGET, blend=LocalBlend("house", "cat"))
    with pytest.raises(ValueError, match="'house' is not in the prompt"):
        edit(backbone, inverted, TARGET, weights={"house": 2.0})
    with pytest.raises(ValueError, match="a share of the steps, from 0 to 1"):
        PromptToPrompt(cross_replace_steps=1.5)
    with pytest.raises(ValueError, match="the model reads 24"):
        edit(backbone, inverted, f"{TARGET} and a butterfly and a butterfly and a butterfly")
    with pytest.raises(ValueError, match="steps"):
        ddim_invert(segmenter, picture, SOURCE, steps=0)


def test_the_command_writes_the_edit_its_mask_and_the_facts(backbone, picture, tmp_path, capsys):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    common = [
        "edit",
        str(tmp_path / "photo.png"),
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--word",
        "house",
        "--profile",
        backbone.profile.name,
        "--steps",
        "3",
    ]
    assert main([*common, "--out", str(tmp_path / "gated")]) == 0 and main([*common, "--everywhere", "--out", str(tmp_path / "plain")]) == 0
    mask, edited, plain = (np.asarray(Image.open(tmp_path / name)) for name in ("gated/mask.png", "gated/edited.png", "plain/edited.png"))
    assert np.array_equal(edited[mask == 0], picture[mask == 0]) and not np.array_equal(edited, plain)
    assert json.loads((tmp_path / "gated" / "result.json").read_text())["target"] == TARGET
    assert main([*common, "--threshold", "1", "--out", str(tmp_path / "none")]) == 0
    assert "no house was found" in capsys.readouterr().err
    assert np.array_equal(np.asarray(Image.open(tmp_path / "none" / "edited.png")), picture)
    assert main([*common[:-4], "--profile", backbone.profile.name, "--cross", "2", "--out", str(tmp_path / "wrong")]) == 2


def test_the_study_measures_outside_and_inside(monkeypatch):
    from diffseg_lib.experiments import edits
    from diffseg_lib.vision_language import Clip

    monkeypatch.setattr(edits, "TRIED", edits.TRIED[:1])
    monkeypatch.setattr(edits, "BLENDS", edits.BLENDS[:1])
    told: list[str] = []
    found = edits.edit_study(DiffSegmenter.from_profile("pocket"), Clip.load(), tuning_images=1, images=3, steps=2, progress=told.append)
    rows = found.rows
    assert list(rows) == [edits.CODED, edits.PLAIN, edits.BLEND, edits.ATTENTION, edits.LATENTS, edits.BOTH, edits.PASTED]
    assert rows[edits.PASTED].value > rows[edits.BOTH].value > rows[edits.PLAIN].value
    assert rows[edits.CODED].success.value == 0 and 0 < rows[edits.PLAIN].ssim.value < rows[edits.PASTED].ssim.value <= 1
    effect = found.effects[f"psnr_{edits.BOTH}_minus_{edits.PLAIN}"]
    assert effect.value == pytest.approx(rows[edits.BOTH].value - rows[edits.PLAIN].value) and effect.images == 3 and told
    with pytest.raises(ValueError, match="ask for fewer"):
        edits.edit_study(DiffSegmenter.from_profile("pocket"), Clip.load(), tuning_images=1, images=10_000, steps=2)


def test_psnr_and_success_are_those_of_a_hand_made_edit():
    from diffseg_lib.experiments.edits import Task, box, judge

    inside = np.zeros((32, 32), bool)
    inside[8:16, 4:12] = True
    pixels = np.full((32, 32, 3), 100, np.uint8)
    changed = np.where(inside[..., None].repeat(3, 2), 200, 110).astype(np.uint8)

    class ImageTextScorer:
        def similarities(self, pictures, words):
            assert pictures[0].shape == (9, 9, 3)  # 8 px and a margin of a tenth to each side
            return np.array([[0.1, 0.9]])

    task = Task("one", pixels, "", "", "cat", "fish", inside, inside)
    found = judge(task, changed, ImageTextScorer(), ["cat", "fish"])
    assert found.psnr == pytest.approx(10 * np.log10(255**2 / 100)) and found.success == 100
    assert found.first == 100 and judge(replace(task, word="fish", new="cat"), changed, ImageTextScorer(), ["cat", "fish"]).success == 0
    same = judge(task, pixels, ImageTextScorer(), ["cat", "fish"])
    assert same.ssim == pytest.approx(1) and same.psnr > 80
    corner = np.zeros((32, 32), bool)
    corner[30:, 30:] = True
    assert box(pixels, corner).shape == (2, 2, 3)


def test_edits_and_segmentations_of_several_threads_are_those_of_one(segmenter, picture, inverted):
    def one(i: int) -> np.ndarray:
        if i % 2:
            return segmenter.segment(picture, ["house", "red fish"][: 1 + i % 4 // 2]).scores
        return edit(segmenter.backbone, inverted, TARGET, HARD, gate=Gate(left_half(picture)) if i % 4 else None).picture

    alone, before = [one(i) for i in range(4)], dict(segmenter.backbone.unet.attn_processors)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(8)))
    assert all(np.array_equal(array, alone[i % 4]) for i, array in enumerate(found))
    assert segmenter.backbone.unet.attn_processors == before


def test_an_edit_inside_a_recording_is_refused(segmenter, inverted):
    with record_attention(segmenter.backbone.unet, None), pytest.raises(RuntimeError, match="recorded or edited already"):
        edit(segmenter.backbone, inverted, TARGET, HARD)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_of_an_edit_is_float32_and_its_output_the_models_own_precision(dtype):
    control = AttentionControl(
        PromptToPrompt(0.0, 0.0), torch.eye(6), torch.ones(6), torch.ones(6), (2, 2), None, LocalBlend("a", "b", stride=1), torch.eye(2, 6)
    )
    generator = torch.Generator().manual_seed(0)
    query, key = (300 * torch.randn(2, 3, n, 8, generator=generator).to(dtype) for n in (4, 6))
    found = _Controlled(None, control)._cross(query, key, 8**-0.5, 1, (2, 2))
    expected = (query.double() @ key.double().mT * 8**-0.5).softmax(-1)
    torch.testing.assert_close(found.double(), expected[1:], atol=1e-3, rtol=0)
    torch.testing.assert_close(control.sums.double(), expected[[0, 1], :, :, [0, 1]].mean(1).unflatten(1, (2, 2)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_edits_in_half_precision_keep_their_identities(pipeline_folder, picture, dtype):
    segmenter = DiffSegmenter.from_profile(pipeline_folder, dtype=dtype)
    source = ddim_invert(segmenter, picture, SOURCE, steps=2)
    plain = edit(segmenter.backbone, source, TARGET, HARD).picture
    whole, none = (edit(segmenter.backbone, source, TARGET, HARD, gate=Gate(np.full(picture.shape[:2], on))).picture for on in (True, False))
    assert np.array_equal(whole, plain) and np.array_equal(none, picture) and not np.array_equal(plain, picture)
    assert edit(segmenter.backbone, source, TARGET, HARD, blend=LocalBlend("house", "fish", start=0.0)).picture.shape == picture.shape
