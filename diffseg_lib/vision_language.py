"""The models beside the diffusion model: CLIP, which scores image against text, and BLIP, which captions.

A source is "pocket" (shipped), the folder of a ``save_pretrained``, or a hub id (``@revision`` behind it or not) whose
files are already on this machine; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    @classmethod
    def load(cls, source: str | Path = "pocket", device: str = "cpu") -> Clip:
        """Load a CLIP: "pocket", a folder or a hub id."""
        return cls(*load_pretrained("CLIPModel", "CLIPProcessor", source, "clip", device))

    @torch.no_grad()
    def texts(self, names: Sequence[str]) -> Float[Tensor, "k d"]:
        """Unit embeddings of the template with each name in it."""
        texts = [fill_template(name, self.template) for name in names]
        coded = self.processor.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").to(self.model.device)
        return _unit(self.model.get_text_features(**coded))

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
        return self._write(pictures, "")

    def continue_captions(self, picture: np.ndarray, beginnings: Sequence[str]) -> list[str]:
        """What BLIP writes after each beginning, about one picture: the continuation alone, "" where it stops."""
        return [self._write([picture], beginning)[0] for beginning in beginnings]

    def describe(self, picture: np.ndarray, names: Sequence[str]) -> list[str]:
        """The adjectives that the free caption gives each name, "" where it gives none or does not name it."""
        [caption] = self.caption([picture])
        return [adjectives(caption, name) for name in names]

    @torch.no_grad()
    def _write(self, pictures: Sequence[np.ndarray], beginning: str) -> list[str]:
        pixels = self.processor.image_processor(images=list(pictures), return_tensors="pt").pixel_values.to(self.model.device)
        if not beginning:
            written, start = self.model.generate(pixels, max_new_tokens=self.length, do_sample=False, num_beams=1), 0
        else:
            ids = self.processor.tokenizer(beginning, return_tensors="pt").input_ids.to(self.model.device)
            start = ids.shape[1] - 1  # generation drops the end token and goes on from there
            written = self.model.generate(pixels, input_ids=ids.expand(len(pictures), -1), max_new_tokens=self.length, do_sample=False, num_beams=1)
        return [" ".join(text.split()) for text in self.processor.batch_decode(written[:, start:], skip_special_tokens=True)]
