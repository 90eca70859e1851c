"""The models beside the diffusion model: CLIP, which scores image against text, and BLIP, which captions.

A source is "pocket" (shipped), the folder of a ``save_pretrained``, or a hub id (``@revision`` behind it or not) whose
files are already on this machine; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .loading import quietly
from .profiles import split_revision
from .prompts import adjectives, fill_template
from .support.images import to_numpy
from .support.paths import models_dir

KEPT_LISTS = 16  # of texts, whose embeddings a CLIP keeps


def load_pretrained(model: str, processor: str, source: str | Path, pocket: str, device: str = "cpu", **options: Any) -> tuple[Any, Any]:
    """Load a model of transformers and its processor by the names of their classes, float32, in evaluation mode, weights as safetensors alone.

    Args:
        model: Name of the model's class, e.g. "CLIPModel".
        processor: Name of the processor's class, e.g. "CLIPProcessor".
        source: Source of both: "pocket", a folder, or a hub id.
        pocket: Name of the shipped model's folder.
        device: Device that it runs on: "cpu", "cuda" and so on.
        options: Options of ``from_pretrained``.

    Raises:
        FileNotFoundError: If the files are not on this machine.
    """
    import transformers

    place, where = split_revision(str(models_dir() / pocket if str(source) == "pocket" else source))
    try:
        with quietly():
            loaded = getattr(transformers, model).from_pretrained(place, dtype=torch.float32, use_safetensors=True, **where, **options)
            prepared = getattr(transformers, processor).from_pretrained(place, **where)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no {model} at {str(source)!r} ({' '.join(str(error).split())[:200]}): expected 'pocket', a folder that save_pretrained wrote, "
            "or a hub id whose files were downloaded to this machine before"
        ) from error
    return loaded.requires_grad_(False).eval().to(device), prepared


@dataclass(frozen=True)
class Clip:
    """CLIP as a judge of images and words; similarities are cosines."""

    model: Any
    processor: Any
    template: str = "a photograph of a {class}"
    _embedded: dict[tuple[str, ...], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, source: str | Path = "pocket", device: str = "cpu") -> Clip:
        """Load a CLIP: "pocket", a folder or a hub id."""
        return cls(*load_pretrained("CLIPModel", "CLIPProcessor", source, "clip", device))

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
    def load(cls, source: str | Path = "pocket", device: str = "cpu") -> Captioner:
        """Load a captioner: "pocket", a folder or a hub id."""
        return cls(*load_pretrained("BlipForConditionalGeneration", "BlipProcessor", source, "blip", device))

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
