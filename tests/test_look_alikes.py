"""Models that look like Stable Diffusion: run where a line of data does it, refused by what their settings say where it does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import _sharpen, tiny_pipeline, tiny_sdxl
from PIL import Image

from diffseg_lib.cli.main import main
from diffseg_lib.evaluation.preflight import check_models
from diffseg_lib.loading import load_backbone
from diffseg_lib.profiles import load_profile
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.weights.look_alikes import GUIDANCE, guidance_condition, present_weights

# Settings as the models' own files have them: BK-SDM small, BK-SDM tiny and tiny-sd leave the middle block out (mid_block_type null), the tiny ones the
# coarsest level too; SSD-1B has a middle block of no attention and depths by block, both ways; latent consistency models embed a scale of guidance.
VARIANTS = {
    "no middle": {"mid_block_type": None},
    "three levels": {
        "mid_block_type": None,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": (2, 4, 2),
    },
    "consistency": {"time_cond_proj_dim": 16},
}
SHALLOW = {  # of the larger kind
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [1, [1, 2], [2, 1]],
    "reverse_transformer_layers_per_block": [[2, 1, 1], [1, 1, 1], 1],
}


def varied(base, changes, folder: Path) -> Path:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(3)
    known = {key: value for key, value in base.unet.config.items() if not key.startswith("_")}
    base.unet = UNet2DConditionModel.from_config(known | changes)
    _sharpen(base.unet)
    base.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("variants")
    made = {name: varied(tiny_pipeline(), changes, root / name) for name, changes in VARIANTS.items()}
    xl = {"shallow": SHALLOW, "larger consistency": {"time_cond_proj_dim": 16}}
    return made | {name: varied(tiny_sdxl(), changes, root / name) for name, changes in xl.items()}


@pytest.mark.parametrize("name", [*VARIANTS, "shallow", "larger consistency"])
def test_a_variant_runs_and_optimized_equals_plain(folders, picture, name):
    assert check_models(load_profile(folders[name]), ())[0].state == "ready"
    segmenter = DiffSegmenter(load_backbone(folders[name]))
    found, plain = (segmenter.with_config(optimized=way).segment(picture, ["house", "red fish"]) for way in (True, False))
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-4)
    assert found.labels.shape == (48, 80) and len(np.unique(found.scores)) > 10


def test_weights_are_those_of_the_resolutions_that_are_there_and_said(folders, picture, tmp_path):
    for name in ("no middle", "three levels"):
        segmenter = DiffSegmenter(load_backbone(folders[name]))
        assert segmenter.weights == pytest.approx({4: 5 / 7, 2: 1 / 7, 1: 1 / 7})
        assert "this UNet has no cross-attention at stride 8" in segmenter.segment(picture, ["house"]).notes[0]
    Image.fromarray(picture).save(tmp_path / "photo.png")
    assert main(["segment", str(tmp_path / "photo.png"), "--classes", "house", "--profile", str(folders["no middle"]), "--out", str(tmp_path)]) == 0
    facts = json.loads((tmp_path / "result.json").read_text())
    assert any("no cross-attention at stride 8" in note for note in facts["notes"]) and "8" not in facts["config"]["weights"]


def test_weights_of_nothing_that_is_there_are_refused():
    assert present_weights({8: 0.0, 1: 1.0}, {1, 2}) == ({8: 0.0, 1: 1.0}, ())
    with pytest.raises(ValueError, match="attends to no text: it does at stride 2, stride 4"):
        present_weights({1: 1.0}, {4, 2})


def test_a_consistency_model_is_shown_the_scale_as_its_own_pipeline_embeds_it(folders):
    from diffusers import LatentConsistencyModelPipeline

    backbone = load_backbone(folders["consistency"])
    [embedded] = guidance_condition(backbone.unet).values()
    expected = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([GUIDANCE - 1]), embedding_dim=16)
    torch.testing.assert_close(embedded, expected, atol=1e-4, rtol=1e-3)
    latents, text = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), backbone.encode_prompts(["a fish"])
    whole = backbone.unet(latents, 100, encoder_hidden_states=text, timestep_cond=expected).sample
    torch.testing.assert_close(backbone.predict_noise(latents, 100, text), whole, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(whole, backbone.unet(latents, 100, encoder_hidden_states=text).sample)
    assert f"guidance scale of {GUIDANCE}" in backbone.notes[0]


REFUSED = {
    "inpainting": ("unet", {"in_channels": 9}, r"reads a mask and a masked picture \(inpainting\) beside the latents \(in_channels 9\)"),
    "instructions": ("unet", {"in_channels": 8}, r"in_channels 8"),
    "upscaler": ("unet", {"in_channels": 7, "num_class_embeds": 1000}, r"a low-resolution picture \(upscaling\)"),
    "depth": ("unet", {"in_channels": 5}, r"a map of depths"),
    "video": ("unet", {"_class_name": "UNetMotionModel"}, r"has a UNetMotionModel: expected a UNet2DConditionModel"),
    "unclip": ("unet", {"class_embed_type": "projection"}, r"\(class_embed_type 'projection'\)"),
    "another text encoder": ("unet", {"encoder_hid_dim_type": "text_proj"}, r"\(encoder_hid_dim_type 'text_proj'\)"),
    "variance": ("unet", {"out_channels": 8}, r"predicts 8 channels of 4"),
    "edm": ("scheduler", {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}, r"EDMDPMSolverMultistepScheduler, sigma_data 0.5"),
    "flow": ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, r"flow matching \(FlowMatchEulerDiscreteScheduler\)"),
    "latents": ("vae", {"latents_mean": [-1.6574, 1.886, -1.383, 2.5155]}, r"latents_mean \[-1.6574, 1.886, -1.383, 2.5155\]"),
    "autoencoder": ("vae", {"_class_name": "AutoencoderTiny"}, r"has a AutoencoderTiny between pictures and latents"),
    "refiner": ("", {"requires_aesthetics_score": True}, r"is a refiner"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_look_alike_is_refused_by_its_settings(family_folders, tmp_path, name, capsys):
    part, changes, told = REFUSED[name]
    copy = Path(shutil.copytree(family_folders["sdxl" if name == "refiner" else "sd15"], tmp_path / "copy"))
    path = copy / part / {"scheduler": "scheduler_config.json", "": "model_index.json"}.get(part, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=told + ".*is not supported: expected Stable Diffusion 1.x and 2.x"):
        load_backbone(copy)
    assert check_models(load_profile(copy), ())[0].state == "wrong"
    assert main(["check", "--profile", str(copy), "--captioner", "pocket", "--clip", "pocket"]) == 1
    assert "which is not supported" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "moved", "told"),
    [
        ("sd15", {"text_encoder": "image_encoder"}, "a picture in place of a prompt"),
        ("sdxl", {"text_encoder": ""}, "is a refiner"),
        ("sd15", {"unet": "transformer"}, "holds a .*, which is not supported"),
    ],
)
def test_a_folder_of_other_parts_is_refused(family_folders, tmp_path, name, moved, told):
    copy = Path(shutil.copytree(family_folders[name], tmp_path / "copy"))
    for old, new in moved.items():
        (copy / old).rename(copy / new) if new else shutil.rmtree(copy / old)
    with pytest.raises(ValueError, match=told):
        load_backbone(copy)
    assert check_models(load_profile(copy), ())[0].state == "wrong"
