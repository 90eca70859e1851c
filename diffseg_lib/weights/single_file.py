"""A whole model in one file, in the key layout of the original code: Stable Diffusion 1.x, 2.x and XL, by diffusers' own single-file loading.

Such a file holds weights alone. Settings and tokenizers come from a folder that the profile names as ``config``, or, for 1.x and XL, whose settings are one
for all of their kind, from here and from the CLIP beside the model, which has the same vocabulary. Nothing is fetched.
"""

from __future__ import annotations

import inspect
import json
import shutil
import struct
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..support.paths import PICKLED

VOCABULARY = 49408  # tokens of CLIP, which all of them read
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_IN = f"{_UNET}input_blocks.0.0.weight"
# Where the text encoders' keys begin, by what the model is.
_TEXT = {"1.x": ("cond_stage_model.transformer.",), "2.x": ("cond_stage_model.model.",), "XL": ("conditioner.embedders.0.", "conditioner.embedders.1.")}
_AUTOENCODER: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_CLIP_L: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768}
# Settings by what the model is, beside the libraries' defaults. Of 2.x there are none: some of them predict noise and some v, which no file says.
SETTINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "1.x": {
        "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        "vae": _AUTOENCODER,
        "text_encoder": _CLIP_L,
    },
    "XL": {
        "unet": {
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": _AUTOENCODER | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text_encoder": _CLIP_L,
        "text_encoder_2": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
            "hidden_act": "gelu",
        },
    },
}
_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
_CLASSES = {"unet": ("diffusers", "UNet2DConditionModel"), "vae": ("diffusers", "AutoencoderKL"), "text_encoder": ("transformers", "CLIPTextModel")}
_SECOND = {"text_encoder_2": ("transformers", "CLIPTextModelWithProjection")}


def read_header(path: Path) -> dict[str, Any]:
    """Names of the tensors in a file of safetensors, each with its ``dtype`` and ``shape``; no weight is read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another format or cut off.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a file of weights in safetensors")
    if path.suffix in PICKLED:
        raise ValueError(f"{path} is a file that can hold code, which is not read: expected the same model as .safetensors, which its authors mostly have too")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        try:
            held = json.loads(file.read(length)) if 0 < length <= size - 8 else None
        except ValueError:
            held = None
    if not isinstance(held, dict):
        raise ValueError(f"{path} ({size} bytes) is no file of safetensors, or the rest of it is missing: fetch it again")
    tensors = {name: one for name, one in held.items() if name != "__metadata__"}
    wanted = 8 + length + max((one["data_offsets"][1] for one in tensors.values()), default=0)
    if size != wanted:
        raise ValueError(f"{path} has {size} bytes: expected {wanted}, as its own header says; fetch it again")
    return tensors


def kind_of(keys: Mapping[str, Any]) -> str:
    """What a single file holds: "1.x", "2.x" or "XL".

    Args:
        keys: Names of its tensors, with their shapes, as :func:`read_header` gives them.

    Raises:
        ValueError: If it is no whole model of these; the message says what it is.
    """
    if told := _foreign(keys):
        raise ValueError(f"it is {told}: expected a whole model of Stable Diffusion 1.x, 2.x or XL in one file (UNet, autoencoder and text encoder)")
    channels = keys[_IN]["shape"][1]
    if channels != 4:
        kind = {9: "for inpainting", 8: "for editing by instructions", 7: "an upscaler", 5: "for maps of depths"}.get(channels, "of another kind")
        raise ValueError(f"its UNet reads {channels} channels, so the model is {kind}, which is not supported")
    if "edm_mean" in keys:
        raise ValueError("its UNet scales its input by the level of noise (edm_mean, as Playground 2.5), which is not supported")
    found = [kind for kind, starts in _TEXT.items() if all(any(key.startswith(start) for key in keys) for start in starts)]
    lacking = [what for what, there in (("text encoder", found), ("autoencoder", any(key.startswith(_VAE) for key in keys))) if not there]
    if lacking and any(key.startswith("conditioner.embedders.0.model.") for key in keys):
        raise ValueError("it is the refiner of Stable Diffusion XL, which has the second text encoder alone, and is not supported")
    if lacking:
        raise ValueError(f"it has a UNet but no {' and no '.join(lacking)}: expected a whole model in one file, or give the folder of a pipeline")
    return found[0]


def _foreign(keys: Collection[str]) -> str:
    """What a file is that has no UNet of the original layout; "" where it has one."""
    if _IN in keys:
        return ""
    start = {key.split(".")[0] for key in keys}
    if any("lora" in key or ".hada_" in key or ".lokr_" in key for key in keys):
        return "a LoRA, which changes a model and is none (name it as `lora: [path, scale]` in the profile of the model it is for)"
    if any(key.startswith(("control_model.", "controlnet_", "input_hint_block.")) for key in keys):
        return "a ControlNet"
    if any("joint_blocks." in key or "double_blocks." in key or "transformer_blocks.0.norm1_context" in key for key in keys):
        return "a transformer (Stable Diffusion 3, Flux or the like)"
    if any(key.startswith(("down_blocks.", "input_blocks.")) for key in keys):
        return "a UNet alone"
    if start <= {"encoder", "decoder", "quant_conv", "post_quant_conv", "first_stage_model", "loss", "model_ema"}:
        return "an autoencoder (VAE) alone"
    if start & {"text_model", "text_projection", "vision_model", "visual", "transformer"}:
        return "a text encoder or a CLIP alone"
    if len(start) <= 4 and start & {"emb_params", "clip_l", "clip_g", "string_to_param"}:
        return "an embedding of textual inversion"
    return f"no diffusion model that is known here (its first tensors are {', '.join(sorted(keys)[:3])})"


def defaults_of(cls: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a part of diffusers with the library's defaults in place of those left out."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty} | dict(settings)


@dataclass
class _Whole:
    """The models of a file, loaded once for one precision."""

    load: Any
    held: dict[torch.dtype, Any] = field(default_factory=dict)

    def __call__(self, dtype: torch.dtype) -> Any:
        if dtype not in self.held:
            self.held.clear()
            self.held[dtype] = self.load(dtype)
        return self.held[dtype]


@dataclass(frozen=True)
class _Part:
    name: str
    whole: _Whole

    def load(self, dtype: torch.dtype) -> Any:
        """The model, in a precision, in evaluation mode."""
        return getattr(self.whole(dtype), self.name).requires_grad_(False).eval()


@dataclass(frozen=True)
class SingleFile:
    """A model in one file that was looked at; no weight is loaded.

    Args:
        kind: Kind of it: "1.x", "2.x" or "XL".
        parts: Parts by their names, each with a method ``load`` from a precision to the model.
        tokenizers: Tokenizers by their names.
        scheduler: Settings of the schedule of noise.
        unet: Settings of the UNet.
        notes: Sentences on where its settings are from.
    """

    kind: str
    parts: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    unet: Mapping[str, Any]
    notes: tuple[str, ...]

    def said(self, dtype: torch.dtype) -> tuple[str, ...]:
        """The notes; a precision is never unusual here."""
        return self.notes


def find_single_file(source: str, config: Path | None, clip: Path | None) -> SingleFile:
    """Look at a file: what it is, whether it is whole, and whether settings and tokenizers for it are on this machine.

    Args:
        source: Path of the file.
        config: Folder of a pipeline of the same kind, of which settings and tokenizers are read, and no weights; None where the profile names none.
        clip: Folder of the CLIP beside the model, for its tokenizer; None where it is not on this machine.

    Raises:
        FileNotFoundError: If the file, or the settings and tokenizers, are missing.
        ValueError: If it is no model of a known kind, or damaged.
    """
    path = Path(source)
    header = read_header(path)
    try:
        kind = kind_of(header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    settings, schedule, tokenizers = _of_folder(path, kind, config) if config is not None else _built_in(path, kind, header, clip)
    _fit(path, header, settings)
    origin = f"the folder {config.name}" if config is not None else f"what all models of Stable Diffusion {kind} share, its tokenizer of the CLIP beside it"
    stored = sorted({one["dtype"] for key, one in header.items() if key.startswith(_UNET)})
    notes = (f"{path.name} is a single file of Stable Diffusion {kind} ({', '.join(stored)}): its settings are those of {origin}",)
    whole = _Whole(lambda dtype: _load(path, kind, settings, schedule, tokenizers, dtype))
    return SingleFile(kind, {name: _Part(name, whole) for name in _classes(kind)}, tokenizers, schedule, settings["unet"], notes)


def _fit(path: Path, header: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Hold the names and shapes in a file against what its settings make, before a weight is read.

    Raises:
        ValueError: If weights are missing, foreign or of other shapes; three are named.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    found: dict[str, tuple[int, ...]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        named = {key: torch.empty(one["shape"]) for key, one in header.items() if key.startswith((_UNET, _VAE))}
        for part, convert in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
            try:
                found |= {f"{part}.{key}": tuple(one.shape) for key, one in convert(dict(named), settings[part]).items()}
            except KeyError as error:
                raise ValueError(f"{path} lacks the weight {error} of its {part}: expected a whole model; fetch it again, or name its `config`") from error
            model = _class(_CLASSES[part]).from_config(dict(settings[part]))
            expected |= {f"{part}.{key}": tuple(one.shape) for key, one in model.state_dict().items()}
    missing, foreign = [key for key in expected if key not in found], [key for key in found if key not in expected]
    other = [f"{key} {found[key]} for {expected[key]}" for key in expected if found.get(key, expected[key]) != expected[key]]
    faults = (("lacks weights", missing), ("has weights that its settings do not make", foreign), ("has weights of another shape", other))
    if told := [f"{how} ({len(keys)}, as {', '.join(keys[:3])})" for how, keys in faults if keys]:
        raise ValueError(f"{path} {' and '.join(told)}: expected a whole model of its kind; fetch it again, or name a `config` like it in the profile")


def _classes(kind: str) -> dict[str, tuple[str, str]]:
    found = {name: _CLASSES[name] for name in ("vae", "unet", "text_encoder")}
    return found | (_SECOND if kind == "XL" else {})


def _class(name: tuple[str, str]) -> Any:
    import importlib

    return getattr(importlib.import_module(name[0]), name[1])


def _of_folder(path: Path, kind: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings and tokenizers out of a pipeline's folder."""
    names = [*_classes(kind), "scheduler"]
    files = {name: folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json") for name in names}
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in names if name.startswith("text_encoder")]
    lacking = [str(one) for one in files.values() if not one.is_file()] + [str(folder / name) for name in tokenizers if not (folder / name).is_dir()]
    if lacking:
        raise FileNotFoundError(
            f"{lacking[0]} is missing: {path.name} holds Stable Diffusion {kind}, so `config` in the profile has to be the folder of a pipeline of that kind"
        )
    held = {name: json.loads(one.read_text(encoding="utf-8")) for name, one in files.items()}
    for name in ("vae", "unet"):
        held[name] = defaults_of(_class(_CLASSES[name]), held[name])
    return held, held.pop("scheduler"), {name: _tokenizer(folder / name) for name in tokenizers}


def _built_in(path: Path, kind: str, header: Collection[str], clip: Path | None) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings that all models of a kind share, and the vocabulary of CLIP."""
    if kind not in SETTINGS:
        raise FileNotFoundError(
            f"{path.name} holds Stable Diffusion {kind}, whose models differ in what they predict (noise at 512 px, v at 768 px), and the file does not say: "
            "name the folder of a pipeline like it as `config` in the profile"
        )
    if clip is None:
        raise FileNotFoundError(f"{path.name} holds no tokenizer: name the folder of a pipeline like it as the profile's `config`, or fetch its CLIP")
    held = {name: dict(one) for name, one in SETTINGS[kind].items()}
    for name in ("vae", "unet"):
        held[name] = defaults_of(_class(_CLASSES[name]), held[name])
    tokenizers = {"tokenizer": _tokenizer(clip)} | ({"tokenizer_2": _tokenizer(clip)} if kind == "XL" else {})
    if len(tokenizers["tokenizer"]) != VOCABULARY:
        raise ValueError(
            f"{path.name} holds no tokenizer, and that of {clip} knows {len(tokenizers['tokenizer'])} tokens: expected CLIP's {VOCABULARY}; "
            "name the folder of a pipeline like it as `config` in the profile"
        )
    if kind == "XL":
        tokenizers["tokenizer_2"].pad_token = "!"  # what the second encoder was trained with
    schedule = dict(_SCHEDULE) | ({"prediction_type": "v_prediction"} if "v_pred" in header else {})
    return held, schedule | ({"rescale_betas_zero_snr": True} if "ztsnr" in header else {}), tokenizers


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _load(path: Path, kind: str, settings: Mapping[str, Any], schedule: Mapping[str, Any], tokenizers: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """The whole pipeline, by diffusers' single-file loading with a folder of settings that is written for it.

    Raises:
        ValueError: If weights are missing in the file, or are of other shapes than the settings say.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.utils import logging

    pipeline = StableDiffusionXLPipeline if kind == "XL" else StableDiffusionPipeline
    places: dict[str, Any] = {name: list(one) for name, one in _classes(kind).items()} | {name: ["transformers", "CLIPTokenizer"] for name in tokenizers}
    places |= {"scheduler": ["diffusers", "DDIMScheduler"], "_class_name": pipeline.__name__, "_diffusers_version": "0.0.0"}
    folder = Path(tempfile.mkdtemp(prefix="diffseg-settings-"))
    logging.disable_progress_bar()
    try:
        (folder / "model_index.json").write_text(json.dumps(places))
        for name in _classes(kind):
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps(dict(settings[name])))
        given = dict(tokenizers) | {"scheduler": DDIMScheduler.from_config(dict(schedule))}
        given |= {"add_watermarker": False} if kind == "XL" else {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None}
        whole = pipeline.from_single_file(str(path), config=str(folder), local_files_only=True, **given)
    except (ValueError, KeyError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} does not fit the settings that it is read by ({said}): name the folder of a pipeline like it as `config`") from error
    finally:
        logging.enable_progress_bar()
        shutil.rmtree(folder, ignore_errors=True)
    empty = [f"{name}.{key}" for name in _classes(kind) for key, one in getattr(whole, name).state_dict().items() if one.is_meta]
    if empty:
        raise ValueError(f"{path} lacks {len(empty)} weights, as {', '.join(empty[:3])}: expected a whole model; fetch it again, or name its `config`")
    for name in _classes(kind):
        getattr(whole, name).to(dtype)
    return whole
