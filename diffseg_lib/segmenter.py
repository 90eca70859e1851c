"""DiffSegmenter: the public stages, one after the other, and nothing more."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .backbone import TEXT_LOCK, Backbone, joint_calls
from .config import Config
from .config import recipe as configure
from .loading import load_backbone
from .optimizations import OPTIMIZATIONS
from .profiles import DTYPES, Profile, load_profile
from .prompts import Prompt, fill_template, joint_prompts, make_prompt, reweight, thin_padding, unknown_words
from .propagation.product import product_of_heads
from .recording import Recording
from .scoremaps import complete, constant_maps, fuse, label_rows, normalise, upsample
from .support.errors import OUT_OF_MEMORY, nearest, ran_out_of_memory
from .support.images import Photo, areas, load_photo, to_numpy, to_photo, working_size
from .support.words import class_names
from .vision_language import Captioner


@dataclass(frozen=True)
class Intermediates:
    """What the stages passed on, the mean over timesteps where there are several.

    Args:
        latents: Latents of the picture, 1 c h w.
        noise: Noise that was added to them, 1 c h w.
        timesteps: Timesteps of the noise.
        token_weights: Weight of each token in a class's map, k l.
        cross: Stride to cross-attention maps, k h w.
        layers: Layer name to cross-attention maps, k h w.
        fused: Fused maps (Eq. 5), k h w.
        completed: Completed maps (Eq. 6, 7), k h w.
    """

    latents: Tensor
    noise: Tensor
    timesteps: tuple[int, ...]
    token_weights: Tensor
    cross: dict[int, Tensor]
    layers: dict[str, Tensor]
    fused: Tensor
    completed: Tensor


@dataclass(frozen=True)
class Segmentation:
    """Labels and scores of one image.

    Args:
        labels: Labels, H W, int32; 0 is the background, i the i-th class.
        maps: Scores at the model's size, k h w, float32: bilinear interpolation to H W, pixel centres aligned, gives the scores (values a little outside
            [0, 1] are brought inside by it).
        completed: Completed maps, k h w, which the scores are read off.
        final_norm: Place of min-max, of :class:`Config`.
        classes: Names of the classes, in the order of the labels.
        threshold: Background threshold that the labels were read off at, in [0, 1].
        notes: Sentences on what was done to get there, and on classes whose map is constant.
        intermediates: What the stages passed on, if it was asked for.
        prompts: Prompts that the model was given, captions included.
    """

    labels: np.ndarray
    maps: np.ndarray
    completed: Tensor
    final_norm: str
    classes: tuple[str, ...]
    threshold: float
    notes: tuple[str, ...] = ()
    intermediates: Intermediates | None = None
    prompts: tuple[Prompt, ...] = ()

    @cached_property
    def scores(self) -> np.ndarray:
        """Scores, k H W in [0, 1], float32; made when they are first asked for."""
        return to_numpy(upsample(self.completed, (self.labels.shape[0], self.labels.shape[1]), self.final_norm))

    @property
    def areas(self) -> dict[str, float]:
        """The share of the image that each class takes, background included, in [0, 1]."""
        return areas(self.labels, self.classes)


@dataclass(frozen=True)
class DiffSegmenter:
    """A backbone and a configuration; :meth:`segment` runs the whole method on one image. A captioner is needed where the configuration asks for captions.

    >>> from diffseg_lib.pocket.world import compose, paint
    >>> scene = compose("test", 0)
    >>> found = DiffSegmenter.from_profile("pocket").segment(paint(scene), scene.classes)
    >>> found.labels.shape, found.scores.shape
    ((128, 128), (2, 128, 128))
    """

    backbone: Backbone
    config: Config = Config()
    captioner: Captioner | None = None

    def __post_init__(self) -> None:
        if self.config.caption != "none" and self.captioner is None:
            raise ValueError(f"caption={self.config.caption!r} needs a captioner: DiffSegmenter(backbone, config, Captioner.load(...)), or from_profile")
        if self.config.caption != "none" and self.config.one_pass == "joint":
            raise ValueError(f"caption={self.config.caption!r} describes one class, and one_pass='joint' names all in a sentence: leave one of the two out")
        if self.config.over_words:
            joint_calls(self.backbone, "over_words")

    @classmethod
    def from_profile(
        cls,
        profile: str | Path | Profile = "pocket",
        recipe: str | None = None,
        *,
        dataset: str = "",
        device: str = "",
        dtype: str = "",
        offloaded: bool = False,
        **changes: Any,
    ) -> DiffSegmenter:
        """Load a profile's model.

        Args:
            profile: Profile, as :func:`~diffseg_lib.loading.load_backbone` takes it.
            recipe: Recipe of the configuration: "paper", "released", "best" or None (ours).
            dataset: Data set whose prompt a recipe may word in its own way, as :func:`~diffseg_lib.config.recipe` takes it.
            device: Device that it runs on, "cpu", "cuda" and so on; "" is the profile's.
            dtype: Precision of weights and activations: "float32", "bfloat16" or "float16"; "" is the profile's.
            offloaded: Whether models wait in main memory, as :func:`~diffseg_lib.loading.load_backbone` takes it.
            changes: Fields of :class:`Config`.

        Raises:
            ValueError: On another dtype, and as :func:`~diffseg_lib.loading.load_backbone` does.
        """
        known = profile if isinstance(profile, Profile) else load_profile(profile)
        device, dtype = device or known.device, dtype or known.dtype
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r}: expected {', '.join(DTYPES)}")
        config = configure(recipe, dataset, **changes) if recipe else Config(**changes)
        backbone = load_backbone(known, device=device, dtype=getattr(torch, dtype), offloaded=offloaded)
        return cls(backbone, config, None if config.caption == "none" else Captioner.load(known.captioner, device, known.pickled_weights))

    def with_config(self, **changes: Any) -> DiffSegmenter:
        """The same models under other switches; captions load the profile's captioner if there is none yet."""
        config = replace(self.config, **changes)
        if config.caption == "none" or self.captioner is not None:
            return replace(self, config=config)
        known = self.backbone.profile
        return replace(self, config=config, captioner=Captioner.load(known.captioner, str(self.backbone.device), known.pickled_weights))

    # -- the profile's numbers, where the configuration leaves them open --

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Timesteps of the noise: the configuration's, else the profile's."""
        return self.config.timesteps or self.backbone.profile.timesteps

    @property
    def weights(self) -> Mapping[int, float]:
        """Fusion weights by stride: the configuration's, else the profile's."""
        return self.config.weights or self.backbone.profile.weights

    @property
    def threshold(self) -> float:
        """Background threshold, in [0, 1]: the configuration's, else the profile's."""
        return self.backbone.profile.threshold if self.config.threshold is None else self.config.threshold

    @property
    def template(self) -> str:
        """Template of the prompt: the configuration's, else the profile's."""
        return self.config.template or self.backbone.profile.template

    @property
    def resolved(self) -> Config:
        """The configuration with the profile's numbers in it."""
        return replace(self.config, timesteps=self.timesteps, weights=dict(self.weights), threshold=self.threshold, template=self.template)

    # -- stages --

    def prompts(self, classes: Sequence[str], pixels: np.ndarray | None = None) -> list[Prompt]:
        """One prompt a class.

        Args:
            classes: Names of the classes.
            pixels: Picture to caption, H W 3, uint8; without it prompts are the bare template.

        Raises:
            ValueError: On no class, a class named twice, or one whose words the model cannot know.
        """
        if isinstance(classes, str):
            classes, _ = class_names(classes)
        if not len(classes):
            raise ValueError(f"classes: expected a list of at least one name, got {classes!r}")
        if len(classes) > 255:
            raise ValueError(f"{len(classes)} classes: expected 255 or fewer, so that labels fit a palette image")
        names = [" ".join(str(name).split()) for name in classes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"classes named more than once: {', '.join(twice)}")
        if "background" in names:
            raise ValueError("background is label 0 without being asked for: leave it out of the classes")
        words = self.backbone.profile.words
        for name in names:
            if words and name and len(unknown_words(name, words)) == len(name.split()):
                raise ValueError(f"the {self.backbone.profile.name} model was never shown the word {name!r}: {nearest(name, words)}")
        before, after = [""] * len(names), [""] * len(names)
        if pixels is not None and self.captioner is not None and self.config.caption == "complete":
            after = self.captioner.continue_captions(pixels, [fill_template(name, self.template) for name in names])
        if pixels is not None and self.captioner is not None and self.config.caption == "phrase":
            before = self.captioner.describe(pixels, names)
        tokenizer, template = self.backbone.tokenizer, self.template
        with TEXT_LOCK:
            found = [make_prompt(name, tokenizer, template, b, a) for name, b, a in zip(names, before, after, strict=True)]
            return joint_prompts(found, tokenizer, template) if self.config.one_pass == "joint" else found

    def embed(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Embeddings with the class re-weighted (b l d), and the weights of the tokens whose maps are taken (b l)."""
        embeddings = torch.cat([self.backbone.cached_embedding(p.text) for p in prompts])
        tokens = self.backbone.max_tokens
        token_weights = self.backbone.token_weights(prompts, self.config.span).to(embeddings)
        if self.config.emphasis:  # rows of an embedding that are no tokens stay as they are
            plain, empty = embeddings[:, :tokens], self.backbone.cached_embedding("")[:, :tokens]
            emphasised = torch.stack([sum(w for other, w in zip(prompts, token_weights, strict=True) if other.text == p.text) for p in prompts])
            embeddings = torch.cat([reweight(plain, empty, emphasised, self.config.emphasis), embeddings[:, tokens:]], dim=1)
        if self.config.modifiers:
            token_weights = self.backbone.token_weights(prompts, self.config.span, modifiers=True).to(embeddings)
        return embeddings, token_weights

    def encode(self, pixels: np.ndarray) -> Tensor:
        """Latents of a picture (H W 3, uint8), resized to what the model works at."""
        h, w = working_size(pixels.shape[0], pixels.shape[1], self.backbone.size, self.backbone.multiple)
        resized = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC))
        return self.backbone.encode_image(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 127.5 - 1)

    def size_note(self, pixels: np.ndarray) -> tuple[str, ...]:
        """What is to be said where a picture's size and the one that the model works at are far apart."""
        height, width = pixels.shape[:2]
        h, w = working_size(height, width, self.backbone.size, self.backbone.multiple)
        times = max(height / h, width / w, h / height, w / width)
        if times < 1.5:
            return ()
        loss = "smaller things than some pixels of that are lost" if height > h else "it has less detail than the model expects"
        return (f"resized as a whole from {width} x {height} to {w} x {h} px, the size the model works at: {loss}; labels are of the photo's own size",)

    def noise(self, pixels: np.ndarray, latents: Tensor) -> Tensor:
        """Noise seeded by (seed, picture): the same picture gets the same noise on any machine or shard."""
        digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
        digest.update(self.config.seed.to_bytes(8, "little"))
        generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()[:8], "little") >> 1)
        return torch.randn(latents.shape, generator=generator).to(latents)

    def attend(
        self, latents: Tensor, noise: Tensor, timestep: int, embeddings: Tensor, token_weights: Tensor, self_attention: str = "finest", **options: Any
    ) -> Recording:
        """Record attention in one UNet call at one timestep, all prompts as one batch; `options` are those of :meth:`Backbone.record`."""
        noisy = self.backbone.add_noise(latents, noise, timestep)
        with self.backbone.record(token_weights, self_attention=self_attention, **options) as recording:
            self.backbone.predict_noise(noisy, timestep, embeddings)
        return recording

    def _attend_optimized(
        self, latents: Tensor, noise: Tensor, timestep: int, embeddings: Tensor, token_weights: Tensor, return_intermediates: bool, first: bool, **options: Any
    ) -> Recording:
        """:meth:`attend`, of what :meth:`score` reads alone (of all cross maps, if they are to be kept)."""
        resolutions = None if return_intermediates else [stride for stride, weight in self.weights.items() if weight]
        which = "none" if not self.config.iterations or (self.config.share_self_attention and not first) else "finest"
        return self.attend(
            latents,
            noise,
            timestep,
            embeddings,
            token_weights,
            which,
            optimizations=OPTIMIZATIONS,
            resolutions=resolutions,
            first_only=self.config.share_self_attention,
            layers=return_intermediates,
            **options,
        )

    def score(self, recording: Recording, first: Recording | None = None) -> tuple[Tensor, Tensor]:
        """Fused (Eq. 5) and completed (Eq. 6, 7) maps of a recording: k h w each, float32.

        With ``share_self_attention``, completion uses the first row of `first` (of this recording, if None) for all.
        """
        cross = {d: maps.float() for d, maps in recording.by_resolution().items()}
        fused = fuse(cross, self.weights, recording.finest_size, self.config.scale)
        source, rows = (first or recording, slice(0, 1)) if self.config.share_self_attention else (recording, slice(None))
        if not self.config.iterations:
            return fused, fused
        queries, keys = ([t[rows] for t in group] for group in source.finest(self.weights))
        floor, share = self.config.product, self.config.fused_share
        completed = complete(fused, queries, keys, self.config.iterations) if floor is None else product_of_heads(fused, queries, keys, floor)
        return fused, (1 - share) * normalise(completed) + share * normalise(fused) if share else completed

    def _maps(
        self, latents: Tensor, noise: Tensor, prompts: Sequence[Prompt], embeddings: Tensor, token_weights: Tensor, return_intermediates: bool, class_batch: int
    ) -> tuple[dict, dict, Tensor, Tensor]:
        """Cross maps by side and by layer, fused and completed maps of all classes, so many of them in one UNet call."""
        first: dict[int, Recording] = {}

        def one(timestep: int, given: tuple[Tensor, Tensor], more: Mapping[str, Any]) -> tuple[Mapping, Mapping, Tensor, Tensor]:
            to_attend = (latents, noise, timestep, *given)  # of what is recorded, all that is not returned is let go of
            if self.config.optimized:
                recording = self._attend_optimized(*to_attend, return_intermediates, timestep not in first, **more)
            else:
                recording = self.attend(*to_attend, **more)
            fused, completed = self.score(recording, first.get(timestep))
            if self.config.share_self_attention:
                first.setdefault(timestep, recording)
            return recording.by_resolution(), recording.cross, fused, completed

        calls = list(self.calls(prompts, embeddings, token_weights, class_batch))
        return _gather([one(timestep, *call) for call in calls for timestep in self.timesteps], len(self.timesteps))

    def calls(
        self, prompts: Sequence[Prompt], embeddings: Tensor, token_weights: Tensor, class_batch: int
    ) -> Iterator[tuple[tuple[Tensor, Tensor], dict[str, Any]]]:
        """Embeddings and token weights of each UNet call, and its further options of :meth:`attend`; the classes come in their order.

        Args:
            prompts: One prompt a class, as :meth:`prompts` makes them.
            embeddings: Embeddings of the prompts, as :meth:`embed` makes them.
            token_weights: Token weights of the prompts, as :meth:`embed` makes them.
            class_batch: Number of classes in one call at most; a sentence that names several is one call.
        """
        if self.config.one_pass == "joint":
            for _, sentence in groupby(range(len(prompts)), lambda i: prompts[i].text):
                rows = list(sentence)
                yield (embeddings[rows[:1]], token_weights[rows][None]), self._over_words([prompts[rows[0]]])
            return
        driving = self._driving_embedding(prompts) if self.config.one_pass == "side" else None
        for rows in torch.arange(len(prompts)).split(class_batch):
            some, weights = embeddings[rows], token_weights[rows]
            if driving is None:
                yield (some, weights), self._over_words([prompts[i] for i in rows])
            else:
                side, counts = thin_padding(some[:, : weights.shape[-1]], self.lengths([prompts[i] for i in rows]))
                yield (driving, weights[:, : side.shape[1]]), {"side_prompts": side, "side_counts": counts}

    def _over_words(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        return {"content": self.backbone.content_weights(prompts)} if self.config.over_words else {}

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Numbers of tokens of prompts without their padding; start and end count."""
        with TEXT_LOCK:
            return [len(self.backbone.tokenizer(prompt.text, verbose=False)["input_ids"]) for prompt in prompts]

    def _driving_embedding(self, prompts: Sequence[Prompt]) -> Tensor:
        """Embedding that drives the UNet beside side prompts, 1 l d: the mean of those of the sentences that name all classes."""
        texts = dict.fromkeys(p.text for p in joint_prompts(prompts, self.backbone.tokenizer, self.template))
        return torch.cat([self.backbone.cached_embedding(text) for text in texts]).mean(0, keepdim=True)

    def unet_rows(self, classes: Sequence[str]) -> int:
        """Number of rows of the UNet that the classes of one image cost at one timestep."""
        if self.config.one_pass == "none":
            return len(classes)
        return 1 if self.config.one_pass == "side" else len({p.text for p in self.prompts(classes)})

    def segment(
        self, image: str | Path | Image.Image | np.ndarray, classes: str | Sequence[str], *, return_intermediates: bool = False, merge: bool = True
    ) -> Segmentation:
        """Segment an image by words.

        Args:
            image: Path of a picture, a PIL image, or an array H W 3, uint8 RGB.
            classes: Names of the classes, in the order of the labels, or one text, with commas between them.
            return_intermediates: Whether the intermediates are returned too.
            merge: Whether spellings of one class ("Dog", "a dog", "dogs") are made one, which the notes say; a data set's own list is left as it is.

        Raises:
            ValueError: On classes that cannot be used, or a picture of the wrong kind.
            ImageError: On a file that cannot be read.
            MemoryError, torch.OutOfMemoryError: If memory ran out even with half the classes in a call.
        """
        classes, said = class_names(classes, merge)
        self.prompts(classes)  # refused before the picture is read
        photo = _photo(image)
        prompts = self.prompts(classes, photo.pixels)
        latents = self.encode(photo.pixels)
        noise = self.noise(photo.pixels, latents)
        embeddings, token_weights = self.embed(prompts)
        given, found = (latents, noise, prompts, embeddings, token_weights, return_intermediates), None
        batch = len(prompts) if self.config.one_pass == "side" else min(self.config.class_batch, len(prompts))
        try:
            found = self._maps(*given, batch)
        except OUT_OF_MEMORY as error:
            if not ran_out_of_memory(error) or batch == 1:
                raise
        if found is None:  # the error is gone here, and with it what its frames held
            _free_memory()
            half = (batch + 1) // 2
            photo = replace(photo, notes=(*photo.notes, f"out of memory with {batch} classes at once: done {half} at a time"))
            found = self._maps(*given, half)
        cross, layers, fused, completed = found
        labels, maps = label_rows(completed, (photo.pixels.shape[0], photo.pixels.shape[1]), self.threshold, self.config.final_norm)
        names = tuple(p.name for p in prompts)
        flat = constant_maps(completed).nonzero().flatten().tolist()
        notes = (*self.backbone.notes, *self.backbone.noise_notes(self.timesteps), *photo.notes, *said, *(f"the map of {names[i]} is constant" for i in flat))
        kept = Intermediates(latents, noise, self.timesteps, token_weights, cross, layers, fused, completed) if return_intermediates else None
        rest = (completed, self.config.final_norm, names, self.threshold, notes, kept, tuple(prompts))
        return Segmentation(to_numpy(labels), to_numpy(maps), *rest)


def _free_memory() -> None:
    """Give back what nothing refers to any more: cycles of Python's, then torch's own reserve on a GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _photo(image: str | Path | Image.Image | np.ndarray) -> Photo:
    if isinstance(image, str | Path):
        return load_photo(image)
    if isinstance(image, Image.Image):
        return to_photo(image)
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"image: expected H x W x 3, uint8 RGB, got shape {pixels.shape}, {pixels.dtype}")
    return Photo(pixels)


def _gather(parts: Sequence[tuple[Mapping, Mapping, Tensor, Tensor]], steps: int) -> tuple[dict, dict, Tensor, Tensor]:
    """Mean over the timesteps of each batch of classes, then the batches one under the other."""

    def join(pick: Any) -> Any:
        first = pick(parts[0])
        if isinstance(first, Mapping):
            return {key: join(lambda part, key=key: pick(part)[key]) for key in first}
        batches = [parts[i : i + steps] for i in range(0, len(parts), steps)]
        return torch.cat([torch.stack([pick(part) for part in batch]).float().mean(0) for batch in batches])

    return tuple(join(lambda part, i=i: part[i]) for i in range(4))
