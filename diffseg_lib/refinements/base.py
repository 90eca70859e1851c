"""What a refinement is, and how one becomes a method of segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..baselines.base import Prediction
from ..baselines.dense_clip import DenseClip
from ..optimizations import OPTIMIZATIONS
from ..prompts import Prompt
from ..recording import Recording
from ..scoremaps import constant_maps, upsample
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from .elbo_t2i import class_losses, exponents
from .naming import name_regions


@dataclass(frozen=True)
class Refinement:
    """A method that came after the paper, as a function over a recording, and what is to be recorded for it.

    Args:
        refine: Function from a recording and the fused maps (Eq. 5) at its finest resolution, k h w, to new maps k h w; where `calibrated`, of an exponent for
            each map too; where `unsupervised`, from a recording of the empty prompt alone to the numbers of regions, h w.
        self_attention: Self-attention that is recorded, as :func:`~diffseg_lib.attention.record_attention` takes it.
        heads: Whether every head's cross map is kept.
        projections: Kinds of attention whose projections are kept, as :func:`~diffseg_lib.attention.record_attention` takes them.
        content: Whether cross maps are divided by what the tokens of the prompt's words receive together, the start token and padding left out.
        calibrated: Whether the model's denoising errors under each class's prompt are needed.
        unsupervised: Whether regions are found without words and named by CLIP afterwards.
    """

    refine: Callable[..., Any]
    self_attention: str = "finest"
    heads: bool = False
    projections: tuple[str, ...] = ()
    content: bool = False
    calibrated: bool = False
    unsupervised: bool = False


@dataclass(frozen=True)
class Refined:
    """A refinement as a method: the segmenter's prompts, noise, timesteps, fusion weights and ``one_pass``, but its completion is the refinement's.

    Args:
        segmenter: The diffusion model.
        refinement: What is done with its recordings.
        clip: CLIP that names the regions of an unsupervised refinement; None for all others.
    """

    segmenter: DiffSegmenter
    refinement: Refinement
    clip: DenseClip | None = None

    def __call__(self, image: np.ndarray, classes: Sequence[str]) -> Prediction:
        """Scores of an image (H W 3, uint8), min-maxed by class; UNet evaluations are one a row and timestep."""
        segmenter, steps = self.segmenter, self.segmenter.timesteps
        if self.refinement.unsupervised:
            maps, calls = self._named(image, classes), len(steps)
        else:
            maps, errors = self._refined(image, classes)
            calls = segmenter.unet_rows(classes) * len(steps) + errors
        notes = tuple(f"the map of {classes[i]} is constant" for i in constant_maps(maps).nonzero().flatten().tolist())
        return Prediction(to_numpy(upsample(maps, image.shape[:2], segmenter.config.final_norm)), calls, segmenter.size_note(image) + notes)

    def record(self, image: np.ndarray, classes: Sequence[str]) -> list[list[Recording]]:
        """The recordings that maps are refined from: one a timestep for each call of the UNet, whose classes follow each other.

        Args:
            image: Picture, H W 3, uint8.
            classes: Names of the classes; those of a call are as many as the rows of its cross maps.
        """
        segmenter = self.segmenter
        prompts = segmenter.prompts(classes, image)
        latents = segmenter.encode(image)
        noise = segmenter.noise(image, latents)
        found, done = [], 0
        for (embeddings, token_weights), more in segmenter.calls(prompts, *segmenter.embed(prompts), segmenter.config.class_batch):
            count = token_weights.shape[-2]
            weights = self._with_content(token_weights, prompts[done : done + count]) if self.refinement.content else token_weights
            recordings = [self._attend(latents, noise, t, embeddings, weights, **more) for t in segmenter.timesteps]
            found.append([_per_content(one, weights) for one in recordings] if self.refinement.content else recordings)
            done += count
        return found

    def _attend(self, latents: Tensor, noise: Tensor, timestep: int, embeddings: Tensor, token_weights: Tensor | None, **more: Any) -> Recording:
        wanted = self.refinement
        options = {"heads": wanted.heads, "projections": wanted.projections, "first_only": self.segmenter.config.share_self_attention}
        options |= {"optimizations": OPTIMIZATIONS} if self.segmenter.config.optimized else {}
        return self.segmenter.attend(latents, noise, timestep, embeddings, token_weights, wanted.self_attention, **options, **more)

    def _with_content(self, token_weights: Float[Tensor, "*_ l"], prompts: Sequence[Prompt]) -> Float[Tensor, "b c l"]:
        """Beside the weights of the classes of each prompt, those of all its words: b prompts, c classes and one more."""
        weights = token_weights if token_weights.ndim == 3 else token_weights[:, None]
        words = self.segmenter.backbone.content_weights(prompts[:: weights.shape[1]])[:, None, : weights.shape[-1]]
        return torch.cat([weights, words.to(weights)], dim=1)

    def _refined(self, image: np.ndarray, classes: Sequence[str]) -> tuple[Tensor, int]:
        """Refined maps, the mean over timesteps, and the UNet evaluations that denoising errors took."""
        powers, errors = None, 0
        if self.refinement.calibrated:
            losses, errors = class_losses(self.segmenter, image, classes)
            powers = exponents(losses)
        return self.refine(self.record(image, classes), powers), errors

    def refine(self, found: Sequence[Sequence[Recording]], powers: Tensor | None = None) -> Float[Tensor, "k h w"]:
        """Refined maps of recordings, the mean over timesteps.

        Args:
            found: Recordings, as :meth:`record` gives them; they may hold more than this refinement asks for.
            powers: Exponent of each map of a calibrated refinement, k of them; None for all others.
        """
        parts: list[Tensor] = []
        fusing = self.segmenter.with_config(iterations=0)
        for recordings in found:
            maps = []
            for recording in recordings:
                fused = fusing.score(recording)[0]
                done = sum(len(part) for part in parts)
                given = () if powers is None else (powers[done : done + len(fused)].to(fused),)
                maps.append(self.refinement.refine(recording, fused, *given))
            parts.append(torch.stack(maps).mean(0))
        return torch.cat(parts)

    def _named(self, image: np.ndarray, classes: Sequence[str]) -> Tensor:
        """Maps of regions that CLIP named, the mean over timesteps."""
        if self.clip is None:
            raise ValueError("regions are found without words: give the CLIP that names them, Refined(segmenter, refinement, clip)")
        segmenter = self.segmenter
        segmenter.prompts(classes)  # refuses classes that cannot be used
        return self.name(self.record_empty(image), self.clip.similarities(image, classes))

    def record_empty(self, image: np.ndarray) -> list[Recording]:
        """The recordings that regions are found in, of the empty prompt alone: one a timestep."""
        segmenter, latents = self.segmenter, self.segmenter.encode(image)
        noise, empty = segmenter.noise(image, latents), segmenter.backbone.cached_embedding("")
        return [self._attend(latents, noise, t, empty, None) for t in segmenter.timesteps]

    def name(self, found: Sequence[Recording], similarities: Float[Tensor, "k _ _"]) -> Float[Tensor, "k h w"]:
        """Maps of the regions in some recordings, as CLIP's similarities with the classes name them: the mean over timesteps."""
        return torch.stack([name_regions(self.refinement.refine(one).cpu(), similarities.cpu()) for one in found]).mean(0)


def _per_content(recording: Recording, token_weights: Float[Tensor, "b c l"]) -> Recording:
    """Cross maps of the classes divided by the last of each prompt's maps, which is that of all its words."""
    b, c, _ = token_weights.shape
    cross = {}
    for name, maps in recording.cross.items():
        groups = maps.unflatten(0, (b, c))
        cross[name] = (groups[:, :-1] / groups[:, -1:].clamp_min(torch.finfo(maps.dtype).tiny)).flatten(0, 1)
    return replace(recording, cross=cross)
