"""``python -m benchmarks.families NAME``: a family's UNet at its full size with random weights: what it attends to, that recording it is exact, memory.

In a process of its own, since Stable Diffusion XL's weights are 10 GB in float32.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from diffseg_lib.attention import record_attention
from diffseg_lib.backbone import Backbone
from diffseg_lib.config import Config
from diffseg_lib.loading import family_of
from diffseg_lib.optimizations import OPTIMIZATIONS
from diffseg_lib.profiles import Profile
from diffseg_lib.segmenter import DiffSegmenter

from .measure import peak_of
from .models import CLASS_TOKEN, TOKENS, unet_config, vae_config

TIMESTEP = 100
POOLED = 1280  # width of Stable Diffusion XL's pooled embedding


def config_of(name: str) -> dict[str, Any]:
    """Of ``UNet2DConditionModel``: the values of the published configs of Stable Diffusion 1.5, 2.1 (base) and XL (base)."""
    second = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
    xl = {
        "sample_size": 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": POOLED + 6 * 256,
    }
    return unet_config() | {"sd15": {}, "sd21": second, "sdxl": xl}[name]


def random_backbone(config: Mapping[str, Any]) -> Backbone:
    """A family's adapter around a UNet of these settings, seed 0; of the autoencoder and the text encoders only what the UNet's call asks for.

    Weights are as the classes draw them. Sharpened ones make XL's seventy layers chaotic: the plain way in float32 is then as far from
    the plain way in float64 (.07 of the maps' maximum) as the optimized way is, while in float64 the two ways agree to 5e-7.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**config).requires_grad_(False).eval()
    with torch.device("meta"):
        vae = AutoencoderKL(**vae_config())
    family = family_of(unet.config)
    more = {"text_encoder_2": SimpleNamespace(config=SimpleNamespace(projection_dim=POOLED))} if family.second else {}
    alphas_cumprod = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
    return family.make()(Profile("random", "random weights", weights=family.weights), vae, None, None, unet, alphas_cumprod, **more)


def measured(config: Mapping[str, Any], tokens: int = TOKENS) -> dict[str, Any]:
    """What the UNet attends at, that recording leaves its output as it is, how far the optimized maps are from the plain ones, memory and seconds.

    Args:
        config: of the UNet.
        tokens: of a prompt.

    Returns:
        ``parameters``; ``latents``, ``completed``: shapes; ``cross``, ``self``: by stride relative to the latents the number of layers;
        ``output_equal``: bit for bit; ``optimized_difference``: of the completed maps, of their maximum; ``seconds``, and ``mib``
        above the loaded model, of a bare call, and of the plain and the optimized way.
    """
    backbone = random_backbone(config)
    side, generator = config["sample_size"], torch.Generator().manual_seed(0)
    rows = tokens + ("addition_embed_type" in config)  # the pooled embedding is one more
    noisy, embeddings = torch.randn(1, 4, side, side, generator=generator), torch.randn(1, rows, config["cross_attention_dim"], generator=generator)
    token_weights = torch.zeros(1, tokens)
    token_weights[0, CLASS_TOKEN] = 1
    segmenter = DiffSegmenter(backbone, Config())
    backbone.predict_noise(noisy[..., : side // 4, : side // 4], TIMESTEP, embeddings)  # what is loaded once
    outputs: dict[str, Tensor] = {}
    facts: dict[str, Any] = {"parameters": sum(p.numel() for p in backbone.unet.parameters()), "latents": list(noisy.shape[1:])}

    def bare() -> None:
        outputs["bare"] = backbone.predict_noise(noisy, TIMESTEP, embeddings)

    def plain() -> None:
        with record_attention(backbone.unet, token_weights, self_attention="all") as recording:
            outputs["recorded"] = backbone.predict_noise(noisy, TIMESTEP, embeddings)
        facts["cross"] = dict(Counter(str(recording.stride(layer)) for layer in recording.cross))
        facts["self"] = {str(noisy.shape[2] // h): len(queries) for (h, _), (queries, _) in recording.self_attention().items()}
        outputs["plain"] = segmenter.score(recording)[1]

    def optimizations() -> None:
        options = {"optimizations": OPTIMIZATIONS, "resolutions": [d for d, weight in segmenter.weights.items() if weight]}
        with record_attention(backbone.unet, token_weights, **options) as recording:
            backbone.predict_noise(noisy, TIMESTEP, embeddings)
        outputs["optimized"] = segmenter.score(recording)[1]

    facts |= run_once((bare, optimizations, plain))
    facts["output_equal"] = torch.equal(outputs["bare"], outputs["recorded"])
    facts["optimized_difference"] = float((outputs["optimized"] - outputs["plain"]).abs().max() / outputs["plain"].abs().max())
    return facts | {"completed": list(outputs["plain"].shape)}


def run_once(ways: Sequence[Callable[[], None]]) -> dict[str, dict[str, float | None]]:
    """Seconds of each way, and the MiB at its peak above what is loaded, by its name; each runs once."""
    found: dict[str, dict[str, float | None]] = {"seconds": {}, "mib": {}}
    for way in ways:
        started = time.perf_counter()
        peak = peak_of(way)
        found["seconds"][way.__name__] = round(time.perf_counter() - started, 1)
        found["mib"][way.__name__] = None if peak is None else round(peak, 1)
    return found


def alone(module: str, name: str) -> dict[str, Any] | str:
    """What a module of this package prints of a family, in a fresh process; "not run: ..." where it does not fit."""
    done = subprocess.run([sys.executable, "-m", module, name], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        told = done.stderr.strip().splitlines()
        return f"not run: {told[-1] if told else f'ended with {done.returncode}, as a process does that runs out of memory'}"
    return json.loads(done.stdout.splitlines()[-1])


def measured_alone(name: str) -> dict[str, Any] | str:
    """:func:`measured` of a family at full size, in a fresh process; "not run: ..." where it does not fit."""
    return alone("benchmarks.families", name)


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps(measured(config_of(sys.argv[1]))))
