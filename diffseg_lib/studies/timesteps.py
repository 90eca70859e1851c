"""Table 5: how the timestep of the noise moves the result; the mean of several; more noise draws at one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..datasets import Dataset, open_dataset
from ..evaluation import Tally, tally
from ..scoremaps import upsample
from ..segmenter import DiffSegmenter
from . import Counts, Measured, Store, measure

PAPER_TIMESTEPS = (1, 50, 100, 150)
AVERAGE = "mean of " + " ".join(str(t) for t in PAPER_TIMESTEPS)


def signal_to_noise(alphas: torch.Tensor) -> np.ndarray:
    """abar_t / (1 - abar_t) for every t: what is left of the picture's power against the noise's, a ratio."""
    kept = alphas.double().numpy()
    return kept / (1 - kept)


def completed_at(segmenter: DiffSegmenter, image: np.ndarray, words: Sequence[str], timesteps: Sequence[int]) -> dict[int, torch.Tensor]:
    """Completed maps at every timestep, with the same noise: timestep to k h w."""
    latents = segmenter.encode(image)
    noise = segmenter.noise(image, latents)
    embeddings, spans = segmenter.embed(segmenter.prompts(words, image))
    return {t: segmenter.score(segmenter.attend(latents, noise, t, embeddings, spans))[1] for t in timesteps}


def _count(dataset: Dataset, segmenter: DiffSegmenter, timesteps: Sequence[int], together: Sequence[int]) -> Counts:
    found: dict[str, list[Tally]] = {}
    for sample in dataset:
        words = dataset.words(sample.classes)
        labels = [dataset.names.index(name) for name in sample.classes]
        maps = completed_at(segmenter, sample.image, words, sorted({*timesteps, *together}))
        variants = {f"t={t}": maps[t] for t in timesteps}
        if together:
            variants["mean of " + " ".join(str(t) for t in together)] = torch.stack([maps[t] for t in together]).mean(0)
        for name, one in variants.items():
            scores = upsample(one, sample.truth.shape, segmenter.config.final_norm).numpy()
            found.setdefault(name, []).append(tally(sample.truth, scores, labels, len(dataset.names)))
    return found


def timestep_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    timesteps: Sequence[int] = (1, 50, 100, 150, 300, 500, 800),
    seeds: Sequence[int] = (0,),
    store: Store | None = None,
) -> dict[str, Any]:
    """Mean IoU of completed maps over the timestep, image-level labels, and of the mean over the paper's four.

    Args:
        segmenter: its seed is replaced by each of `seeds`.
        dataset, root, split: to open; thresholds are fixed on its train split.
        train_images, images: of train and of `split`.
        timesteps: to try, 0..999.
        seeds: of the noise.
        store: keeps the parts.

    Returns:
        ``rows`` by "t=100" and so on; ``best``: the best single timestep of the train split; ``effects``:
        the paper's t=100 against its neighbours and the extremes, and the mean of four against t=100.
    """
    store = store or Store()
    together = PAPER_TIMESTEPS
    splits = {"train": open_dataset(dataset, root, "train", train_images), "test": open_dataset(dataset, root, split, images)}
    counts: dict[str, list[Counts]] = {"train": [], "test": []}
    for part, opened in splits.items():
        for seed in seeds:
            key = {"study": "timesteps", "data": opened.fingerprint(), "timesteps": list(timesteps), "seed": seed}
            seeded = segmenter.with_config(seed=seed)
            counts[part].append(store.counts(key, lambda o=opened, s=seeded: _count(o, s, timesteps, together)))  # type: ignore[misc]
    classes = len(splits["test"].names)
    measured = measure(counts["train"], counts["test"], classes, seeds)
    on_train = measure(counts["train"], counts["train"], classes, seeds).rows
    singles = [f"t={t}" for t in timesteps]
    best = max(singles, key=lambda name: on_train[name]["value"])
    return {
        "rows": measured.rows,
        "effects": _effects(measured, singles, best),
        "best_on_train": best,
        "timesteps": list(timesteps),
        "snr": [float(signal_to_noise(segmenter.backbone.alphas)[t]) for t in timesteps],
        "seeds": list(seeds),
        "images": images,
        "dataset": dataset,
    }


def _effects(measured: Measured, singles: Sequence[str], best: str) -> dict[str, Any]:
    pairs = {f"best on train ({best}) minus {name}": (best, name) for name in (singles[0], singles[-1]) if name != best}
    if "t=100" in singles:
        pairs |= {f"t=100 minus {name}": ("t=100", name) for name in singles if name != "t=100"}
        pairs["average minus t=100"] = (AVERAGE, "t=100")
    pairs["average minus best on train"] = (AVERAGE, best)
    return {name: measured.effect(*pair) for name, pair in pairs.items()}


def noise_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    timestep: int = 100,
    draws: int = 4,
) -> dict[str, Any]:
    """Mean IoU of maps averaged over 1, 2, ... noise draws at one timestep: ``rows`` by number of draws, and ``effects``."""

    def counted(opened: Dataset) -> Counts:
        found: Counts = {}
        for sample in opened:
            words, labels = opened.words(sample.classes), [opened.names.index(name) for name in sample.classes]
            total = torch.zeros(())
            for draw in range(draws):
                total = total + completed_at(segmenter.with_config(seed=segmenter.config.seed + draw), sample.image, words, [timestep])[timestep]
                scores = upsample(total / (draw + 1), sample.truth.shape).numpy()
                found.setdefault(f"{draw + 1}", []).append(tally(sample.truth, scores, labels, len(opened.names)))
        return found

    train, test = open_dataset(dataset, root, "train", train_images), open_dataset(dataset, root, split, images)
    measured = measure([counted(train)], [counted(test)], len(test.names), [segmenter.config.seed])
    return {"rows": measured.rows, "effects": {f"{draws} draws minus 1": measured.effect(str(draws), "1")}, "timestep": timestep, "images": images}
