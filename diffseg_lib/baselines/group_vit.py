"""GroupViT (Xu et al. 2022): groups of patches, learnt from captions, compared with words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..prompts import fill_template
from ..scoremaps import upsample
from ..support.images import to_numpy
from ..support.words import class_names
from ..vision_language import load_pretrained
from .base import Prediction
from .dense_clip import TEMPLATE, _pixels


@dataclass(frozen=True)
class GroupVit:
    """GroupViT (Xu et al. 2022): a vision transformer that gathers patches into groups, and compares groups with words.

    Args:
        model: A ``GroupViTModel``.
        processor: Its ``CLIPProcessor``.
        template: A text with the place of a class in it.
    """

    model: Any
    processor: Any
    template: str = TEMPLATE

    @classmethod
    def from_path(cls, path: str | Path, *, device: str = "cpu", template: str = TEMPLATE, pickled: bool = True) -> GroupVit:
        """Load a model by folder or hub id on this machine, e.g. ``nvidia/groupvit-gcc-yfcc``, pickled or not; there is no pocket one.

        Raises:
            FileNotFoundError: If the files are not on this machine.
            ValueError: For "pocket", and as of :func:`~diffseg_lib.vision_language.find_pretrained`.
        """
        if str(path) == "pocket":
            raise ValueError("there is no pocket GroupViT: expected a folder that save_pretrained wrote, or a hub id such as nvidia/groupvit-gcc-yfcc")
        return cls(*load_pretrained("groupvit", path, device, pickled), template)

    @property
    def settings(self) -> dict[str, Any]:
        """The switches that change its scores, for a record."""
        return {"template": self.template}

    @torch.no_grad()
    def __call__(self, image: np.ndarray, classes: Sequence[str]) -> Prediction:
        """Scores of an image (H W 3, uint8), min-maxed by class; the model sees it squeezed to its own square.

        Raises:
            ValueError: On an empty list of classes, or a string in its place.
        """
        classes, _ = class_names(classes, merge=isinstance(classes, str))
        if not len(classes):
            raise ValueError(f"classes: expected a list of at least one name, got {classes!r}")
        side = int(self.model.config.vision_config.image_size)
        texts = self.processor.tokenizer([fill_template(name, self.template) for name in classes], padding="max_length", truncation=True, return_tensors="pt")
        pixels = _pixels(image, (side, side), self.processor.image_processor).to(self.model.device)
        inputs = {name: texts[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        maps = self.model(**inputs, pixel_values=pixels, output_segmentation=True).segmentation_logits[0]
        return Prediction(to_numpy(upsample(maps, image.shape[:2])))
