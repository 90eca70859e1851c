"""Train the pocket models: ``diffseg pocket train vae|decoder|clip|unet|transformer|blip|judge``, then ``diffseg pocket ship``.

Everything is learnt from rendered pictures and their captions (:mod:`diffseg_lib.pocket.training.pictures`);
no label map is ever within reach. (The judge, which only measures, is told what a scene was composed of.)
A run resumes where it stopped: give the same command again.
``ship`` turns the runs' averaged weights into folders that ``from_pretrained`` loads.
"""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, interpolate, l1_loss, mse_loss, pad
from transformers import BertTokenizer, CLIPTokenizer

from ...prompts import fill_template
from ...support.files import write_json, write_text
from ...support.images import to_numpy
from ...support.settings import Count, Share, settings
from ..world import CLASS_NAMES, CLASSES
from . import architectures
from .fitting import Schedule, autocast, fit, load_average
from .judge import Judge, save_judge, train_judge
from .layerdrop import LayerDrop
from .pictures import Pictures, classes_named, load_pictures

VOCABULARY_PICTURES = 16_000  # whose captions the tokenizers are made from
CAPTIONS_A_BATCH = 32  # that are contrasted with their pictures
PHRASE_OPENINGS = ("a photograph of", "a photo of", "a picture of")
SCALE_PICTURES = 1024  # that the latents' scale is measured on


@settings
class Stage:
    """A part of training, with pictures of its own.

    Args:
        until: Share of training at which the part ends, 0 to 1.
        size: Side of the pictures, px.
        pictures: Number of pictures, the first of the train split.
        batch: Number of pictures in an update.
        crowded: Whether only pictures are shown whose caption names two things or more.

    Raises:
        ValueError: On values of another type or out of range, or an unknown name.
    """

    until: Share
    size: Count
    pictures: Count
    batch: Count
    crowded: bool = False


# Small pictures first, then whole scenes.
UNET_STAGES = [Stage(0.45, 64, 40_000, 32), Stage(0.72, 64, 40_000, 32, crowded=True), Stage(1.0, 128, 16_000, 16)]
# A transformer's positions are learnt where whole scenes are seen: they get half of its training.
TRANSFORMER_STAGES = [Stage(0.3, 64, 40_000, 32), Stage(0.5, 64, 40_000, 32, crowded=True), Stage(1.0, 128, 16_000, 16)]
ALIGNED = 4  # of the transformer's eight blocks, after which image tokens say what CLIP sees
ALIGNMENT = 0.5  # weight of that beside the squared error, as in the paper it is from
CLIP_STAGES = [Stage(0.35, 64, 40_000, 128), Stage(1.0, 128, 40_000, 128)]
PARTIAL = 0.35  # of a diffusion model's captions name one of the things in the picture and nothing else


def to_range(images: Tensor) -> Tensor:
    """Pictures as the models read them: from b h w 3, uint8, to b 3 h w, float, in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _tensor(pictures: Pictures) -> Tensor:
    return torch.from_numpy(np.array(pictures.images))


def _views(images: np.ndarray) -> Tensor:
    """Pictures (n H W 3, uint8) at the size CLIP and BLIP look at, resized as their processors do: n side side 3."""
    side = architectures.PICTURE
    if images.shape[1] == side:
        return torch.from_numpy(np.array(images))
    return torch.from_numpy(np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BICUBIC)) for p in images]))


def _captions() -> list[str]:
    return [line for lines in load_pictures("train", VOCABULARY_PICTURES, 128).captions for line in lines]


def _token_ids(tokenizer: CLIPTokenizer | BertTokenizer, pictures: Pictures) -> Tensor:
    """Token ids of every caption, padded: n variants l."""
    flat = [line for lines in pictures.captions for line in lines]
    ids = tokenizer(flat, padding="max_length", truncation=True, max_length=architectures.TEXT_LENGTH, return_tensors="pt").input_ids
    return ids.unflatten(0, (len(pictures), -1))


def _pick(ids: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """One caption for each row: b l."""
    return ids[rows, torch.randint(ids.shape[1], rows.shape, generator=generator)]


def _said(pictures: Pictures) -> Tensor:
    """Which classes a picture's first caption names: n classes, 0 or 1."""
    return torch.tensor([[name in classes_named(lines[0]) for name in CLASS_NAMES] for lines in pictures.captions]).float()


def _phrases(tokenizer: CLIPTokenizer) -> list[Tensor]:
    """For each class, token ids of phrases that name it, in all its names, canonical one first: m l."""
    lines = [[fill_template(word, f"{opening} a {{class}}") for word in (c.name, *(s for s, _ in c.synonyms)) for opening in PHRASE_OPENINGS] for c in CLASSES]
    return [tokenizer(names, padding="max_length", max_length=architectures.TEXT_LENGTH, return_tensors="pt").input_ids for names in lines]


def start_from(models: Path | None, kind: str, model: nn.Module) -> None:
    """Fill a model with shipped weights, so that training goes on from them; with None, leave it fresh.

    Raises:
        ValueError: If the weights there are of another architecture.
    """
    parts = {
        "vae": {"": "diffusion/vae"},
        "unet": {"unet.": "diffusion/unet", "text.": "diffusion/text_encoder"},
        "transformer": {"transformer.": "transformer/transformer", "text.": "transformer/text_encoder"},
        "clip": {"": "clip"},
        "blip": {"": "blip"},
    }
    if models is None:
        return
    weights: dict[str, Tensor] = {}
    for prefix, folder in parts[kind].items():
        for path in sorted((models / folder).glob("*.safetensors")):
            weights |= {prefix + name: tensor.float() for name, tensor in load_file(path).items()}
    mine = model.state_dict()
    mismatched = [k for k, v in weights.items() if k not in mine or mine[k].shape != v.shape]
    present = {mine[k].data_ptr() for k in weights if k in mine}
    mismatched += [k for k, v in model.named_parameters() if v.data_ptr() not in present]
    if mismatched:
        raise ValueError(f"the weights in {models} are of another architecture than the recipe's: {', '.join(mismatched[:4])}, ...")
    model.load_state_dict(weights, strict=False)


# -- autoencoder ---------------------------------------------------------------------------------


def train_vae(folder: Path, schedule: Schedule, device: str, pictures: int, start: Path | None = None) -> None:
    """Train the autoencoder by L1, squared error and a weak KL term on random crops of 64 px, 32 an update."""
    data = _tensor(load_pictures("train", pictures, 128))
    model = architectures.vae()
    start_from(start, "vae", model)

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        rows = torch.randint(len(data), (32,), generator=generator)
        y, x = torch.randint(0, 65, (2,), generator=generator).tolist()
        crops = to_range(data[rows, y : y + 64, x : x + 64]).to(device)
        posterior = model.encode(crops).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        drawn = model.decode(posterior.mean + posterior.std * noise).sample
        return l1_loss(drawn, crops) + mse_loss(drawn, crops) + 1e-5 * posterior.kl().mean() / crops[0].numel() * 64

    fit(model, loss, schedule, folder, device=device)


def train_decoder(folder: Path, schedule: Schedule, device: str, pictures: int) -> None:
    """Train the decoder alone further, mostly by the squared error; latents, and what was trained on them, stay."""
    data = _tensor(load_pictures("train", pictures, 128))
    model = architectures.vae()
    load_average(folder.parent / "vae", model)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        rows = torch.randint(len(data), (32,), generator=generator)
        y, x = torch.randint(0, 65, (2,), generator=generator).tolist()
        crops = to_range(data[rows, y : y + 64, x : x + 64]).to(device)
        with torch.no_grad():
            latents = model.encode(crops).latent_dist.mean
        drawn = model.decode(latents).sample
        return 10 * mse_loss(drawn, crops) + 0.3 * l1_loss(drawn, crops)

    fit(model, loss, schedule, folder, device=device)


def load_vae(runs: Path, start: Path | None = None) -> nn.Module:
    """The trained autoencoder (or, where none was trained, the shipped one in `start`), its scaling factor set."""
    model = architectures.vae().eval()
    if start is not None and not (runs / "vae").exists():
        start_from(start, "vae", model)
        model.register_to_config(scaling_factor=json.loads((start / "diffusion" / "vae" / "config.json").read_text())["scaling_factor"])
        return model
    load_average(runs / "vae", model)
    if (runs / "decoder" / "state.safetensors").exists():
        load_average(runs / "decoder", model)
    images = _tensor(load_pictures("train", VOCABULARY_PICTURES, 128))[:SCALE_PICTURES]
    with torch.no_grad():
        latents = torch.cat([model.encode(to_range(part)).latent_dist.mean for part in images.split(64)])
    model.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return model


def latents_of(runs: Path, pictures: Pictures, name: str, device: str, start: Path | None = None) -> Tensor:
    """Scaled latents of every picture, float16, encoded once into the cache: n 4 h w."""
    path = runs / "latents" / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model, side = load_vae(runs, start).to(device), pictures.images.shape[1] // 4
        partial = path.with_suffix(".partial")
        array = open_memmap(partial, "w+", np.float16, (len(pictures), 4, side, side))
        with torch.no_grad(), autocast(device):
            for row in range(0, len(pictures), 64):
                batch = to_range(torch.from_numpy(np.array(pictures.images[row : row + 64]))).to(device)
                array[row : row + 64] = to_numpy(model.encode(batch).latent_dist.mean.float() * model.config.scaling_factor)
        array.flush()
        partial.replace(path)
    return torch.from_numpy(np.load(path))


# -- diffusion -----------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """UNet and text tower as one module, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet, self.text = architectures.unet(), architectures.text_tower(tokenizer)

    def forward(self, noisy: Tensor, steps: Tensor, ids: Tensor) -> Tensor:
        """The noise that is predicted in latents (b 4 h w) at timesteps (b) under the token ids of a prompt each (b l): b 4 h w."""
        return self.unet(noisy, steps, self.text(ids).last_hidden_state).sample


class FlowDenoiser(nn.Module):
    """Joint transformer and text tower as one module, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.transformer, self.text = architectures.transformer(), architectures.flow_text_tower(tokenizer)

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """The velocity that is predicted in latents (b 4 h w) at noise levels (b, 0 to 1) under the token ids of a prompt each (b l): b 4 h w.

        Words and pooled embedding are those that Stable Diffusion 3's pipeline takes: the tower's last state but one, and its projection of the last.
        What the pipeline's second tower would add is zeros.
        """
        said = self.text(ids, output_hidden_states=True)
        words, pooled = (pad(one, (0, architectures.SECOND_WIDTH)) for one in (said.hidden_states[-2], said.text_embeds))
        return self.transformer(noisy, words, pooled, 1000 * times).sample


class AlignedDenoiser(nn.Module):
    """A :class:`FlowDenoiser` whose image tokens also say, in its middle, what an image encoder sees at their place (Yu et al. 2025, "REPA").

    A small transformer that only removes noise is slow to learn what things are: after ninety minutes a linear reading of its tokens told the
    classes apart hardly better than that of CLIP's first layer. What is added serves training alone and is not shipped.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.denoiser = FlowDenoiser(tokenizer)
        inner, outer = self.denoiser.transformer.inner_dim, architectures.VISION_WIDTH
        self.projection = nn.Sequential(nn.Linear(inner, 2 * inner), nn.SiLU(), nn.Linear(2 * inner, outer))

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity, as :class:`FlowDenoiser` predicts it (b 4 h w), and what the image tokens say: b tokens channels, in rows of the picture."""
        tokens: list[Tensor] = []
        hook = self.denoiser.transformer.transformer_blocks[ALIGNED - 1].register_forward_hook(lambda _, __, output: tokens.append(output[1]))
        try:
            velocity = self.denoiser(noisy, times, ids)
        finally:
            hook.remove()
        return velocity, self.projection(tokens[0])


class Sight:
    """What a frozen image encoder sees, patch by patch: its last states, each channel of mean 0 and deviation 1 over some pictures.

    Args:
        encoder: The vision tower of a CLIP.
        views: The pictures that mean and deviation are taken over, n side side 3, uint8.
    """

    def __init__(self, encoder: nn.Module, views: Tensor) -> None:
        self._encoder = encoder.eval()
        states = torch.cat([self._states(part) for part in views.split(64)])
        self._mean, self._deviation = states.mean((0, 1)), states.std((0, 1))

    @torch.no_grad()
    def _states(self, views: Tensor) -> Tensor:
        return self._encoder(to_range(views).to(self._encoder.device)).last_hidden_state[:, 1:].float()

    def __call__(self, views: Tensor, side: int) -> Tensor:
        """The states of pictures of CLIP's size (b h w 3, uint8) at `side` x `side` places, interpolated bilinearly between patches: b places channels."""
        states = (self._states(views) - self._mean) / self._deviation
        patches = architectures.PICTURE // architectures.PATCH
        grid = states.transpose(1, 2).unflatten(2, (patches, patches))
        return interpolate(grid, (side, side), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


class Examples:
    """Latents, noise and captions for training a diffusion model, drawn stage by stage; a tenth of the captions are empty.

    Captions of the web seldom name all there is to see, and segmentation asks for one class at a time:
    some of the captions name one thing only, chosen among those that the picture's own caption names.

    Args:
        runs: Folder of the runs, whose cache of latents is used.
        stages: Parts of training, in their order.
        tokenizer: Tokenizer of the captions.
        device: Device that encodes the pictures, "cpu" or "cuda".
        start: Folder of shipped models, whose autoencoder encodes where none was trained.
    """

    def __init__(self, runs: Path, stages: list[Stage], tokenizer: CLIPTokenizer, device: str, start: Path | None) -> None:
        self._stages = stages
        self._empty = tokenizer("", padding="max_length", max_length=architectures.TEXT_LENGTH, return_tensors="pt").input_ids[0]
        self._phrases = torch.stack([ids[: len(PHRASE_OPENINGS)] for ids in _phrases(tokenizer)])  # classes openings l

        @cache
        def data(size: int, count: int) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
            pictures = load_pictures("train", count, size)
            return latents_of(runs, pictures, f"train-{size}px-{count}", device, start), _token_ids(tokenizer, pictures), _said(pictures), pictures.images

        self._data = data
        for stage in stages:  # before the clock starts, or the warm-up would be over by the first update
            data(stage.size, stage.pictures)

    def draw(self, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
        """What an update sees, at a share of training from 0 to 1.

        Returns:
            Latents, b 4 h w; noise, b 4 h w; token ids of captions, b l; the pictures themselves, b H W 3, uint8.
        """
        stage = next(s for s in self._stages if progress <= s.until)
        latents, ids, said, images = self._data(stage.size, stage.pictures)
        pool = (said.sum(1) > 1).nonzero().flatten() if stage.crowded else torch.arange(len(latents))
        rows = pool[torch.randint(len(pool), (stage.batch,), generator=generator)]
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)

        def chance(p: float) -> Tensor:
            return torch.rand(stage.batch, generator=generator)[:, None] < p

        things = torch.multinomial(said[rows], 1, generator=generator)[:, 0]
        words = torch.where(chance(PARTIAL), _pick(self._phrases, things, generator), _pick(ids, rows, generator))
        return clean, noise, torch.where(chance(0.1), self._empty, words), images[rows.tolist()]


def train_unet(folder: Path, schedule: Schedule, device: str, stages: list[Stage], start: Path | None = None) -> None:
    """Train the UNet and its text tower to predict the noise (:class:`Examples`); small pictures first, then whole scenes.

    Layers of cross-attention fall silent by turns (:class:`~.layerdrop.LayerDrop`), so that each learns to find words.
    """
    tokenizer = architectures.clip_tokenizer(_captions())
    alpha_bar = torch.from_numpy(np.array(architectures.noise_schedule().alphas_cumprod)).float()
    examples = Examples(folder.parent, stages, tokenizer, device, start)
    model = Denoiser(tokenizer)
    start_from(start, "unet", model)

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        clean, noise, words, _ = examples.draw(generator, progress)
        # 40 % of the steps are drawn below 500, where what is in the picture can still be seen, the rest anywhere.
        early = torch.rand(len(clean), generator=generator) < 0.4
        steps = (torch.rand(len(clean), generator=generator) * torch.where(early, 500, 1000)).long()
        alpha = alpha_bar[steps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        drop.draw(len(clean), generator)
        return mse_loss(model(noisy.to(device), steps.to(device), words.to(device)).float(), noise.to(device))

    with LayerDrop(model.unet) as drop:
        fit(model, loss, schedule, folder, device=device)


def train_transformer(folder: Path, schedule: Schedule, device: str, stages: list[Stage], start: Path | None = None) -> None:
    """Train the joint transformer and its text tower by flow matching, on what the UNet is trained on (:class:`Examples`).

    Noisy latents are z_s = (1 - s) z + s eps, the model says the velocity eps - z (Liu et al. 2023), and noise levels s are the logistic function of
    normal numbers, which prefers the middle (Esser et al. 2024, "rf/lognorm(0, 1)"). Image tokens also learn to say what CLIP sees in the picture
    (:class:`AlignedDenoiser`): the CLIP of the runs, or the one shipped in `start`. With `start`, the weights begin from the transformer shipped there;
    where there is none, the text tower alone begins, from CLIP's.

    Raises:
        FileNotFoundError: If there is neither a shipped CLIP nor a run of one.
    """
    tokenizer = architectures.clip_tokenizer(_captions())
    examples = Examples(folder.parent, stages, tokenizer, device, start)
    model, clip = AlignedDenoiser(tokenizer), architectures.clip(tokenizer)
    if start is None:
        load_average(folder.parent / "clip", clip)
    else:
        start_from(start, "clip", clip)
    if start is not None and (start / "transformer").is_dir():
        start_from(start, "transformer", model.denoiser)
    else:
        model.denoiser.text.load_state_dict({k: v for k, v in clip.state_dict().items() if k.startswith("text_")})
    seen = Sight(clip.vision_model.to(device), _views(load_pictures("train", stages[0].pictures, stages[0].size).images[:SCALE_PICTURES]))

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        clean, noise, words, images = examples.draw(generator, progress)
        times = torch.randn(len(clean), generator=generator).sigmoid()
        level = times.view(-1, 1, 1, 1)
        noisy = (1 - level) * clean + level * noise
        velocity, said = model(noisy.to(device), times.to(device), words.to(device))
        likeness = cosine_similarity(said.float(), seen(_views(images), clean.shape[-1] // 2), dim=-1).mean()
        return mse_loss(velocity.float(), (noise - clean).to(device)) + ALIGNMENT * (1 - likeness)

    fit(model, loss, schedule, folder, device=device)


# -- CLIP and BLIP -------------------------------------------------------------------------------


def _whiten_patches(vision: nn.Module, images: Tensor) -> None:
    """Start the patch embedding as the principal components of patches, each brought to one scale."""
    weight = vision.embeddings.patch_embedding.weight
    width, _, side, _ = weight.shape
    patches = torch.nn.functional.unfold(to_range(images), side, stride=side).transpose(1, 2).flatten(0, 1)
    patches = patches - patches.mean(0)
    variance, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    variance, directions = variance.flip(0)[:width], directions.flip(1)[:, :width]
    with torch.no_grad():
        weight[: len(variance)] = (directions / (variance + 1e-2 * variance.mean()).sqrt()).T.reshape(-1, *weight.shape[1:])


def train_clip(folder: Path, schedule: Schedule, device: str, stages: list[Stage], start: Path | None = None, blip_run: Path | None = None) -> None:
    """Train CLIP by contrast of pictures with captions, and with each thing that captions speak of.

    A part of the loss is CLIP's: some captions of a batch against their pictures, equal captions sharing
    the target. The rest asks, of sixteen phrases such as "a photo of a kitten", which ones the picture's
    own caption says: without it colours and grounds are learnt long before things are.

    Args:
        folder: Folder of the run, as :func:`~diffseg_lib.pocket.training.fitting.fit` takes it.
        schedule: How long and how fast to train.
        device: Device to train on, "cpu" or "cuda".
        stages: Parts of training, in their order.
        start: Folder of shipped models to begin from; None begins with random weights.
        blip_run: Folder of a captioning run from whose vision tower the own one begins, since word for word supervision teaches it far faster than contrast
            does; None begins without.
    """
    tokenizer = architectures.clip_tokenizer(_captions())
    phrases = _phrases(tokenizer)

    @cache
    def data(size: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        source = load_pictures("train", count, size)
        return _views(source.images), _token_ids(tokenizer, source), _said(source)

    model = architectures.clip(tokenizer)
    _whiten_patches(model.vision_model, data(stages[0].size, stages[0].pictures)[0][:2000])
    start_from(start, "clip", model)
    if blip_run is not None:
        captioner = architectures.blip(architectures.bert_tokenizer(_captions()))
        load_average(blip_run, captioner)
        _return_vision(model, captioner, data(stages[0].size, stages[0].pictures)[0][:256])

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        stage = next(s for s in stages if progress <= s.until)
        images, ids, said = data(stage.size, stage.pictures)
        rows = torch.randint(len(images), (stage.batch,), generator=generator)
        words = _pick(ids, rows[:CAPTIONS_A_BATCH], generator)
        asked = torch.stack([t[int(torch.randint(len(t), (), generator=generator))] for t in phrases])
        texts = torch.cat([words, asked])
        mirrored = torch.rand(stage.batch, 1, 1, 1, generator=generator) < 0.5  # no caption speaks of left or right
        views = torch.where(mirrored, images[rows].flip(2), images[rows])
        texts = texts[:, : int((texts != tokenizer.pad_token_id).sum(1).max()) + 1]  # nothing after the last end token is ever read
        logits = model(input_ids=texts.to(device), pixel_values=to_range(views).to(device)).logits_per_image
        captions, things = logits.float().split([len(words), len(phrases)], dim=1)
        captions = captions[: len(words)]
        same = (words[:, None] == words[None]).all(-1).float().to(device)
        target = same / same.sum(1, keepdim=True)
        present = said[rows].to(device)
        contrast = (cross_entropy(captions, target) + cross_entropy(captions.T, target)) / 2
        return 0.2 * contrast + cross_entropy(things, present / present.sum(1, keepdim=True))

    fit(model, loss, schedule, folder, device=device)


def _adopt_vision(blip: nn.Module, clip: nn.Module, images: Tensor) -> None:
    """Start BLIP's vision tower from CLIP's: the same blocks, CLIP's first norm folded into the embedding."""
    source, target = clip.vision_model, blip.vision_model
    with torch.no_grad():
        spread = source.embeddings(to_range(images)).std(-1).mean()
        gain = source.pre_layrnorm.weight / spread
        target.embeddings.class_embedding.copy_((source.embeddings.class_embedding * gain).view(1, 1, -1))
        target.embeddings.position_embedding.copy_((source.embeddings.position_embedding.weight * gain)[None])
        target.embeddings.patch_embedding.weight.copy_(source.embeddings.patch_embedding.weight * gain.view(-1, 1, 1, 1))
        target.embeddings.patch_embedding.bias.zero_()
        for old, new in zip(source.encoder.layers, target.encoder.layers, strict=True):
            for end in ("weight", "bias"):
                parts = [getattr(getattr(old.self_attn, f"{name}_proj"), end) for name in "qkv"]
                getattr(new.self_attn.qkv, end).copy_(torch.cat(parts))
            new.self_attn.projection.load_state_dict(old.self_attn.out_proj.state_dict())
            for name in ("layer_norm1", "layer_norm2", "mlp"):
                getattr(new, name).load_state_dict(getattr(old, name).state_dict())


def _return_vision(clip: nn.Module, blip: nn.Module, images: Tensor) -> None:
    """Start CLIP's vision tower from BLIP's, the other way round: the scale of its embedding becomes the first norm's."""
    source, target = blip.vision_model, clip.vision_model
    with torch.no_grad():
        target.pre_layrnorm.weight.fill_(source.embeddings(to_range(images)).std(-1).mean())
        target.embeddings.class_embedding.copy_(source.embeddings.class_embedding.flatten())
        target.embeddings.patch_embedding.weight.copy_(source.embeddings.patch_embedding.weight)
        target.embeddings.position_embedding.weight.copy_(source.embeddings.position_embedding[0])
        target.embeddings.position_embedding.weight[1:] += source.embeddings.patch_embedding.bias
        for old, new in zip(source.encoder.layers, target.encoder.layers, strict=True):
            for end in ("weight", "bias"):
                for name, part in zip("qkv", getattr(old.self_attn.qkv, end).chunk(3), strict=True):
                    getattr(getattr(new.self_attn, f"{name}_proj"), end).copy_(part)
            new.self_attn.out_proj.load_state_dict(old.self_attn.projection.state_dict())
            for name in ("layer_norm1", "layer_norm2", "mlp"):
                getattr(new, name).load_state_dict(getattr(old, name).state_dict())
        target.post_layernorm.load_state_dict(source.post_layernorm.state_dict())


def train_blip(folder: Path, schedule: Schedule, device: str, pictures: int, start: Path | None = None, batch: int = 64) -> None:
    """Train BLIP to caption, by the cross-entropy of the next word; its vision tower starts from the pocket CLIP's."""
    captions = _captions()
    tokenizer = architectures.bert_tokenizer(captions)
    source = load_pictures("train", pictures, 128)
    data, ids = _views(source.images), _token_ids(tokenizer, source)
    ids[..., 0] = tokenizer.bos_token_id
    model = architectures.blip(tokenizer)
    if start is None:
        clip = architectures.clip(architectures.clip_tokenizer(captions))
        load_average(folder.parent / "clip", clip)
        _adopt_vision(model, clip, data[:256])
    start_from(start, "blip", model)

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        rows = torch.randint(len(data), (batch,), generator=generator)
        words = _pick(ids, rows, generator)
        words = words[:, : int((words != tokenizer.pad_token_id).sum(1).max())].to(device)
        seen = words != tokenizer.pad_token_id
        return model(
            pixel_values=to_range(data[rows]).to(device),
            input_ids=words,
            attention_mask=seen.long(),
            labels=words.masked_fill(~seen, -100),
        ).loss

    fit(model, loss, schedule, folder, device=device)


# -- shipping ------------------------------------------------------------------------------------


def _card_facts(runs: Path, name: str) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(runs / name / "state.safetensors", "pt") as file:
        return dict(file.metadata())


def _first_profile(folder: Path, captions: list[str], more: dict[str, Any] | None = None) -> None:
    """A profile for a model that has none, until its numbers are chosen."""
    if not (folder / "profile.json").exists():
        words = sorted({word for caption in captions for word in caption.replace(",", "").split()})
        write_json(
            folder / "profile.json", {"chosen_on": "nothing yet: the library's values", "words": words, "captioner": "pocket", "clip": "pocket"} | (more or {})
        )


def ship(runs: Path, out: Path, models: list[str], start: Path | None = None) -> None:
    """Write the runs' averaged weights as `from_pretrained` folders, float16 safetensors.

    Args:
        runs: Folder of the training runs.
        out: Folder that receives ``diffusion``, ``transformer``, ``clip``, ``blip`` and ``judge``.
        models: Models to write, of the same names.
        start: Folder of shipped models, whose autoencoder is taken where none was trained.

    Raises:
        FileNotFoundError: If a model has no run.
    """
    from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
    from transformers import BlipImageProcessorPil, BlipProcessor, CLIPImageProcessorPil, CLIPProcessor

    captions = _captions()
    tokenizer = architectures.clip_tokenizer(captions)
    normalise = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    facts: dict[str, dict[str, str]] = {}
    if "diffusion" in models:
        denoiser = Denoiser(tokenizer)
        load_average(runs / "unet", denoiser)
        pipeline = StableDiffusionPipeline(
            vae=load_vae(runs, start),
            text_encoder=denoiser.text,
            tokenizer=tokenizer,
            unet=denoiser.unet,
            scheduler=architectures.noise_schedule(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(dtype=torch.float16).save_pretrained(out / "diffusion", safe_serialization=True)
        facts |= {name: _card_facts(runs, name) for name in ("vae", "decoder", "unet") if (runs / name).exists()}
        _first_profile(out / "diffusion", captions)
    if "transformer" in models:
        trained = AlignedDenoiser(tokenizer)
        load_average(runs / "transformer", trained)
        flow = trained.denoiser
        vae = load_vae(runs, start)
        vae.register_to_config(shift_factor=0.0)
        pipeline = StableDiffusion3Pipeline(
            transformer=flow.transformer,
            scheduler=architectures.flow_schedule(),
            vae=vae,
            text_encoder=flow.text,
            tokenizer=tokenizer,
            text_encoder_2=architectures.silent_text_tower(tokenizer),
            tokenizer_2=tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )
        pipeline.to(dtype=torch.float16).save_pretrained(out / "transformer", safe_serialization=True)
        facts["transformer"] = _card_facts(runs, "transformer")
        _first_profile(out / "transformer", captions, {"max_sequence_length": 0})
    if "clip" in models:
        clip = architectures.clip(tokenizer)
        load_average(runs / "clip", clip)
        clip.half().save_pretrained(out / "clip")
        size = {"height": architectures.PICTURE, "width": architectures.PICTURE}
        images = CLIPImageProcessorPil(size=size, do_center_crop=False, **normalise)
        CLIPProcessor(images, tokenizer).save_pretrained(out / "clip")
        facts["clip"] = _card_facts(runs, "clip")
    if "blip" in models:
        words = architectures.bert_tokenizer(captions)
        blip = architectures.blip(words)
        load_average(runs / "blip", blip)
        blip.half().save_pretrained(out / "blip")
        size = {"height": architectures.PICTURE, "width": architectures.PICTURE}
        BlipProcessor(BlipImageProcessorPil(size=size, **normalise), words).save_pretrained(out / "blip")
        facts["blip"] = _card_facts(runs, "blip")
    if "judge" in models:
        judge = Judge()
        load_average(runs / "judge", judge)
        save_judge(judge, out)
        facts["judge"] = _card_facts(runs, "judge")
    for name, fact in facts.items():
        curve = (runs / name / "curve.csv").read_text()
        (out / "curves").mkdir(parents=True, exist_ok=True)
        write_text(out / "curves" / f"{name}.csv", curve)
        write_json(out / "curves" / f"{name}.json", fact | {"shipped": time.strftime("%Y-%m-%d")})


def train_model(
    model: str,
    runs: Path,
    *,
    steps: int | None = None,
    minutes: float = 0.0,
    device: str = "cpu",
    pictures: int = 16_000,
    start: Path | None = None,
    from_blip: bool = False,
    lr: float | None = None,
    whole: bool = False,
) -> None:
    """Train one part of the pocket models by its recipe, going on where a run in the same folder was stopped.

    Args:
        model: Name of the part: "vae", "decoder" (which follows it), "unet" or "transformer" (which follow both), "clip", "blip" or "judge".
        runs: Folder of the runs; this one's is ``runs / model``.
        steps: Number of updates in all; None takes the recipe's.
        minutes: Minutes after which training ends, annealed; 0 is no limit.
        device: Device to train on, "cpu" or "cuda".
        pictures: Number of training pictures of 128 px.
        start: Folder of shipped models whose weights a new run begins from; None begins with random weights.
        from_blip: Whether the vision tower of "clip" begins from that of the "blip" run.
        lr: Peak learning rate, of which a fiftieth is left at the end; None takes the recipe's.
        whole: Whether "unet" or "transformer" is shown whole scenes of 128 px only, none shrunk, for a run that begins from trained weights.

    Raises:
        ValueError: On another model, or settings that cannot be.
    """
    folder = runs / model
    if model == "vae":
        train_vae(folder, Schedule(steps or 2400, minutes, lr=lr or 3e-3, anneal="linear", ema=0.995), device, pictures, start)
    elif model == "decoder":
        train_decoder(folder, Schedule(steps or 2400, minutes, lr=lr or 1.5e-3, anneal="linear", ema=0.995), device, pictures)
    elif model == "unet":
        stages = [Stage(1.0, 128, pictures, 16)] if whole else UNET_STAGES
        warmup = 0.1 if start else 0.02  # the optimiser's moments are empty: a rate that is high at once would spoil trained weights
        train_unet(folder, Schedule(steps or 16_000, minutes, lr=lr or 1e-3, warmup=warmup, ema=0.999), device, stages, start)
    elif model == "transformer":
        stages = [Stage(1.0, 128, pictures, 16)] if whole else TRANSFORMER_STAGES
        train_transformer(folder, Schedule(steps or 20_000, minutes, lr=lr or 1e-3, warmup=0.05, ema=0.999), device, stages, start)
    elif model == "clip":
        stages, blip = (CLIP_STAGES[-1:], runs / "blip") if from_blip else (CLIP_STAGES, None)
        train_clip(folder, Schedule(steps or 4000, minutes, lr=lr or 1e-3, ema=0.998, weight_decay=0.05), device, stages, start, blip)
    elif model == "blip":
        train_blip(folder, Schedule(steps or 4000, minutes, lr=lr or 1e-3, ema=0.998), device, pictures, start)
    elif model == "judge":
        train_judge(folder, Schedule(steps or 4000, minutes, lr=lr or 2e-3, ema=0.995, weight_decay=0.05), device, pictures)
    else:
        raise ValueError(f"model {model!r}: expected vae, decoder, unet, transformer, clip, blip or judge")
