"""Weights as people have them: every form that is read gives the same numbers, and every defect is told in one sentence before anything is loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffseg_lib.cli.main import main
from diffseg_lib.evaluation.preflight import check_models, require
from diffseg_lib.loading import load_backbone
from diffseg_lib.profiles import Profile, is_hub_id, load_profile, split_revision
from diffseg_lib.support.identity import describe_model
from diffseg_lib.support.paths import data_dir, models_dir
from diffseg_lib.vision_language import Captioner, Clip, find_pretrained, load_pretrained

UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


@pytest.fixture
def tiny(pipeline_folder, tmp_path) -> Path:
    return Path(shutil.copytree(pipeline_folder, tmp_path / "tiny"))


@pytest.fixture
def clip(tmp_path) -> Path:
    return Path(shutil.copytree(models_dir() / "clip", tmp_path / "clip"))


def numbers(model) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def same(one, other) -> bool:
    a, b = numbers(one), numbers(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def whole(folder: Path) -> dict[str, Path]:
    """The safetensors of a pipeline, by part."""
    return {part: next((folder / part).glob("*.safetensors")) for part in ("unet", "vae", "text_encoder")}


def shard(path: Path, index: str, shards: str) -> None:
    """Cut a file into two, and write an index of that name; `shards` is the pattern of their names."""
    tensors = load_file(path)
    half, names = len(tensors) // 2, [shards.format(i) for i in (1, 2)]
    parts = [dict(list(tensors.items())[:half]), dict(list(tensors.items())[half:])]
    for name, part in zip(names, parts, strict=True):
        save_file(part, path.with_name(name))
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    path.with_name(index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    path.unlink()


def pickle(path: Path, **options) -> Path:
    """The same weights by ``torch.save``, under the name that its library gives them."""
    name = "pytorch_model.bin" if path.name == "model.safetensors" else "diffusion_pytorch_model.bin"
    torch.save(load_file(path), path.with_name(name), **options)
    path.unlink()
    return path.with_name(name)


def rewrite(path: Path, change) -> None:
    """A file's tensors by another dictionary of them."""
    tensors = change({name: one.clone() for name, one in load_file(path).items()})
    save_file(tensors, path)


# -- forms


@pytest.mark.parametrize("parts", [("unet", "vae", "text_encoder"), ("unet",)], ids=["whole", "some"])
def test_a_folder_of_a_variant_is_read_and_its_precision_said(pipeline_folder, tiny, parts):
    for part in parts:
        path = whole(tiny)[part]
        save_file({name: one.half() for name, one in load_file(path).items()}, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
        path.unlink()
    plain, found = load_backbone(pipeline_folder), load_backbone(tiny)
    assert torch.equal(found.unet.conv_in.weight, plain.unet.conv_in.weight.half().float())
    assert same(found.vae, plain.vae) == (parts == ("unet",))
    assert f"{', '.join(sorted(parts, key=['vae', 'unet', 'text_encoder'].index))} are stored in float16 and run in float32" in found.notes[-1]
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in describe_model(tiny)["weights"] and "weights" not in describe_model(pipeline_folder)
    assert not any("stored" in note for note in load_backbone(tiny, dtype=torch.float16).notes) or parts == ("unet",)


@pytest.mark.parametrize(
    ("index", "shards"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-0000{}-of-00002.safetensors"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors"),
        ("diffusion_pytorch_model.safetensors.fp16.index.json", "diffusion_pytorch_model-0000{}-of-00002.fp16.safetensors"),
        ("diffusion_pytorch_model.fp16.safetensors.index.json", "diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors"),
    ],
)
def test_shards_are_read_by_every_name_of_their_index(backbone, tiny, index, shards):
    shard(tiny / UNET, index, shards)
    assert same(load_backbone(tiny).unet, backbone.unet)
    (tiny / "unet" / shards.format(2)).unlink()
    with pytest.raises(FileNotFoundError, match=f"{shards.format(2)} is missing, of the 2 shards that {index} names"):
        load_backbone(tiny)


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_pickled_weights_are_read_as_tensors_said_and_can_be_forbidden(backbone, tiny, archive):
    before = describe_model(tiny)["content"]
    for path in whole(tiny).values():
        pickle(path, _use_new_zipfile_serialization=archive)
    found = load_backbone(tiny)
    assert same(found.unet, backbone.unet) and same(found.vae, backbone.vae) and same(found.text_encoder, backbone.text_encoder)
    assert [note for note in found.notes if "are pickled" in note and "unet" in note]
    told = describe_model(tiny)
    assert "text_encoder/pytorch_model.bin (pickled)" in told["weights"] and told["content"] != before
    torch.save({"a": torch.zeros(1)}, tiny / "unet" / "diffusion_pytorch_model.bin")
    assert describe_model(tiny)["content"] != told["content"]  # pickled weights count
    with pytest.raises(ValueError, match="is pickled, which the profile forbids"):
        load_backbone(Profile("tiny", str(tiny), pickled_weights=False))


def test_pickled_clip_is_read_and_a_profile_can_forbid_it(clip):
    plain = Clip.load()
    pickle(clip / "model.safetensors")
    assert same(Clip.load(clip).model, plain.model)
    profile = load_profile("pocket").with_models(clip=str(clip))
    assert "pickled (pytorch_model.bin)" in check_models(profile, ["clip"])[1].detail
    with pytest.raises(FileNotFoundError, match="CLIP: .* is pickled, which the profile forbids"):
        require(replace(profile, pickled_weights=False), "clip")


class Code:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_a_pickled_file_that_runs_code_is_refused_and_runs_none(tiny, tmp_path, archive):
    path = pickle(tiny / TEXT)
    torch.save({"a": torch.ones(1), "b": Code(tmp_path / "mark")}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"pytorch_model.bin holds more than tensors \(\w+.mkdir\).*refused"):
        load_backbone(tiny)
    assert not (tmp_path / "mark").exists()


def test_a_revision_may_have_slashes(tiny, tmp_path, monkeypatch):
    assert is_hub_id("a/b@refs/pr/2") and split_revision("a/b@refs/pr/2")[1]["revision"] == "refs/pr/2"
    assert not is_hub_id("a/b@refs/") and not is_hub_id("a/b/c")
    commit, top = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--a--b"
    (top / "refs" / "refs" / "pr").mkdir(parents=True)
    (top / "refs" / "refs" / "pr" / "2").write_text(commit)
    shutil.copytree(tiny, top / "snapshots" / commit)
    for module in ("", "_snapshot_download."):
        monkeypatch.setattr(f"huggingface_hub.{module}constants.HF_HUB_CACHE", str(tmp_path))
    assert load_backbone("a/b@refs/pr/2").max_tokens == 24
    [found] = check_models(load_profile("a/b@refs/pr/2"), ())
    assert (found.state, found.detail) == ("ready", "a/b@refs/pr/2") and describe_model("a/b@refs/pr/2")["revision"] == commit
    (top / "blobs").mkdir()
    (top / "blobs" / "ff.incomplete").write_bytes(b"12345")
    (top / "snapshots" / commit / UNET).unlink()
    [found] = check_models(load_profile("a/b@refs/pr/2"), ())
    assert found.state == "missing" and f"{UNET} is missing" in found.detail and "ff.incomplete, 5 bytes so far" in found.detail


# -- files that are not there yet


def pointer(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3438167540\n")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"1234")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def page(path: Path) -> None:
    path.write_text("\n<!doctype html><html>Sign in</html>")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(1000))


def another_format(path: Path) -> None:
    torch.save({"a": torch.ones(1)}, path)


def unfinished(path: Path) -> None:
    path.with_name(path.name + ".aria2").write_bytes(b"1")


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def pickled_and_cut(path: Path) -> None:
    cut(pickle(path))


def partial(path: Path) -> None:
    path.rename(path.with_name(path.name + ".part"))


DEFECTS = [
    (pointer, "is a git-lfs pointer: [0-9,]+ bytes found, 3,438,167,540 expected; run git lfs pull"),
    (cut, "is cut off: [0-9,]+ bytes found, [0-9,]+ expected by its header"),
    (cut_in_the_header, "is cut off: 50 bytes found, more than [0-9,]+ expected"),
    (longer, "is longer than it says: [0-9,]+ bytes found, [0-9,]+ expected"),
    (empty, "is empty: 0 bytes found"),
    (page, r"is a page \(HTML or XML\) of 36 bytes"),
    (zeros, "is no file of safetensors .1,000 bytes found"),
    (another_format, "is no file of safetensors"),
    (unfinished, "is still being fetched"),
    (dangling, "is missing .a link that leads nowhere"),
    (pickled_and_cut, r"\.bin is cut off: [0-9,]+ bytes found, more expected"),
    (partial, "is missing.*a download was interrupted: .*.part, [0-9,]+ bytes so far"),
]


@pytest.mark.parametrize(("plant", "said"), DEFECTS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_file_that_is_not_there_in_whole_is_told_by_loader_and_check_alike(tiny, clip, plant, said, capsys):
    for folder, file, load in ((tiny, UNET, load_backbone), (tiny, TEXT, load_backbone), (clip, "model.safetensors", Clip.load)):
        kept = (folder / file).read_bytes()
        plant(folder / file)
        with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){Path(file).stem}.*{said}") as error:
            load(folder)
        profile = load_profile(tiny) if folder == tiny else load_profile("pocket").with_models(clip=str(clip))
        found = check_models(profile, ["clip"] if folder == clip else [])[-1]
        assert found.pending and found.detail == str(error.value) and re.search(said, found.detail)
        for other in (folder / file).parent.glob(f"{Path(file).stem}*"):
            other.unlink()
        for other in (folder / file).parent.glob("*.bin"):
            other.unlink()
        (folder / file).write_bytes(kept)
    assert main(["check", "--profile", str(tiny), "--captioner", "pocket", "--clip", str(clip)]) == 0
    plant(clip / "model.safetensors")
    assert main(["check", "--profile", str(tiny), "--captioner", "pocket", "--clip", str(clip)]) == 1


# -- weights that do not fit


def test_keys_that_are_missing_foreign_or_of_another_shape_are_counted_and_some_named(tiny):
    def change(tensors):
        for name in [one for one in tensors if "to_q" in one][:5]:
            tensors[f"{name}.lora"] = tensors.pop(name)
        return tensors | {"conv_in.weight": torch.zeros(8, 9, 3, 3)}

    rewrite(tiny / UNET, change)
    with pytest.raises(ValueError, match=r"the weights of unet .*: 5 are missing \((\S+, ){3}\.\.\.\); 5 are foreign \(.*; 1 is of another shape") as error:
        load_backbone(tiny)
    assert "conv_in.weight is 8 x 9 x 3 x 3, expected 8 x 4 x 3 x 3" in str(error.value)
    assert check_models(load_profile(tiny), ())[0].detail == str(error.value)


@pytest.mark.parametrize("half", ["text_model", "vision_model"])
def test_half_a_clip_is_refused(clip, half):
    rewrite(clip / "model.safetensors", lambda tensors: {name: one for name, one in tensors.items() if not name.startswith(half)})
    with pytest.raises(ValueError, match=f"do not fit its config.json, a CLIPModel: [0-9]+ are missing \\({half}"):
        Clip.load(clip)


def test_another_models_weights_are_refused_by_type():
    with pytest.raises(ValueError, match="config.json is of a model of type 'clip': expected blip"):
        Captioner.load(models_dir() / "clip")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_the_prefix_of_a_wrapper_is_taken_off_and_said(backbone, tiny, clip, tmp_path, prefix):
    for path in (*whole(tiny).values(), clip / "model.safetensors"):
        rewrite(path, lambda tensors: {prefix + name: one for name, one in tensors.items()})
    found = load_backbone(tiny)
    assert same(found.unet, backbone.unet) and same(found.vae, backbone.vae) and same(found.text_encoder, backbone.text_encoder)
    assert any("unet's weights begin with" in note and "taken off" in note for note in found.notes)
    photo, out = str(data_dir() / "pocket" / "samples" / "house-fish-umbrella.jpg"), tmp_path / "out"
    assert main(["segment", photo, "--profile", str(tiny), "--classes", "house", "--out", str(out)]) == 0
    assert set(found.notes) <= set(json.loads((out / "result.json").read_text())["notes"])
    assert same(Clip.load(clip).model, Clip.load().model) and "taken off" in find_pretrained("clip", clip)[2][0]


def test_earlier_names_of_an_autoencoders_attention_are_read(tiny):
    """As Stable Diffusion 1.x is published: the attention of its autoencoder has other names."""
    from diffusers import AutoencoderKL

    config = json.loads((tiny / "vae" / "config.json").read_text()) | {"mid_block_add_attention": True}
    made = AutoencoderKL.from_config(config)
    made.save_pretrained(tiny / "vae")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def earlier(tensors):
        for now, then in names.items():
            tensors = {name.replace(now, then): one for name, one in tensors.items()}
        return tensors

    rewrite(tiny / "vae" / "diffusion_pytorch_model.safetensors", earlier)
    assert same(load_backbone(tiny).vae, made)


def test_what_stands_beside_a_parts_weights_is_no_fault(backbone, tiny, tmp_path):
    from transformers import BlipForConditionalGeneration, CLIPConfig, CLIPModel, ResNetConfig, ResNetForImageClassification

    text = backbone.text_encoder
    config = CLIPConfig(text_config=text.config.to_dict(), vision_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 16})
    model = CLIPModel(config)
    model.text_model.load_state_dict(text.state_dict())
    shutil.rmtree(tiny / "text_encoder")
    model.save_pretrained(tiny / "text_encoder")  # a whole CLIP in the place of its text encoder
    rewrite(tiny / TEXT, lambda tensors: tensors | {"text_model.embeddings.position_ids": torch.arange(24)[None]})
    assert same(load_backbone(tiny).text_encoder, text)
    blip = Path(shutil.copytree(models_dir() / "blip", tmp_path / "blip"))
    rewrite(blip / "model.safetensors", lambda tensors: tensors | {"itm_head.weight": torch.zeros(2, 2), "vision_proj.bias": torch.zeros(2)})
    assert same(load_pretrained("captioner", blip)[0], BlipForConditionalGeneration.from_pretrained(models_dir() / "blip"))
    from diffseg_lib.weights.parts import find_part

    trained = ResNetForImageClassification(ResNetConfig(embedding_size=4, hidden_sizes=[4, 4, 4, 4], depths=[1, 1, 1, 1]))
    trained.save_pretrained(tmp_path / "resnet")
    assert same(find_part("resnet", tmp_path / "resnet").load(torch.float32), trained.resnet)


def test_parts_of_different_models_are_refused(family_folders, tiny, tmp_path):
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(tiny / part)
        shutil.copytree(family_folders["sd21"] / part, tiny / part)
    with pytest.raises(ValueError, match="the text encoder makes 24 numbers a token, the UNet reads 16"):
        load_backbone(tiny)
    copy = Path(shutil.copytree(family_folders["sdxl"], tmp_path / "xl"))
    path = copy / "text_encoder_2" / "config.json"
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    CLIPTextModelWithProjection(CLIPTextConfig(**json.loads(path.read_text()) | {"projection_dim": 8})).save_pretrained(copy / "text_encoder_2")
    with pytest.raises(ValueError, match="the second text encoder and the sizes make 56 numbers, the UNet reads 68"):
        load_backbone(copy)


def test_a_network_starts_from_no_resnet_but_its_own(tmp_path):
    from transformers import ResNetConfig, ResNetModel

    from diffseg_lib.applications.deeplab import NETS, _initial

    ResNetModel(ResNetConfig(**NETS["small"])).save_pretrained(tmp_path / "own")
    assert _initial(str(tmp_path / "own"), NETS["small"]).notes == ()
    with pytest.raises(ValueError, match="is not the network's .*layer_type basic, not bottleneck"):
        _initial(str(tmp_path / "own"), NETS["101"])
    rewrite(tmp_path / "own" / "model.safetensors", lambda tensors: {f"layer{name}": one for name, one in tensors.items()})
    with pytest.raises(ValueError, match="do not fit its config.json, a ResNetModel"):  # which would have begun at random
        _initial(str(tmp_path / "own"), NETS["small"])


# -- facts that a folder leaves out


def leave_out(path: Path, *keys: str) -> None:
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in keys}))


def test_facts_that_a_folder_leaves_out_come_from_its_other_files(backbone, tiny):
    (tiny / "tokenizer" / "tokenizer_config.json").unlink()
    leave_out(tiny / "unet" / "config.json", "sample_size", "in_channels")
    leave_out(tiny / "scheduler" / "scheduler_config.json", "prediction_type", "num_train_timesteps")
    leave_out(tiny / "vae" / "config.json", "scaling_factor")
    (tiny / "vae" / "config.json").write_text(json.dumps(json.loads((tiny / "vae" / "config.json").read_text()) | {"sample_size": 64}))
    found = load_backbone(tiny)
    assert (found.max_tokens, found.size, found.prediction) == (24, 64, "epsilon") and found.vae.config.scaling_factor == 0.18215
    assert torch.equal(found.alphas_cumprod, backbone.alphas_cumprod)
    told = " ".join(found.notes)
    assert "24 tokens" in told and "64 px" in told and "epsilon" in told
    leave_out(tiny / "vae" / "config.json", "sample_size")
    with pytest.raises(ValueError, match="does not say sample_size.*give the profile a size"):
        load_backbone(tiny)
    assert load_backbone(Profile("tiny", str(tiny), size=96)).size == 96
    leave_out(tiny / "scheduler" / "scheduler_config.json", "beta_schedule")
    with pytest.raises(ValueError, match="does not say beta_schedule: write them into it"):
        load_backbone(tiny)


def test_a_large_model_without_its_factor_and_a_second_one_without_its_prediction_are_asked_for_it(family_folders, tmp_path):
    from diffseg_lib.weights.pipelines import _schedule

    copy = Path(shutil.copytree(family_folders["sdxl"], tmp_path / "xl"))
    leave_out(copy / "vae" / "config.json", "scaling_factor")
    with pytest.raises(ValueError, match="does not say scaling_factor"):
        load_backbone(copy)
    leave_out(copy / "scheduler" / "scheduler_config.json", "prediction_type")
    with pytest.raises(ValueError, match="does not say prediction_type, in which models of this kind differ"):
        _schedule(copy, {"cross_attention_dim": 1024})


@pytest.mark.parametrize(("kind", "name"), [("clip", "clip"), ("captioner", "blip")])
def test_a_processor_that_is_left_out_comes_from_the_model(kind, name, tmp_path):
    copy = Path(shutil.copytree(models_dir() / name, tmp_path / name))
    (copy / "processor_config.json").unlink()
    part, processor, notes = find_pretrained(kind, copy)
    side = part.config.vision_config.image_size
    pixels = torch.randint(0, 255, (3, 50, 80), dtype=torch.uint8)
    assert processor.image_processor(images=[pixels], return_tensors="pt").pixel_values.shape == (1, 3, side, side)
    assert f"no settings of its pictures: {side} px" in notes[0]
    (copy / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}, "do_center_crop": False}))
    with pytest.raises(ValueError, match=f"makes pictures of 32 px, the model in .* reads {side}"):
        find_pretrained(kind, copy)
