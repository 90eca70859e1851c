"""A pipeline's folder: its parts, what they say of each other, and what their settings leave out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .files import read_json
from .parts import Part, find_part, quietly, read_config

PREDICTIONS = ("epsilon", "v_prediction")
_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # Stable Diffusion's, told in an error
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either will do


@dataclass(frozen=True)
class Pipeline:
    """A pipeline whose files are all there, whole, and fit each other; no weight is loaded.

    Args:
        parts: Parts by the names of their folders.
        tokenizers: Tokenizers by the names of their folders.
        scheduler: Settings of the schedule of noise.
        notes: Sentences on what is unusual in its files, and on what they leave out.
    """

    parts: Mapping[str, Part]
    tokenizers: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    notes: tuple[str, ...]

    def said(self, dtype: torch.dtype) -> tuple[str, ...]:
        """The notes, and one on parts whose weights are stored in another precision than they run in."""
        stored: dict[str, list[str]] = {}
        for name, part in self.parts.items():
            if other := part.stored(dtype):
                stored.setdefault(other, []).append(name)
        runs = str(dtype).removeprefix("torch.")
        return (*self.notes, *(f"the weights of {', '.join(names)} are stored in {other} and run in {runs}" for other, names in stored.items()))


def with_defaults(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a part of diffusers, those that its file leaves out by the library's defaults."""
    from .parts import _class

    parameters = inspect.signature(_class(kind).__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty} | dict(config)


def find_pipeline(folder: Path, second: bool, *, pickled: bool = True, size: int = 0) -> Pipeline:
    """Look at a pipeline's folder: all files there, whole, fitting their settings and each other.

    Args:
        folder: Folder of the pipeline.
        second: Whether it has a second text encoder.
        pickled: Whether files of ``torch.save`` will do where there are no safetensors.
        size: Length of an image's short side that it will work at, px; 0 is the model's own.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, weights do not fit, or settings leave out what nothing else tells.
    """
    names = ["vae", "unet", "text_encoder", *(["text_encoder_2"] if second else [])]
    configs = {name: read_config(name, folder / name) for name in names}
    schedule, notes = _schedule(folder, configs["unet"])
    notes += _sizes(folder, configs, size)
    _scaling(folder, configs["vae"], second)
    parts = {name: find_part(name, folder / name, name, pickled=pickled, config=configs[name]) for name in names}
    _together(folder, {name: part.config for name, part in parts.items()})
    tokenizers = {}
    for name in names[2:]:
        place = name.replace("text_encoder", "tokenizer")
        tokenizers[place], told = _tokenizer(folder / place, parts[name].config)
        notes += told
    return Pipeline(parts, tokenizers, schedule, tuple([note for part in parts.values() for note in part.notes] + notes))


def _schedule(folder: Path, unet: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings of the schedule, and what was added to them."""
    path = folder / "scheduler" / "scheduler_config.json"
    found = read_json(path)
    lacking = [key for key in _SCHEDULE if key not in found]
    if lacking and found.get("trained_betas") is None:
        known = ", ".join(f"{key} {value}" for key, value in _SCHEDULE.items())
        raise ValueError(f"{path} does not say {', '.join(lacking)}: write them into it as the model was trained (Stable Diffusion: {known})")
    if "prediction_type" in found:
        return found, []
    width = unet.get("cross_attention_dim")
    if width == 1024:  # Stable Diffusion 2.x, of which both kinds were published
        raise ValueError(
            f'{path} does not say prediction_type, in which models of this kind differ: write "epsilon" (512 px) or "v_prediction" (768 px) into it'
        )
    return found | {"prediction_type": "epsilon"}, [f"{path.name} does not say what the UNet predicts: epsilon, as the models of its kind do"]


def _sizes(folder: Path, configs: dict[str, dict[str, Any]], size: int) -> list[str]:
    """Fill in the UNet's size by the autoencoder's, where it is left out."""
    unet, vae = configs["unet"], configs["vae"]
    if unet.get("sample_size"):
        return []
    levels = len(with_defaults("vae", vae)["block_out_channels"])
    if pixels := vae.get("sample_size"):
        unet["sample_size"] = pixels // 2 ** (levels - 1)
        return [] if size else [f"the UNet's settings leave out its size: {pixels} px, as the autoencoder's say"]
    if not size:
        raise ValueError(
            f"{folder / 'unet' / 'config.json'} does not say sample_size, nor does the autoencoder's: give the profile a size, px of the short side"
        )
    return []


def _scaling(folder: Path, vae: Mapping[str, Any], second: bool) -> None:
    """The default of the autoencoder's factor is that of Stable Diffusion 1.x and 2.x."""
    if second and "scaling_factor" not in vae:
        raise ValueError(
            f"{folder / 'vae' / 'config.json'} does not say scaling_factor: write it in as the autoencoder was trained (Stable Diffusion XL: 0.13025)"
        )


def _together(folder: Path, configs: Mapping[str, Any]) -> None:
    """Refuse parts of different models.

    Raises:
        ValueError: If what one part makes is not what another reads.
    """
    unet, vae, text = with_defaults("unet", configs["unet"]), with_defaults("vae", configs["vae"]), configs["text_encoder"]
    second = configs.get("text_encoder_2")
    width = text.hidden_size + (second.hidden_size if second is not None else 0)
    read = unet["cross_attention_dim"]
    told = []
    if any(one != width for one in ([read] if isinstance(read, int) else read)):
        told.append(f"the text encoder{'s make' if second is not None else ' makes'} {width} numbers a token, the UNet reads {read}")
    if vae["latent_channels"] != unet["in_channels"]:
        told.append(f"the autoencoder makes {vae['latent_channels']} channels, the UNet reads {unet['in_channels']}")
    if second is not None:
        pooled = second.projection_dim + 6 * (unet["addition_time_embed_dim"] or 0)
        if pooled != unet["projection_class_embeddings_input_dim"]:
            told.append(f"the second text encoder and the sizes make {pooled} numbers, the UNet reads {unet['projection_class_embeddings_input_dim']}")
    if told:
        raise ValueError(f"the parts in {folder} are not of one model: {'; '.join(told)}: expected every folder as its model came")


def _tokenizer(folder: Path, text: Any) -> tuple[Any, list[str]]:
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        raise FileNotFoundError(f"{folder / 'tokenizer.json'} is missing")
    from transformers import CLIPTokenizer

    with quietly():
        found = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if len(found) > text.vocab_size:
        raise ValueError(f"the tokenizer in {folder} knows {len(found)} tokens, its text encoder {text.vocab_size}: expected those of one model")
    return found, set_length(found, text.max_position_embeddings)


def set_length(tokenizer: Any, positions: int) -> list[str]:
    """Let a tokenizer that does not know how many tokens its model reads, or says more, pad to them; a note if it is changed."""
    if tokenizer.model_max_length <= positions:
        return []
    tokenizer.model_max_length = positions
    return [f"the tokenizer's settings leave out its length, or say more than the model reads: {positions} tokens, as the text encoder's say"]
