"""The models beside the diffusion model: CLIP, which scores image against text, and BLIP, which captions.

A source is "pocket" (shipped), the folder of a ``save_pretrained``, or a hub id (``@revision`` behind it or not) whose
files are already on this machine; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .profiles import local_folder
from .prompts import fill_template
from .support.images import to_numpy
from .support.paths import models_dir
from .support.words import adjectives
from .weights.parts import KINDS, Part, find_part
from .weights.processors import find_processor

KEPT_LISTS = 16  # of texts, whose embeddings a CLIP keeps


MODELS: Mapping[str, tuple[str, str]] = {  # kinds of models, the names of their processors, and of their shipped folders
    "clip": ("CLIPProcessor", "clip"),
    "captioner": ("BlipProcessor", "blip"),
    "groupvit": ("CLIPProcessor", "groupvit"),
}


def find_pretrained(kind: str, source: str | Path, pickled: bool = True) -> tuple[Part, Any, tuple[str, ...]]:
    """Look at a model of transformers: its files all there, whole and fitting its settings; no weight is loaded.

    Args:
        kind: Kind of the model, a key of :data:`MODELS`.
        source: Source of it: "pocket", a folder, or a hub id.
        pickled: Whether files of ``torch.save`` will do where there are no safetensors.

    Returns:
        The model's part, its processor, and notes on both.

    Raises:
        FileNotFoundError: If a file is not on this machine.
        ValueError: If a file is damaged, or weights and settings are not of one model.
    """
    processor, pocket = MODELS[kind]
    folder = local_folder(str(models_dir() / pocket if str(source) == "pocket" else source))
    try:
        if folder is None or not folder.is_dir():
            raise FileNotFoundError("it is not on this machine")
        part = find_part(kind, folder, pickled=pickled)
        found, notes = find_processor(processor, kind, folder, part.config)
    except OSError as error:
        raise FileNotFoundError(
            f"no {KINDS[kind].model} at {str(source)!r} ({' '.join(str(error).split())[:400]}): expected 'pocket', a folder that save_pretrained wrote, "
            "or a hub id whose files were downloaded to this machine before"
        ) from error
    return part, found, part.notes + notes


def load_pretrained(kind: str, source: str | Path, device: str = "cpu", pickled: bool = True) -> tuple[Any, Any]:
    """Load a model of transformers and its processor, float32, in evaluation mode.

    Args:
        kind: Kind of the model, a key of :data:`MODELS`.
        source: Source of both: "pocket", a folder, or a hub id.
        device: Device that it runs on: "cpu", "cuda" and so on.
        pickled: Whether files of ``torch.save`` will do where there are no safetensors.

    Raises:
        FileNotFoundError, ValueError: As of :func:`find_pretrained`.
    """
    part, processor, _ = find_pretrained(kind, source, pickled)
    return part.load(torch.float32).to(device), processor


@dataclass(frozen=True)
class Clip:
    """CLIP as a judge of images and words; similarities are cosines."""

    model: Any
    processor: Any
    template: str = "a photograph of a {class}"
    _embedded: dict[tuple[str, ...], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, source: str | Path = "pocket", device: str = "cpu", pickled: bool = True) -> Clip:
        """Load a CLIP: "pocket", a folder or a hub id, as :func:`load_pretrained` does."""
        return cls(*load_pretrained("clip", source, device, pickled))

    @torch.no_grad()
    def texts(self, names: Sequence[str]) -> Float[Tensor, "k d"]:
        """Unit embeddings of the template with each name in it; those of the last few lists of names are kept."""
        texts = tuple(fill_template(name, self.template) for name in names)
        if (found := self._embedded.pop(texts, None)) is None:
            coded = self.processor.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").to(self.model.device)
            found = _unit(self.model.get_text_features(**coded))
        self._embedded[texts] = found
        if len(self._embedded) > KEPT_LISTS:
            self._embedded.pop(next(iter(self._embedded)), None)
        return found

    @torch.no_grad()
    def images(self, pictures: Sequence[np.ndarray]) -> Float[Tensor, "b d"]:
        """Unit embeddings of pictures, each H W 3, uint8."""
        pixels = self.processor.image_processor(images=list(pictures), return_tensors="pt").pixel_values
        return _unit(self.model.get_image_features(pixels.to(self.model.device)))

    def similarities(self, pictures: Sequence[np.ndarray], names: Sequence[str]) -> Float[np.ndarray, "b k"]:
        """Cosines of pictures with names."""
        return to_numpy(self.images(pictures) @ self.texts(names).mT)


def _unit(features: Any) -> Tensor:
    found = features if isinstance(features, Tensor) else features.pooler_output
    return found / found.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Captioner:
    """BLIP, which captions a picture freely or from a given beginning. Decoding is greedy, so it is repeatable."""

    model: Any
    processor: Any
    length: int = 36  # new tokens at most

    @classmethod
    def load(cls, source: str | Path = "pocket", device: str = "cpu", pickled: bool = True) -> Captioner:
        """Load a captioner: "pocket", a folder or a hub id, as :func:`load_pretrained` does."""
        return cls(*load_pretrained("captioner", source, device, pickled))

    def caption(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """One caption a picture (H W 3, uint8)."""
        return self._write(self._see(pictures), "")

    def continue_captions(self, picture: np.ndarray, beginnings: Sequence[str]) -> list[str]:
        """What BLIP writes after each beginning, about one picture: the continuation alone, "" where it stops."""
        seen = self._see([picture])
        return [self._write(seen, beginning)[0] for beginning in beginnings]

    def describe(self, picture: np.ndarray, names: Sequence[str]) -> list[str]:
        """The adjectives that the free caption gives each name, "" where it gives none or does not name it."""
        [caption] = self.caption([picture])
        return [adjectives(caption, name) for name in names]

    @torch.no_grad()
    def _see(self, pictures: Sequence[np.ndarray]) -> Float[Tensor, "b n d"]:
        pixels = self.processor.image_processor(images=list(pictures), return_tensors="pt").pixel_values
        return self.model.vision_model(pixel_values=pixels.to(self.model.device)).last_hidden_state

    @torch.no_grad()
    def _write(self, seen: Float[Tensor, "b n d"], beginning: str) -> list[str]:
        """What ``generate`` of the whole model writes, which would encode the pictures once more for every beginning."""
        words = self.model.config.text_config
        ids = self.processor.tokenizer(beginning, return_tensors="pt").input_ids[:, :-1].to(seen.device)  # goes on where the end token was
        ids[:, 0] = words.bos_token_id
        shown = {"encoder_hidden_states": seen, "encoder_attention_mask": seen.new_ones(seen.shape[:2], dtype=torch.long)}
        ends = {"eos_token_id": words.sep_token_id, "pad_token_id": words.pad_token_id, "max_new_tokens": self.length}
        written = self.model.text_decoder.generate(ids.expand(len(seen), -1), do_sample=False, num_beams=1, **shown, **ends)
        return [" ".join(text.split()) for text in self.processor.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)]
