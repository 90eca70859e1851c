"""Fixtures: a pipeline of Stable Diffusion's own classes, tiny and random, and shapes checked while tests run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, browser, find_browser
from jaxtyping import install_import_hook
from torch import nn

_CHECKED = [f"diffseg_lib.{name}" for name in ("applications.prompt_to_prompt", "attention", "backbone", "optimizations", "prompts", "recording", "scoremaps")]
install_import_hook(_CHECKED, "beartype.beartype")  # the annotations of tensor arguments hold in every test

WORDS = ("a", "an", "photograph", "of", "house", "fish", "red")  # one token each; other words are spelt letter by letter


def tiny_tokenizer():
    """A CLIP byte-pair tokenizer that knows :data:`WORDS` and the letters."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens, merges = ["<|startoftext|>", *letters, *(f"{c}</w>" for c in letters)], []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            merges += [pair] if pair not in merges else []
            parts[:2] = ["".join(pair)]
            tokens += [parts[0]] if parts[0] not in tokens else []
    tokens.append("<|endoftext|>")
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=24)


def _sharpen(unet):
    """Queries and keys large enough that attention is not uniform."""
    import torch

    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "to_q" in name or "to_k" in name:
                weight.mul_(4)


def tiny_pipeline():
    """Random weights; attention at four sides, sharpened so that its maps differ; 64 px pictures, 16 x 16 latents."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        attention_head_dim=(2, 4, 2, 4),
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    _sharpen(unet)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    schedule = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    return StableDiffusionPipeline(vae, text, tokenizer, unet, schedule, None, None, requires_safety_checker=False)


def _text(tokenizer, cls, width, **changes):
    from transformers import CLIPTextConfig

    facts = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 24}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return cls(CLIPTextConfig(vocab_size=len(tokenizer), **facts, **ids, **changes))


def tiny_sd2(prediction: str):
    """Stable Diffusion 2.x in small: linear projections, a head width for all levels, and what its UNet predicts."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    base = tiny_pipeline()
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_config(
        dict(base.unet.config) | {"use_linear_projection": True, "cross_attention_dim": 24, "attention_head_dim": (1, 2, 2, 2)}
    )
    _sharpen(unet)
    text = _text(base.tokenizer, CLIPTextModel, 24, hidden_act="gelu")
    schedule = DDIMScheduler.from_config(base.scheduler.config, prediction_type=prediction)
    return StableDiffusionPipeline(base.vae, text, base.tokenizer, unet, schedule, None, None, requires_safety_checker=False)


def tiny_sdxl():
    """Stable Diffusion XL in small: two text encoders, added conditions, attention at two of three levels, several layers in a block."""
    import torch
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    base = tiny_pipeline()
    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        sample_size=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 3),
        attention_head_dim=(1, 2, 2),
        cross_attention_dim=16 + 24,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 6 * 8,
        norm_num_groups=4,
    )
    _sharpen(unet)
    first, second = _text(base.tokenizer, CLIPTextModel, 16), _text(base.tokenizer, CLIPTextModelWithProjection, 24, projection_dim=20)
    second_tokenizer = tiny_tokenizer()
    second_tokenizer.pad_token = "a"  # the real one pads with another token too
    return StableDiffusionXLPipeline(base.vae, first, second, base.tokenizer, second_tokenizer, unet, base.scheduler, add_watermarker=False)


class Wrapper(nn.Module):
    """A module around a UNet, as parallel and compiled ones are."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path) -> dict[str, Path]:
    """A tiny random pipeline of every supported family on disk, by name."""
    root, made = tmp_path_factory.mktemp("families"), {"sd21": tiny_sd2("epsilon"), "sd21-v": tiny_sd2("v_prediction"), "sdxl": tiny_sdxl()}
    for name, pipeline in made.items():
        pipeline.save_pretrained(root / name, safe_serialization=True)
    return {"sd15": pipeline_folder} | {name: root / name for name in made}


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline on disk, as ``save_pretrained`` writes it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def backbone(pipeline_folder: Path):
    from diffseg_lib.loading import load_backbone

    return load_backbone(pipeline_folder)


@pytest.fixture
def picture() -> np.ndarray:
    """48 x 80 x 3, uint8: neither square nor of a size the model works at."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree in VOC's layout: three train and four val scenes of the pocket world."""
    from diffseg_lib.pocket.layouts import write_layout

    root = tmp_path_factory.mktemp("voc") / "tree"
    write_layout("voc", "train", 3, 5, root)
    write_layout("voc", "val", 4, 5, root)
    return root


@pytest.fixture(scope="module")
def data(tree: Path):
    from diffseg_lib.evaluation.sources import open_dataset

    return open_dataset("voc", tree, "val")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    """A headless Chromium; without one the tests that need it are skipped, or fail where ``DIFFSEG_REQUIRE_BROWSER`` is set."""
    program = find_browser()
    if program is None:
        message = "no Chromium or Chrome on this machine: install one, or name its program in CHROMIUM"
        pytest.fail(message) if os.environ.get("DIFFSEG_REQUIRE_BROWSER") else pytest.skip(message)
    with browser(program, tmp_path_factory.mktemp("profile")) as one:
        yield one
