"""The shipped models: loadable by the ordinary calls, small, half precision, and described by their cards."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from diffseg_lib.pocket.training.cards import card
from diffseg_lib.pocket.training.measure import TARGETS, captions, choose_absent, clip_scores, load_clip, measure_vae
from diffseg_lib.pocket.training.pictures import classes_named
from diffseg_lib.pocket.world import CLASS_NAMES, CLASSES, COLOURS, compose, paint
from diffseg_lib.support.paths import models_dir
from diffseg_lib.vision_language import Clip

MODELS = models_dir()


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(MODELS / "diffusion", torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_pipeline_is_stable_diffusions_made_small(pipeline):
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    assert (pipeline.scheduler.config.beta_start, pipeline.scheduler.config.beta_end) == (0.00085, 0.012)
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert len(pipeline.unet.config.block_out_channels) == 4
    assert 2 ** (len(pipeline.vae.config.block_out_channels) - 1) == 4
    assert pipeline.vae.config.scaling_factor > 0


def test_the_pipeline_draws(pipeline):
    image = pipeline("a photograph of a house", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images[0]
    assert image.shape == (128, 128, 3)
    assert image.std() > 0.05


def test_files_are_small_half_precision_safetensors():
    files = [p for p in MODELS.rglob("*") if p.is_file()]
    joint = [p for p in files if p.is_relative_to(MODELS / "transformer")]
    assert sum(p.stat().st_size for p in joint) <= 20e6 and sum(p.stat().st_size for p in set(files) - set(joint)) <= 40e6
    assert not [p.name for p in files if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    for path in MODELS.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path


def test_the_autoencoder_keeps_what_its_card_says():
    known = json.loads((MODELS / "measurements.json").read_text())["vae"]["psnr_db"]
    assert abs(measure_vae(MODELS, 20)["psnr_db"] - known) < 1.5


def test_clip_scores_and_blip_writes():
    clip, processor = load_clip(MODELS)
    images = np.stack([paint(compose("test", i)) for i in range(2)])
    assert clip_scores(clip, processor, images).shape == (2, len(CLASS_NAMES))
    written = captions(MODELS, images)
    assert len(written) == 2
    assert all(any(word in COLOURS or classes_named(word) for word in text.split()) for text in written)


def test_the_profile_knows_every_name_of_every_class():
    profile = json.loads((MODELS / "diffusion" / "profile.json").read_text())
    assert {c.name for c in CLASSES} | set(COLOURS) <= set(profile["words"])
    assert "train split" in profile["chosen_on"]


@pytest.mark.parametrize("name", ["diffusion", "clip", "blip"])
def test_cards_say_what_was_measured(name):
    assert (MODELS / name / "README.md").read_text() == card(MODELS, name)


def test_every_target_was_measured():
    measured = json.loads((MODELS / "measurements.json").read_text())
    assert all(key in measured[name] and "command" in measured[name] for name, key, *_ in TARGETS)


def test_the_share_below_which_a_word_counts_as_absent_doubts_few_that_are_present(tmp_path, monkeypatch):
    """By a made-up CLIP that gives what is there .25 of its best and what is not .1, but for one word of one scene, which it hardly sees."""
    seen, crowded = iter(range(20)), next(i for i in range(20) if len(set(compose("train", i).classes)) > 1)

    def similarities(pictures, names):
        i = next(seen)
        present = [name in compose("train", i).classes for name in names]
        scores = np.where(present, 0.25, 0.1)
        scores[present.index(True)] = 1.0
        if i == crowded:
            scores[len(present) - 1 - present[::-1].index(True)] = 0.05
        return scores[None]

    monkeypatch.setattr(Clip, "load", lambda *_: SimpleNamespace(similarities=similarities))
    (tmp_path / "diffusion").mkdir()
    (tmp_path / "diffusion" / "profile.json").write_text('{"name": "p", "source": "s"}')
    found = choose_absent(tmp_path, 20)
    assert found["chosen"] == 0.25 and json.loads((tmp_path / "diffusion" / "profile.json").read_text())["absent_clip_threshold"] == 0.25
    assert found["noted"]["absent"]["share"] == 1 and 0 < found["noted"]["present"]["share"] <= 0.05
    assert found["noted"]["absent"]["words"] + found["noted"]["present"]["words"] == 20 * len(CLASS_NAMES)
