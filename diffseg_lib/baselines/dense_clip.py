"""A discriminative baseline: CLIP's patches compared with words, after MaskCLIP.

CLIP is trained by telling pictures and captions apart, and was never shown a mask. It answers the same call
as every method of :mod:`diffseg_lib.baselines.registry`, with scores min-maxed by class at the image's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from ..scoremaps import upsample
from ..support.images import to_numpy, working_size
from ..support.settings import OBJECT, Count, NotNegativeInteger, Texts, one_of, settings
from ..vision_language import Clip
from .base import Prediction

TEMPLATE = "a photograph of a {class}"
LAYERS = ("value", "residual", "attention")
CONTRASTS = ("none", "empty", "classes")


def window_offsets(patch: int, shifts: int) -> list[int]:
    """Where windows begin, px from the image's edge, so that their patches' centres lie evenly: `shifts` to a patch.

    >>> window_offsets(8, 1), window_offsets(8, 2), window_offsets(8, 4)
    ([0], [-2, 2], [-3, -1, 1, 3])
    """
    return [round((i + 0.5) * patch / shifts - patch / 2) for i in range(shifts)]


def mean_of_shifts(maps: Float[Tensor, "k h w"], shifts: int) -> Float[Tensor, "k h w"]:
    """Maps whose neighbours belong to different shifts, brought to the mean over shifts, each interpolated linearly.

    At any place a shift's linear interpolation weighs its cells by a tent as wide as two patches; so their mean is the
    fine grid under that tent, which is two boxes of `shifts` cells one after the other. Edges are repeated.

    >>> mean_of_shifts(torch.tensor([[[0.0, 0.0, 4.0, 0.0, 0.0]]]), 2)[0, 0].tolist()
    [0.0, 1.0, 2.0, 1.0, 0.0]
    """
    wide = pad(maps[None], (shifts - 1,) * 4, mode="replicate")
    return avg_pool2d(avg_pool2d(wide, shifts, stride=1), shifts, stride=1)[0]


@settings
class DenseClip:
    """CLIP's vision transformer read patch by patch (Zhou et al. 2022): where a patch's embedding is near a word's, the word is.

    CLIP is trained through one token of the whole picture. Its last layer mixes the patches by attention; without
    the mixing each patch keeps its own embedding, in the space of the texts.

    The defaults are the best of those tried on 40 scenes of Pocket-VOC's train split: no input size beat
    the model's own, four shifts beat one, the residual beat the bare values (the layer with its attention did as
    well in mean IoU and worse in pixel AUC), and taking off the empty text's similarity beat both other contrasts in AUC.

    Args:
        clip: The model, its processor and the place of a class in a text.
        size: The short side of the picture as the model sees it, px, with its position embeddings interpolated; 0 is the model's own.
        shifts: The number of sub-patch offsets a side, 1 to the side of a patch. The picture is read at all shifts^2 of them in one batch,
            for a grid that is `shifts` times finer, whose scores are the mean over all readings.
        layer: What is taken of the last layer: the "value" path alone, that path on top of the "residual" stream, or the layer as it is,
            with its "attention".
        contrast: What a score is: with "none" the cosine with the class's text, with "empty" that minus the cosine with a text that says
            nothing, with "classes" the probability of the class among all those asked for and the empty text.
        templates: The texts that are averaged for a class, each with the place of the class in it; an empty tuple takes `clip`'s own.

    Raises:
        ValueError: On values of another type or out of range, or an unknown name.
    """

    clip: Annotated[Clip, OBJECT]
    size: NotNegativeInteger = 0
    shifts: Count = 4
    layer: Annotated[str, one_of(LAYERS)] = "residual"
    contrast: Annotated[str, one_of(CONTRASTS)] = "empty"
    templates: Texts = ()

    def __post_init__(self) -> None:
        if self.shifts > self.patch:
            raise ValueError(f"shifts {self.shifts}: expected 1 to {self.patch}, the side of a patch")

    @classmethod
    def from_path(cls, path: str | Path = "pocket", *, device: str = "cpu", pickled: bool = True, **changes: Any) -> DenseClip:
        """Any ``CLIPModel`` by "pocket", folder or hub id on this machine, pickled or not; `changes` are this class's fields."""
        return cls(Clip.load(path, device, pickled), **changes)

    @property
    def patch(self) -> int:
        """Side of a patch, px."""
        return int(self.clip.model.config.vision_config.patch_size)

    def grid(self, image: np.ndarray) -> tuple[int, int]:
        """How many patches an image (H W 3) is high and wide."""
        size = self.size or int(self.clip.model.config.vision_config.image_size)
        h, w = working_size(image.shape[0], image.shape[1], size, self.patch)
        return h // self.patch, w // self.patch

    @property
    def settings(self) -> dict[str, Any]:
        """The switches that change its scores, for a record."""
        return {field.name: getattr(self, field.name) for field in fields(self)[1:]}

    def __call__(self, image: np.ndarray, classes: Sequence[str]) -> Prediction:
        """Scores of an image (H W 3, uint8), min-maxed by class."""
        return Prediction(to_numpy(upsample(self.similarities(image, classes), image.shape[:2])))

    @torch.no_grad()
    def similarities(self, image: np.ndarray, classes: Sequence[str]) -> Float[Tensor, "k h w"]:
        """Scores on the grid of :meth:`features`, before min-max: by the contrast in [-1, 1], [-2, 2] or [0, 1].

        Raises:
            ValueError: On an empty list of classes, or a string in its place.
        """
        if isinstance(classes, str) or not len(classes):
            raise ValueError(f"classes: expected a list of at least one name, got {classes!r}")
        nothing = replace(self.clip, template="{class}").texts([""])
        cosines = torch.einsum("kd,dhw->khw", torch.cat([self.texts(classes), nothing]), self.features(image))
        if self.contrast == "classes":
            cosines = (self.clip.model.logit_scale.exp() * cosines).softmax(0)
        return mean_of_shifts(cosines[:-1] - (cosines[-1:] if self.contrast == "empty" else 0), self.shifts)

    def texts(self, classes: Sequence[str]) -> Float[Tensor, "k d"]:
        """Unit embeddings of the classes, the mean over templates."""
        templates = self.templates or (self.clip.template,)
        mean = torch.stack([replace(self.clip, template=one).texts(classes) for one in templates]).mean(0)
        return mean / mean.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def features(self, image: np.ndarray) -> Float[Tensor, "d h w"]:
        """Unit embeddings of the patches of an image (H W 3, uint8), on a grid `shifts` times finer than patches."""
        model, vision = self.clip.model, self.clip.model.vision_model
        h, w = self.grid(image)
        size = (h * self.patch, w * self.patch)
        windows = self._windows(_pixels(image, size, self.clip.processor.image_processor).to(model.device))
        hidden = vision(pixel_values=windows, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        tokens = vision.post_layernorm(self._last_layer(hidden)[:, 1:])
        found = model.visual_projection(tokens)
        found = found / found.norm(dim=-1, keepdim=True)
        return rearrange(found, "(sy sx) (h w) d -> d (h sy) (w sx)", sy=self.shifts, h=h)

    def _windows(self, pixels: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The picture seen from every offset, its edge repeated where a window leaves it."""
        _, _, h, w = pixels.shape
        offsets = [start + self.patch for start in window_offsets(self.patch, self.shifts)]
        wide = pad(pixels, (self.patch,) * 4, mode="replicate")
        return torch.cat([wide[:, :, y : y + h, x : x + w] for y in offsets for x in offsets])

    def _last_layer(self, hidden: Sequence[Tensor]) -> Float[Tensor, "b n d"]:
        """What the last layer makes of each token alone; hidden: its input last but one, its output last."""
        if self.layer == "attention":
            return hidden[-1]
        last = self.clip.model.vision_model.encoder.layers[-1]
        values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(hidden[-2])))
        return values + hidden[-2] if self.layer == "residual" else values


def _pixels(image: np.ndarray, size: tuple[int, int], processor: Any) -> Float[Tensor, "1 3 h w"]:
    """An image resized to `size` (height, width) without a crop, and normalised as its model was trained."""
    resized = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    mean, deviation = (torch.tensor(one).reshape(1, 3, 1, 1) for one in (processor.image_mean, processor.image_std))
    return (torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 255 - mean) / deviation
