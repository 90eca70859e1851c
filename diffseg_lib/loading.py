"""Loading a diffusion model: its family found by what it is, its files checked, nothing downloaded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .attention import attention_layers
from .backbone import Backbone
from .dit.calls import Calls
from .dit.families import TRANSFORMERS
from .optimizations import stride_of
from .profiles import PAPER_WEIGHTS, Profile, load_profile, local_folder
from .support.identity import model_source
from .support.paths import is_single_file
from .weights.look_alikes import present_weights, refuse_look_alikes, settings_notes
from .weights.lora import apply_lora, read_lora
from .weights.parts import read_config
from .weights.pipelines import PREDICTIONS, Pipeline, find_pipeline, with_defaults
from .weights.single_file import SingleFile, find_single_file
from .weights.transformer_folders import find_transformer


@dataclass(frozen=True)
class Family:
    """A kind of model: what it is called, how its UNet's settings tell it, whether beside a UNet is a second text encoder, its adapter, and weights for fusion.

    Of a transformer ``calls`` says how it is called, and the weights are of its blocks; without any all blocks weigh the same.
    """

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    second: bool
    make: Callable[[], type[Backbone]]
    weights: Mapping[int, float]
    told: str  # where the weights are from
    calls: Callable[..., Calls] | None = None


def _sdxl() -> type[Backbone]:
    from .sdxl import SdxlBackbone

    return SdxlBackbone


def _transformer() -> type[Backbone]:
    from .transformer import TransformerBackbone

    return TransformerBackbone


def _is_unet(config: Mapping[str, Any]) -> bool:
    return config.get("_class_name", "UNet2DConditionModel") == "UNet2DConditionModel" and config["in_channels"] == 4


def _made_of(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: config.get("_class_name") == name


FAMILIES = (
    Family(
        "Stable Diffusion 1.x and 2.x (text_encoder, unet without added conditioning)",
        lambda config: _is_unet(config) and config.get("addition_embed_type") is None and config.get("encoder_hid_dim_type") is None,
        False,
        lambda: Backbone,
        PAPER_WEIGHTS,
        "the paper's values",
    ),
    Family(
        "Stable Diffusion XL (text_encoder and text_encoder_2, unet with text_time conditioning)",
        lambda config: (
            _is_unet(config)
            and config.get("addition_embed_type") == "text_time"
            and config.get("cross_attention_dim") is not None
            and config["in_channels"] == 4
        ),
        True,
        _sdxl,
        {4: 0.5, 2: 0.5},
        "equal weights of the two resolutions at which it attends: not tuned, the paper has no SDXL",
    ),
    *(Family(one.name, _made_of(one.transformer), False, _transformer, one.weights, one.told, one.calls) for one in TRANSFORMERS),
)


def check_folder(profile: Profile) -> tuple[Family, Pipeline | SingleFile]:
    """Look at the files of a profile's model: all there, whole, and fitting each other; no weight is loaded.

    Raises:
        FileNotFoundError: If one is missing; it is named.
        ValueError: On a model of another architecture, or files that are damaged or do not fit; the message says what was found, and what expected.
    """
    if profile.lora:
        read_lora(Path(profile.lora[0]))
    if is_single_file(profile.source):
        single = check_file(profile)
        return family_of(single.unet), single
    folder = local_folder(profile.source)
    if folder is None:
        raise FileNotFoundError(
            f"the weights of profile {profile.name!r} ({profile.source}) are not on this machine: "
            "download them once, online, by diffseg fetch with this profile, or give the folder they are in as the profile"
        )
    if (folder / "transformer").is_dir() and not (folder / "unet").is_dir():
        _, pipeline = find_transformer(folder, pickled=profile.pickled_weights, max_sequence_length=profile.max_sequence_length)
        return family_of(pipeline.parts["transformer"].config), pipeline
    other = [name for name in ("prior", "decoder") if (folder / name).is_dir()]
    if other and not (folder / "unet").is_dir():
        config = folder / other[0] / "config.json"
        kind = json.loads(config.read_text()).get("_class_name", other[0]) if config.is_file() else other[0]
        raise ValueError(f"{folder} holds a {kind}, which is not supported: expected {_supported()}")
    refuse_look_alikes(folder, _supported())
    try:
        family = family_of(with_defaults("unet", read_config("unet", folder / "unet")))
        found = find_pipeline(folder, family.second, pickled=profile.pickled_weights, size=profile.size)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: expected a StableDiffusionPipeline's folder as save_pretrained writes it; "
            "the pocket one comes with the repository (restore data/pocket/models, or set DIFFSEG_DATA)"
        ) from error
    if (prediction := found.scheduler["prediction_type"]) not in PREDICTIONS:
        raise ValueError(f"{profile.source} predicts {prediction!r}: expected {' or '.join(PREDICTIONS)}")
    return family, found


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


def _place(models: Sequence[Any], device: str, offloaded: bool) -> None:
    for model in models:
        model.to("cpu" if offloaded else device)
    if offloaded:
        offload(models, device)


def _load_transformer(known: Profile, family: Family, calling: Callable[..., Calls], found: Any, device: str, dtype: torch.dtype, offloaded: bool) -> Backbone:
    """A transformer's backbone; weights that no profile chose are the family's, of the blocks that the model has."""
    if known.lora:
        raise ValueError(f"lora {known.lora[0]}: added to UNets alone, and {known.source} is a {found.parts['transformer'].config['_class_name']}")
    from .dit.attention import blocks_of
    from .transformer import flow_schedule

    models = {name: part.load(dtype) for name, part in found.parts.items()}
    _place(list(models.values()), device, offloaded)
    transformer, vae = models.pop("transformer"), models.pop("vae")
    calls = calling(models, found.tokenizers, **({} if known.max_sequence_length is None else {"unread": known.max_sequence_length}))
    count = len(blocks_of(transformer))
    if known.weights == PAPER_WEIGHTS:
        weights = {block: w for block, w in family.weights.items() if block < count} or dict.fromkeys(range(count), 1 / count)
        told = family.told if weights == family.weights else "equal weights of all its blocks, or those of the family's own that it has: not tuned"
        known = replace(known, weights=weights, chosen_on=told)
    if missing := sorted(block for block in known.weights if block >= count):
        raise ValueError(f"fusion weights of blocks {', '.join(map(str, missing))}: the model's {count} blocks are 0 to {count - 1}")
    if calls.flow:
        schedule = flow_schedule()
    else:
        from diffusers import DDIMScheduler

        schedule = DDIMScheduler.from_config(dict(found.scheduler)).alphas_cumprod.float()
    tokenizer, text = calls.spans[0][1], models.get("text_encoder")
    made: Any = family.make()
    prediction = "flow" if calls.flow else "epsilon"
    return made(known, vae, text, tokenizer, transformer, schedule, prediction, device if offloaded else "", notes=found.said(dtype), calls=calls)


def load_backbone(profile: str | Path | Profile = "pocket", *, device: str = "cpu", dtype: torch.dtype = torch.float32, offloaded: bool = False) -> Backbone:
    """Load a profile's model, nothing downloaded and no code run that a weight file holds.

    Args:
        profile: Profile: "pocket", "sd15", a YAML file, a hub id, the folder of a pipeline of one of :data:`FAMILIES`, a single file of one
            with a UNet, or a :class:`~diffseg_lib.profiles.Profile`.
        device: Device that it runs on: "cpu", "cuda" and so on.
        dtype: Precision of weights and activations; float32 on the CPU.
        offloaded: Whether models wait in main memory and visit `device` one at a time: slower, and the card need only hold the largest.

    Raises:
        ValueError: On an unknown profile, a model that is none of :data:`FAMILIES`, files that :func:`check_folder` refuses, or nothing to offload from.
        FileNotFoundError: If a part of the model is missing; the message names it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # in a notebook without widgets
        from diffusers import DDIMScheduler

    known = profile if isinstance(profile, Profile) else load_profile(profile)
    if offloaded and torch.device(device).type == "cpu":
        raise ValueError(f"device {device!r}: models are offloaded from a GPU to main memory; name one, as in --device cuda, or leave --offload away")
    family, found = check_folder(known)
    if family.calls is not None:
        return _load_transformer(known, family, family.calls, found, device, dtype, offloaded)
    scheduler = DDIMScheduler.from_config(dict(found.scheduler))
    vae, unet, text, *second = (part.load(dtype) for part in found.parts.values())
    tokenizer, *tokenizer_2 = found.tokenizers.values()
    more = {"text_encoder_2": second[0], "tokenizer_2": tokenizer_2[0]} if family.second else {}
    if family.second and dtype == torch.float16 and vae.config.force_upcast:
        vae = vae.float()  # its activations overflow in half precision
    lora = (apply_lora(*known.lora, {"unet": unet, "text_encoder": text} | dict(zip(("text_encoder_2",), second, strict=False))),) if known.lora else ()
    _place([vae, unet, text, *second], device, offloaded)
    if known.weights == PAPER_WEIGHTS != family.weights:
        known = replace(known, weights=dict(family.weights), chosen_on=family.told)
    levels = len(unet.config.block_out_channels)
    weights, said = present_weights(known.weights, {stride_of(name, levels) for name in attention_layers(unet) if name.endswith("attn2")})
    schedule, prediction = scheduler.alphas_cumprod.float(), scheduler.config.prediction_type
    known, notes = replace(known, weights=weights), (*settings_notes(unet.config), *found.said(dtype), *said, *lora)
    return family.make()(known, vae, text, tokenizer, unet, schedule, prediction, device if offloaded else "", notes=notes, **more)
