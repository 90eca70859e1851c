"""One part of a model: its settings read, its weights held against them, then loaded.

The keys and shapes of a part's weights come from the headers of its files, those that its settings ask for from an empty model. Both
are brought together by the code that will load them, so that the verdict is the loader's own, and costs no weights.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import WeightFiles, find_weights, read_headers, read_json, read_tensors

SHOWN = 3  # keys that an error names
# Keys of more than the part, in files that hold it: a whole CLIP in place of its text encoder, heads that nothing here asks for.
_VISION, _HEADS = r"(vision_model|visual_projection)\.|logit_scale$", r"(text_encoder|vision_proj|text_proj|itm_head)\."


@dataclass(frozen=True)
class Kind:
    """A kind of part.

    Args:
        library: Library that it is of, "diffusers" or "transformers".
        model: Name of its class.
        types: Types that its settings may say they are of.
        beside: Pattern of the keys that may stand beside its own.
    """

    library: str
    model: str
    types: tuple[str, ...] = ()
    beside: str = ""


KINDS: Mapping[str, Kind] = {
    "unet": Kind("diffusers", "UNet2DConditionModel", ("UNet2DConditionModel",)),
    "vae": Kind("diffusers", "AutoencoderKL", ("AutoencoderKL",)),
    "text_encoder": Kind("transformers", "CLIPTextModel", ("clip_text_model", "clip"), rf"{_VISION}|text_projection\."),
    "text_encoder_2": Kind("transformers", "CLIPTextModelWithProjection", ("clip_text_model", "clip"), _VISION),
    "sd3": Kind("diffusers", "SD3Transformer2DModel", ("SD3Transformer2DModel",)),
    "flux": Kind("diffusers", "FluxTransformer2DModel", ("FluxTransformer2DModel",)),
    "pixart": Kind("diffusers", "PixArtTransformer2DModel", ("PixArtTransformer2DModel",)),
    "flux2": Kind("diffusers", "Flux2Transformer2DModel", ("Flux2Transformer2DModel",)),
    "vae_flux2": Kind("diffusers", "AutoencoderKLFlux2", ("AutoencoderKLFlux2",)),
    "qwen_image": Kind("diffusers", "QwenImageTransformer2DModel", ("QwenImageTransformer2DModel",)),
    "vae_qwen_image": Kind("diffusers", "AutoencoderKLQwenImage", ("AutoencoderKLQwenImage",)),
    "mistral3": Kind("transformers", "Mistral3ForConditionalGeneration", ("mistral3",)),
    "qwen2_5_vl": Kind("transformers", "Qwen2_5_VLForConditionalGeneration", ("qwen2_5_vl",)),
    "t5": Kind("transformers", "T5EncoderModel", ("t5",), r"decoder\.|lm_head\."),
    "clip": Kind("transformers", "CLIPModel", ("clip",)),
    "captioner": Kind("transformers", "BlipForConditionalGeneration", ("blip",), _HEADS),
    "groupvit": Kind("transformers", "GroupViTModel", ("groupvit",)),
    "resnet": Kind("transformers", "ResNetModel", ("resnet",), r"classifier\."),
}
_PREFIXES = ("_orig_mod.", "module.")  # of torch.compile, anywhere in a key, and of parallel wrappers, before all keys


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


@contextmanager
def _no_report() -> Iterator[None]:
    """Silence the table in which transformers tells what does not fit; the error tells it."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@dataclass(frozen=True)
class Part:
    """A part of a model whose files are whole and fit its settings.

    Args:
        kind: Name of its kind, of :data:`KINDS`.
        name: Name that messages call it by.
        config: Settings, as its library takes them.
        files: Files of its weights.
        precisions: Precisions that the weights are stored in.
        notes: Sentences on what is unusual in its files.
    """

    kind: str
    name: str
    config: Any
    files: WeightFiles
    precisions: tuple[torch.dtype, ...]
    notes: tuple[str, ...]

    def load(self, dtype: torch.dtype) -> Any:
        """The model on the CPU, its weights in a precision, in evaluation mode, which nothing trains."""
        tensors, _ = _unwrapped(read_tensors(self.files))
        model, found = _fitted(self.kind, self.config, {key: one.to(dtype) if one.is_floating_point() else one for key, one in tensors.items()}, dtype)
        _refuse(self.kind, self.name, found, len(tensors))  # of files that changed since they were looked at
        return model.requires_grad_(False).eval()

    def stored(self, dtype: torch.dtype) -> str:
        """A phrase on the precision that the weights are stored in, where it is another one than they run in; else ""."""
        return ", ".join(_plain(one) for one in self.precisions) if any(one != dtype for one in self.precisions) else ""


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def read_config(kind: str, folder: Path) -> dict[str, Any]:
    """The settings of a part, as its ``config.json`` says them.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If they are of another type of model, or of quantised weights.
    """
    known, path = KINDS[kind], folder / "config.json"
    found = read_json(path)
    told = found.get("_class_name" if known.library == "diffusers" else "model_type") or ""
    if told and known.types and told not in known.types:
        raise ValueError(f"{path} is of a model of type {told!r}: expected {' or '.join(known.types)} ({known.model})")
    if found.get("quantization_config"):
        raise ValueError(f"{path} is of quantised weights, which are not read: expected those in float32, float16 or bfloat16")
    return found


def find_part(kind: str, folder: Path, name: str = "", *, pickled: bool = True, config: Mapping[str, Any] | None = None) -> Part:
    """Look at a part in its folder: its settings, the headers of its files, and whether they fit.

    Args:
        kind: Name of its kind, of :data:`KINDS`.
        folder: Folder that holds it.
        name: Name that messages call it by; "" is the folder's path.
        pickled: Whether files of ``torch.save`` will do where there are no safetensors.
        config: Settings in place of its ``config.json``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or is something else, or the weights do not fit the settings.
    """
    settings = dict(config) if config is not None else read_config(kind, folder)
    files = find_weights(folder, KINDS[kind].library, pickled)
    headers, prefixes = _unwrapped(read_headers(files))
    made = settings if KINDS[kind].library == "diffusers" else _class(kind).config_class.from_dict(_own(kind, settings))
    _, found = _fitted(kind, made, headers, torch.float32)
    _refuse(kind, name or str(folder), found, len(headers))
    file = files.chosen.path.name
    notes = [f"the weights of {name or folder.name} are pickled ({file}), opened as tensors alone"] if files.chosen.pickled else []
    notes += [f"the keys of {name or folder.name}'s weights begin with {one!r}, a wrapper's prefix: taken off" for one in prefixes]
    precisions = sorted({one.dtype for one in headers.values() if one.is_floating_point()}, key=str)
    return Part(kind, name or str(folder), made, files, tuple(precisions), tuple(notes))


def _own(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a text encoder in those of a whole CLIP."""
    if kind.startswith("text_encoder") and settings.get("model_type") == "clip":
        return {"projection_dim": settings.get("projection_dim", 512)} | dict(settings.get("text_config") or settings.get("text_config_dict") or {})
    return dict(settings)


def _class(kind: str) -> Any:
    """The class of a kind; both libraries load late."""
    import diffusers
    import transformers

    return getattr(diffusers if KINDS[kind].library == "diffusers" else transformers, KINDS[kind].model)


def _unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors without the prefixes that wrappers set before their names, and those prefixes."""
    compiled, parallel = _PREFIXES
    found = [compiled] if any(compiled in key for key in tensors) else []
    plain = {key.replace(compiled, ""): one for key, one in tensors.items()}
    if plain and all(key.startswith(parallel) for key in plain):
        return {key.removeprefix(parallel): one for key, one in plain.items()}, [*found, parallel]
    return plain, found


@dataclass(frozen=True)
class _Misfit:
    missing: Sequence[str]
    foreign: Sequence[str]
    reshaped: Sequence[str]  # a phrase each


def _fitted(kind: str, config: Any, tensors: dict[str, Tensor], dtype: torch.dtype) -> tuple[Any, _Misfit]:
    """A model with tensors in it, on the device that they are on, and what did not fit, by the loader of its library."""
    return (_fit_diffusers if KINDS[kind].library == "diffusers" else _fit_transformers)(_class(kind), config, tensors, dtype)


def _fit_diffusers(cls: Any, config: Mapping[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> tuple[Any, _Misfit]:
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = cls.from_config(dict(config))
    tensors = model._fix_state_dict_keys_on_load(dict(tensors))  # earlier names of an autoencoder's attention
    wanted = model.state_dict()
    shapes = [key for key in wanted if key in tensors and wanted[key].shape != tensors[key].shape]
    misfit = _Misfit(
        sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted)), [_reshaped(key, tensors[key].shape, wanted[key].shape) for key in shapes]
    )
    if not (misfit.missing or misfit.foreign or misfit.reshaped):
        model.load_state_dict(tensors, assign=True)
    return model, misfit


def _fit_transformers(cls: Any, config: Any, tensors: dict[str, Tensor], dtype: torch.dtype) -> tuple[Any, _Misfit]:
    where = {"device_map": "meta"} if all(one.is_meta for one in tensors.values()) else {}
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": dtype} | where
    with quietly(), _no_report():
        model, told = cls.from_pretrained(None, config=config, state_dict=tensors, **options)
    missing = [key for key in sorted(told["missing_keys"]) if not key.endswith("num_batches_tracked")]  # a count that inference does not read
    return model, _Misfit(missing, sorted(told["unexpected_keys"]), [_reshaped(*one) for one in sorted(told["mismatched_keys"])])


def _reshaped(key: str, found: Sequence[int], expected: Sequence[int]) -> str:
    return f"{key} is {' x '.join(map(str, found))}, expected {' x '.join(map(str, expected))}"


def _refuse(kind: str, name: str, found: _Misfit, count: int) -> None:
    beside = KINDS[kind].beside
    foreign = [key for key in found.foreign if not (beside and re.match(beside, key))]
    told = [("missing", found.missing), ("foreign", foreign), ("of another shape", found.reshaped)]
    if any(keys for _, keys in told):
        lines = [
            f"{len(keys)} {'is' if len(keys) == 1 else 'are'} {what} ({', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''})"
            for what, keys in told
            if keys
        ]
        raise ValueError(
            f"the weights of {name} ({count} keys) do not fit its config.json, a {KINDS[kind].model}: {'; '.join(lines)}: "
            "expected weights and config.json of one and the same model"
        )
