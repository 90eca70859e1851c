"""Models that look like Stable Diffusion and are not, told by their settings; and what a line of data does for those that nearly are."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, tensor

GUIDANCE = 8.5  # the scale that latent consistency models are shown where nobody names one, as diffusers' pipeline of them has it
_READS = {  # channels that a UNet reads, and what they are beside the latents
    9: "a mask and a masked picture (inpainting)",
    8: "a second picture (editing by instructions)",
    7: "a low-resolution picture (upscaling)",
    5: "a map of depths",
}
Settings = Mapping[str, Any]


def read_settings(folder: Path) -> dict[str, dict[str, Any]]:
    """The settings of a pipeline's parts, by the names of their folders, and ``model_index.json`` as ""; a part without settings has none.

    Raises:
        ValueError: If a file cannot be read as JSON; it is named.
    """
    found = {}
    for path in sorted(folder.glob("*/*config.json")) + sorted(folder.glob("model_index.json")):
        if path.name in ("config.json", "scheduler_config.json", "model_index.json"):
            try:
                held = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} cannot be read ({error}): restore it") from error
            found["" if path.parent == folder else path.parent.name] = held if isinstance(held, dict) else {}
    return found


def difference(parts: Mapping[str, Settings]) -> str:
    """How a model differs from what a latent diffusion UNet with text alone assumes, as the end of a sentence; "" where nothing is known against it.

    Args:
        parts: Settings of its parts, as :func:`read_settings` gives them.

    >>> difference({"unet": {"in_channels": 9}, "vae": {}, "scheduler": {}, "text_encoder": {}})
    'reads a mask and a masked picture (inpainting) beside the latents (in_channels 9)'
    """
    return next((told for look in (_of_unet, _of_conditions, _of_noise, _of_latents) for told in look(parts)), "")


def _of_unet(parts: Mapping[str, Settings]) -> Iterator[str]:
    unet = parts.get("unet", {})
    kind, channels = unet.get("_class_name", "UNet2DConditionModel"), unet.get("in_channels", 4)
    if kind != "UNet2DConditionModel":
        yield f"has a {kind}: expected a UNet2DConditionModel"
    if channels in _READS:
        yield f"reads {_READS[channels]} beside the latents (in_channels {channels})"
    if unet.get("out_channels", channels) != channels:
        yield f"predicts {unet['out_channels']} channels of {channels} (out_channels)"


def _of_conditions(parts: Mapping[str, Settings]) -> Iterator[str]:
    unet = parts.get("unet", {})
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        if unet.get(key) is not None:
            yield f"conditions on more than a prompt's CLIP embeddings ({key} {unet[key]!r}), as unCLIP, upscalers and models of other text encoders do"
    if "image_encoder" in parts and "text_encoder" not in parts:
        yield "conditions on a picture in place of a prompt (image_encoder and no text_encoder), as image variations do"
    if parts.get("", {}).get("requires_aesthetics_score") or ("text_encoder_2" in parts and "text_encoder" not in parts):
        yield "is a refiner, which has the second text encoder alone and asks for a score of beauty"


def _of_noise(parts: Mapping[str, Settings]) -> Iterator[str]:
    scheduler = parts.get("scheduler", {})
    kind = str(scheduler.get("_class_name", ""))
    if kind.startswith("EDM") or "sigma_data" in scheduler:
        yield f"scales its input by the level of noise ({kind}, sigma_data {scheduler.get('sigma_data')}), where a timestep is expected (Playground 2.5)"
    if kind.startswith("FlowMatch"):
        yield f"is trained by flow matching ({kind}), where a schedule of noise is expected"


def _of_latents(parts: Mapping[str, Settings]) -> Iterator[str]:
    vae = parts.get("vae", {})
    if (kind := vae.get("_class_name", "AutoencoderKL")) != "AutoencoderKL":
        yield f"has a {kind} between pictures and latents: expected an AutoencoderKL"
    for key in ("latents_mean", "latents_std", "shift_factor"):
        if vae.get(key):
            yield f"shifts and scales each channel of its latents ({key} {vae[key]}), where one scaling_factor is expected"


def refuse_look_alikes(folder: Path, expected: str) -> None:
    """Refuse a folder that holds a look-alike.

    Args:
        folder: Folder of a pipeline.
        expected: What is supported, for the message.

    Raises:
        ValueError: If it does; the message says by which setting.
    """
    if told := difference(read_settings(folder)):
        raise ValueError(f"{folder} {told}, which is not supported: expected {expected}")


def guidance_condition(unet: Any) -> dict[str, Tensor]:
    """What a latent consistency model's UNet is given beside the timestep, the embedded scale of guidance; of any other UNet nothing.

    Args:
        unet: UNet, whose ``time_cond_proj_dim`` is the width of the embedding.
    """
    width = getattr(unet.config, "time_cond_proj_dim", None)
    if not width:
        return {}
    from diffusers.models.embeddings import get_timestep_embedding

    first = next(unet.parameters())
    return {"timestep_cond": get_timestep_embedding(tensor([1000 * (GUIDANCE - 1)]), width, downscale_freq_shift=1).to(first)}


def settings_notes(config: Any) -> tuple[str, ...]:
    """Sentences on what of a UNet's settings was filled in here.

    Args:
        config: Settings of the UNet.
    """
    embedded = getattr(config, "time_cond_proj_dim", None)
    return (f"a latent consistency model: its UNet is shown a guidance scale of {GUIDANCE}",) if embedded else ()


def present_weights(weights: Mapping[int, float], strides: Collection[int]) -> tuple[dict[int, float], tuple[str, ...]]:
    """Fusion weights over the resolutions at which a UNet attends to text, summing to what they summed to; and a sentence where some are not among them.

    Args:
        weights: Fusion weights by stride.
        strides: Strides at which the UNet has cross-attention.

    Raises:
        ValueError: If it has none of the weighted ones.

    >>> present_weights({4: 0.5, 2: 0.25, 1: 0.25}, {2, 1})[0]
    {2: 0.5, 1: 0.5}
    """
    lacking = [stride for stride, weight in weights.items() if weight and stride not in strides]
    if not lacking:
        return dict(weights), ()
    kept = {stride: weight for stride, weight in weights.items() if stride in strides}
    if not sum(kept.values()):
        there = ", ".join(f"stride {stride}" for stride in sorted(strides))
        raise ValueError(f"fusion weights {dict(weights)} are all of resolutions at which this UNet attends to no text: it does at {there}")
    factor = sum(weights.values()) / sum(kept.values())
    told = ", ".join(f"stride {stride}" for stride in lacking)
    shown = ", ".join(f"{stride}: {weight * factor:.3g}" for stride, weight in kept.items())
    said = f"this UNet has no cross-attention at {told}: the fusion weights are those of the other resolutions, scaled to the same sum ({shown})"
    return {stride: weight * factor for stride, weight in kept.items()}, (said,)
