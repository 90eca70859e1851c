"""Table 4: seven rows in one pass an image and prompt, image-level labels, paired differences between rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ..data import Sample
from ..profiles import PAPER_WEIGHTS
from ..scoremaps import complete, complete_all_resolutions, fuse
from ..segmenter import DiffSegmenter
from .measure import Store, count_maps, count_splits

EQUAL = dict.fromkeys(PAPER_WEIGHTS, 0.25)
PROMPTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"caption": "none", "modifiers": False, "plus": 0.0},
    "BLIP": {"caption": "complete", "modifiers": True, "plus": 0.0},
    "++": {"caption": "none", "modifiers": False, "plus": 2.0},
    "BLIP ++": {"caption": "complete", "modifiers": True, "plus": 2.0},
}
# name: (weights of Eq. 5: "equal", "chosen" on the train split or the "paper"'s; completion; prompt), as Table 4 lists them.
ROWS: Mapping[str, tuple[str, str, str]] = {
    "1 cross, equal weights": ("equal", "none", "BLIP ++"),
    "2 cross, equal weights + all self-attention": ("equal", "all", "BLIP ++"),
    "3 cross, equal weights + finest self-attention": ("equal", "finest", "BLIP ++"),
    "4 weighted cross + finest self-attention": ("chosen", "finest", "plain"),
    "5 row 4 + BLIP": ("chosen", "finest", "BLIP"),
    "6 row 4 + ++": ("chosen", "finest", "++"),
    "7 row 4 + BLIP and ++": ("chosen", "finest", "BLIP ++"),
    "7 with the paper's weights": ("paper", "finest", "BLIP ++"),
}
EFFECTS: Mapping[str, tuple[str, str]] = {
    "self-attention of all layers": ("2", "1"),
    "finest layers instead of all": ("3", "2"),
    "finest self-attention": ("3", "1"),
    "chosen weights instead of equal": ("7 row", "3"),
    "paper's weights instead of equal": ("7 with", "3"),
    "BLIP on plain": ("5", "4"),
    "++ on plain": ("6", "4"),
    "both on plain": ("7 row", "4"),
    "BLIP on ++": ("7 row", "6"),
    "++ on BLIP": ("7 row", "5"),
    "everything against cross alone": ("7 row", "1"),
}


def variants(segmenter: DiffSegmenter, sample: Sample, words: Sequence[str], rows: Mapping[str, tuple[str, str, str]] = ROWS) -> dict[str, Tensor]:
    """The maps of every row on one image, k h w, one UNet call a kind of prompt."""
    latents = segmenter.encode(sample.image)
    noise, [timestep] = segmenter.noise(sample.image, latents), segmenter.timesteps[:1]
    found: dict[str, Tensor] = {}
    for prompt in dict.fromkeys(prompt for _, _, prompt in rows.values()):
        one = segmenter.with_config(**PROMPTS[prompt])
        embeddings, token_weights = one.embed(one.prompts(words, sample.image))
        recording = one.attend(latents, noise, timestep, embeddings, token_weights, self_attention="all")
        cross = {d: maps.float() for d, maps in recording.by_resolution().items()}
        known = {"equal": EQUAL, "chosen": segmenter.weights, "paper": PAPER_WEIGHTS}
        weights = {name: {d: w for d, w in one.items() if d in cross} for name, one in known.items()}  # of the sides that the model has
        for name, (which, completion, asked) in rows.items():
            if asked != prompt:
                continue
            fused = fuse(cross, weights[which], recording.finest_size, segmenter.config.scale)
            if completion == "finest":
                fused = complete(fused, *recording.finest())
            elif completion == "all":
                fused = complete_all_resolutions(fused, recording.self_attention())
            found[name] = fused
    return {name: found[name] for name in rows}


def ablation_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    seeds: Sequence[int] = (0,),
    store: Store | None = None,
) -> dict[str, Any]:
    """The rows of Table 4 and the paired differences that its text speaks of.

    Args:
        segmenter: its profile gives timestep and chosen weights; its seed is replaced by each of `seeds`.
        dataset, root, split: to open; each row's threshold is fixed on its train split.
        train_images, images: of train and of `split`.
        seeds: of the noise.
        store: keeps the parts.
    """
    splits = count_splits(
        (dataset, root, split),
        (train_images, images),
        seeds,
        lambda opened, seed: count_maps(opened, partial(variants, segmenter.with_config(seed=seed)), segmenter.config.final_norm),
        store,
        {"study": "ablation", "rows": dict(ROWS), "prompts": dict(PROMPTS)},
    )
    measured = splits.measured()
    full = {short: next(name for name in ROWS if name.startswith(short)) for pair in EFFECTS.values() for short in pair}
    return {
        "rows": measured.rows,
        "effects": {name: measured.effect(full[a], full[b]) for name, (a, b) in EFFECTS.items()}
        | {"cross attention against nothing found": measured.against_nothing(full["1"])},
        "weights": {"chosen": {str(d): w for d, w in segmenter.weights.items()}, "paper": {str(d): w for d, w in PAPER_WEIGHTS.items()}},
        "timestep": segmenter.timesteps[0],
        "seeds": list(seeds),
        "images": len(splits.test),
        "dataset": dataset,
    }
