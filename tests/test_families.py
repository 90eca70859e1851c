"""Every supported family, tiny and random: conditions as diffusers' own pipelines make them, recording exact, optimized equal to plain."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch

from diffseg_lib.applications.prompt_to_prompt import Gate, ddim_invert, edit
from diffseg_lib.attention import record_attention
from diffseg_lib.config import Config
from diffseg_lib.loading import FAMILIES, family_of, load_backbone
from diffseg_lib.optimizations import OPTIMIZATIONS
from diffseg_lib.scoremaps import complete
from diffseg_lib.segmenter import DiffSegmenter

NAMES = ("sd15", "sd21", "sd21-v", "sdxl")
SIDES = {"sd15": [8, 4, 2, 1], "sd21": [8, 4, 2, 1], "sd21-v": [8, 4, 2, 1], "sdxl": [4, 2]}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def loaded(family_folders, name):
    return load_backbone(family_folders[name])


def latents_of(backbone, size=(16, 24)):
    return torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))


def test_the_family_is_found_by_what_the_model_is(loaded, name):
    assert type(loaded).__name__ == ("SdxlBackbone" if name == "sdxl" else "Backbone")
    assert loaded.prediction == ("v_prediction" if name == "sd21-v" else "epsilon")
    assert dict(loaded.profile.weights) == ({4: 0.5, 2: 0.5} if name == "sdxl" else {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1})


def test_conditions_are_those_of_the_pipeline(loaded, family_folders, name):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    kind = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
    more = {"add_watermarker": False} if name == "sdxl" else {"safety_checker": None}
    pipeline = kind.from_pretrained(family_folders[name], **more)
    text, noisy = "a photograph of a house", latents_of(loaded)
    if name == "sdxl":
        tokens, _, pooled, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False)
        times = pipeline._get_add_time_ids((64, 96), (0, 0), (64, 96), tokens.dtype, loaded.text_encoder_2.config.projection_dim)
        expected = pipeline.unet(noisy, 100, encoder_hidden_states=tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": times}).sample
        assert loaded.encode_prompts([text]).shape == (1, 25, 40)
        torch.testing.assert_close(loaded.encode_prompts([text])[:, :-1], tokens)
    else:
        tokens, _ = pipeline.encode_prompt(text, "cpu", 1, False)
        expected = pipeline.unet(noisy, 100, encoder_hidden_states=tokens).sample
        torch.testing.assert_close(loaded.encode_prompts([text]), tokens)
    found = loaded.predict_noise(noisy, 100, loaded.encode_prompts([text]))
    if name == "sd21-v":
        kept = float(loaded.alphas_cumprod[100])
        expected = math.sqrt(kept) * expected + math.sqrt(1 - kept) * noisy
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_model_that_predicts_v_gives_back_the_noise_that_was_added(family_folders, monkeypatch):
    backbone = load_backbone(family_folders["sd21-v"])
    latents, noise = latents_of(backbone), torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    kept = float(backbone.alphas_cumprod[300])
    velocity = math.sqrt(kept) * noise - math.sqrt(1 - kept) * latents
    monkeypatch.setattr(type(backbone), "_denoise", lambda self, batch, timestep, embeddings: velocity)
    found = backbone.predict_noise(backbone.add_noise(latents, noise, 300), 300, backbone.encode_prompts(["a fish"]))
    torch.testing.assert_close(found, noise, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_layers_of_every_side_are_recorded_and_lean_equals_plain(loaded, name, size):
    embeddings = loaded.encode_prompts(["a photograph of a house", "a photograph of a red fish"])
    weights = torch.rand(2, loaded.max_tokens, generator=torch.Generator().manual_seed(1))
    recordings = []
    for optimizations in ((), OPTIMIZATIONS):
        with record_attention(loaded.unet, weights, optimizations=optimizations) as recording:
            loaded.predict_noise(latents_of(loaded, size), 100, embeddings)
        recordings.append(recording)
    plain, found = recordings
    assert list(plain.by_resolution()) == SIDES[name] and list(plain.cross) == list(found.cross)
    assert plain.finest_size == tuple(side // min(SIDES[name]) for side in size)
    for layer in plain.cross:
        torch.testing.assert_close(found.cross[layer], plain.cross[layer], atol=1e-6, rtol=1e-4)
    maps = torch.rand(2, *plain.finest_size, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(complete(maps, *found.finest()), complete(maps, *plain.finest()), atol=1e-6, rtol=1e-4)


def test_the_whole_method_runs_and_lean_equals_plain(loaded, picture):
    segmenter = DiffSegmenter(loaded)
    found, plain = (segmenter.with_config(optimized=way).segment(picture, ["house", "red fish"], return_intermediates=True) for way in (True, False))
    assert found.labels.shape == (48, 80) and found.scores.max() == 1
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-4)
    again = segmenter.segment(picture, ["house", "red fish"])  # only what is read
    np.testing.assert_allclose(again.scores, plain.scores, atol=1e-4)


def test_re_weighting_changes_the_class_and_nothing_else(loaded):
    segmenter = DiffSegmenter(loaded)
    prompts = segmenter.prompts(["house"])
    plain, _ = segmenter.with_config(emphasis=0.0).embed(prompts)
    strong, token_weights = segmenter.embed(prompts)
    changed = (plain - strong).abs().sum(-1)[0] > 1e-4
    assert changed.nonzero().flatten().tolist() == list(prompts[0].span) == token_weights[0].nonzero().flatten().tolist()


def test_the_other_methods_run_on_every_family(loaded, picture):
    from diffseg_lib.baselines.attention import attention_scores
    from diffseg_lib.baselines.elbo import ElboMethod

    segmenter = DiffSegmenter(loaded)
    maps = attention_scores(segmenter, picture, ["house", "fish"])
    assert {one.scores.shape for one in maps.values()} == {(2, 48, 80)}
    assert ElboMethod(segmenter, timesteps=(300,), samples=1)(picture, ["house"]).scores.shape == (1, 48, 80)


def test_editing_runs_on_every_family_and_keeps_its_identities(loaded, picture):
    segmenter = DiffSegmenter(loaded, Config())
    source, before = ddim_invert(segmenter, picture, "a photograph of a house", steps=3), dict(loaded.unet.attn_processors)
    plain = edit(loaded, source, "a photograph of a red fish").picture
    whole, none = (edit(loaded, source, "a photograph of a red fish", gate=Gate(np.full(picture.shape[:2], on))).picture for on in (True, False))
    assert np.array_equal(whole, plain) and np.array_equal(none, picture) and not np.array_equal(plain, picture)
    assert loaded.unet.attn_processors == before


def test_a_part_that_is_missing_is_named(family_folders, tmp_path):
    copy = shutil.copytree(family_folders["sdxl"], tmp_path / "copy")
    (copy / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="text_encoder_2/model.safetensors is missing"):
        load_backbone(copy)


def test_an_unknown_architecture_says_what_is_supported_and_what_was_found(family_folders, tmp_path):
    copy = shutil.copytree(family_folders["sd15"], tmp_path / "copy")
    config = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}))
    with pytest.raises(ValueError, match="in_channels 9.*is not supported: expected Stable Diffusion 1.x and 2.x.*; or Stable Diffusion XL"):
        load_backbone(copy)
    shutil.rmtree(copy / "unet")
    (copy / "transformer").mkdir()
    (copy / "transformer" / "config.json").write_text(json.dumps({"_class_name": "SanaTransformer2DModel"}))
    with pytest.raises(ValueError, match="holds a SanaTransformer2DModel, which is not supported"):
        load_backbone(copy)
    with pytest.raises(ValueError, match="addition_embed_type 'image'"):
        family_of({"in_channels": 4, "addition_embed_type": "image"})
    assert len(FAMILIES) == 7


def test_a_prediction_of_another_kind_is_refused(family_folders, tmp_path):
    copy = shutil.copytree(family_folders["sd15"], tmp_path / "copy")
    config = json.loads((copy / "scheduler" / "scheduler_config.json").read_text())
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"prediction_type": "sample"}))
    with pytest.raises(ValueError, match="predicts 'sample': expected epsilon or v_prediction"):
        load_backbone(copy)


@pytest.mark.parametrize("source", ["sd15", "sd21", "sdxl", "someone/some-model"])
def test_hub_ids_and_names_say_that_the_weights_are_not_here(source):
    with pytest.raises(FileNotFoundError, match="are not on this machine: download them once"):
        load_backbone(source)
