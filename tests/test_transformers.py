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

FAMILIES = ("sd3", "sd35", "flux", "pixart")
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


def _t5(tokenizer):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=40, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def _clip(tokenizer, kind, width, projection):
    from transformers import CLIPTextConfig

    facts = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 24}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return kind(CLIPTextConfig(vocab_size=len(tokenizer), projection_dim=projection, **facts, **ids))


def _vae(channels, **more):
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3, "block_out_channels": (8, 8, 8)}
    return AutoencoderKL(**kinds, layers_per_block=1, norm_num_groups=4, latent_channels=channels, mid_block_add_attention=False, **more)


def _sharpen(transformer):
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if any(part in name for part in ("to_q.", "to_k.", "add_q_proj.", "add_k_proj.")):
                weight.mul_(4)
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


MAKE = {"sd3": tiny_sd3, "sd35": lambda: tiny_sd3(second=True), "flux": tiny_flux, "pixart": tiny_pixart}


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


def given(backbone, height=12, width=16, rows=1, timestep=400):
    generator = torch.Generator().manual_seed(0)
    channels = backbone.vae.config.latent_channels
    latents, noise = (torch.randn(1, channels, height, width, generator=generator) for _ in range(2))
    embeddings = torch.cat([backbone.encode_prompts([text]) for text in (PROMPT, "a red house")[:rows]])
    return backbone.add_noise(latents, noise, timestep), timestep, embeddings


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_found_by_what_its_transformer_is(backbones, family):
    backbone = backbones[family]
    names = {"sd3": "Sd3Calls", "sd35": "Sd3Calls", "flux": "FluxCalls", "pixart": "PixArtCalls"}
    assert type(backbone.calls).__name__ == names[family] and type(backbone).__name__ == "TransformerBackbone"
    assert sum(backbone.profile.weights.values()) == pytest.approx(1)
    assert backbone.max_tokens == {"sd3": 24 + 256, "sd35": 24 + 256, "flux": 512, "pixart": 300}[family]


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


def first_step(pipeline, family, latents, steps=3):
    """What a pipeline's transformer says at its first step, and the step's timestep."""
    seen = {}

    def look(_, args, kwargs, output):
        seen.setdefault("output", output[0])
        seen.setdefault("time", kwargs["timestep"])
        return output

    hook = pipeline.transformer.register_forward_hook(look, with_kwargs=True)
    more = {"latents": latents, "num_inference_steps": steps, "output_type": "latent", "height": 64, "width": 64}
    more |= {"use_resolution_binning": False} if family == "pixart" else {}
    try:
        pipeline.set_progress_bar_config(disable=True)
        pipeline(PROMPT, guidance_scale=3.5 if family == "flux" else 1.0, **more)
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_is_that_of_diffusers_own_pipeline(backbones, pipelines, family):
    backbone, generator = backbones[family], torch.Generator().manual_seed(1)
    latents = torch.randn(1, backbone.vae.config.latent_channels, 16, 16, generator=generator)
    packed = pipelines["flux"]._pack_latents(latents, 1, 16, 16, 16) if family == "flux" else latents
    seen = first_step(pipelines[family], family, packed)
    timestep = float(seen["time"].flatten()[0]) * (1000 if family == "flux" else 1)
    found = backbone.predict_noise(latents, round(timestep), backbone.encode_prompts([PROMPT]))
    if family == "pixart":
        expected = seen["output"].chunk(2, dim=1)[0]
    else:
        velocity = pipelines["flux"]._unpack_latents(seen["output"], 64, 64, 4) if family == "flux" else seen["output"]
        expected = latents + (1 - round(timestep) / 1000) * velocity
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_noise_is_added_as_the_flow_schedule_does(backbones, pipelines, family):
    backbone, generator = backbones[family], torch.Generator().manual_seed(2)
    latents, noise = (torch.randn(1, 16, 4, 4, generator=generator) for _ in range(2))
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

    def look(name):
        def hook(attn, args, kwargs, output):
            hidden = kwargs.get("hidden_states", args[0] if args else None)
            text = kwargs.get("encoder_hidden_states")
            query = heads_of(attn.to_q(hidden), attn)
            key = heads_of(attn.to_k(text if name.endswith("attn2") and text is not None else hidden), attn)
            if attn.norm_q is not None:
                query, key = attn.norm_q(query), attn.norm_k(key)
            places = slice(0, n)
            if text is not None and not name.endswith("attn2"):
                more = [heads_of(project(text), attn) for project in (attn.add_q_proj, attn.add_k_proj)]
                if attn.norm_added_q is not None:
                    more = [attn.norm_added_q(more[0]), attn.norm_added_k(more[1])]
                order = (1, -1) if hasattr(transformer, "single_transformer_blocks") else (-1, 1)
                query, key = (torch.cat([old, new][:: order[1]], dim=2) for old, new in zip((query, key), more, strict=True))
            words = slice(n, None)
            if hasattr(transformer, "single_transformer_blocks"):
                from diffusers.models.embeddings import apply_rotary_emb

                length = query.shape[2] - n
                query, key = (apply_rotary_emb(one, kwargs["image_rotary_emb"]) for one in (query, key))
                places, words = slice(length, None), slice(0, length)
            scores = query @ key.mT / query.shape[-1] ** 0.5
            if kwargs.get("attention_mask") is not None and text is not None:
                scores = scores + kwargs["attention_mask"][:, None]
            whole = scores.softmax(-1)
            if name.endswith("attn2") and text is not None:
                maps[name] = (whole * token_weights[:, None, None]).sum(-1).mean(1).unflatten(-1, (h, w))
            elif key.shape[2] > n:
                maps[name] = (whole[:, :, places, words] * token_weights[:, None, None]).sum(-1).mean(1).unflatten(-1, (h, w))
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
        with pytest.raises(ValueError, match="over_words is of joint attention"):
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


def test_t5_may_be_left_out_of_stable_diffusion_3(folders, tmp_path, picture):
    copied = tmp_path / "model"
    shutil.copytree(folders["sd3"], copied)
    shutil.rmtree(copied / "text_encoder_3")
    segmenter = DiffSegmenter.from_profile(copied)
    assert segmenter.backbone.max_tokens == 24
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


def seen_concepts(backbone, noisy, timestep, driving, concepts, blocks):
    from diffseg_lib.dit.concepts import watch_concepts

    found = {}

    def see(block, image, text):
        found[block] = (image, text)

    n = noisy.shape[2] * noisy.shape[3] // 4
    with watch_concepts(backbone.unet, concepts, blocks, backbone.calls.text_first, lambda: n, see):
        backbone.predict_noise(noisy, timestep, driving)
    return found


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


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_read_outs_are_methods(folders, family, picture):
    from diffseg_lib.evaluation.methods import make_method
    from diffseg_lib.refinements.concept_attention import concept_scores

    segmenter = DiffSegmenter.from_profile(folders[family], weights={0: 0.5, 1: 0.5}, timesteps=(500,))
    found = make_method("conceptattention", segmenter)(picture, ["house", "fish"])
    assert found.scores.shape == (2, *picture.shape[:2]) and found.calls == 1
    assert found.scores.min() >= 0 and found.scores.sum(0).max() <= 1 + 1e-5
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
