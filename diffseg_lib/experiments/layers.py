"""Fig. 3: how well each cross-attention layer tells an object's pixels from the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.fusion_search import Words, layer_separation, short_name
from ..evaluation.metrics import interval_text, mean_interval
from ..recording import Recording
from ..segmenter import DiffSegmenter
from .measure import Estimate


@dataclass(frozen=True, kw_only=True)
class LayerAuc(Estimate):
    """Area under the ROC curve of one layer's maps, percent: 50 is chance.

    Args:
        side: Height of its maps, pixels.
    """

    side: int


def layer_study(
    segmenter: DiffSegmenter, samples: Iterable, names: Sequence[str], timestep: int, words: Words, recording: Recording, images: int, seed: int = 0
) -> dict[str, LayerAuc]:
    """The mean AUC of every layer over (image, class) pairs, by the layer's short name, in the order in which layers ran.

    Args:
        segmenter: The model.
        samples: Images with their true labels.
        names: The classes in the order of their labels, the background first.
        timestep: Timestep of the noise, 0 to 999.
        words: From the classes of an image to the words that are asked for.
        recording: One call's recording, for the sizes of the maps.
        images: The number of samples.
        seed: Seed of the bootstrap.
    """
    sides = {short_name(name): maps.shape[-2] for name, maps in recording.cross.items()}
    found = {short_name(name): np.array(values) * 100 for name, values in layer_separation(segmenter, samples, names, timestep, words).items()}
    return {
        name: LayerAuc(
            label=f"{name}  ({sides[name]} cells a side)", value=float(values.mean()), ci95=mean_interval(values, seed=seed), images=images, side=sides[name]
        )
        for name, values in found.items()
    }


def metrics(layers: dict[str, LayerAuc]) -> dict[str, dict]:
    """What the chapter's JSON holds of each layer."""
    return {f"auc_{name}": {"value": one.value, "ci95": one.ci95, "images": one.images, "side": one.side} for name, one in layers.items()}


def numbers(layers: dict[str, LayerAuc]) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    best, worst = (pick(layers, key=lambda name: layers[name].value) for pick in (max, min))
    top, coarsest = layers[best], min(one.side for one in layers.values())
    return {
        "cross_layers": str(len(layers)),
        "cross_best": best,
        "cross_best_side": str(top.side),
        "cross_best_auc": f"{top.value:.0f}",
        "cross_best_ci": interval_text(top.ci95, top.images, ".0f"),
        "cross_worst": worst,
        "cross_worst_auc": f"{layers[worst].value:.0f}",
        "cross_coarse_auc": f"{np.mean([one.value for one in layers.values() if one.side == coarsest]):.0f}",
        "cross_above": str(sum(one.ci95 is not None and one.ci95[0] > 50 for one in layers.values())),
    }


def sink(segmenter: DiffSegmenter, pixels: np.ndarray, words: Sequence[str], timestep: int, layer: str = "mid") -> str:
    """How many words have the brightest cell of their map of one layer in common, as "m of k": a cell that most share is a sink.

    Args:
        segmenter: The model.
        pixels: The picture, H W 3, uint8; most words need not be in it.
        words: The k words.
        timestep: Timestep of the noise, 0 to 999.
        layer: The first part of the layer's short name; the one in the middle of a model that has none such.
    """
    latents = segmenter.encode(pixels)
    recording = segmenter.attend(latents, segmenter.noise(pixels, latents), timestep, *segmenter.embed(segmenter.prompts(words)))
    layers = list(recording.cross.items())
    maps = next((one for name, one in layers if short_name(name).startswith(layer)), layers[len(layers) // 2][1])
    brightest = maps.flatten(1).argmax(1).tolist()
    return f"{max(map(brightest.count, brightest))} of {len(words)}"
