"""The folder of a pipeline around a diffusion transformer: its parts, and whether they are of one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import read_json
from .parts import find_part, quietly, read_config
from .pipelines import PREDICTIONS, Pipeline, set_length, with_defaults

_STATISTICS = ("latents_mean", "latents_std")  # by which Qwen-Image's latents are standardised
_LONG = ("t5", "mistral3", "qwen2_5_vl")  # encoders that can be told how many tokens to read


@dataclass(frozen=True)
class Layout:
    """What a family's folder holds.

    Args:
        transformer: Name of the transformer's class.
        parts: Folder to kind (of ``parts.KINDS``), the transformer and the autoencoder first.
        lengths: Folder of a tokenizer to the number of tokens that the family's pipeline lets it read.
        optional: Folders that a pipeline may leave out.
        together: Function from the settings of the parts to sentences on what does not fit.
        flow: Whether it was trained by flow matching.
        scaling: Settings by which the autoencoder's latents are scaled, which its folder has to say.
        chat: Whether prompts are put into the chat template of the tokenizer.
    """

    transformer: str
    parts: Mapping[str, str]
    lengths: Mapping[str, int]
    together: Callable[[Mapping[str, Any]], list[str]]
    optional: tuple[str, ...] = ()
    flow: bool = True
    scaling: tuple[str, ...] = ("scaling_factor", "shift_factor")
    chat: bool = False


def _width(found: int, read: int, what: str) -> list[str]:
    return [] if found == read else [f"{what} {found} numbers, the transformer reads {read}"]


def _packed(channels: int, model: Mapping[str, Any]) -> list[str]:
    return _width(4 * channels, model["in_channels"], "the autoencoder's latents have, packed two by two,")


def _sd3(parts: Mapping[str, Any]) -> list[str]:
    model, first, second, t5 = parts["transformer"], parts["text_encoder"], parts["text_encoder_2"], parts.get("text_encoder_3")
    told = _width(first.projection_dim + second.projection_dim, model["pooled_projection_dim"], "the pooled embeddings of both CLIP towers are")
    told += _width(t5.d_model, model["joint_attention_dim"], "T5 makes") if t5 is not None else []
    if (wide := first.hidden_size + second.hidden_size) > model["joint_attention_dim"]:
        told.append(f"both CLIP towers make {wide} numbers a token, the transformer reads {model['joint_attention_dim']}")
    return told + _width(parts["vae"]["latent_channels"], model["in_channels"], "the autoencoder's latents have")


def _flux(parts: Mapping[str, Any]) -> list[str]:
    model = parts["transformer"]
    told = _width(parts["text_encoder"].hidden_size, model["pooled_projection_dim"], "CLIP's pooled embedding is")
    told += _width(parts["text_encoder_2"].d_model, model["joint_attention_dim"], "T5 makes")
    return told + _packed(parts["vae"]["latent_channels"], model)


def _pixart(parts: Mapping[str, Any]) -> list[str]:
    model = parts["transformer"]
    read = model["caption_channels"] or model["cross_attention_dim"]
    told = _width(parts["text_encoder"].d_model, read, "T5 makes")
    return told + _width(parts["vae"]["latent_channels"], model["in_channels"], "the autoencoder's latents have")


def _flux2(parts: Mapping[str, Any]) -> list[str]:
    model, text = parts["transformer"], parts["text_encoder"].get_text_config()
    told = _width(3 * text.hidden_size, model["joint_attention_dim"], "three layers of Mistral 3 make")
    if text.num_hidden_layers < 30:
        told.append(f"Mistral 3 has {text.num_hidden_layers} layers, of which the 30th is read")
    return told + _packed(parts["vae"]["latent_channels"], model)


def _qwen_image(parts: Mapping[str, Any]) -> list[str]:
    model, vae = parts["transformer"], parts["vae"]
    told = _width(parts["text_encoder"].get_text_config().hidden_size, model["joint_attention_dim"], "Qwen 2.5 VL makes")
    told += [f"the autoencoder says {len(vae[key])} {key}, of {vae['z_dim']} channels" for key in _STATISTICS if len(vae[key]) != vae["z_dim"]]
    told += [f"the transformer has {key}, of a model that edits pictures" for key in ("use_additional_t_cond", "use_layer3d_rope") if model[key]]
    return told + _packed(vae["z_dim"], model)


LAYOUTS = (
    Layout(
        "SD3Transformer2DModel",
        {"transformer": "sd3", "vae": "vae", "text_encoder": "text_encoder_2", "text_encoder_2": "text_encoder_2", "text_encoder_3": "t5"},
        {"tokenizer": 77, "tokenizer_2": 77, "tokenizer_3": 256},
        _sd3,
        ("text_encoder_3",),
    ),
    Layout(
        "FluxTransformer2DModel",
        {"transformer": "flux", "vae": "vae", "text_encoder": "text_encoder", "text_encoder_2": "t5"},
        {"tokenizer": 77, "tokenizer_2": 512},
        _flux,
    ),
    Layout(
        "PixArtTransformer2DModel",
        {"transformer": "pixart", "vae": "vae", "text_encoder": "t5"},
        {"tokenizer": 300},
        _pixart,
        flow=False,
        scaling=("scaling_factor",),
    ),
    Layout(
        "Flux2Transformer2DModel",
        {"transformer": "flux2", "vae": "vae_flux2", "text_encoder": "mistral3"},
        {"tokenizer": 512},
        _flux2,
        scaling=(),  # the statistics are among its weights
        chat=True,
    ),
    Layout(
        "QwenImageTransformer2DModel",
        {"transformer": "qwen_image", "vae": "vae_qwen_image", "text_encoder": "qwen2_5_vl"},
        {"tokenizer": 512},
        _qwen_image,
        scaling=_STATISTICS,
    ),
)


def layout_of(folder: Path) -> Layout:
    """The layout of a pipeline's folder, by its transformer's settings.

    Raises:
        FileNotFoundError: If they are missing.
        ValueError: On a transformer that is none of :data:`LAYOUTS`.
    """
    path = folder / "transformer" / "config.json"
    name = read_json(path).get("_class_name", "")
    for layout in LAYOUTS:
        if layout.transformer == name:
            return layout
    raise ValueError(
        f"{folder} holds a {name or 'transformer without a class'}, which is not supported: expected {', '.join(one.transformer for one in LAYOUTS)}"
    )


def find_transformer(folder: Path, *, pickled: bool = True, max_sequence_length: int | None = None) -> tuple[Layout, Pipeline]:
    """Look at the folder of a pipeline around a transformer: all files there, whole, fitting their settings and each other; no weight is loaded.

    Args:
        folder: Folder of the pipeline, as diffusers' ``save_pretrained`` writes it.
        pickled: Whether files of ``torch.save`` will do where there are no safetensors.
        max_sequence_length: Number of tokens that T5 reads, or a language model; None is that of the family's pipeline.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, weights do not fit, or parts are of different models.
    """
    layout = layout_of(folder)
    there = {name: kind for name, kind in layout.parts.items() if name not in layout.optional or (folder / name).is_dir()}
    parts = {name: find_part(kind, folder / name, name, pickled=pickled, config=read_config(kind, folder / name)) for name, kind in there.items()}
    configs = {name: with_defaults(parts[name].kind, part.config) if name in ("transformer", "vae") else part.config for name, part in parts.items()}
    for key in layout.scaling:
        if key not in parts["vae"].config:
            raise ValueError(f"{folder / 'vae' / 'config.json'} does not say {key}: write it in as the autoencoder was trained")
    if told := layout.together(configs):
        raise ValueError(f"the parts in {folder} are not of one model: {'; '.join(told)}: expected every folder as its model came")
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    flow = "Flow" in str(schedule.get("_class_name", ""))
    if flow != layout.flow:
        raise ValueError(f"{folder / 'scheduler'} is a {schedule.get('_class_name')}: expected {'one of flow matching' if layout.flow else 'one of noise'}")
    if not flow and (prediction := schedule.get("prediction_type", "epsilon")) not in PREDICTIONS:
        raise ValueError(f"{folder} predicts {prediction!r}: expected {' or '.join(PREDICTIONS)}")
    tokenizers, notes = {}, [note for part in parts.values() for note in part.notes]
    for place, length in layout.lengths.items():
        encoder = place.replace("tokenizer", "text_encoder")
        if encoder in parts:
            given = max_sequence_length if layout.parts[encoder] in _LONG else None
            tokenizers[place] = _tokenizer(folder / place, parts[encoder].config.get_text_config(), length if given is None else given)
            if layout.chat and not tokenizers[place].chat_template:
                raise FileNotFoundError(f"{folder / place} has no chat template, in which prompts are read: expected its chat_template.jinja")
    left = sorted(set(layout.optional) - set(parts))
    if left and max_sequence_length != 0:
        notes.append(f"{' and '.join(left)} {'is' if len(left) == 1 else 'are'} left out: zeros in place of the tokens, as the family's pipeline does")
    return layout, Pipeline(parts, tokenizers, schedule, tuple(notes))


def _tokenizer(folder: Path, text: Any, length: int) -> Any:
    """A tokenizer that pads to so many tokens at most."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: expected the files of a tokenizer")
    from transformers import AutoTokenizer

    with quietly():
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not found.is_fast:
        raise ValueError(f"the tokenizer in {folder} cannot tell where in the text a token stands: expected its tokenizer.json")
    if len(found) > text.vocab_size:
        raise ValueError(f"the tokenizer in {folder} knows {len(found)} tokens, its text encoder {text.vocab_size}: expected those of one model")
    set_length(found, min(length, getattr(text, "max_position_embeddings", length)))
    return found
