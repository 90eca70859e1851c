"""Where the time of one image goes, how much arithmetic it is, and what sharing one self-attention costs in accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from diffseg_lib.backbone import Backbone
from diffseg_lib.config import Config
from diffseg_lib.evaluation.metrics import count_scores
from diffseg_lib.optimizations import OPTIMIZATIONS
from diffseg_lib.scoremaps import label, upsample
from diffseg_lib.segmenter import DiffSegmenter

from .cases import TIMESTEP, bare
from .measure import summary
from .models import full_size, inputs, unet_config

HALF_ON_CPU = "not run: processors without float16 arithmetic take minutes a forward"


def _clocked(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def stages(backbone: Backbone, classes: int, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Seconds a stage of one image, by name: VAE, text, UNet (bare), recording (what it adds; below 0 where it saves),
    completion, upsampling, metric.

    Args:
        backbone: with a VAE and a text encoder.
        classes: number.
        size: of the latents.
        repeats: rounds.
    """
    given, (h, w) = inputs(backbone, classes, size), size
    factor = backbone.latent_factor
    image = torch.rand(1, 3, h * factor, w * factor, device=backbone.device) * 2 - 1
    length = given["embeddings"].shape[1]
    ids = torch.randint(0, backbone.text_encoder.config.vocab_size, (classes, length), device=backbone.device)
    truth = np.zeros((h * factor, w * factor), np.uint8)
    segmenter = DiffSegmenter(backbone, Config())
    arguments = (given["latents"], given["noise"], TIMESTEP, given["embeddings"], given["token_weights"])

    def once() -> dict[str, float]:
        one: dict[str, float] = {}
        one["VAE"], _ = _clocked(lambda: backbone.encode_image(image))
        one["text"], _ = _clocked(lambda: [backbone.text_encoder(row[None]) for row in ids])
        one["UNet"], _ = _clocked(lambda: bare(backbone, given))
        seconds, recording = _clocked(lambda: segmenter.attend(*arguments, optimizations=OPTIMIZATIONS))
        one["recording"] = seconds - one["UNet"]
        one["completion"], (_, completed) = _clocked(lambda: segmenter.score(recording))
        one["upsampling"], scores = _clocked(lambda: upsample(completed, truth.shape))
        one["metric"], _ = _clocked(lambda: (label(scores, 0.5), count_scores(truth, scores.cpu().numpy(), range(1, classes + 1), classes + 1)))
        return one

    with torch.no_grad():
        rows = [once() for _ in range(repeats + 1)][1:]
    return {name: summary([row[name] for row in rows], 4) for name in rows[0]}


def gigaflops(backbone: Backbone | None = None, size: tuple[int, int] = (64, 64)) -> float:
    """Of one UNet forward, a multiplication and its addition counted as two, by torch's own counter; of Stable Diffusion 1.5's if no backbone."""
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        unet = UNet2DConditionModel(**(unet_config() if backbone is None else dict(backbone.unet.config)))
        tokens = 77 if backbone is None else backbone.tokenizer.model_max_length
        arguments = (torch.empty(1, unet.config.in_channels, *size), torch.tensor([TIMESTEP]))
        context = torch.empty(1, tokens, unet.config.cross_attention_dim)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(*arguments, encoder_hidden_states=context)
    return counter.get_total_flops() / 1e9


def completion_gigaflops(n: int = 64 * 64, width: int = 320, layers: int = 5) -> float:
    """Of the score products that completion from queries and keys repeats, a class: 2 n^2 width a layer."""
    return layers * 2 * n * n * width / 1e9


def without_prompts(backbone: Backbone) -> Backbone:
    """The same backbone with no prompt encoded yet."""
    return replace(backbone, _embedded={})


def precision(dtype: str, classes: int, size: tuple[int, int], repeats: int) -> dict[str, Any] | str:
    """Time ratio to the bare forward in another precision, and the bare forward's seconds; "not run: ..." where it cannot be had."""
    from .cases import OURS, cases
    from .measure import interleaved_timings, ratios

    if dtype == "float16" and not torch.cuda.is_available():
        return HALF_ON_CPU
    try:
        seconds = interleaved_timings(cases(full_size(dtype=getattr(torch, dtype)), classes, size, ("bare", OURS)), repeats)
    except (RuntimeError, MemoryError) as error:
        return f"not run: {error}"
    return {"time_ratio": ratios(seconds, OURS), "bare_seconds": summary(seconds["bare"])}


def sharing(images: int) -> dict[str, Any]:
    """Mean IoU of the pocket model with each class completed by its own self-attention and with the first class's for all.

    Args:
        images: of Pocket-VOC val, the classes present given; thresholds fixed on 40 train images.
    """
    from diffseg_lib.evaluation.sources import open_dataset
    from diffseg_lib.experiments.measure import measure
    from diffseg_lib.support.files import to_plain

    counts: dict[str, dict[str, list[Any]]] = {}
    segmenter = DiffSegmenter.from_profile("pocket")
    for split, number in (("train", 40), ("val", images)):
        dataset = open_dataset("voc", "", split, number)
        counts[split] = {"own": [], "shared": []}
        for sample in dataset:
            labels = [dataset.names.index(name) for name in sample.classes]
            for name, one in (("own", segmenter), ("shared", segmenter.with_config(share_self_attention=True))):
                scores = one.segment(sample.image, dataset.words(sample.classes)).scores
                counts[split][name].append(count_scores(sample.truth, scores, labels, len(dataset.names)))
    measured = measure([counts["train"]], [counts["val"]], len(dataset.names), [0])
    return to_plain({"rows": measured.rows, "effect": measured.effect("shared", "own")})
