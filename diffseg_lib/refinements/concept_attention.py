"""Read-outs that were made for joint attention: ConceptAttention (Helbling et al. 2025) and Seg4Diff (Kim et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..backbone import joint_calls
from ..baselines.attention import Attention
from ..baselines.base import Prediction
from ..dit.concepts import watch_concepts
from ..scoremaps import resize
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy

BACKGROUND = "background"  # the concept that stands for all else
SEG4DIFF_BLOCK, SEG4DIFF_TIMESTEP = 9, 515  # of Stable Diffusion 3's 24 blocks, counted from 0; s = .515


def concept_scores(image: Float[Tensor, "n c"], concepts: Float[Tensor, "k c"]) -> Float[Tensor, "k n"]:
    """The softmax over concepts of o_x . o_c, attention's outputs of a pixel and of a concept, heads side by side; columns sum to 1."""
    return (concepts.float() @ image.float().mT).softmax(0)


@dataclass(frozen=True)
class ConceptAttention:
    """ConceptAttention as a method: classes and "background" are concepts beside a sentence that names the classes; one call of the transformer a timestep.

    Args:
        segmenter: The model, its timesteps, and the blocks whose fusion weights are above 0, which count alike.
    """

    segmenter: DiffSegmenter

    def __call__(self, image: np.ndarray, classes: Sequence[str]) -> Prediction:
        """Scores of an image (H W 3, uint8): probabilities over the classes and the background, not min-maxed."""
        segmenter, backbone = self.segmenter, self.segmenter.backbone
        calls = joint_calls(segmenter.backbone, "ConceptAttention")
        joint = segmenter.with_config(one_pass="joint")
        prompts = joint.prompts(classes)
        latents = segmenter.encode(image)
        h, w = latents.shape[2] // 2, latents.shape[3] // 2
        words = [*(prompt.name for prompt in prompts), BACKGROUND]
        concepts, rows = torch.cat([self.concept(name) for name in words], dim=1), [self.place(name) for name in words]
        blocks, maps = [block for block, weight in segmenter.weights.items() if weight], []

        def keep(block: int, seen: Tensor, found: Tensor) -> None:
            maps.append(concept_scores(seen, found))

        noise, driving = segmenter.noise(image, latents), backbone.cached_embedding(prompts[0].text)
        for timestep in segmenter.timesteps:
            noisy = backbone.add_noise(latents, noise, timestep)
            with watch_concepts(backbone.unet, concepts, rows, blocks, calls, lambda: h * w, keep):
                backbone.predict_noise(noisy, timestep, driving)
        mean = torch.stack(maps).mean(0)[: len(prompts)].unflatten(-1, (h, w))
        return Prediction(to_numpy(resize(mean, image.shape[:2])), len(segmenter.timesteps), segmenter.size_note(image))

    def concept(self, name: str) -> Float[Tensor, "1 1 d"]:
        """The embedding of a word alone, of the token at its :meth:`place`."""
        place, width = self.place(name), self.segmenter.backbone.unet.config.joint_attention_dim
        return self.segmenter.backbone.cached_embedding(name)[:, place : place + 1, :width]

    def place(self, name: str) -> int:
        """Where in its own embedding a word has the token that stands for it: the first, of T5 where there is a T5 (the paper), else of CLIP.

        Of a language model, which reads from left to right, it is the last (as the authors' code for Flux.2 has it).
        """
        calls = joint_calls(self.segmenter.backbone, "ConceptAttention")
        start, tokenizer = calls.spans[-1]
        own = [i for i, (a, b) in enumerate(tokenizer(name, return_offsets_mapping=True)["offset_mapping"]) if a < b]
        return int(start + own[-1 if calls.reads_on else 0])


def seg4diff(segmenter: DiffSegmenter) -> Attention:
    """Seg4Diff's read-out: the words' columns of one block's image-to-text quarter, the mean over heads, at s = .515; nothing is completed.

    Raises:
        ValueError: On a model without joint attention, or without block 9.
    """
    joint_calls(segmenter.backbone, "Seg4Diff")
    return Attention(segmenter.with_config(weights={SEG4DIFF_BLOCK: 1.0}, timesteps=(SEG4DIFF_TIMESTEP,), iterations=0))
