"""The ELBO baseline (Sec. 3.1, Wang et al. 2023): which words explain each pixel's noise best?

log p(x|c) is at least the ELBO, whose part that depends on c is -E ||eps - eps_theta(z_t, t, c)||^2, Eq. (3);
the inequality of Eq. (2) is printed the other way round in the paper. By Bayes, with equal priors, the class
of least error is the most probable one, and since the error is a sum over pixels of the latents, each is asked
by itself. That the pixels were independent given z_t is the stretch in it: eps_theta sees them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..scoremaps import resize
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from ..support.settings import OBJECT, Count, NotNegative, Positive, Timesteps, settings
from .base import Prediction


@dataclass(frozen=True)
class Posterior:
    """Denoising errors by class and pixel of the latents, and what follows from them.

    Args:
        errors: Mean squared error of the noise for each of the k classes, k h w, the mean over channels and draws.
        background: The same error under the empty prompt, 1 h w; None if it was not asked for.
        classes: Names of the k classes.
        calls: The number of UNet evaluations.
    """

    errors: Float[Tensor, "k h w"]
    background: Float[Tensor, "1 h w"] | None
    classes: tuple[str, ...]
    calls: int

    def probabilities(self, temperature: float) -> Float[Tensor, "_ h w"]:
        """The posterior p(c | pixel) = softmax(-error / temperature), the background's map last if there is one; the maps sum to one.

        The ELBO's own temperature would be 1 / (weights of the loss x channels x steps); errors of single pixels are
        far too noisy for it, so it is a free number.
        """
        rows = self.errors if self.background is None else torch.cat([self.errors, self.background])
        return torch.softmax(-rows / temperature, dim=0)

    def scores(self, temperature: float) -> Float[Tensor, "k h w"]:
        """Scores in [0, 1] whose order over classes is that of the errors.

        With a background s_c = sigmoid((E_background - E_c) / temperature): above .5 exactly where the class
        explains the pixel better than no words do, so a threshold of .5 is the rule "background is a class". Without
        one, the posterior of the classes.
        """
        if self.background is None:
            return self.probabilities(temperature)
        return torch.sigmoid((self.background - self.errors) / temperature)


def draw_noise(segmenter: DiffSegmenter, image: np.ndarray, latents: Float[Tensor, "1 c h w"], draws: int) -> list[Float[Tensor, "1 c h w"]]:
    """Noise draws seeded by (seed, image, number of the draw); the first is the attention method's own."""
    return [segmenter.with_config(seed=segmenter.config.seed + (i << 32)).noise(image, latents) for i in range(draws)]


def denoising_errors(
    segmenter: DiffSegmenter,
    latents: Float[Tensor, "1 c h w"],
    noise: Float[Tensor, "1 c h w"],
    timestep: int,
    embeddings: Float[Tensor, "b l d"],
) -> Float[Tensor, "b h w"]:
    """||eps - eps_theta(z_t, t, c)||^2, the mean over channels, for every prompt on the *same* noise, Eq. (3)."""
    noisy = segmenter.backbone.add_noise(latents, noise, timestep)
    parts = [segmenter.backbone.predict_noise(noisy, timestep, rows) for rows in embeddings.split(segmenter.config.class_batch)]
    return (torch.cat(parts).float() - noise.float()).square().mean(1)


def smooth(maps: Float[Tensor, "k h w"], sigma: float) -> Float[Tensor, "k h w"]:
    """A Gaussian over each map, `sigma` in pixels of the latents; 0 changes nothing."""
    if not sigma:
        return maps
    return torch.from_numpy(gaussian_filter(to_numpy(maps), sigma=(0, sigma, sigma), mode="nearest")).to(maps)


def elbo_posterior(
    segmenter: DiffSegmenter,
    image: np.ndarray,
    classes: Sequence[str],
    timesteps: Sequence[int] = (300, 500, 700),
    samples: int = 2,
    sigma: float = 2.0,
    background: str = "prompt",
) -> Posterior:
    """Errors of every class on one image, the mean over timesteps and noise draws, shared by all classes.

    Args:
        segmenter: The model, the template of its prompts, its seed and its class batch; no "++" is applied.
        image: The picture, H W 3, uint8.
        classes: Names of the classes.
        timesteps: Timesteps t of the noise, 0 to 999; each is as many UNet evaluations a class as there are samples.
        samples: The number of noise draws a timestep; draw i is the same for every class and timestep.
        sigma: Width of the Gaussian that smooths the errors, pixels of the latents; 0 smooths nothing.
        background: Whether the empty prompt is asked too: "prompt" does, "threshold" does not.

    Raises:
        ValueError: On no timesteps, no samples, a negative sigma or another background rule.
    """
    if not timesteps or samples < 1 or sigma < 0:
        raise ValueError(f"timesteps {list(timesteps)}, samples {samples}, sigma {sigma}: expected at least one, at least 1 and 0 or more")
    if background not in ("prompt", "threshold"):
        raise ValueError(f"background {background!r}: expected 'prompt' or 'threshold'")
    draws = error_draws(segmenter, image, classes, timesteps, samples, background)
    errors = smooth(draws.mean(0), sigma)
    k = len(classes)
    return Posterior(errors[:k], errors[k:] if background == "prompt" else None, tuple(classes), draws.shape[0] * draws.shape[1])


def error_draws(
    segmenter: DiffSegmenter, image: np.ndarray, classes: Sequence[str], timesteps: Sequence[int], samples: int, background: str = "prompt"
) -> Float[Tensor, "s b h w"]:
    """Every draw's errors by themselves: s = timesteps x samples, the draws of the first sample first; b is the classes, the background last."""
    latents = segmenter.encode(image)
    texts = [prompt.text for prompt in segmenter.prompts(classes, image)] + ([""] if background == "prompt" else [])
    embeddings = segmenter.backbone.encode_prompts(texts)
    noises = draw_noise(segmenter, image, latents, samples)
    return torch.stack([denoising_errors(segmenter, latents, noise, t, embeddings) for noise in noises for t in timesteps])


@settings
class ElboMethod:
    """The baseline as a method: scores at the image's size.

    Timesteps, sigma and temperature were chosen on the pocket train split.

    Args:
        segmenter: The model.
        timesteps: Timesteps t of the noise, 0 to 999.
        samples: The number of noise draws a timestep, at least 1.
        sigma: Width of the Gaussian that smooths the errors, pixels of the latents, 0 or more.
        temperature: The divisor of the errors in :meth:`Posterior.scores`, above 0.

    Raises:
        ValueError: On values of another type or out of range, or an unknown name.
    """

    segmenter: Annotated[DiffSegmenter, OBJECT]
    timesteps: Timesteps = (300, 500, 700)
    samples: Count = 2
    sigma: NotNegative = 2.0
    temperature: Positive = 0.01

    @property
    def settings(self) -> tuple[object, ...]:
        """What its scores depend on beside model and seed."""
        return self.timesteps, self.samples, self.sigma, self.temperature

    def __call__(self, image: np.ndarray, classes: Sequence[str]) -> Prediction:
        """Scores of an image (H W 3, uint8) in [0, 1], and the number of UNet evaluations that they took."""
        found = elbo_posterior(self.segmenter, image, classes, self.timesteps, self.samples, self.sigma)
        return Prediction(to_numpy(resize(found.scores(self.temperature), image.shape[:2])), found.calls)


def scores_of_draws(segmenter: DiffSegmenter, draws: Float[Tensor, "n c h w"], classes: Sequence[str], count: int) -> Float[np.ndarray, "k h w"]:
    """Scores of the classes, in [0, 1], from the first draws of :func:`error_draws`, smoothed and scaled as :class:`ElboMethod` does.

    Args:
        segmenter: The model.
        draws: Errors, a draw a row: those of the k classes, then that of no words.
        classes: Names of the k classes.
        count: The number of draws to use.
    """
    method = ElboMethod(segmenter)
    mean = smooth(draws[:count].mean(0), method.sigma)
    return to_numpy(Posterior(mean[:-1], mean[-1:], tuple(classes), 0).scores(method.temperature))


def noise_sharing(segmenter: DiffSegmenter, image: np.ndarray, name: str, timestep: int, draws: int) -> tuple[float, float]:
    """Variance over draws of the error of the empty prompt minus that of a class, mean over pixels: (shared noise, independent noise).

    Args:
        segmenter: The model.
        image: The picture, H W 3, uint8.
        name: Name of the class.
        timestep: Timestep of the noise, 0 to 999.
        draws: The number of pairs of errors that are compared, 2 or more.
    """
    errors = error_draws(segmenter, image, [name], [timestep], 2 * draws)  # draws 2 h w
    first, second = errors[:draws], errors[draws:]
    return float((first[:, 1] - first[:, 0]).var(0).mean()), float((first[:, 1] - second[:, 0]).var(0).mean())
