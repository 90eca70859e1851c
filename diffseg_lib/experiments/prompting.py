"""Fig. 6 and Sec. 3.5: what the captioner's words, the class's modifiers and "++" do, and the exponent's curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data import Dataset
from ..segmenter import DiffSegmenter
from .ablation import PROMPTS
from .measure import Store, count_maps, count_splits

KINDS: Mapping[str, Mapping[str, Any]] = {
    **PROMPTS,
    "BLIP, no modifiers": {"caption": "complete", "modifiers": False, "plus": 0.0},
    "adjectives written": {"caption": "phrase", "modifiers": False, "plus": 0.0},
    "adjectives fused": {"caption": "phrase", "modifiers": True, "plus": 0.0},
    "adjectives fused ++": {"caption": "phrase", "modifiers": True, "plus": 2.0},
}


def completed_maps(segmenter: DiffSegmenter, image: np.ndarray, words: Sequence[str], kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The completed maps of one image under each kind of prompt, same noise: k h w tensors by kind."""
    latents = segmenter.encode(image)
    noise, found = segmenter.noise(image, latents), {}
    for name, changes in kinds.items():
        one = segmenter.with_config(**changes)
        embeddings, token_weights = one.embed(one.prompts(words, image))
        found[name] = one.score(one.attend(latents, noise, one.timesteps[0], embeddings, token_weights))[1]
    return found


def prompt_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    exponents: Sequence[float] = (-4.0, 4.0, 8.0),
    seed: int = 0,
    store: Store | None = None,
) -> dict[str, Any]:
    """Mean IoU of completed maps by kind of prompt and by the number of "+", image-level labels.

    Args:
        segmenter: its profile gives timestep and weights.
        dataset, root, split: to open; each variant's threshold is fixed on its train split.
        train_images, images: of train and of `split`.
        exponents: numbers of "+" on the plain prompt beside 0 ("plain") and 2 ("++"): a weight of 1.1^exponent.
        seed: of the noise.
        store: keeps the parts.

    Returns:
        ``rows`` by kind and by "plus=2" and so on; ``effects`` of every kind against the plain prompt;
        ``modified``: the share of prompts in which a modifier was found.
    """
    segmenter = segmenter.with_config(seed=seed, caption="none", modifiers=False)
    kinds = {**KINDS, **{f"plus={e:g}": {"caption": "none", "modifiers": False, "plus": float(e)} for e in exponents}}
    splits = count_splits(
        (dataset, root, split),
        (train_images, images),
        [seed],
        lambda opened, _: count_maps(opened, lambda sample, words: completed_maps(segmenter, sample.image, words, kinds), segmenter.config.final_norm),
        store,
        {"study": "prompts", "kinds": kinds},
    )
    measured = splits.measured()
    return {
        "rows": measured.rows,
        "effects": {f"{name} minus plain": measured.effect(name, "plain") for name in kinds if name != "plain"}
        | {"adjectives fused minus written": measured.effect("adjectives fused", "adjectives written")},
        "exponents": list(exponents),
        "modified": {name: _modified(segmenter.with_config(**KINDS[name]), splits.test) for name in ("BLIP", "adjectives fused")},
        "seeds": [seed],
        "images": len(splits.test),
        "dataset": dataset,
    }


def _modified(segmenter: DiffSegmenter, dataset: Dataset) -> float:
    """Share of the prompts of a data set's images (its first 100) in which a modifier of the class was found."""
    found = [
        bool(prompt.modifiers)
        for name in dataset.ids[:100]
        for sample in [dataset.load(name)]
        for prompt in segmenter.prompts(dataset.words(sample.classes), sample.image)
    ]
    return float(np.mean(found))


def exponent_curve(results: Mapping[str, Any]) -> tuple[list[float], list[float], list[tuple[float, float]]]:
    """Exponents in order, mean IoU and interval at each, from a study's results; "plain" is 0 and "++" is 2."""
    known = {0.0: results["rows"]["plain"], 2.0: results["rows"]["++"]}
    known |= {float(e): results["rows"][f"plus={e:g}"] for e in results["exponents"]}
    order = sorted(known)
    return order, [known[e]["value"] for e in order], [tuple(known[e]["ci95"]) for e in order]
