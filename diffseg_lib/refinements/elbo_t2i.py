"""ELBO-T2IAlign (Zhou et al. 2025): maps of words that explain the picture badly are made stronger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..baselines.elbo import error_draws
from ..recording import Recording
from ..scoremaps import complete, normalise
from ..segmenter import DiffSegmenter

TIMESTEPS = (300, 500, 700)  # of the errors, one draw of noise each: those of our own baseline


def class_losses(segmenter: DiffSegmenter, image: np.ndarray, classes: Sequence[str], timesteps: Sequence[int] = TIMESTEPS) -> tuple[Float[Tensor, " k"], int]:
    """Loss of each class, E ||eps - eps_theta(z_t, t, c)||^2, the mean over pixels, channels and timesteps on the same noise; and the UNet evaluations.

    Args:
        segmenter: The model and its prompts.
        image: Picture, H W 3, uint8.
        classes: Names of the k classes.
        timesteps: Timesteps of the noise.
    """
    draws = error_draws(segmenter, image, classes, timesteps, 1, "threshold")
    return draws.mean((0, 2, 3)), draws.shape[0] * draws.shape[1]


def exponents(losses: Float[Tensor, " k"], gamma: float = 2.0) -> Float[Tensor, " k"]:
    """Exponents gamma^(-minmax(loss_c)), in [1 / gamma, 1]; 1 for all where the losses are equal. The value of `gamma` is ours.

    Raises:
        ValueError: If `gamma` is not above 0.
    """
    if gamma <= 0:
        raise ValueError(f"gamma {gamma}: expected a number above 0")
    return gamma ** -normalise(losses[None, None])[0, 0]


def elbo_t2i(recording: Recording, maps: Float[Tensor, "k h w"], powers: Float[Tensor, " k"]) -> Float[Tensor, "k h w"]:
    """Calibrate maps by the classes' denoising losses, then complete them (ELBO-T2IAlign, Zhou et al. 2025).

    Formula: M_c <- minmax(M_c)^(gamma^(-minmax(loss_c))), then A_self M_c.

    Args:
        recording: Recording with the finest self-attention.
        maps: Maps at the finest resolution.
        powers: Exponent of each map, of :func:`exponents` over all classes of the picture.
    """
    return complete(normalise(maps) ** powers[:, None, None], *recording.finest())
