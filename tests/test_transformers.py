"""Diffusion transformers: tiny random pipelines of each family's own classes, against diffusers' pipelines and a loop that forms the whole joint softmax."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_tokenizer

from diffseg_lib.loading import load_backbone
from diffseg_lib.prompts import make_prompt
from diffseg_lib.segmenter import DiffSegmenter

FAMILIES = ("sd3", "sd35", "flux", "pixart", "flux2", "qwen")
PACKED = ("flux", "flux2", "qwen")  # latents go in two by two
PROMPT = "a photograph of a house and a fish"


def tiny_t5_tokenizer():
    """A SentencePiece tokenizer as T5's, that knows a few words, the letters, and no start token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [f"▁{word}" for word in ("a", "photograph", "of", "and", "house", "red", "fi")]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0) for word in words), ("▁", -3.0)]
    vocabulary += [(chr(c), -4.0) for c in range(ord("a"), ord("z") + 1)]
    made = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    made.normalizer = normalizers.Replace("  ", " ")
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512)


CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{% for c in m.content %}{{ c.text }}{% endfor %}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{% for c in m.content %}{{ c.text }}{% endfor %}[/INST]{% endif %}{% endfor %}"
)
WORDS = ("a", "photograph", "of", "and", "house", "red", "fi")


def tiny_language_tokenizer(special, words, **more):
    """A tokenizer as a language model's: words with the space before them, letters, line ends, marks, and tokens of control."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*special, "<unk>", *dict.fromkeys(f"{space}{word}" for word in words for space in ("", " ")), "\n", " "]
    letters = [chr(c) for c in (*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1), *map(ord, ".,:"))]
    scores = [(piece, -1.0 if len(piece.strip()) > 1 else -4.0) for piece in dict.fromkeys([*pieces, *letters])]
    made = Tokenizer(models.Unigram(scores, unk_id=len(special)))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[A-Za-z]+|[^A-Za-z\s]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", additional_special_tokens=list(special), **more)


def tiny_mistral_tokenizer(side="left"):
    """Mistral's way: a start token and a chat template, padding before the text."""
    special = ("<s>", "</s>", "<pad>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]")
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "padding_side": side}
    return tiny_language_tokenizer(special, WORDS, chat_template=CHAT, **ends)


def tiny_qwen_tokenizer():
    """Qwen's way: no start token, and the 34 tokens that stand before the prompt."""
    system = "system Describe the image by detailing color shape size texture quantity text spatial relationships of objects and background user assistant"
    return tiny_language_tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), [*WORDS, *system.split()], pad_token="<|endoftext|>")


def _t5(tokenizer):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=40, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def _clip(tokenizer, kind, width, projection):
    from transformers import CLIPTextConfig

    facts = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 24}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return kind(CLIPTextConfig(vocab_size=len(tokenizer), projection_dim=projection, **facts, **ids))


def _vae(channels, kind=None, **more):
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3, "block_out_channels": (8, 8, 8)}
    return (kind or AutoencoderKL)(**kinds, layers_per_block=1, norm_num_groups=4, latent_channels=channels, mid_block_add_attention=False, **more)


def _sharpen(transformer):
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if any(part in name for part in ("to_q.", "to_k.", "add_q_proj.", "add_k_proj.")):
                weight.mul_(4)
            if any(part in name for part in ("norm_q.", "norm_k.", "norm_added_q.", "norm_added_k.")):
                weight.mul_(2)  # where queries and keys are normalised, their own size is of no matter
            if "norm1" in name and name.endswith("bias"):
                weight.normal_(0, 0.3)  # so that gates are open


def tiny_sd3(second: bool = False):
    """Stable Diffusion 3 in small, or 3.5 medium: normalised queries and keys, image-only attention in the first block."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(3 + second)
    more = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if second else {}
    sizes = {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 40, "caption_projection_dim": 16, "pooled_projection_dim": 12}
    transformer = SD3Transformer2DModel(sample_size=16, in_channels=16, num_layers=3, pos_embed_max_size=24, **sizes, **more)
    _sharpen(transformer)
    clip, t5 = tiny_tokenizer(), tiny_t5_tokenizer()
    towers = [_clip(clip, CLIPTextModelWithProjection, width, 6) for width in (16, 24)]
    vae = _vae(16, scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
    return StableDiffusion3Pipeline(transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), vae, towers[0], clip, towers[1], tiny_tokenizer(), _t5(t5), t5)


def tiny_flux():
    """Flux.1 in small: two double blocks, two single ones, rotary positions, guidance as a condition."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    torch.manual_seed(5)
    sizes = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 40, "pooled_projection_dim": 16, "axes_dims_rope": (4, 4, 8)}
    transformer = FluxTransformer2DModel(in_channels=64, num_layers=2, num_single_layers=2, guidance_embeds=True, **sizes)
    _sharpen(transformer)
    clip, t5 = tiny_tokenizer(), tiny_t5_tokenizer()
    vae = _vae(16, scaling_factor=0.36, shift_factor=0.11, use_quant_conv=False, use_post_quant_conv=False)
    return FluxPipeline(FlowMatchEulerDiscreteScheduler(), vae, _clip(clip, CLIPTextModel, 16, 6), clip, _t5(t5), t5, transformer)


def tiny_pixart():
    """PixArt-Sigma in small: self-attention and cross-attention in each block, and a variance beside the noise."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(6)
    sizes = {"attention_head_dim": 8, "num_attention_heads": 2, "cross_attention_dim": 16, "caption_channels": 40}
    transformer = PixArtTransformer2DModel(
        sample_size=16, num_layers=3, in_channels=4, out_channels=8, use_additional_conditions=False, norm_num_groups=4, **sizes
    )
    _sharpen(transformer)
    t5 = tiny_t5_tokenizer()
    return PixArtSigmaPipeline(t5, _t5(t5), _vae(4), transformer, DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02))


LANGUAGE = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024}


def tiny_flux2(side="left"):
    """Flux.2 in small: two double blocks, two single ones whose projections are one, a language model of 30 layers."""
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Pipeline, Flux2Transformer2DModel
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    torch.manual_seed(7)
    sizes = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 48, "axes_dims_rope": (4, 4, 4, 4)}
    transformer = Flux2Transformer2DModel(in_channels=32, num_layers=2, num_single_layers=2, timestep_guidance_channels=16, **sizes)
    _sharpen(transformer)
    tokenizer = tiny_mistral_tokenizer(side)
    text = {"model_type": "mistral", "num_hidden_layers": 30, "head_dim": 8, "vocab_size": len(tokenizer), "initializer_range": 0.3} | LANGUAGE
    vision = {"model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 8}
    encoder = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision, tie_word_embeddings=False))
    vae = _vae(8, AutoencoderKLFlux2)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return Flux2Pipeline(FlowMatchEulerDiscreteScheduler(), vae, encoder, tokenizer, transformer)


def tiny_qwen():
    """Qwen-Image in small: double blocks, rotations before text and image are joined, an autoencoder of videos."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(8)
    sizes = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6)}
    transformer = QwenImageTransformer2DModel(in_channels=32, out_channels=8, num_layers=3, **sizes)
    _sharpen(transformer)
    tokenizer = tiny_qwen_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2}
    text = {"num_hidden_layers": 2, "rope_parameters": rope, "initializer_range": 0.3} | ids | LANGUAGE
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    statistics = {"latents_mean": [0.1 * i - 0.3 for i in range(8)], "latents_std": [0.5 + 0.2 * i for i in range(8)]}
    vae = AutoencoderKLQwenImage(base_dim=8, z_dim=8, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True], **statistics)
    return QwenImagePipeline(FlowMatchEulerDiscreteScheduler(), vae, encoder, tokenizer, transformer)


MAKE = {"sd3": tiny_sd3, "sd35": lambda: tiny_sd3(second=True), "flux": tiny_flux, "pixart": tiny_pixart, "flux2": tiny_flux2, "qwen": tiny_qwen}


@pytest.fixture(scope="session")
def pipelines():
    made = {name: make() for name, make in MAKE.items()}
    for pipeline in made.values():
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="session")
def folders(tmp_path_factory, pipelines) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transformers")
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(root / name, safe_serialization=True)
    return {name: root / name for name in pipelines}


@pytest.fixture(scope="session")
def backbones(folders):
    return {name: load_backbone(folder) for name, folder in folders.items()}


def channels_of(backbone):
    config = backbone.vae.config
    return config.get("z_dim") or config.latent_channels


def given(backbone, height=12, width=16, rows=1, timestep=400):
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, channels_of(backbone), height, width, generator=generator) for _ in range(2))
    embeddings = torch.cat([backbone.encode_prompts([text]) for text in (PROMPT, "a red house")[:rows]])
    return backbone.add_noise(latents, noise, timestep), timestep, embeddings


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_found_by_what_its_transformer_is(backbones, family):
    backbone = backbones[family]
    names = {"sd3": "Sd3Calls", "sd35": "Sd3Calls", "flux": "FluxCalls", "pixart": "PixArtCalls", "flux2": "Flux2Calls", "qwen": "QwenImageCalls"}
    assert type(backbone.calls).__name__ == names[family] and type(backbone).__name__ == "TransformerBackbone"
    assert sum(backbone.profile.weights.values()) == pytest.approx(1)
    assert backbone.max_tokens == {"sd3": 24 + 256, "sd35": 24 + 256, "pixart": 300}.get(family, 512)
    assert (backbone.latent_factor, backbone.size, backbone.multiple) == (4, 64 if hasattr(backbone.unet.config, "sample_size") else 512, 8)


def test_prompts_are_embedded_as_the_pipelines_do(backbones, pipelines):
    for family in ("sd3", "sd35"):
        words, _, pooled, _ = pipelines[family].encode_prompt(PROMPT, PROMPT, PROMPT, do_classifier_free_guidance=False)
        found = backbones[family].encode_prompts([PROMPT])
        assert torch.equal(found[:, :-1], words) and torch.equal(found[:, -1, :12], pooled) and not found[:, -1, 12:].any()
    words, pooled, _ = pipelines["flux"].encode_prompt(PROMPT, PROMPT)
    found = backbones["flux"].encode_prompts([PROMPT])
    assert torch.equal(found[:, :-1], words) and torch.equal(found[:, -1, :16], pooled)
    words, marks, _, _ = pipelines["pixart"].encode_prompt(PROMPT, do_classifier_free_guidance=False)
    found = backbones["pixart"].encode_prompts([PROMPT])
    assert torch.equal(found[:, :300], words) and torch.equal(found[:, 300:].flatten(1)[:, :300], marks.float())


def test_prompts_are_embedded_as_pipelines_with_a_language_model_do(backbones, pipelines):
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    some = [PROMPT, "a red house", ""]
    words, _ = pipelines["flux2"].encode_prompt(some)
    assert torch.equal(backbones["flux2"].encode_prompts(some), words) and words.shape == (3, 512, 48)
    assert backbones["flux2"].tokenizer.frame == (f"<s>[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]", "[/INST]")
    for texts in (some, some[:1]):
        words, marks = pipelines["qwen"].encode_prompt(texts)
        found = backbones["qwen"].encode_prompts(texts)
        marks = torch.ones(words.shape[:2]) if marks is None else marks
        assert torch.equal(found[:, : words.shape[1]], words) and not found[:, words.shape[1] : 512].any()
        assert torch.equal(found[:, 512:].flatten(1)[:, : marks.shape[1]], marks.float()) and found[:, 512:].sum() == marks.sum()
    long = "red house " * 400
    assert torch.equal(backbones["flux2"].encode_prompts([long]), pipelines["flux2"].encode_prompt(long)[0])
    words, _ = pipelines["qwen"].encode_prompt(long, max_sequence_length=512)
    assert torch.allclose(backbones["qwen"].encode_prompts([long])[:, :512], words, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("template", [CHAT, CHAT.replace("{{ bos_token }}", "")])
def test_a_chat_is_read_as_the_pipelines_processor_reads_it(pipelines, side, template):
    from diffusers import Flux2Pipeline
    from transformers import ProcessorMixin

    from diffseg_lib.dit.language import Flux2Calls

    class Processor(ProcessorMixin):
        def __init__(self, tokenizer=None, chat_template=None, **_):
            super().__init__(tokenizer, chat_template=chat_template)

    tokenizer = tiny_mistral_tokenizer(side)
    tokenizer.model_max_length, tokenizer.chat_template = 512, template
    parts = pipelines["flux2"].components
    words, _ = Flux2Pipeline(**parts | {"tokenizer": Processor(tokenizer, chat_template=template)}).encode_prompt([PROMPT, "a"])
    calls = Flux2Calls({"text_encoder": parts["text_encoder"]}, {"tokenizer": tokenizer})
    assert torch.equal(calls.encode([PROMPT, "a"], torch.device("cpu")), words)


@pytest.mark.parametrize("side", ["left", "right"])
def test_words_of_a_framed_prompt_are_found_in_the_embedding(backbones, side):
    from diffseg_lib.dit.language import Flux2Calls

    tokenizer = tiny_mistral_tokenizer(side)
    tokenizer.model_max_length = 512
    framed = Flux2Calls({}, {"tokenizer": tokenizer}).framed
    for family, found in (("flux2", framed), ("qwen", backbones["qwen"].tokenizer)):
        prompt = make_prompt("red fish", found)
        read = found.read([prompt.text], torch.device("cpu"))
        ids = read.input_ids[0, found.dropped :].tolist()
        spoken = [found.convert_ids_to_tokens(ids)[i] for i in prompt.span]
        assert "".join(spoken) == " red fish" and len(spoken) == 4
        own = [i for i, (a, b) in enumerate(found(prompt.text).offset_mapping) if a < b]
        assert "".join(found.convert_ids_to_tokens([ids[i] for i in own])) == prompt.text
        count = len(found(prompt.text).input_ids)
        assert found(prompt.text).input_ids == ids[:count] and set(ids[count:]) <= {found.tokenizer.pad_token_id}
        assert count == (512 if (family, side) == ("flux2", "left") else own[-1] + (6 if family == "qwen" else 2))
        with pytest.raises(ValueError, match="has no token that the model's tokenizer knows"):
            make_prompt("ξ", found)
    backbone = backbones["qwen"]
    prompt = make_prompt("red fish", backbone.tokenizer)
    assert backbone.token_weights([prompt])[0].nonzero().flatten().tolist() == list(prompt.span) == [4, 5, 6, 7]
    assert backbone.content_weights([prompt])[0].nonzero().flatten().tolist() == list(range(8))  # the frame's 34 tokens before it are not there


def test_a_chat_template_that_changes_the_prompt_is_refused():
    from diffseg_lib.dit.language import Flux2Calls

    tokenizer = tiny_mistral_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}[INST]nothing[/INST]"
    with pytest.raises(ValueError, match="holds a prompt 0 times: expected once"):
        Flux2Calls({}, {"tokenizer": tokenizer}).framed("a house")


def first_step(pipeline, family, latents):
    """What a pipeline's transformer says at its first step, and the step's timestep, 0 to 1000."""
    seen = {}

    def look(_, args, kwargs, output):
        seen.setdefault("output", output[0])
        seen.setdefault("time", float(kwargs["timestep"].flatten()[0]) * (1000 if family in PACKED else 1))
        return output

    hook = pipeline.transformer.register_forward_hook(look, with_kwargs=True)
    more = {"latents": latents, "num_inference_steps": 2, "output_type": "latent", "height": 64, "width": 64}
    more |= {"use_resolution_binning": False} if family == "pixart" else {"sigmas": [0.25, 0.1]}
    guidance = {"flux": 3.5, "flux2": 4.0, "qwen": None}.get(family, 1.0)
    try:
        pipeline.set_progress_bar_config(disable=True)
        pipeline(prompt=PROMPT, guidance_scale=guidance, **more)
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_is_that_of_diffusers_own_pipeline(backbones, pipelines, family):
    backbone, generator = backbones[family], torch.Generator().manual_seed(1)
    latents = torch.randn(1, channels_of(backbone), 16, 16, generator=generator)
    pipeline = pipelines[family]
    as_given = {"flux2": lambda z: pipeline._patchify_latents(z)} | dict.fromkeys(("flux", "qwen"), lambda z: pipeline._pack_latents(z, 1, z.shape[1], 16, 16))
    seen = first_step(pipeline, family, as_given.get(family, lambda z: z)(latents))
    timestep = round(seen["time"])
    assert abs(timestep - seen["time"]) < 1e-3 and (timestep < 600 or family == "pixart")
    output = seen["output"]
    if family == "pixart":
        output = output.chunk(2, dim=1)[0]
    elif family in ("flux", "qwen"):
        output = pipeline._unpack_latents(output, 64, 64, 4).reshape(latents.shape)
    elif family == "flux2":
        output = pipeline._unpatchify_latents(output.mT.unflatten(-1, (8, 8)))
    embeddings = backbone.encode_prompts([PROMPT])
    assert (backbone.calls.denoise(backbone.unet, latents, timestep, embeddings) - output).abs().max() < 1e-5
    noise = output if family == "pixart" else latents + (1 - timestep / 1000) * output
    assert (backbone.predict_noise(latents, timestep, embeddings) - noise).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["sd3", "flux", "flux2", "qwen"])
def test_noise_is_added_as_the_flow_schedule_does(backbones, pipelines, family):
    backbone, generator = backbones[family], torch.Generator().manual_seed(2)
    latents, noise = (torch.randn(1, channels_of(backbone), 4, 4, generator=generator) for _ in range(2))
    scheduler = pipelines[family].scheduler
    scheduler.set_timesteps(8)
    time = scheduler.timesteps[3]
    expected = scheduler.scale_noise(latents, time[None], noise)
    kept, sigma = 1 - float(time) / 1000, float(time) / 1000
    assert torch.allclose(kept * latents + sigma * noise, expected, atol=1e-6)
    assert torch.allclose(backbone.add_noise(latents, noise, 515), 0.485 * latents + 0.515 * noise)
    noisy = backbone.add_noise(latents, noise, 515)
    assert torch.allclose(backbone.estimate_clean(noisy, noise, 515), latents, atol=1e-5)


def naive(backbone, noisy, timestep, embeddings, token_weights):
    """Maps, and the mean self-attention, by a loop over every block and head that forms the whole softmax, from the layers' own projections."""
    transformer, maps, selves = backbone.unet, {}, {}
    h, w = noisy.shape[2] // 2, noisy.shape[3] // 2
    n = h * w

    def heads_of(values, attn):
        return values.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    def turned(values, by):
        return torch.view_as_real(torch.view_as_complex(values.unflatten(-1, (-1, 2)).contiguous()) * by).flatten(-2)

    def look(name):
        def hook(attn, args, kwargs, output):
            hidden = kwargs.get("hidden_states", args[0] if args else None)
            text = kwargs.get("encoder_hidden_states")
            if hasattr(attn, "to_qkv_mlp_proj"):
                query, key, _ = (heads_of(part, attn) for part in attn.to_qkv_mlp_proj(hidden)[..., : 3 * attn.inner_dim].chunk(3, dim=-1))
            else:
                query = heads_of(attn.to_q(hidden), attn)
                key = heads_of(attn.to_k(text if name.endswith("attn2") and text is not None else hidden), attn)
            if attn.norm_q is not None:
                query, key = attn.norm_q(query), attn.norm_k(key)
            places = slice(0, n)
            if text is not None and not name.endswith("attn2"):
                more = [heads_of(project(text), attn) for project in (attn.add_q_proj, attn.add_k_proj)]
                if attn.norm_added_q is not None:
                    more = [attn.norm_added_q(more[0]), attn.norm_added_k(more[1])]
                if not hasattr(transformer, "single_transformer_blocks") and kwargs.get("image_rotary_emb") is not None:  # Qwen-Image turns both apart
                    (query, key), more = ([turned(one, by) for one in pair] for pair, by in zip(((query, key), more), kwargs["image_rotary_emb"], strict=True))
                query, key = (torch.cat([new, old] if backbone.calls.text_first else [old, new], dim=2) for old, new in zip((query, key), more, strict=True))
            words = slice(n, None)
            if backbone.calls.text_first:
                length = query.shape[2] - n
                places, words = slice(length, None), slice(0, length)
            if hasattr(transformer, "single_transformer_blocks"):
                from diffusers.models.embeddings import apply_rotary_emb

                query, key = (apply_rotary_emb(one, kwargs["image_rotary_emb"]) for one in (query, key))
            scores = query @ key.mT / query.shape[-1] ** 0.5
            if kwargs.get("encoder_hidden_states_mask") is not None:
                scores[..., words] = scores[..., words].masked_fill(~kwargs["encoder_hidden_states_mask"][:, None, None], -torch.inf)
            if kwargs.get("attention_mask") is not None and text is not None:
                scores = scores + kwargs["attention_mask"][:, None]
            whole = scores.softmax(-1)
            if name.endswith("attn2") and text is not None:
                maps[name] = (whole * token_weights[:, None, None]).sum(-1).mean(1).unflatten(-1, (h, w))
            elif key.shape[2] > n:
                quarter = whole[:, :, places, words]
                maps[name] = (quarter * token_weights[:, None, None, : quarter.shape[-1]]).sum(-1).mean(1).unflatten(-1, (h, w))
                quarter = whole[:, :, places, places]
                selves[name] = (quarter / quarter.sum(-1, keepdim=True)).mean(1)
            else:
                selves[name] = whole.mean(1)

        return hook

    from diffseg_lib.dit.attention import layers_of

    hooks = [layer.register_forward_hook(look(name), with_kwargs=True) for name, layer in layers_of(transformer).items()]
    try:
        with torch.no_grad():
            backbone.predict_noise(noisy, timestep, embeddings)
    finally:
        for hook in hooks:
            hook.remove()
    return maps, selves


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_maps_are_those_of_the_whole_softmax_and_nothing_changes(backbones, family):
    backbone = backbones[family]
    noisy, timestep, embeddings = given(backbone, rows=2)
    weights = torch.rand(2, backbone.max_tokens, generator=torch.Generator().manual_seed(3)) * (torch.arange(backbone.max_tokens) < 12)
    processors = {name: layer.processor for name, layer in _layers(backbone).items()}
    bare = backbone.predict_noise(noisy, timestep, embeddings)
    with backbone.record(weights, self_attention="all") as recording:
        recorded = backbone.predict_noise(noisy, timestep, embeddings)
    assert torch.equal(bare, recorded)
    assert all(layer.processor is processors[name] for name, layer in _layers(backbone).items())
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in _layers(backbone).values())
    maps, selves = naive(backbone, noisy, timestep, embeddings, weights)
    assert set(recording.cross) == set(maps) and set(recording.queries) == set(selves)
    for name, found in recording.cross.items():
        assert found.shape == (2, 6, 8) and (found - maps[name]).abs().max() < 1e-5 * maps[name].abs().max().clamp_min(1)
    from diffseg_lib.scoremaps import complete, complete_materialised

    some = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(4))
    for name, matrix in selves.items():
        expected = (matrix @ some.flatten(1)[..., None])[..., 0].unflatten(-1, (6, 8))
        for way in (complete, complete_materialised):
            assert (way(some, [recording.queries[name]], [recording.keys[name]]) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_map_can_be_the_share_of_a_word_in_what_goes_to_all_words(folders, backbones, family, picture):
    backbone = backbones[family]
    noisy, timestep, embeddings = given(backbone, rows=2)
    prompts = [make_prompt(name, backbone.tokenizer, "a photograph of a {class}") for name in ("house", "fish")]
    weights, content = backbone.token_weights(prompts), backbone.content_weights(prompts)

    def recorded(weights, **more):
        with backbone.record(weights, heads=True, **more) as recording:
            backbone.predict_noise(noisy, timestep, embeddings)
        return recording.cross

    shares, words, whole = recorded(weights, content=content), recorded(weights), recorded(content)
    for name, maps in shares.items():
        assert (
            maps.shape == words[name].shape and torch.allclose(maps, words[name] / whole[name], rtol=1e-4) and not torch.allclose(maps, words[name], rtol=0.5)
        )
    plain = DiffSegmenter.from_profile(folders[family])
    found = [one.segment(picture, ["house", "fish"]).scores for one in (plain, plain.with_config(over_words=True))]
    joint = plain.with_config(over_words=True, one_pass="joint").segment(picture, ["house", "fish"]).scores
    assert np.isfinite(joint).all() and np.abs(found[0] - found[1]).max() > 1e-3


def test_shares_of_words_are_of_joint_attention(folders, backbone):
    for other in (backbone, load_backbone(folders["pixart"])):
        with pytest.raises(ValueError, match="over_words reads joint attention"):
            DiffSegmenter(other).with_config(over_words=True)


def _layers(backbone):
    from diffseg_lib.dit.attention import layers_of

    return layers_of(backbone.unet)


def test_maps_differ_by_block_and_word(backbones):
    for family, backbone in backbones.items():
        noisy, timestep, embeddings = given(backbone)
        weights = torch.eye(backbone.max_tokens)[None, :4]
        with backbone.record(weights) as recording:
            backbone.predict_noise(noisy, timestep, embeddings)
        stacked = torch.stack(list(recording.cross.values()))
        assert stacked.shape[1:] == (4, 6, 8) and (stacked.std((2, 3)) > 0).all(), family
        assert (stacked[0] - stacked[1]).abs().max() > 1e-4, family
        assert sorted(recording.by_resolution()) == list(range(len(stacked)))


@pytest.mark.parametrize("family", FAMILIES)
def test_stopping_early_and_some_blocks_alone_change_no_map(backbones, family):
    backbone = backbones[family]
    noisy, timestep, embeddings = given(backbone)
    weights = torch.eye(backbone.max_tokens)[None, 2:3]
    with backbone.record(weights) as whole:
        backbone.predict_noise(noisy, timestep, embeddings)
    after = []
    hook = backbone.unet.register_forward_hook(lambda *_: after.append(1))
    with backbone.record(weights, optimizations=("early_stop",), resolutions=[1], heads=True) as some:
        backbone.predict_noise(noisy, timestep, embeddings)
    hook.remove()
    assert not after and set(some.by_resolution()) == {1}
    assert torch.allclose(some.by_resolution()[1], whole.by_resolution()[1], atol=1e-7)
    name = next(iter(some.cross))
    assert some.cross[name].shape == (1, 2, 6, 8)
    assert torch.equal(backbone.predict_noise(noisy, timestep, embeddings), backbone.predict_noise(noisy, timestep, embeddings))


def test_words_have_a_span_in_each_tokenizer(backbones):
    backbone = backbones["sd3"]
    prompt = make_prompt("red fish", backbone.tokenizer)
    weights = backbone.token_weights([prompt])
    assert weights.sum() == pytest.approx(1) and weights[0, :24].sum() == pytest.approx(0.5)
    _, t5 = backbone.calls.spans[1]
    pieces = t5.convert_ids_to_tokens(t5(prompt.text)["input_ids"])
    found = [pieces[i - 24] for i in weights[0].nonzero().flatten().tolist() if i >= 24]
    assert "".join(found).replace("▁", " ").strip() == "red fish"
    last = backbone.token_weights([prompt], "last")
    assert sorted(last[last > 0].tolist()) == [0.5, 0.5]
    content = backbone.content_weights([prompt])[0]
    clip = len(backbone.tokenizer(prompt.text)["input_ids"])
    assert not content[0] and content[1 : clip - 1].all() and not content[clip - 1 : 24].any()
    assert content[24:].sum() == len(pieces) - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_photo_is_segmented_by_a_saved_pipeline(folders, family, picture):
    segmenter = DiffSegmenter.from_profile(folders[family], timesteps=(515,))
    found = segmenter.segment(picture, ["house", "fish"], return_intermediates=True)
    assert found.labels.shape == picture.shape[:2] and found.scores.shape == (2, *picture.shape[:2])
    assert np.isfinite(found.scores).all() and found.scores.max() == pytest.approx(1)
    assert any("noise level s = 0.515" in note for note in found.notes) == (family != "pixart")
    plain = segmenter.with_config(optimized=False).segment(picture, ["house", "fish"])
    assert np.abs(plain.scores - found.scores).max() < 1e-4
    joint = segmenter.with_config(one_pass="joint").segment(picture, ["house", "fish"])
    assert np.isfinite(joint.scores).all()
    with pytest.raises(ValueError, match="one_pass='joint'"):
        segmenter.with_config(one_pass="side").segment(picture, ["house", "fish"])


def test_latents_go_there_and_back_by_the_autoencoders_statistics(backbones, pipelines):
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(5)) * 2 - 1
    with torch.no_grad():
        pipeline = pipelines["flux2"]
        expected = pipeline._unpatchify_latents(pipeline._encode_vae_image(image, None))
        found = backbones["flux2"].encode_image(image)
        assert found.shape == (1, 8, 8, 12) and torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(found, pipeline.vae.encode(image).latent_dist.mean, atol=0.1)
        vae = pipelines["qwen"].vae
        mean, deviation = (torch.tensor(one).view(1, 8, 1, 1) for one in (vae.config.latents_mean, vae.config.latents_std))
        expected = (vae.encode(image[:, :, None]).latent_dist.mean[:, :, 0] - mean) / deviation
        assert torch.allclose(backbones["qwen"].encode_image(image), expected, atol=1e-5)
    for family in ("flux2", "qwen"):  # what each pipeline makes of the latents that its last step leaves
        pipeline, latents = pipelines[family], torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(6))
        as_given = pipeline._patchify_latents(latents) if family == "flux2" else pipeline._pack_latents(latents, 1, 8, 16, 16)
        made = pipeline(prompt="", latents=as_given, num_inference_steps=1, sigmas=[0.0], height=64, width=64, output_type="pt").images
        assert torch.allclose(backbones[family].decode_latents(latents) / 2 + 0.5, made, atol=1e-5)


def test_latents_go_there_and_back_with_the_autoencoders_shift(backbones, pipelines):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1
    vae = pipelines["flux"].vae
    with torch.no_grad():
        expected = (vae.encode(image).latent_dist.mean - 0.11) * 0.36
        assert torch.allclose(backbones["flux"].encode_image(image), expected, atol=1e-6)
        assert torch.allclose(backbones["flux"].decode_latents(expected), vae.decode(expected / 0.36 + 0.11).sample.clamp(-1, 1), atol=1e-5)


def test_recordings_are_of_one_call_and_not_nested(backbones):
    backbone = backbones["sd3"]
    noisy, timestep, embeddings = given(backbone)
    weights = torch.eye(backbone.max_tokens)[None, 2:3]
    with backbone.record(weights):
        backbone.predict_noise(noisy, timestep, embeddings)
        with pytest.raises(RuntimeError, match="second"):
            backbone.predict_noise(noisy, timestep, embeddings)
        with pytest.raises(RuntimeError, match="being recorded already"), backbone.record(weights):
            pass
    with pytest.raises(ValueError, match="block 7: the model's are 0 to 2"), backbone.record(weights, resolutions=[7]):
        pass
    with pytest.raises(ValueError, match="'finest', 'all'|finest, all"), backbone.record(weights, self_attention="some"):
        pass
    with pytest.raises(ValueError, match="values nor hidden states"), backbone.record(weights, projections=("self",)):
        pass
    assert torch.isfinite(backbone.predict_noise(noisy, timestep, embeddings)).all()


def test_attention_that_is_computed_otherwise_is_told(backbones):
    backbone = backbones["sd3"]
    noisy, timestep, embeddings = given(backbone)

    class Other:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, *_, **__):
            return hidden_states, encoder_hidden_states

    layer = _layers(backbone)["transformer_blocks.1.attn"]
    before = layer.processor
    layer.set_processor(Other())
    try:
        with pytest.raises(RuntimeError, match="attention backend to 'native'"), backbone.record(torch.eye(backbone.max_tokens)[None, :1]):
            backbone.predict_noise(noisy, timestep, embeddings)
    finally:
        layer.set_processor(before)


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("sd3", lambda f: shutil.rmtree(f / "vae"), "vae"),
        ("sd3", lambda f: _edit(f / "vae" / "config.json", shift_factor=...), "does not say shift_factor"),
        ("flux", lambda f: _edit(f / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler"), "expected one of flow matching"),
        ("pixart", lambda f: _edit(f / "scheduler" / "scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"), "expected one of noise"),
        ("flux", lambda f: shutil.rmtree(f / "tokenizer_2"), "tokenizer_2 is missing"),
        ("sd3", lambda f: _edit(f / "transformer" / "config.json", _class_name="SanaTransformer2DModel"), "holds a SanaTransformer2DModel"),
        ("sd3", lambda f: _edit(f / "transformer" / "config.json", joint_attention_dim=48), "do not fit its config.json"),
        ("flux2", lambda f: (f / "tokenizer" / "chat_template.jinja").unlink(), "has no chat template"),
        ("flux2", lambda f: _edit(f / "vae" / "config.json", _class_name="AutoencoderKL"), "of type 'AutoencoderKL': expected AutoencoderKLFlux2"),
        ("flux2", lambda f: _edit(f / "text_encoder" / "config.json", model_type="qwen3"), "of type 'qwen3': expected mistral3"),
        ("qwen", lambda f: _edit(f / "vae" / "config.json", latents_std=...), "does not say latents_std"),
        ("qwen", lambda f: _edit(f / "vae" / "config.json", latents_mean=[0.0] * 16), "says 16 latents_mean, of 8 channels"),
        ("qwen", lambda f: _edit(f / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler"), "expected one of flow matching"),
        ("qwen", lambda f: shutil.rmtree(f / "text_encoder"), "text_encoder"),
    ],
)
def test_a_folder_that_is_wrong_is_refused_with_what_is(folders, tmp_path, family, change, said):
    copied = tmp_path / "model"
    shutil.copytree(folders[family], copied)
    change(copied)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_backbone(copied)


def _edit(path: Path, **changes):
    held = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in held.items() if value is not ...}))


def test_parts_of_another_model_are_refused(folders, tmp_path):
    copied = tmp_path / "model"
    shutil.copytree(folders["sd3"], copied)
    shutil.rmtree(copied / "vae")
    shutil.copytree(folders["pixart"] / "vae", copied / "vae")
    with pytest.raises(ValueError, match="latents have 4 numbers, the transformer reads 16"):
        load_backbone(copied)


def test_parts_of_another_model_with_a_language_model_are_refused(folders, pipelines, tmp_path):
    copied = tmp_path / "flux2"
    shutil.copytree(folders["flux2"], copied)
    text = type(pipelines["flux2"].text_encoder)
    config = pipelines["flux2"].text_encoder.config.to_dict()
    config["text_config"] |= {"num_hidden_layers": 2, "hidden_size": 24}
    text(type(pipelines["flux2"].text_encoder.config).from_dict(config)).save_pretrained(copied / "text_encoder")
    with pytest.raises(ValueError, match="layers of Mistral 3 make 72 numbers, the transformer reads 48; Mistral 3 has 2 layers, of which the 30th is read"):
        load_backbone(copied)
    copied = tmp_path / "qwen"
    shutil.copytree(folders["qwen"], copied)
    type(pipelines["qwen"].transformer)(**dict(pipelines["qwen"].transformer.config) | {"use_additional_t_cond": True}).save_pretrained(copied / "transformer")
    with pytest.raises(ValueError, match="the transformer has use_additional_t_cond, of a model that edits pictures"):
        load_backbone(copied)


def test_a_language_models_weights_under_their_earlier_names_are_read(folders, backbones, tmp_path):
    from safetensors.torch import load_file, save_file

    earlier = {"qwen": (("model.language_model.", "model."), ("model.visual.", "visual.")), "flux2": (("model.language_model.", "language_model.model."),)}
    earlier["flux2"] += (("lm_head.", "language_model.lm_head."), ("model.vision_tower.", "vision_tower."), ("model.multi_modal_p", "multi_modal_p"))
    for family, names in earlier.items():
        copied = tmp_path / family
        shutil.copytree(folders[family], copied)
        path = copied / "text_encoder" / "model.safetensors"
        held = load_file(path)
        for new, old in names:
            held = {old + key.removeprefix(new) if key.startswith(new) else key: one for key, one in held.items()}
        save_file(held, path, metadata={"format": "pt"})
        assert torch.equal(load_backbone(copied).encode_prompts([PROMPT]), backbones[family].encode_prompts([PROMPT]))


def test_t5_may_be_left_out_of_stable_diffusion_3(folders, tmp_path, picture):
    copied = tmp_path / "model"
    shutil.copytree(folders["sd3"], copied)
    shutil.rmtree(copied / "text_encoder_3")
    segmenter = DiffSegmenter.from_profile(copied)
    assert segmenter.backbone.max_tokens == 24
    noisy, timestep, embeddings = given(segmenter.backbone)
    short, maps = torch.eye(24)[None, 2:4], []
    for weights in (short, torch.nn.functional.pad(short, (0, 256))):  # the zeros in T5's place weigh nothing
        with segmenter.backbone.record(weights) as recording:
            segmenter.backbone.predict_noise(noisy, timestep, embeddings)
        maps.append(torch.stack(list(recording.cross.values())))
    assert torch.equal(*maps)
    found = segmenter.segment(picture, ["house"])
    assert any("text_encoder_3 is left out" in note for note in found.notes) and np.isfinite(found.scores).all()


@pytest.mark.parametrize("without_t5", [True, False])
def test_how_many_of_t5s_tokens_are_read_can_be_said(folders, pipelines, tmp_path, picture, without_t5):
    from diffusers import StableDiffusion3Pipeline

    copied = tmp_path / "model"
    shutil.copytree(folders["sd3"], copied)
    (copied / "profile.json").write_text(json.dumps({"max_sequence_length": 0 if without_t5 else 9}))
    parts = dict(pipelines["sd3"].components)
    if without_t5:
        shutil.rmtree(copied / "text_encoder_3")
        parts |= {"text_encoder_3": None, "tokenizer_3": None}
    segmenter, length = DiffSegmenter.from_profile(copied), 0 if without_t5 else 9
    backbone, latents = segmenter.backbone, torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    assert backbone.max_tokens == 24 + length and not any("left out" in note for note in backbone.notes)
    pipeline = StableDiffusion3Pipeline(**parts)
    words, _, pooled, _ = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT, do_classifier_free_guidance=False, max_sequence_length=length)
    expected = pipeline.transformer(latents, words, pooled, torch.tensor([400.0])).sample
    assert torch.equal(backbone.calls.denoise(backbone.unet, latents, 400, backbone.encode_prompts([PROMPT])), expected)
    assert np.isfinite(segmenter.segment(picture, ["house"]).scores).all()


def test_fusion_weights_of_blocks_that_are_not_there_are_refused(folders):
    from dataclasses import replace

    from diffseg_lib.profiles import load_profile

    profile = replace(load_profile(folders["flux"]), weights={1: 0.5, 9: 0.5})
    with pytest.raises(ValueError, match="blocks 9: the model's 4 blocks are 0 to 3"):
        load_backbone(profile)


def test_a_unet_is_loaded_as_before(pipeline_folder):
    assert type(load_backbone(pipeline_folder)).__name__ == "Backbone"


# -- read-outs of joint attention


def concepts_of(backbone, words):
    from diffseg_lib.refinements.concept_attention import ConceptAttention

    method = ConceptAttention(DiffSegmenter(backbone))
    return torch.cat([method.concept(word) for word in words], dim=1)


def places_of(backbone, words):
    from diffseg_lib.refinements.concept_attention import ConceptAttention

    return [ConceptAttention(DiffSegmenter(backbone)).place(word) for word in words]


def seen_concepts(backbone, noisy, timestep, driving, concepts, blocks, rows=(0, 0, 0)):
    from diffseg_lib.dit.concepts import watch_concepts

    found = {}

    def see(block, image, text):
        found[block] = (image, text)

    n = noisy.shape[2] * noisy.shape[3] // 4
    with watch_concepts(backbone.unet, concepts, rows[: concepts.shape[1]], blocks, backbone.calls, lambda: n, see):
        backbone.predict_noise(noisy, timestep, driving)
    return found


@pytest.mark.parametrize("family", ["flux2", "qwen"])
def test_concepts_stand_where_their_tokens_stood(backbones, family):
    backbone, words = backbones[family], ["house", "red fish"]
    noisy, timestep, driving = given(backbone)
    rows = places_of(backbone, words)
    assert rows == ([510, 510] if family == "flux2" else [0, 3])  # the last token of each: before the end of the frame, or behind its 34 tokens
    concepts = concepts_of(backbone, words)
    found = seen_concepts(backbone, noisy, timestep, driving, concepts, [0, 1], rows)
    assert found[0][1].shape == (2, backbone.unet.inner_dim)
    turned = seen_concepts(backbone, noisy, timestep, driving, concepts.flip(1), [0, 1], rows[::-1])
    elsewhere = seen_concepts(backbone, noisy, timestep, driving, concepts, [0, 1], [row - 1 if row else 3 for row in rows])
    for block in (0, 1):
        assert torch.equal(found[block][0], turned[block][0]) and torch.allclose(found[block][1], turned[block][1].flip(0), atol=1e-5)
        assert not torch.allclose(found[block][1], elsewhere[block][1], atol=1e-5)

    # alone, at its place, a concept is what the token would be as the whole text of the first block
    alone = seen_concepts(backbone, noisy, timestep, driving, concepts[:, :1], [0], [0])
    text = torch.nn.functional.pad(concepts[:, :1], (0, 0, 0, 511))
    as_prompt = text[:, :1] if family == "flux2" else torch.cat([text, torch.eye(1, 512).view(1, -1, 16)], dim=1)
    outputs = {}
    from diffseg_lib.dit.attention import watch_attention

    with watch_attention(backbone.unet, ["transformer_blocks.0.attn"], True, lambda: 48, lambda seen: outputs.update(text=seen.text_output)):
        backbone.predict_noise(noisy, timestep, as_prompt)
    assert torch.allclose(alone[0][1], outputs["text"][0].transpose(0, 1).flatten(1), atol=1e-5)


@pytest.mark.parametrize("family", ["sd3", "sd35", "flux"])
def test_concepts_read_the_picture_with_the_texts_weights_and_are_not_read(backbones, family):
    backbone = backbones[family]
    noisy, timestep, driving = given(backbone)
    concepts = concepts_of(backbone, ["house", "fish", "background"])
    found = seen_concepts(backbone, noisy, timestep, driving, concepts, [0, 1])
    shapes = (48, backbone.unet.inner_dim), (3, backbone.unet.inner_dim)
    assert {block: (image.shape, text.shape) for block, (image, text) in found.items()} == dict.fromkeys((0, 1), shapes)

    # in the first block concepts are what the same tokens would be as the prompt, under the same pooled embedding
    as_prompt = torch.cat([torch.nn.functional.pad(concepts, (0, driving.shape[-1] - concepts.shape[-1])), driving[:, -1:]], dim=1)
    outputs = {}

    def keep(seen):
        outputs[seen.layer] = seen

    from diffseg_lib.dit.attention import watch_attention

    first = "transformer_blocks.0.attn"
    with watch_attention(backbone.unet, [first], backbone.calls.text_first, lambda: 48, keep):
        backbone.predict_noise(noisy, timestep, as_prompt)
    expected = outputs[first].text_output[0].transpose(0, 1).flatten(1)
    assert torch.allclose(found[0][1], expected, atol=1e-5)
    with watch_attention(backbone.unet, [first], backbone.calls.text_first, lambda: 48, keep):
        backbone.predict_noise(noisy, timestep, driving)
    assert torch.equal(found[0][0], outputs[first].output[0].transpose(0, 1).flatten(1))

    # the picture does not read them, their order is of no matter, and each reads the others
    turned = seen_concepts(backbone, noisy, timestep, driving, concepts.flip(1), [0, 1])
    fewer = seen_concepts(backbone, noisy, timestep, driving, concepts[:, :1], [0, 1])
    for block in (0, 1):
        assert torch.equal(found[block][0], turned[block][0]) and torch.equal(found[block][0], fewer[block][0])
        assert torch.allclose(found[block][1], turned[block][1].flip(0), atol=1e-5)
        assert not torch.allclose(found[block][1][0], fewer[block][1][0], atol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.unet.modules())


def test_concepts_need_a_block_with_a_stream_of_text(backbones):
    backbone = backbones["sd3"]
    noisy, timestep, driving = given(backbone)
    with pytest.raises(ValueError, match="blocks 2: concepts are carried through blocks with a stream of text, 0 to 1"):
        seen_concepts(backbone, noisy, timestep, driving, concepts_of(backbone, ["house"]), [2])


@pytest.mark.parametrize("family", ["sd3", "flux", "flux2", "qwen"])
def test_read_outs_are_methods(folders, family, picture):
    from diffseg_lib.evaluation.methods import make_method
    from diffseg_lib.refinements.concept_attention import concept_scores

    segmenter = DiffSegmenter.from_profile(folders[family], weights={0: 0.5, 1: 0.5}, timesteps=(500,))
    found = make_method("conceptattention", segmenter)(picture, ["house", "fish"])
    assert found.scores.shape == (2, *picture.shape[:2]) and found.calls == 1
    assert found.scores.min() >= 0 and found.scores.sum(0).max() <= 1 + 1e-5
    if family.startswith("flux"):
        with pytest.raises(ValueError, match="blocks 2: concepts are carried through blocks with a stream of text, 0 to 1"):
            make_method("conceptattention", segmenter.with_config(weights={2: 1.0}))(picture, ["house"])
    with pytest.raises(ValueError, match="block 9: the model's are 0 to"):
        make_method("seg4diff", segmenter)(picture, ["house"])
    scores = concept_scores(torch.randn(5, 8), torch.randn(3, 8))
    assert torch.allclose(scores.sum(0), torch.ones(5))


def test_read_outs_of_joint_attention_refuse_other_models(folders, backbone):
    from diffseg_lib.evaluation.methods import make_method

    for segmenter in (DiffSegmenter(backbone), DiffSegmenter.from_profile(folders["pixart"])):
        with pytest.raises(ValueError, match="reads joint attention, and the model of profile .* has none"):
            make_method("seg4diff", segmenter)
        with pytest.raises(ValueError, match="reads joint attention"):
            make_method("conceptattention", segmenter)(np.zeros((16, 16, 3), np.uint8), ["house"])
