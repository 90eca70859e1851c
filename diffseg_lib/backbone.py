"""Backbones: what the method asks of a diffusion model, and how one is loaded.

:class:`Backbone` is Stable Diffusion 1.x and 2.x; other families are subclasses of it, found in :data:`FAMILIES` by
what the loaded UNet is, not by its name. Which model, and the numbers chosen for it, is a :class:`~diffseg_lib.profiles.Profile`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .profiles import PAPER_WEIGHTS, Profile, is_hub_id, load_profile, located

PREDICTIONS = ("epsilon", "v_prediction")
KEPT_PROMPTS = 256  # embeddings: 60 MB of a Stable Diffusion in float32


@dataclass(frozen=True)
class Backbone:
    """A frozen latent diffusion model, and the four things the method asks of it: Stable Diffusion 1.x and 2.x.

    prediction: what the UNet's output is, "epsilon" or "v_prediction" (Salimans and Ho 2022). runs_on: the device that models
    visit while they work, where they otherwise wait in main memory ("": they stay where they are).
    """

    profile: Profile
    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    alphas: Float[Tensor, " T"]  # cumulative products of the schedule, abar_t
    prediction: str = "epsilon"
    runs_on: str = ""
    _embedded: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        return torch.device(self.runs_on) if self.runs_on else next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def tokens(self) -> int:
        """Tokens of a padded prompt."""
        return int(self.tokenizer.model_max_length)

    @property
    def latent_factor(self) -> int:
        """Pixels of the image a side of one latent pixel."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def size(self) -> int:
        """Pixels of an image's short side that the model works at."""
        return self.profile.size or self.unet.config.sample_size * self.latent_factor

    @property
    def finest(self) -> int:
        """Divisor of the latents' side at which the UNet attends first: 1, or 2 for Stable Diffusion XL."""
        return 2 ** next(i for i, kind in enumerate(self.unet.config.down_block_types) if "Attn" in kind)

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of this: the UNet halves the latents between its levels."""
        return self.latent_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_image(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 c h w"]:
        """z = E(x0): the posterior's mean, scaled. `image` in [-1, 1], sides multiples of `multiple`."""
        latents = self.vae.encode(image.to(self.device, self.vae.dtype)).latent_dist.mean
        return (latents * self.vae.config.scaling_factor).to(self.dtype)

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Pictures in [-1, 1] from scaled latents."""
        return self.vae.decode(latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor).sample.clamp(-1, 1)

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
        """One UNet call, the conditional half only. One noisy latent serves every prompt of the batch.

        A UNet that predicts v = sqrt(abar_t) eps - sqrt(1 - abar_t) z is asked for eps = sqrt(abar_t) v + sqrt(1 - abar_t) z_t.
        """
        batch = noisy.to(self.device, self.dtype).expand(len(embeddings), -1, -1, -1)
        output = self._denoise(batch, timestep, embeddings)
        if self.prediction == "epsilon":
            return output
        kept = self.alphas[timestep].to(output)
        return kept.sqrt() * output + (1 - kept).sqrt() * batch

    def _denoise(self, batch: Tensor, timestep: int, embeddings: Tensor) -> Tensor:
        return self.unet(batch, timestep, encoder_hidden_states=embeddings).sample


_FILES = {  # of a pipeline's folder; any of the names will do
    "vae": (("config.json",), ("diffusion_pytorch_model.safetensors",)),
    "unet": (("config.json",), ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")),
    "text_encoder": (("config.json",), ("model.safetensors", "model.safetensors.index.json")),
    "tokenizer": (("tokenizer.json", "vocab.json"),),
    "scheduler": (("scheduler_config.json",),),
}


@dataclass(frozen=True)
class Family:
    """A kind of model: what it is called, how its UNet's settings tell it, the second text encoder that it has or not, and its adapter."""

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    second: bool
    make: Callable[[], type[Backbone]]
    weights: Mapping[int, float]
    told: str  # where the weights are from


def _sdxl() -> type[Backbone]:
    from .sdxl import SdxlBackbone

    return SdxlBackbone


FAMILIES = (
    Family(
        "Stable Diffusion 1.x and 2.x (text_encoder, unet without added conditioning)",
        lambda config: config.get("addition_embed_type") is None and config.get("encoder_hid_dim_type") is None and config["in_channels"] == 4,
        False,
        lambda: Backbone,
        PAPER_WEIGHTS,
        "the paper's values",
    ),
    Family(
        "Stable Diffusion XL (text_encoder and text_encoder_2, unet with text_time conditioning)",
        lambda config: config.get("addition_embed_type") == "text_time" and config.get("cross_attention_dim") is not None and config["in_channels"] == 4,
        True,
        _sdxl,
        {4: 0.5, 2: 0.5},
        "equal weights of the two sides at which it attends: not tuned, the paper has no SDXL",
    ),
)


def check_folder(folder: Path) -> None:
    """That a pipeline's folder has its files.

    Raises:
        FileNotFoundError: if one is missing; it is named.
        ValueError: on a model of another architecture.
    """
    other = [name for name in ("transformer", "prior", "decoder") if (folder / name).is_dir()]
    if other and not (folder / "unet").is_dir():
        config = folder / other[0] / "config.json"
        kind = json.loads(config.read_text()).get("_class_name", other[0]) if config.is_file() else other[0]
        raise ValueError(f"{folder} holds a {kind}, which is not supported: expected {_supported()}")
    second = {f"{part}_2": wanted for part, wanted in _FILES.items() if part in ("text_encoder", "tokenizer") and (folder / f"{part}_2").is_dir()}
    for part, wanted in (_FILES | second).items():
        for names in wanted:
            if not any((folder / part / name).is_file() for name in names):
                raise FileNotFoundError(
                    f"{folder / part / names[0]} is missing: expected a StableDiffusionPipeline's folder as save_pretrained writes it, "
                    "in safetensors; the pocket one comes with the repository (restore data/pocket/models, or set DIFFSEG_DATA)"
                )


def _supported() -> str:
    return "; or ".join(family.name for family in FAMILIES)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a UNet by its settings.

    Raises:
        ValueError: if it is none that is supported; it says what was found.
    """
    for family in FAMILIES:
        if family.fits(config):
            return family
    keys = ("_class_name", "in_channels", "cross_attention_dim", "addition_embed_type", "encoder_hid_dim_type")
    found = ", ".join(f"{key} {config.get(key)!r}" for key in keys)
    raise ValueError(f"a UNet with {found} is not supported: expected {_supported()}")


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


def offload(models: Sequence[Any], device: str) -> None:
    """Keep models in main memory, by accelerate's hooks; the one that is called visits `device`, alone."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Visit(ModelHook):
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
            for other in models:
                if other is not module:
                    other.to("cpu")
            module.to(device)
            return args, kwargs

    for model in models:
        add_hook_to_module(model, Visit())


def load_backbone(profile: str | Path | Profile = "pocket", *, device: str = "cpu", dtype: torch.dtype = torch.float32, offloaded: bool = False) -> Backbone:
    """Load a profile's model, weights from safetensors only, nothing downloaded.

    Args:
        profile: "pocket", "sd15", a YAML file, a hub id, the folder of a ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``,
            or a :class:`~diffseg_lib.profiles.Profile`.
        device: "cpu", "cuda", ...
        dtype: float32 on the CPU.
        offloaded: models wait in main memory and visit `device` one at a time: slower, and the card need only hold the largest.

    Raises:
        ValueError: on an unknown profile, a model that is none of :data:`FAMILIES`, or nothing to offload from.
        FileNotFoundError: if a part of the model is missing; the message names it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # in a notebook without widgets
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    from safetensors import SafetensorError

    found = profile if isinstance(profile, Profile) else load_profile(profile)
    if offloaded and torch.device(device).type == "cpu":
        raise ValueError(f"device {device!r}: models are offloaded from a GPU to main memory; name one, as in --device cuda, or leave --offload away")
    if not is_hub_id(found.source):
        check_folder(Path(found.source))
    source, where = located(found.source)
    safe = where | {"use_safetensors": True}
    try:
        with quietly():
            family = family_of(UNet2DConditionModel.load_config(source, subfolder="unet", **where))
            scheduler = DDIMScheduler.from_pretrained(source, subfolder="scheduler", **where)
            vae = AutoencoderKL.from_pretrained(source, subfolder="vae", torch_dtype=dtype, **safe)
            unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", torch_dtype=dtype, **safe)
            text = CLIPTextModel.from_pretrained(source, subfolder="text_encoder", dtype=dtype, **safe)
            tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", **where)
            more = {}
            if family.second:
                more["text_encoder_2"] = CLIPTextModelWithProjection.from_pretrained(source, subfolder="text_encoder_2", dtype=dtype, **safe)
                more["tokenizer_2"] = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer_2", **where)
    except SafetensorError as error:
        raise ValueError(f"a weight file of profile {found.name!r} ({found.source}) is damaged ({error}): restore it") from error
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of profile {found.name!r} ({found.source}) are not on this machine: "
            "download them once with diffusers, online, or give the folder they are in as the profile"
        ) from error
    prediction = scheduler.config.prediction_type
    if prediction not in PREDICTIONS:
        raise ValueError(f"{found.source} predicts {prediction!r}: expected {' or '.join(PREDICTIONS)}")
    if family.second and dtype == torch.float16 and vae.config.force_upcast:
        vae = vae.float()  # its activations overflow in half precision
    models = [vae, unet, text, *([more["text_encoder_2"]] if more else [])]
    for model in models:
        model.requires_grad_(False).eval().to("cpu" if offloaded else device)
    if offloaded:
        offload(models, device)
    if found.weights == PAPER_WEIGHTS != family.weights:
        found = replace(found, weights=dict(family.weights), chosen_on=family.told)
    return family.make()(found, vae, text, tokenizer, unet, scheduler.alphas_cumprod.float(), prediction, device if offloaded else "", **more)
