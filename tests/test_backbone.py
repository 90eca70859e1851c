"""Loading a profile, and the four things a backbone does."""

from __future__ import annotations

import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from diffseg_lib.loading import load_backbone
from diffseg_lib.profiles import PAPER_WEIGHTS, load_profile


@pytest.fixture
def copy(pipeline_folder, tmp_path):
    return shutil.copytree(pipeline_folder, tmp_path / "copy")


def test_a_folder_without_numbers_gets_the_papers(pipeline_folder):
    profile = load_profile(pipeline_folder)
    assert (profile.timesteps, profile.weights, profile.threshold) == ((100,), PAPER_WEIGHTS, 0.5)
    assert load_profile("sd15").weights == {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}


def test_a_profile_brings_its_numbers(copy):
    facts = {"timesteps": [50, 100], "weights": {"8": 0.0, "1": 1.0}, "threshold": 0.25, "words": ["fish"], "chosen_on": "train"}
    (copy / "profile.json").write_text(json.dumps(facts))
    profile = load_profile(copy)
    assert profile.timesteps == (50, 100) and profile.weights == {8: 0.0, 1: 1.0}
    assert (profile.threshold, profile.words, profile.chosen_on) == (0.25, ("fish",), "train")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting"),
        ("[]", "expected an object, got list"),
        ('{"treshold": 1}', r"unknown setting 'treshold' of Profile: did you mean threshold\?"),
        ('{"weights": {"coarse": 1}, "size": -1}', r"weights {'coarse': 1}: expected a mapping of strides.*; and size -1: expected an integer of at least 0"),
    ],
)
def test_a_damaged_profile_is_named(copy, text, said):
    (copy / "profile.json").write_text(text)
    with pytest.raises(ValueError, match=rf"profile\.json is not a profile: {said}"):
        load_profile(copy)


def test_an_unknown_profile_gets_the_nearest_name():
    with pytest.raises(
        ValueError,
        match=r"unknown profile 'pockt': expected flux, flux2, pixart, pocket, pocket-transformer, qwen-image, sd15, .*sdxl, a YAML.*; did you mean pocket\?",
    ):
        load_profile("pockt")


@pytest.mark.parametrize(
    "file",
    [
        "vae/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/config.json",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(copy, file):
    (copy / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing: expected a StableDiffusionPipeline"):
        load_backbone(copy)


@pytest.mark.parametrize("file", ["vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_a_cut_off_weight_file_is_named(copy, file):
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises((ValueError, FileNotFoundError), match="weight"):
        load_backbone(copy)


def test_weights_become_float32_and_frozen_whatever_the_disk_holds(pipeline_folder, tmp_path):
    from diffusers import StableDiffusionPipeline

    half = StableDiffusionPipeline.from_pretrained(pipeline_folder, torch_dtype=torch.float16, safety_checker=None)
    half.save_pretrained(tmp_path / "half")
    loaded = load_backbone(tmp_path / "half")
    for model in (loaded.vae, loaded.unet, loaded.text_encoder):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in model.parameters()) and not model.training
    assert loaded.alphas_cumprod.dtype == torch.float32


def test_sizes(backbone):
    assert (backbone.latent_factor, backbone.size, backbone.multiple) == (4, 64, 32)


def test_encoding_is_the_scaled_posterior_mean(backbone):
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = backbone.encode_image(image)
    expected = backbone.vae.encode(image).latent_dist.mode() * backbone.vae.config.scaling_factor
    assert latents.shape == (1, 4, 16, 24)
    assert torch.equal(latents, expected) and torch.equal(latents, backbone.encode_image(image))
    assert backbone.decode_latents(latents).shape == (1, 3, 64, 96)


@pytest.mark.parametrize("timestep", [0, 1, 100, 999])
def test_noise_is_added_as_the_schedule_does(backbone, pipeline_folder, timestep):
    from diffusers import DDIMScheduler

    schedule = DDIMScheduler.from_pretrained(pipeline_folder, subfolder="scheduler")
    latents, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = schedule.add_noise(latents, noise, torch.tensor([timestep]))
    torch.testing.assert_close(backbone.add_noise(latents, noise, timestep), expected)


@pytest.mark.parametrize("timestep", [1, 100, 500])
def test_the_clean_latents_come_back_when_the_noise_is_known(backbone, timestep):
    latents, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = backbone.add_noise(latents, noise, timestep)
    torch.testing.assert_close(backbone.estimate_clean(noisy, noise, timestep), latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("timestep", [-1, 1000])
def test_a_timestep_off_the_schedule_is_refused(backbone, timestep):
    with pytest.raises(ValueError, match="expected 0 to 999"):
        backbone.add_noise(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), timestep)


def test_prompts_are_padded_to_the_models_own_length(backbone):
    alone, together = backbone.encode_prompts(["a fish"]), backbone.encode_prompts(["a fish", "a photograph of a red house"])
    assert alone.shape == (1, 24, 16)
    torch.testing.assert_close(alone[0], together[0])


def test_one_noisy_latent_serves_every_prompt(backbone):
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    embeddings = backbone.encode_prompts(["a fish", "a house"])
    both = backbone.predict_noise(noisy, 100, embeddings)
    alone = torch.cat([backbone.predict_noise(noisy, 100, row[None]) for row in embeddings])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("timestep", [0, 1, 100, 999])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_scalars_of_the_schedule_are_those_of_float64_in_every_precision(backbone, dtype, timestep, monkeypatch):
    kept = float(backbone.alphas_cumprod[timestep])
    signal, sigma, eps = math.sqrt(kept), math.sqrt(1 - kept), torch.finfo(dtype).eps
    latents, noise, zeros = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)).to(dtype) * (i < 2) for i in range(3))
    monkeypatch.setattr(type(backbone), "_denoise", lambda self, batch, timestep, embeddings: velocity)
    monkeypatch.setattr(type(backbone), "dtype", dtype)
    words, predicts_v = backbone.encode_prompts(["a fish"]), replace(backbone, prediction="v_prediction")

    def near(found, expected):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, atol=0, rtol=float(eps))

    near(backbone.add_noise(latents, zeros, timestep), signal * latents.double())
    near(backbone.add_noise(zeros, noise, timestep), sigma * noise.double())
    near(backbone.estimate_clean(latents, zeros, timestep), latents.double() / signal)
    torch.testing.assert_close(backbone.estimate_clean(zeros, noise, timestep).double(), -sigma * noise.double() / signal, atol=0, rtol=2 * float(eps))
    velocity = noise
    near(predicts_v.predict_noise(zeros, timestep, words), signal * noise.double())
    velocity = zeros
    near(predicts_v.predict_noise(latents, timestep, words), sigma * latents.double())


def test_kept_embeddings_are_right_whatever_threads_ask_for_them(backbone, monkeypatch):
    monkeypatch.setattr("diffseg_lib.backbone.EMBEDDING_CACHE_SIZE", 2)
    texts, asked, inner = [f"a photograph of a {word}" for word in ("fish", "house", "red fish", "cat", "dog")], [], type(backbone).encode_prompts
    alone = [backbone.encode_prompts([text]) for text in texts]
    fresh = replace(backbone, _embedded={})

    def slow(self, texts):
        asked.append(texts)
        found = inner(self, texts)
        time.sleep(0.002)  # so that threads meet
        return found

    monkeypatch.setattr(type(backbone), "encode_prompts", slow)
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(fresh.cached_embedding, texts * 20))
        assert all(torch.equal(one, alone[i % len(texts)]) for i, one in enumerate(found))
        monkeypatch.setattr("diffseg_lib.backbone.EMBEDDING_CACHE_SIZE", 256)
        asked.clear()
        list(pool.map(replace(backbone, _embedded={}).cached_embedding, texts * 20))
    assert sorted(asked) == sorted([text] for text in texts)  # each once


def test_of_models_that_visit_a_device_one_works_at_a_time(backbone):
    inside, most = [], []

    def enter(*_):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)

    visiting, words = replace(backbone, runs_on="cpu"), backbone.encode_prompts(["a fish"])
    modules = (backbone.vae.encoder, backbone.vae.decoder, backbone.unet, backbone.text_encoder)
    hooks = [h for m in modules for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(lambda *_: inside.pop() and None))]
    latents = torch.zeros(1, 4, 16, 16)
    try:
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(visiting.encode_image, torch.zeros(1, 3, 64, 64)), pool.submit(visiting.decode_latents, latents)]
            calls += [pool.submit(visiting.predict_noise, latents, 100, words), pool.submit(visiting.encode_prompts, ["a fish"])]
            assert all(call.result() is not None for call in calls)
    finally:
        for hook in hooks:
            hook.remove()
    assert most == [1, 1, 1, 1]
