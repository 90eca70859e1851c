"""LoRA files: low-rank changes W + scale * alpha / rank * up @ down, added to a model's weights once (Hu et al. 2021).

Two ways of naming are read: kohya's (``lora_unet_down_blocks_0_...lora_down.weight``, with its names of the original layout, ``input_blocks_4_1``) and that of
diffusers and PEFT (``unet.down_blocks.0....lora_A.weight``). Every tensor of a file is used, or the file is refused.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .single_file import read_header

_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", ".lora_linear_layer.down.weight", "_lora.down.weight")
_UP = (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight", ".lora_linear_layer.up.weight", "_lora.up.weight")
_OTHERS = {"hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "DoRA", "oft_": "OFT", "lora_mid": "a Tucker decomposition"}
_ORIGINAL = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)(?:_(\d+))?_(.*)")
PREFIXES = {  # of the models in a file's keys, by the names of the parts
    "unet": ("lora_unet_", "unet."),
    "text_encoder": ("lora_te_", "lora_te1_", "text_encoder."),
    "text_encoder_2": ("lora_te2_", "text_encoder_2."),
}


def read_lora(path: Path) -> dict[str, dict[str, Tensor]]:
    """The changes of a file: name of the layer, as the file has it, to ``down``, ``up`` and, where there is one, ``alpha``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no LoRA, one of another kind, or has halves.
    """
    from safetensors.torch import load_file

    keys = list(read_header(path))
    for mark, kind in _OTHERS.items():
        if any(mark in key for key in keys):
            raise ValueError(f"{path} is {kind}: expected a LoRA of lora_down and lora_up (or lora_A and lora_B); merge it by the tool it came from")
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    strange = []
    for key, value in load_file(path).items():
        for what, endings in (("down", _DOWN), ("up", _UP), ("alpha", (".alpha",))):
            ending = next((one for one in endings if key.endswith(one)), "")
            if ending:
                found[key.removesuffix(ending)][what] = value.float()
                break
        else:
            strange.append(key)
    for name, parts in found.items():
        if "alpha" not in parts and (alpha := next((one for part, one in _alphas(path).items() if name.startswith(part)), None)) is not None:
            parts["alpha"] = torch.tensor(float(alpha))
    halves = [name for name, parts in found.items() if not {"down", "up"} <= parts.keys()]
    if strange or halves or not found:
        told = ", ".join((strange or halves)[:3]) or "nothing"
        raise ValueError(f"{path} is no LoRA: it holds {told}, where every layer is expected to have lora_down and lora_up (or lora_A and lora_B)")
    return dict(found)


def _alphas(path: Path) -> dict[str, float]:
    """Alpha by the beginning of a layer's name, where PEFT wrote it beside the tensors: in the file's metadata, or in ``adapter_config.json``.

    Raises:
        ValueError: If it says what is not read here: a rank or an alpha of single layers, another scaling, or another kind.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        facts = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    beside = path.with_name("adapter_config.json")
    if not facts and beside.is_file():
        facts = json.loads(beside.read_text(encoding="utf-8"))
    strange = [key for key in facts if key.split(".")[-1] in ("alpha_pattern", "use_rslora", "use_dora") and facts[key]]
    if strange:
        raise ValueError(f"{path} says {', '.join(f'{key} {facts[key]}' for key in strange)}, which is not read here: merge it by the tool it came from")
    return {key.removesuffix("lora_alpha"): float(alpha) for key, alpha in facts.items() if key.split(".")[-1] == "lora_alpha"}


def changes(parts: Mapping[str, Tensor], scale: float, shape: torch.Size) -> Tensor:
    """What is added to a weight: scale * alpha / rank * up @ down, in the weight's shape; alpha is the rank where the file has none.

    Args:
        parts: Tensors of a layer, ``down`` (rank first), ``up`` (rank second) and ``alpha`` or not.
        scale: Strength of the whole file.
        shape: Shape of the weight.

    >>> changes({"down": torch.ones(2, 3), "up": torch.ones(4, 2), "alpha": torch.tensor(1.0)}, 0.5, torch.Size([4, 3]))[0].tolist()
    [0.5, 0.5, 0.5]
    """
    down, up = parts["down"], parts["up"]
    rank = down.shape[0]
    return (scale * float(parts.get("alpha", rank)) / rank) * (up.flatten(1) @ down.flatten(1)).reshape(shape)


@torch.no_grad()
def apply_lora(path: str | Path, scale: float, models: Mapping[str, Any]) -> str:
    """Add a LoRA to models, in place; returns a sentence on it.

    Args:
        path: Path of the file, safetensors.
        scale: Strength, where 1 is as it was trained and 0 leaves the models as they are.
        models: Models by the names of their parts: "unet", "text_encoder", and of XL "text_encoder_2".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no LoRA of these models; the message names three layers. Nothing is changed then.
    """
    path, places, strange, pending = Path(path), dict(_places(models)), [], []
    for name, parts in read_lora(path).items():
        part, layer = _layer(name, places, models)
        if layer is None:
            strange.append(name)
            continue
        down, up, shape = parts["down"], parts["up"], layer.weight.shape
        fits = down.shape[0] == up.shape[1] and up.shape[0] == shape[0] and down.shape[0] and down[0].numel() == shape[1:].numel()
        if not fits:
            strange.append(f"{name} (of {up.shape[0]} x {down[0].numel()} numbers, where the layer has {shape[0]} x {shape[1:].numel()})")
            continue
        pending.append((part, layer, parts))
    if strange:
        raise ValueError(
            f"{path} is of another model: {len(strange)} of its layers do not fit, as {', '.join(strange[:3])}; expected one of this kind of model"
        )
    for _, layer, parts in pending:
        weight = layer.weight
        weight.copy_((weight.float() + changes(parts, scale, weight.shape).to(weight.device)).to(weight.dtype))
    counts = {part: sum(one == part for one, *_ in pending) for part in models}
    return f"LoRA {path.name} at {scale:g}: {', '.join(f'{count} layers of {part}' for part, count in counts.items() if count)}"


def _places(models: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Every layer with a weight, by all the names that files give it: its part, and the layer."""
    for part, model in models.items():
        flat, dotted = PREFIXES[part][:-1], PREFIXES[part][-1]
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                wrapped = [name, name.removeprefix("text_model.")] if part != "unet" else [name]
                wrapped += [f"text_model.{name}"] if part != "unet" and not name.startswith("text_model.") else []
                for one in wrapped:
                    yield from ((prefix + one.replace(".", "_"), (part, layer)) for prefix in flat)
                    yield dotted + one, (part, layer)


def _layer(name: str, places: Mapping[str, tuple[str, Any]], models: Mapping[str, Any]) -> tuple[str, Any]:
    """The layer that a file's name means: as it is, without PEFT's wrapper, without the part, with a processor's old name, or by the original layout."""
    name = name.removeprefix("base_model.model.")
    processor = re.sub(r"\.processor\.(to_[qkv]|to_out)$", lambda m: f".{m[1]}" + (".0" if m[1] == "to_out" else ""), name)
    for one in (name, processor, f"unet.{name}", f"unet.{processor}"):
        if one in places:
            return places[one]
    if name.startswith("lora_unet_") and (found := _ORIGINAL.fullmatch(name.removeprefix("lora_unet_"))):
        stage, block, inner, rest = found.groups()
        return places.get(f"lora_unet_{_renamed(stage, int(block), inner, rest, models['unet'])}", ("", None))
    return "", None


def _renamed(stage: str, block: int, inner: str | None, rest: str, unet: Any) -> str:
    """A transformer's name in the original layout as diffusers has it; anything else as a name that no layer has."""
    layers = unet.config.layers_per_block
    if stage == "middle_block":
        return f"mid_block_attentions_0_{rest if inner is None else f'{inner}_{rest}'}" if block == 1 else ""
    if inner != "1" or not isinstance(layers, int):
        return ""
    level, place = divmod(block - 1, layers + 1) if stage == "input_blocks" else divmod(block, layers + 1)
    return f"{'down' if stage == 'input_blocks' else 'up'}_blocks_{level}_attentions_{place}_{rest}"
