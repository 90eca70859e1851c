"""Loading a diffusion model: its family found by what it is, its files checked, nothing downloaded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .attention import attention_layers
from .backbone import Backbone
from .optimizations import stride_of
from .profiles import PAPER_WEIGHTS, Profile, is_hub_id, load_profile, local_folder, split_revision
from .support.identity import model_source
from .support.paths import is_single_file
from .weights.look_alikes import present_weights, refuse_look_alikes, settings_notes
from .weights.lora import apply_lora
from .weights.single_file import SingleFile, find_single_file

PREDICTIONS = ("epsilon", "v_prediction")
_FILES = {  # of a pipeline's folder; any of the names will do
    "vae": (("config.json",), ("diffusion_pytorch_model.safetensors",)),
    "unet": (("config.json",), ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")),
    "text_encoder": (("config.json",), ("model.safetensors", "model.safetensors.index.json")),
    "tokenizer": (("tokenizer.json", "vocab.json"),),
    "scheduler": (("scheduler_config.json",),),
}


@dataclass(frozen=True)
class Family:
    """A kind of model: what it is called, how its UNet's settings tell it, whether it has a second text encoder, its adapter, and weights for fusion."""

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    second: bool
    make: Callable[[], type[Backbone]]
    weights: Mapping[int, float]
    told: str  # where the weights are from


def _sdxl() -> type[Backbone]:
    from .sdxl import SdxlBackbone

    return SdxlBackbone


FAMILIES = (
    Family(
        "Stable Diffusion 1.x and 2.x (text_encoder, unet without added conditioning)",
        lambda config: config.get("addition_embed_type") is None and config.get("encoder_hid_dim_type") is None and config["in_channels"] == 4,
        False,
        lambda: Backbone,
        PAPER_WEIGHTS,
        "the paper's values",
    ),
    Family(
        "Stable Diffusion XL (text_encoder and text_encoder_2, unet with text_time conditioning)",
        lambda config: config.get("addition_embed_type") == "text_time" and config.get("cross_attention_dim") is not None and config["in_channels"] == 4,
        True,
        _sdxl,
        {4: 0.5, 2: 0.5},
        "equal weights of the two resolutions at which it attends: not tuned, the paper has no SDXL",
    ),
)


def check_folder(folder: Path) -> None:
    """Check that a pipeline's folder has its files.

    Raises:
        FileNotFoundError: If one is missing; it is named.
        ValueError: On a model of another architecture.
    """
    other = [name for name in ("transformer", "prior", "decoder") if (folder / name).is_dir()]
    if other and not (folder / "unet").is_dir():
        config = folder / other[0] / "config.json"
        kind = json.loads(config.read_text()).get("_class_name", other[0]) if config.is_file() else other[0]
        raise ValueError(f"{folder} holds a {kind}, which is not supported: expected {_supported()}")
    refuse_look_alikes(folder, _supported())
    second = {f"{part}_2": wanted for part, wanted in _FILES.items() if part in ("text_encoder", "tokenizer") and (folder / f"{part}_2").is_dir()}
    for part, wanted in (_FILES | second).items():
        for names in wanted:
            if not any((folder / part / name).is_file() for name in names):
                raise FileNotFoundError(
                    f"{folder / part / names[0]} is missing: expected a StableDiffusionPipeline's folder as save_pretrained writes it, "
                    "in safetensors; the pocket one comes with the repository (restore data/pocket/models, or set DIFFSEG_DATA)"
                )


def check_file(profile: Profile) -> SingleFile:
    """Look at a profile's single file, with the settings and tokenizers that it is read by; no weight is loaded.

    Raises:
        FileNotFoundError, ValueError: As of :func:`~diffseg_lib.weights.single_file.find_single_file`.
    """
    clip, config = local_folder(model_source(profile.clip, "clip")), local_folder(profile.config) if profile.config else None
    if profile.config and (config is None or not config.is_dir()):
        raise FileNotFoundError(f"config {profile.config!r} is not on this machine: expected the folder of a pipeline, or a hub id that was fetched")
    return find_single_file(profile.source, config, clip if clip is not None and clip.is_dir() else None)


def _supported() -> str:
    return "; or ".join(family.name for family in FAMILIES)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a UNet by its settings.

    Raises:
        ValueError: If it is none that is supported; the message says what was found.
    """
    for family in FAMILIES:
        if family.fits(config):
            return family
    keys = ("_class_name", "in_channels", "cross_attention_dim", "addition_embed_type", "encoder_hid_dim_type")
    found = ", ".join(f"{key} {config.get(key)!r}" for key in keys)
    raise ValueError(f"a UNet with {found} is not supported: expected {_supported()}")


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the bars of progress and the advice that the model libraries give each other; both print in every notebook."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="huggingface_hub")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def offload(models: Sequence[Any], device: str) -> None:
    """Keep models in main memory, by accelerate's hooks; the one that is called visits `device`, alone."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Visit(ModelHook):
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
            for other in models:
                if other is not module:
                    other.to("cpu")
            module.to(device)
            return args, kwargs

    for model in models:
        add_hook_to_module(model, Visit())


def load_backbone(profile: str | Path | Profile = "pocket", *, device: str = "cpu", dtype: torch.dtype = torch.float32, offloaded: bool = False) -> Backbone:
    """Load a profile's model, weights from safetensors only, nothing downloaded.

    Args:
        profile: Profile: "pocket", "sd15", a YAML file, a hub id, the folder of a ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``, a
            single file of one, or a :class:`~diffseg_lib.profiles.Profile`.
        device: Device that it runs on: "cpu", "cuda" and so on.
        dtype: Precision of weights and activations; float32 on the CPU.
        offloaded: Whether models wait in main memory and visit `device` one at a time: slower, and the card need only hold the largest.

    Raises:
        ValueError: On an unknown profile, a model that is none of :data:`FAMILIES`, or nothing to offload from.
        FileNotFoundError: If a part of the model is missing; the message names it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # in a notebook without widgets
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    from safetensors import SafetensorError

    found = profile if isinstance(profile, Profile) else load_profile(profile)
    if offloaded and torch.device(device).type == "cpu":
        raise ValueError(f"device {device!r}: models are offloaded from a GPU to main memory; name one, as in --device cuda, or leave --offload away")
    single = check_file(found) if is_single_file(found.source) else None
    if not single and not is_hub_id(found.source):
        check_folder(Path(found.source))
    source, where = split_revision(found.source)
    safe = where | {"use_safetensors": True}
    try:
        with quietly():
            if single:
                family, scheduler = family_of(single.unet), DDIMScheduler.from_config(dict(single.scheduler))
                vae, unet, text, *second = (part.load(dtype) for part in single.parts.values())
                tokenizer, *tokenizer_2 = single.tokenizers.values()
                more = {"text_encoder_2": second[0], "tokenizer_2": tokenizer_2[0]} if family.second else {}
            else:
                family = family_of(UNet2DConditionModel.load_config(source, subfolder="unet", **where))
                scheduler = DDIMScheduler.from_pretrained(source, subfolder="scheduler", **where)
                vae = AutoencoderKL.from_pretrained(source, subfolder="vae", torch_dtype=dtype, **safe)
                unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", torch_dtype=dtype, **safe)
                text = CLIPTextModel.from_pretrained(source, subfolder="text_encoder", dtype=dtype, **safe)
                tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", **where)
                more = {}
                if family.second:
                    more["text_encoder_2"] = CLIPTextModelWithProjection.from_pretrained(source, subfolder="text_encoder_2", dtype=dtype, **safe)
                    more["tokenizer_2"] = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer_2", **where)
    except SafetensorError as error:
        raise ValueError(f"a weight file of profile {found.name!r} ({found.source}) is damaged ({error}): restore it") from error
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of profile {found.name!r} ({found.source}) are not on this machine: "
            "download them once with diffusers, online, or give the folder they are in as the profile"
        ) from error
    prediction = scheduler.config.prediction_type
    if prediction not in PREDICTIONS:
        raise ValueError(f"{found.source} predicts {prediction!r}: expected {' or '.join(PREDICTIONS)}")
    if family.second and dtype == torch.float16 and vae.config.force_upcast:
        vae = vae.float()  # its activations overflow in half precision
    encoders = {"text_encoder": text} | ({"text_encoder_2": more["text_encoder_2"]} if more else {})
    lora = (apply_lora(*found.lora, {"unet": unet} | encoders),) if found.lora else ()
    models = [vae, unet, text, *([more["text_encoder_2"]] if more else [])]
    for model in models:
        model.requires_grad_(False).eval().to("cpu" if offloaded else device)
    if offloaded:
        offload(models, device)
    if found.weights == PAPER_WEIGHTS != family.weights:
        found = replace(found, weights=dict(family.weights), chosen_on=family.told)
    levels = len(unet.config.block_out_channels)
    weights, notes = present_weights(found.weights, {stride_of(name, levels) for name in attention_layers(unet) if name.endswith("attn2")})
    found, notes = replace(found, weights=weights), (*settings_notes(unet.config), *(single.said(dtype) if single else ()), *notes, *lora)
    schedule = scheduler.alphas_cumprod.float()
    return family.make()(found, vae, text, tokenizer, unet, schedule, prediction, device if offloaded else "", notes=notes, **more)
