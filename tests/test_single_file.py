"""A whole model in one file, and LoRA files on top: the same numbers as from a folder, or a sentence on what a file is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from diffseg_lib.cli.main import main
from diffseg_lib.evaluation.jobs import Job
from diffseg_lib.evaluation.preflight import check_models
from diffseg_lib.loading import load_backbone
from diffseg_lib.profiles import is_hub_id, load_profile
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.support.identity import describe_models
from diffseg_lib.weights.single_file import SETTINGS, _fit, defaults_of, kind_of, read_header

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_unet(name: str, unet) -> str:
    """The original code's name of a UNet's weight."""
    for new, old in ENDS.items():
        if name.startswith(f"{new}."):
            return f"{old}{name.removeprefix(new)}"
    stage, rest = name.split(".", 1)
    layers = unet.config.layers_per_block + (stage == "up_blocks")
    if stage == "mid_block":
        kind, number, rest = rest.split(".", 2)
        place = f"middle_block.{2 * int(number) if kind == 'resnets' else 1}"
    else:
        block, kind, number, rest = rest.split(".", 3)
        attends = hasattr(getattr(unet, stage)[int(block)], "attentions")
        first = int(block) * layers + 2 * int(block) * 0
        if stage == "down_blocks":
            index = 1 + int(block) * (layers + 1) + (layers if kind == "downsamplers" else int(number))
            inner = {"resnets": "0", "attentions": "1", "downsamplers": "0"}[kind]
            rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
            place = f"input_blocks.{index}.{inner}"
        else:
            index = first + (layers - 1 if kind == "upsamplers" else int(number))
            place = f"output_blocks.{index}.{ {'resnets': '0', 'attentions': '1', 'upsamplers': '2' if attends else '1'}[kind] }"
    if kind == "resnets":
        part, end = rest.rsplit(".", 1)
        rest = f"{RESNET.get(part, 'skip_connection')}.{end}"
    return f"{place}.{rest}"


def original_vae(name: str, blocks: int) -> str:
    """The original code's name of an autoencoder's weight."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm").replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
    name = name.replace("mid_block.attentions.0.to_", "mid.attn_1.")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    for i in range(blocks):
        name = name.replace(f"encoder.down_blocks.{i}.resnets.", f"encoder.down.{i}.block.").replace(
            f"encoder.down_blocks.{i}.downsamplers.0.", f"encoder.down.{i}.downsample."
        )
        name = name.replace(f"decoder.up_blocks.{i}.resnets.", f"decoder.up.{blocks - 1 - i}.block.").replace(
            f"decoder.up_blocks.{i}.upsamplers.0.", f"decoder.up.{blocks - 1 - i}.upsample."
        )
    return name


def open_clip(weights: dict, prefix: str) -> dict:
    """A text encoder in OpenCLIP's layout: queries, keys and values in one matrix."""
    weights = {name.removeprefix("text_model."): value for name, value in weights.items()}
    top = {"embeddings.token_embedding.weight": "token_embedding.weight", "embeddings.position_embedding.weight": "positional_embedding"}
    top |= {"final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}
    made = {prefix + old: weights[new] for new, old in top.items()}
    if "text_projection.weight" in weights:
        made[f"{prefix}text_projection"] = weights["text_projection.weight"].T.contiguous()
    for name, value in weights.items():
        if name.startswith("encoder.layers."):
            number, rest = name.removeprefix("encoder.layers.").split(".", 1)
            place = f"{prefix}transformer.resblocks.{number}."
            if ".q_proj." in rest:
                end = rest.rsplit(".", 1)[1]
                made[f"{place}attn.in_proj_{end}"] = torch.cat([weights[name.replace(".q_proj.", f".{one}_proj.")] for one in "qkv"])
            elif ".k_proj." not in rest and ".v_proj." not in rest:
                renamed = rest.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2").replace("self_attn.out_proj", "attn.out_proj")
                made[place + renamed.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")] = value
    return made


def checkpoint(folder: Path, kind: str) -> dict:
    """A pipeline's folder as one file has it, in the original layout."""
    backbone = load_backbone(folder)
    made = {f"model.diffusion_model.{original_unet(name, backbone.unet)}": value for name, value in backbone.unet.state_dict().items()}
    made |= {f"first_stage_model.{original_vae(name, 3)}": value for name, value in backbone.vae.state_dict().items()}
    text = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in backbone.text_encoder.state_dict().items()}
    if kind == "2.x":
        made |= open_clip(text, "cond_stage_model.model.")
    else:
        prefix = "cond_stage_model.transformer." if kind == "1.x" else "conditioner.embedders.0.transformer."
        made |= {prefix + name: value for name, value in text.items()}
    if kind == "XL":
        made |= open_clip(backbone.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    return {name: value.clone().contiguous() for name, value in made.items()} | {"model_ema.decay": torch.zeros(1)}


KINDS = {"sd15": "1.x", "sd21-v": "2.x", "sdxl": "XL"}


@pytest.fixture(scope="module")
def single(family_folders, tmp_path_factory) -> dict[str, Path]:
    """Profiles of single files, by the family that they hold."""
    root, found = tmp_path_factory.mktemp("files"), {}
    for name, kind in KINDS.items():
        save_file(checkpoint(family_folders[name], kind), root / f"{name}.safetensors")
        settings = {"source": str(root / f"{name}.safetensors"), "config": str(family_folders[name]), "captioner": "pocket", "clip": "pocket"}
        found[name] = root / f"{name}.yaml"
        found[name].write_text(yaml.safe_dump({"settings": settings}))
    return found


@pytest.mark.parametrize("name", KINDS)
def test_one_file_gives_what_its_folder_gives(single, family_folders, picture, name):
    assert kind_of(read_header(Path(load_profile(single[name]).source))) == KINDS[name]
    assert check_models(load_profile(single[name]))[0].state == "ready"
    found, expected = (DiffSegmenter(load_backbone(one)) for one in (single[name], family_folders[name]))
    for part in ("unet", "vae", "text_encoder"):
        pairs = zip(getattr(found.backbone, part).state_dict().items(), getattr(expected.backbone, part).state_dict().items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    assert found.backbone.prediction == expected.backbone.prediction
    one, other = (segmenter.segment(picture, ["house", "red fish"]) for segmenter in (found, expected))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    assert f"is a single file of Stable Diffusion {KINDS[name]} (F32)" in one.notes[0]


def test_a_file_is_a_profile_and_says_what_it_lacks(single, capsys):
    path = load_profile(single["sd15"]).source
    assert load_profile(path).source == path and not is_hub_id("models/some.safetensors")
    assert main(["check", "--profile", path, "--clip", "pocket", "--captioner", "pocket"]) == 1
    assert "holds no tokenizer, and that of" in capsys.readouterr().out  # the pocket CLIP has a vocabulary of its own
    path = load_profile(single["sd21-v"]).source
    with pytest.raises(FileNotFoundError, match="differ in what they predict .* name the folder of a pipeline like it as `config`"):
        load_backbone(path)


def test_settings_that_need_no_folder_are_those_of_the_published_models():
    """Numbers of weights as they are published, from the settings here, no weight allocated."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def count(model) -> int:
        return sum(one.numel() for one in model.parameters())

    with torch.device("meta"):
        assert count(UNet2DConditionModel.from_config(defaults_of(UNet2DConditionModel, SETTINGS["1.x"]["unet"]))) == 859_520_964
        assert count(UNet2DConditionModel.from_config(defaults_of(UNet2DConditionModel, SETTINGS["XL"]["unet"]))) == 2_567_463_684
        assert {count(AutoencoderKL.from_config(defaults_of(AutoencoderKL, SETTINGS[kind]["vae"]))) for kind in SETTINGS} == {83_653_863}
        assert count(CLIPTextModel(CLIPTextConfig(**SETTINGS["1.x"]["text_encoder"]))) == 123_060_480
        assert count(CLIPTextModelWithProjection(CLIPTextConfig(**SETTINGS["XL"]["text_encoder_2"]))) == 694_659_840


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_the_published_layout_fits_the_settings_and_every_weight_counts(tmp_path, kind):
    """Names and shapes of a whole published model, by this file's own naming: nothing is left over or lacking."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    settings = {part: defaults_of(cls, SETTINGS[kind][part]) for part, cls in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))}
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(settings["unet"]), AutoencoderKL.from_config(settings["vae"])
    shapes = {f"model.diffusion_model.{original_unet(name, unet)}": list(one.shape) for name, one in unet.state_dict().items()}
    for name, one in vae.state_dict().items():
        flat = "attentions" in name and one.ndim == 2  # the original code has convolutions there
        shapes[f"first_stage_model.{original_vae(name, 4)}"] = [*one.shape, 1, 1] if flat else list(one.shape)
    assert "model.diffusion_model.output_blocks.5.2.conv.weight" in shapes and "first_stage_model.encoder.mid.attn_1.q.weight" in shapes
    header = {name: {"shape": shape} for name, shape in shapes.items()}
    _fit(tmp_path, header, settings)
    gone = header.pop("model.diffusion_model.middle_block.1.proj_in.weight")
    with pytest.raises(ValueError, match=r"lacks weights \(1, as unet.mid_block.attentions.0.proj_in.weight\): expected a whole model"):
        _fit(tmp_path, header, settings)
    header["model.diffusion_model.middle_block.1.proj_in.weight"] = gone | {"shape": [7, 7]}
    with pytest.raises(ValueError, match=r"has weights of another shape \(1, as unet.mid_block.attentions.0.proj_in.weight \(7, 7\) for"):
        _fit(tmp_path, header, settings)


FOREIGN = {
    "a LoRA": {"lora_unet_down_blocks_0.lora_down.weight": (1,)},
    r"an autoencoder \(VAE\) alone": {"encoder.conv_in.weight": (1,), "decoder.conv_in.weight": (1,)},
    "a text encoder or a CLIP alone": {"text_model.embeddings.position_embedding.weight": (1,)},
    "a UNet alone": {"down_blocks.0.resnets.0.conv1.weight": (1,)},
    "a ControlNet": {"control_model.time_embed.0.weight": (1,)},
    "a transformer": {"model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (1,)},
    "an embedding of textual inversion": {"emb_params": (1,)},
    "no diffusion model that is known here": {"layer4.0.conv1.weight": (1,)},
    r"its UNet reads 7 channels, so the model is an upscaler": {"model.diffusion_model.input_blocks.0.0.weight": (4, 7, 3, 3)},
    r"its UNet reads 9 channels, so the model is for inpainting": {"model.diffusion_model.input_blocks.0.0.weight": (4, 9, 3, 3)},
    r"\(edm_mean, as Playground 2.5\)": {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3), "edm_mean": (4,)},
    "it is the refiner": {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3), "conditioner.embedders.0.model.ln_final.weight": (1,)},
    "it has a UNet but no text encoder and no autoencoder": {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)},
}


@pytest.mark.parametrize("told", FOREIGN)
def test_what_is_no_whole_model_is_named(tmp_path, told):
    path = tmp_path / "some.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in FOREIGN[told].items()}, path)
    with pytest.raises(ValueError, match=told):
        load_backbone(path)
    assert check_models(load_profile(path), ())[0].state == "wrong"


def test_a_file_that_is_cut_or_lacks_weights_is_refused(single, family_folders, tmp_path):
    whole = Path(load_profile(single["sd15"]).source)
    content, cut = whole.read_bytes(), tmp_path / "cut.safetensors"
    cut.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=f"has {len(content) - 100} bytes: expected {len(content)}"):
        load_backbone(cut)
    weights = load_file(whole)
    del weights["model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
    save_file(weights, tmp_path / "lacking.safetensors")
    (tmp_path / "lacking.yaml").write_text(
        yaml.safe_dump({"settings": {"source": str(tmp_path / "lacking.safetensors"), "config": str(family_folders["sd15"]), "clip": "pocket"}})
    )
    with pytest.raises(ValueError, match=r"lacks weights \(1, as unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"):
        load_backbone(tmp_path / "lacking.yaml")
    (tmp_path / "some.ckpt").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match="can hold code, which is not read: expected the same model as .safetensors"):
        load_backbone(tmp_path / "some.ckpt")


# -- LoRA

RANK = 2


def layers_of(backbone) -> dict[str, torch.nn.Module]:
    """Layers that a LoRA changes, by their names with the part before them: linear ones, a convolution, and some of the text encoder's."""
    wanted = ("to_q", "to_out.0", "ff.net.0.proj", "resnets.0.conv1")
    found = {f"unet.{name}": layer for name, layer in backbone.unet.named_modules() if name.endswith(wanted)}
    return found | {f"text_encoder.text_model.{n.removeprefix('text_model.')}": m for n, m in backbone.text_encoder.named_modules() if n.endswith("q_proj")}


def lora_of(backbone, way: str) -> tuple[dict, dict]:
    """A random LoRA's file in a way of naming, and what it adds to each layer at scale 1."""
    generator, files, added = torch.Generator().manual_seed(5), {}, {}
    for name, layer in layers_of(backbone).items():
        rest, convolved = layer.weight.shape[1:], layer.weight.ndim == 4
        down = torch.randn(RANK, *rest, generator=generator)
        up = torch.randn(layer.weight.shape[0], RANK, *((1, 1) if convolved else ()), generator=generator)
        alpha = 1.0 if way in ("kohya", "original") else float(RANK)
        part, inner = name.split(".", 1)
        key = f"{'lora_unet_' if part == 'unet' else 'lora_te_'}{inner.replace('.', '_')}"
        if way == "original" and part == "unet":
            if "attentions" not in inner:
                continue
            key = "lora_unet_" + original_unet(f"{inner}.weight", backbone.unet).removesuffix(".weight").replace(".", "_")
        if way in ("kohya", "original"):
            files |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
        elif way == "peft":
            files |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        else:
            files |= {f"{name}.lora.down.weight": down, f"{name}.lora.up.weight": up}
        added[name] = alpha / RANK * torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(layer.weight.shape)
    return files, added


def with_lora(folder: Path, path: Path, scale: float, to: Path) -> Path:
    to.write_text(yaml.safe_dump({"settings": {"source": str(folder), "lora": [str(path), scale], "captioner": "pocket", "clip": "pocket"}}))
    return to


@pytest.mark.parametrize("way", ["kohya", "original", "peft", "diffusers", "metadata", "adapter"])
def test_a_lora_is_added_exactly(family_folders, tmp_path, way):
    plain = load_backbone(family_folders["sd15"])
    files, added = lora_of(plain, "peft" if way in ("metadata", "adapter") else way)
    told = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 3, "text_encoder.lora_alpha": 3})} if way == "metadata" else None
    if way == "adapter":
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 3, "r": RANK, "use_rslora": False}))
    if way in ("metadata", "adapter"):
        added = {name: 3 / RANK * one for name, one in added.items()}
    save_file(files, tmp_path / "some.safetensors", told)
    changed = load_backbone(with_lora(family_folders["sd15"], tmp_path / "some.safetensors", 0.8, tmp_path / "mine.yaml"))
    before, after = layers_of(plain), layers_of(changed)
    for name, layer in after.items():
        expected = before[name].weight + 0.8 * added[name] if name in added else before[name].weight
        torch.testing.assert_close(layer.weight, expected, atol=1e-5, rtol=1e-5)
    assert "LoRA some.safetensors at 0.8:" in changed.notes[-1] and "layers of text_encoder" in changed.notes[-1]
    assert len(added) > 10


def test_a_lora_counts_in_what_a_model_is(family_folders, tmp_path):
    files, _ = lora_of(load_backbone(family_folders["sd15"]), "kohya")
    save_file(files, tmp_path / "one.safetensors")
    save_file({name: 2 * value for name, value in files.items()}, tmp_path / "two.safetensors")
    made = [with_lora(family_folders["sd15"], tmp_path / f"{name}.safetensors", scale, tmp_path / f"{name}-{scale}.yaml") for name, scale in CASES]
    known = [describe_models(load_profile(one)) for one in made]
    assert len({json.dumps(one["lora"], sort_keys=True) for one in known}) == 3 and "lora" not in describe_models(load_profile(family_folders["sd15"]))
    jobs = [Job(dataset="voc", root="pocket", profile=str(one), labels="image").facts()["models"] for one in made]
    assert len({json.dumps(one, sort_keys=True) for one in jobs}) == 3


CASES = [("one", 1.0), ("one", 0.5), ("two", 1.0)]


def test_a_lora_of_another_model_changes_nothing_and_is_named(family_folders, tmp_path):
    files, _ = lora_of(load_backbone(family_folders["sd15"]), "kohya")
    save_file(files, tmp_path / "some.safetensors")
    profile = with_lora(family_folders["sdxl"], tmp_path / "some.safetensors", 1.0, tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match=r"some.safetensors is of another model: \d+ of its layers do not fit, as lora_"):
        load_backbone(profile)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["lora_unet_x.hada_w1_a"], "is LoHa: expected a LoRA of lora_down and lora_up"),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight", "lora_unet_x.dora_scale"], "is DoRA"),
        (["lora_unet_x.lora_down.weight"], "is no LoRA: it holds lora_unet_x, where every layer"),
        (["encoder.conv_in.weight"], "is no LoRA: it holds encoder.conv_in.weight"),
    ],
)
def test_what_is_no_lora_is_named_before_anything_runs(pipeline_folder, tmp_path, keys, told, capsys):
    save_file({key: torch.zeros(2, 2) for key in keys}, tmp_path / "some.safetensors")
    profile = with_lora(pipeline_folder, tmp_path / "some.safetensors", 1.0, tmp_path / "mine.yaml")
    assert main(["check", "--profile", str(profile)]) == 1
    assert told in capsys.readouterr().out
    with pytest.raises(ValueError, match=told.split(":")[0]):
        load_backbone(profile)


def test_a_single_file_with_a_lora_segments_a_photo(single, tmp_path, picture, family_folders):
    files, _ = lora_of(load_backbone(family_folders["sd15"]), "kohya")
    save_file(files, tmp_path / "some.safetensors")
    settings = yaml.safe_load(single["sd15"].read_text())["settings"] | {"lora": [str(tmp_path / "some.safetensors"), 0.5]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"settings": settings}))
    Image.fromarray(picture).save(tmp_path / "photo.png")
    command = ["segment", str(tmp_path / "photo.png"), "--classes", "house", "--out", str(tmp_path / "out")]
    assert main([*command, "--profile", str(tmp_path / "mine.yaml")]) == 0
    notes = json.loads((tmp_path / "out" / "result.json").read_text())["notes"]
    assert any("single file" in note for note in notes) and any("LoRA some.safetensors at 0.5" in note for note in notes)


@pytest.mark.parametrize("value", ["path", ["path"], [1.0, "path"]])
def test_a_lora_is_a_path_and_a_scale(pipeline_folder, tmp_path, value):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"settings": {"source": str(pipeline_folder), "lora": value}}))
    with pytest.raises(ValueError, match=r"expected a list of a path and a number, \[path, scale\]"):
        load_profile(tmp_path / "mine.yaml")
