"""The pocket models: the very classes that Stable Diffusion, CLIP and BLIP are loaded with, made small.

Each function returns a freshly initialised model or tokenizer; :mod:`diffseg_lib.pocket.training.train` fills it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel
    from transformers import BertTokenizer, BlipForConditionalGeneration, CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TEXT_LENGTH = 40  # tokens of a prompt, the two special ones and padding included
TEXT_WIDTH = 128  # channels of a token's embedding
MERGES = 230  # pair merges of the tokenizer: most names become one token, rare ones several
PICTURE = 64  # px a side that CLIP and BLIP look at
PATCH = 8  # px a side of their patches


def clip_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer, its merges learnt from captions."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=2, special_tokens=["<|startoftext|>", "<|endoftext|>"], end_of_word_suffix="</w>", show_progress=False
    )
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{L}+|[^\s\p{L}]"), "removed", invert=True)
    learner.train_from_iterator(captions, trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(m.split()) if isinstance(m, str) else tuple(m) for m in model["merges"][:MERGES]]
    letters = sorted(t for t in model["vocab"] if len(t.removesuffix("</w>")) == 1)
    tokens = ["<|startoftext|>", *letters, *dict.fromkeys("".join(m) for m in merges), "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=TEXT_LENGTH)


def bert_tokenizer(captions: Iterable[str]) -> BertTokenizer:
    """BLIP's word-piece tokenizer: the words of the captions, and letters for any other word."""
    from transformers import BertTokenizer

    words = sorted({word for caption in captions for word in caption.replace(",", " ,").split()})
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *words, *[c for c in letters if c not in words], *[f"##{c}" for c in letters]]
    return BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}, bos_token="[DEC]", model_max_length=TEXT_LENGTH)


def vae() -> AutoencoderKL:
    """The autoencoder: pictures H W to latents H/4 W/4 of 4 channels, as Stable Diffusion's first stage but f = 4."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
    )


HEADS = (4, 8, 8, 8)  # of the UNet's attention, from the finest level to the coarsest


def unet(heads: tuple[int, int, int, int] = HEADS) -> UNet2DConditionModel:
    """Stable Diffusion's UNet with four levels: on 32 x 32 latents its attention has sides 32, 16, 8, 4.

    Eight heads, as Stable Diffusion's, but four at the finest side, whose 1,024 tokens are most of the time: a map is
    the mean over heads, and with two of them one that points away spoils the other. The weights have the same shapes
    for any number of heads.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=32,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(64, 128, 128, 128),
        layers_per_block=1,
        attention_head_dim=heads,  # diffusers' name for the number of heads
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's noise schedule: 1,000 steps, sqrt(beta) linear from .00085 to .012, epsilon prediction."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


SECOND_WIDTH = 8  # channels of the second text tower that Stable Diffusion 3's pipeline asks for: the pocket's says zeros


def transformer() -> SD3Transformer2DModel:
    """Stable Diffusion 3.5's joint transformer (normalised queries and keys) in eight blocks on patches of 2 x 2 latents: 16 x 16 tokens for 128 px.

    It begins as the identity: what its blocks add, and its output, are zeros (Peebles and Xie 2023, "adaLN-Zero"). Its positions reach to 192 px.
    """
    from diffusers import SD3Transformer2DModel
    from torch.nn.init import zeros_

    model = SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=8,
        attention_head_dim=32,
        num_attention_heads=5,
        caption_projection_dim=160,
        joint_attention_dim=TEXT_WIDTH + SECOND_WIDTH,
        pooled_projection_dim=TEXT_WIDTH + SECOND_WIDTH,
        pos_embed_max_size=24,
        qk_norm="rms_norm",
    )
    for name, parameter in model.named_parameters():
        if name.startswith("proj_out.") or ("transformer_blocks." in name and ".linear." in name):
            zeros_(parameter)
    return model


def flow_schedule() -> FlowMatchEulerDiscreteScheduler:
    """Stable Diffusion 3's scheduler of flow matching, its noise levels unshifted: latents are small here."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def _text_config(tokenizer: CLIPTokenizer, layers: int) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_LENGTH,
        "projection_dim": TEXT_WIDTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def text_tower(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The diffusion model's text tower. One layer: a word's meaning stays at the word's own token."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**_text_config(tokenizer, layers=1)))


def flow_text_tower(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The joint transformer's text tower, of two layers as the pocket CLIP's: words are read after the first, the pooled embedding after the second."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(CLIPTextConfig(**_text_config(tokenizer, layers=2)))


def silent_text_tower(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The second text tower that Stable Diffusion 3's pipeline asks for, its weights all zero: it says zeros."""
    from torch.nn.init import zeros_
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    narrow = {"hidden_size": SECOND_WIDTH, "projection_dim": SECOND_WIDTH, "intermediate_size": SECOND_WIDTH, "num_attention_heads": 1}
    model = CLIPTextModelWithProjection(CLIPTextConfig(**_text_config(tokenizer, layers=2) | narrow))
    for parameter in model.parameters():
        zeros_(parameter)
    return model


VISION_WIDTH = 160  # channels of a patch in CLIP's and BLIP's vision towers
_VISION = {"hidden_size": VISION_WIDTH, "intermediate_size": 640, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": PICTURE, "patch_size": PATCH}


def clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """CLIP with a vision tower of 8 x 8 patches and a text tower of two layers."""
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(
        CLIPConfig(
            text_config=_text_config(tokenizer, layers=2),
            vision_config=_VISION | {"hidden_act": "gelu", "projection_dim": TEXT_WIDTH},
            projection_dim=TEXT_WIDTH,
        )
    )


def blip(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """BLIP's captioner: the same vision tower, and a text decoder of two layers that looks at it."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "encoder_hidden_size": _VISION["hidden_size"],
        "intermediate_size": 4 * TEXT_WIDTH,
        "projection_dim": TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=_VISION, projection_dim=TEXT_WIDTH))
