"""Backbones: what the method asks of a diffusion model, and how one is loaded.

A *profile* is a model and the numbers that were chosen for it: timesteps, fusion weights, threshold,
the size it likes. It is named ("pocket", "sd15") or is the folder of a pipeline, whose
``profile.json`` holds the numbers if there is one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .locations import models_dir
from .prompts import nearest

HUB = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5"}  # profiles by hub id
BLIP, CLIP = "Salesforce/blip-image-captioning-large", "openai/clip-vit-base-patch16"  # beside them
KEPT_PROMPTS = 256  # embeddings: 60 MB of a Stable Diffusion in float32
PAPER_WEIGHTS = {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}  # Eq. (5), latent/8 to latent/1


@dataclass(frozen=True)
class Profile:
    """A model and the numbers chosen for it.

    name; source: a folder or a hub id; timesteps: of the noise, 1..999; weights: of fusion, by divisor
    of the latent's side; threshold: of the background, in [0, 1]; size: px of an image's short side (0:
    the model's own);
    words: the vocabulary the model was trained on (empty: open); captioner, clip: sources of the BLIP and
    the CLIP beside it; clip_relative: share of the best class's CLIP score that keeps a class (see
    :mod:`diffseg_lib.vocabulary`); chosen_on: where the numbers are from.
    """

    name: str
    source: str
    timesteps: tuple[int, ...] = (100,)
    weights: Mapping[int, float] = field(default_factory=lambda: dict(PAPER_WEIGHTS))
    threshold: float = 0.5
    size: int = 0
    words: tuple[str, ...] = ()
    captioner: str = BLIP
    clip: str = CLIP
    clip_relative: float = 0.97
    chosen_on: str = "the paper's values"


def load_profile(name: str | Path = "pocket") -> Profile:
    """Find a profile by name, or read the folder of a pipeline.

    Raises:
        ValueError: on a name that is neither known nor a folder.
    """
    if str(name) in HUB:
        return Profile(str(name), HUB[str(name)])
    folder = models_dir() / "diffusion" if str(name) == "pocket" else Path(name)
    if str(name) != "pocket" and not folder.is_dir():
        raise ValueError(f"unknown profile {str(name)!r}: expected pocket, {', '.join(HUB)} or an existing folder; {nearest(str(name), ['pocket', *HUB])}")
    facts = folder / "profile.json"
    if not facts.exists():
        return Profile(str(name), str(folder))
    try:
        known = json.loads(facts.read_text())
        known["weights"] = {int(k): float(v) for k, v in known.get("weights", PAPER_WEIGHTS).items()}
        known["timesteps"] = tuple(known.get("timesteps", (100,)))
        known["words"] = tuple(known.get("words", ()))
        return Profile(str(name), str(folder), **known)
    except (TypeError, AttributeError, ValueError) as error:
        expected = ", ".join(f.name for f in fields(Profile)[2:])
        raise ValueError(f"{facts} is not a profile ({error}): expected a JSON object with any of {expected}") from error


@dataclass(frozen=True)
class Backbone:
    """A frozen latent diffusion model, and the four things the method asks of it."""

    profile: Profile
    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    alphas: Float[Tensor, " T"]  # cumulative products of the schedule, abar_t
    _embedded: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def latent_factor(self) -> int:
        """Pixels of the image a side of one latent pixel."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def size(self) -> int:
        """Pixels of an image's short side that the model works at."""
        return self.profile.size or self.unet.config.sample_size * self.latent_factor

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of this: the UNet halves the latents between its levels."""
        return self.latent_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_image(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 c h w"]:
        """z = E(x0): the posterior's mean, scaled. `image` in [-1, 1], sides multiples of `multiple`."""
        latents = self.vae.encode(image.to(self.device, self.dtype)).latent_dist.mean
        return latents * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Pictures in [-1, 1] from scaled latents."""
        return self.vae.decode(latents.to(self.device, self.dtype) / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> Float[Tensor, "b l d"]:
        """Token embeddings, padded to the model's length."""
        ids = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length, return_tensors="pt").input_ids
        return self.text_encoder(ids.to(self.device)).last_hidden_state

    def embed_prompt(self, text: str) -> Float[Tensor, "1 l d"]:
        """Token embeddings of one prompt, kept for the next time; encoded by itself, so that they depend on no other prompt."""
        if text not in self._embedded:
            while len(self._embedded) >= KEPT_PROMPTS:
                del self._embedded[next(iter(self._embedded))]
            self._embedded[text] = self.encode_prompts([text])
        return self._embedded[text]

    def add_noise(self, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], timestep: int) -> Float[Tensor, "b c h w"]:
        """z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps."""
        if not 0 <= timestep < len(self.alphas):
            raise ValueError(f"timestep {timestep}: expected 0 to {len(self.alphas) - 1}")
        kept = self.alphas[timestep].to(latents)
        return kept.sqrt() * latents + (1 - kept).sqrt() * noise

    def estimate_clean(self, noisy: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], timestep: int) -> Float[Tensor, "b c h w"]:
        """The latents that `noise` was added to: z = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)."""
        kept = self.alphas[timestep].to(noisy)
        return (noisy - (1 - kept).sqrt() * noise) / kept.sqrt()

    @torch.no_grad()
    def predict_noise(self, noisy: Float[Tensor, "_ c h w"], timestep: int, embeddings: Float[Tensor, "b l d"]) -> Float[Tensor, "b c h w"]:
        """One UNet call, the conditional half only. One noisy latent serves every prompt of the batch."""
        batch = noisy.to(self.device, self.dtype).expand(len(embeddings), -1, -1, -1)
        return self.unet(batch, timestep, encoder_hidden_states=embeddings).sample


_FILES = {  # of a pipeline's folder; any of the names will do
    "vae": (("config.json",), ("diffusion_pytorch_model.safetensors",)),
    "unet": (("config.json",), ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")),
    "text_encoder": (("config.json",), ("model.safetensors", "model.safetensors.index.json")),
    "tokenizer": (("tokenizer.json", "vocab.json"),),
    "scheduler": (("scheduler_config.json",),),
}


def _check_folder(folder: Path) -> None:
    for part, wanted in _FILES.items():
        for names in wanted:
            if not any((folder / part / name).is_file() for name in names):
                raise FileNotFoundError(
                    f"{folder / part / names[0]} is missing: expected a StableDiffusionPipeline's folder as save_pretrained writes it, "
                    "in safetensors; the pocket one comes with the repository (restore data/pocket/models, or set DIFFSEG_DATA)"
                )


@contextmanager
def quietly() -> Iterator[None]:
    """No bars of progress and no advice from the model libraries to each other; both print in every notebook."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="huggingface_hub")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_backbone(profile: str | Path | Profile = "pocket", *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
    """Load a profile's model, weights from safetensors only, nothing downloaded.

    Args:
        profile: "pocket", "sd15", the folder of a ``StableDiffusionPipeline``, or a :class:`Profile`.
        device: "cpu", "cuda", ...
        dtype: float32 on the CPU.

    Raises:
        ValueError: on an unknown profile.
        FileNotFoundError: if a part of the model is missing; the message names it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # in a notebook without widgets
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer
    from safetensors import SafetensorError

    found = profile if isinstance(profile, Profile) else load_profile(profile)
    if found.source not in HUB.values():
        _check_folder(Path(found.source))
    safe: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    try:
        with quietly():
            vae = AutoencoderKL.from_pretrained(found.source, subfolder="vae", torch_dtype=dtype, **safe)
            unet = UNet2DConditionModel.from_pretrained(found.source, subfolder="unet", torch_dtype=dtype, **safe)
            text = CLIPTextModel.from_pretrained(found.source, subfolder="text_encoder", dtype=dtype, **safe)
            tokenizer = CLIPTokenizer.from_pretrained(found.source, subfolder="tokenizer", local_files_only=True)
            scheduler = DDIMScheduler.from_pretrained(found.source, subfolder="scheduler", local_files_only=True)
    except SafetensorError as error:
        raise ValueError(f"a weight file of profile {found.name!r} ({found.source}) is damaged ({error}): restore it") from error
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of profile {found.name!r} ({found.source}) are not on this machine: "
            "download them once with diffusers, online, or give the folder they are in as the profile"
        ) from error
    for model in (vae, unet, text):
        model.requires_grad_(False).eval().to(device)
    return Backbone(found, vae, text, tokenizer, unet, scheduler.alphas_cumprod.float())
