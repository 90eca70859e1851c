"""How well maps find classes whose names are given: collect maps once, then try weights and thresholds.

Completion is linear, so the completed map of a weighted sum of resolutions is the weighted sum of the
completed resolutions: each is completed once, and any fusion weights are tried by a product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..data.samples import VOID
from ..scoremaps import complete, fuse, resize, upsample
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from .metrics import ScoreHistogram, best_threshold, bootstrap_difference, bootstrap_miou, confusions_at, count_scores, miou


class Sampled(Protocol):
    """An image with its ground truth and the names of the classes present."""

    @property
    def image(self) -> np.ndarray:
        """Picture, H W 3, uint8."""
        ...

    @property
    def truth(self) -> np.ndarray:
        """Labels, H W, 0 the background and 255 void."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes present, without the background."""
        ...


Words = Callable[[Sequence[str]], Sequence[str]]
GRID_AT_MOST = 6  # resolutions of which every sharing of weight is tried


@dataclass(frozen=True)
class ResolutionMaps:
    """One image's maps at the size of the latents, by stride, after each round of completion.

    Args:
        truth: Labels, H W, 0 the background and 255 void.
        labels: Labels of the classes present, in the order of the maps.
        rounds: For r = 0, 1, ... the maps after r rounds of completion: stride to k h w.
    """

    truth: np.ndarray
    labels: tuple[int, ...]
    rounds: tuple[dict[int, Tensor], ...]


def collect(
    segmenter: DiffSegmenter, samples: Iterable[Sampled], names: Sequence[str], timestep: int, rounds: int = 1, words: Words = list
) -> list[ResolutionMaps]:
    """Run the backbone once for each image, ground-truth classes given, and keep the maps of every resolution.

    Args:
        segmenter: Segmenter whose configuration rules prompts, scale and seed.
        samples: Images with ground truth.
        names: All class names, background first; a class's label is its place.
        timestep: Timestep of the noise.
        rounds: Number of rounds of completion to keep.
        words: Function from classes to the words to prompt with.
    """
    found = []
    for sample in samples:
        latents = segmenter.encode(sample.image)
        embeddings, token_weights = segmenter.embed(segmenter.prompts(words(sample.classes), sample.image))
        recording = segmenter.attend(latents, segmenter.noise(sample.image, latents), timestep, embeddings, token_weights)
        queries, keys = recording.finest(segmenter.weights)
        kept = [{d: fuse({d: maps}, {d: 1.0}, recording.finest_size, segmenter.config.scale) for d, maps in recording.by_resolution().items()}]
        for _ in range(rounds):
            kept.append({d: complete(maps, queries, keys) for d, maps in kept[-1].items()})
        found.append(ResolutionMaps(sample.truth, tuple(names.index(c) for c in sample.classes), tuple(kept)))
    return found


def combine(maps: Mapping[int, Tensor], weights: Mapping[int, float]) -> Tensor:
    """The weighted sum of the resolutions, k h w.

    Args:
        maps: Stride to maps, k h w each.
        weights: Fusion weights by stride; resolutions of weight 0 are not read.
    """
    return torch.stack([w * maps[d] for d, w in weights.items() if w]).sum(0)


def score_histograms(
    found: Sequence[ResolutionMaps], weights: Mapping[int, float], classes: int, *, rounds: int = 1, final_norm: str = "after"
) -> list[ScoreHistogram]:
    """Count every image at every threshold, for one set of fusion weights.

    Args:
        found: Maps of the images, as :func:`collect` gives them.
        weights: Fusion weights by stride.
        classes: Number of classes, background included.
        rounds: Number of rounds of completion after which the maps are taken.
        final_norm: Whether maps are normalised "after" or "before" upsampling, as :func:`~diffseg_lib.scoremaps.upsample` takes it.
    """
    result = []
    for one in found:
        maps = combine(one.rounds[rounds], weights)
        result.append(count_scores(one.truth, to_numpy(upsample(maps, one.truth.shape, final_norm)), one.labels, classes))
    return result


@dataclass(frozen=True)
class Score:
    """Mean IoU at a threshold fixed elsewhere, its interval, and the oracle beside it.

    Args:
        miou: Mean IoU, percent.
        ci95: Its 95 % bootstrap interval over images, percent: low, high; None of too few images to have one.
        threshold: Background threshold at which it was read off, in [0, 1].
        oracle: Highest mean IoU that any threshold gives on these images, percent.
        oracle_threshold: Threshold that gives it, in [0, 1].
        confusions: Confusion matrix of each image at `threshold`, images C C.
    """

    miou: float
    ci95: tuple[float, float] | None
    threshold: float
    oracle: float
    oracle_threshold: float
    confusions: np.ndarray


def score(counted: Sequence[ScoreHistogram], threshold: float, classes: int) -> Score:
    """Mean IoU of counted images at `threshold`, with a bootstrap interval over images."""
    confusions = confusions_at(counted, threshold, classes)
    oracle_threshold, oracle = best_threshold(counted, classes)
    return Score(float(miou(confusions.sum(0))), bootstrap_miou(confusions), threshold, oracle, oracle_threshold, confusions)


def gain(first: Score, second: Score) -> tuple[float, tuple[float, float] | None]:
    """Mean IoU of `first` minus `second` on the same images, in points, with its paired 95 % interval, None of too few images to have one."""
    return first.miou - second.miou, bootstrap_difference(first.confusions, second.confusions)


def weight_grid(strides: Sequence[int], parts: int = 5) -> list[dict[int, float]]:
    """Every way to share `parts` equal parts of weight among the resolutions.

    >>> len(weight_grid([8, 4, 2, 1])), weight_grid([2, 1], 1)
    (56, [{2: 0.0, 1: 1.0}, {2: 1.0, 1: 0.0}])
    """

    def shares(left: int, places: int) -> list[tuple[int, ...]]:
        if places == 1:
            return [(left,)]
        return [(first, *rest) for first in range(left + 1) for rest in shares(left - first, places - 1)]

    return [{d: share / parts for d, share in zip(strides, one, strict=True)} for one in shares(parts, len(strides))]


def choose_weights(found: Sequence[ResolutionMaps], classes: int, *, rounds: int = 1, parts: int = 5, least: int = 1) -> tuple[dict[int, float], float, float]:
    """The fusion weights and threshold of the highest mean IoU on these images: (weights, threshold, mean IoU).

    Choose on the train split; the mean IoU returned is then an oracle's, not to be reported for it. Of a transformer's many blocks not every sharing is tried:
    each part of weight goes where it brings most beside those before it.

    Args:
        found: Maps of the images, as :func:`collect` gives them.
        classes: Number of classes, background included.
        rounds: Number of rounds of completion after which the maps are taken.
        parts: Number of equal parts of weight that are shared among the resolutions, as in :func:`weight_grid`.
        least: Number of resolutions that have a weight above 0, at least.

    Raises:
        ValueError: If there are no weights or no pixels to choose from.
    """
    keys = sorted(found[0].rounds[0], reverse=True)
    if parts < 1 or least > min(parts, len(keys)):
        raise ValueError(f"no weights to choose from: parts must be 1 or more, and at least {least}")
    if len(keys) > GRID_AT_MOST:
        return _chosen_step_by_step(found, keys, classes, rounds, parts, least)
    grid = [weights for weights in weight_grid(keys, parts) if sum(w > 0 for w in weights.values()) >= least]
    tried = [(weights, *best_threshold(score_histograms(found, weights, classes, rounds=rounds), classes)) for weights in grid]
    return max(tried, key=lambda one: one[2])


def _chosen_step_by_step(
    found: Sequence[ResolutionMaps], keys: Sequence[int], classes: int, rounds: int, parts: int, least: int
) -> tuple[dict[int, float], float, float]:
    """Weights of a transformer's many blocks: one part of weight at a time goes to the block where it brings most (Caruana et al. 2004)."""
    given: list[int] = []
    threshold, value = 0.0, 0.0
    for step in range(parts):
        lacking = least - len(set(given)) >= parts - step  # every part left has to go to a new block
        tried = {}
        for key in (key for key in keys if not (lacking and key in given)):
            weights = {one: [*given, key].count(one) / (step + 1) for one in keys}
            tried[key] = best_threshold(score_histograms(found, weights, classes, rounds=rounds), classes)
        best = max(tried, key=lambda key: (tried[key][1], given.count(key)))
        threshold, value = tried[best]
        given.append(best)
    return {key: given.count(key) / parts for key in keys}, threshold, value


@dataclass(frozen=True)
class Separation:
    """How well cross-attention tells a class's pixels from the rest: areas under the ROC curve, one for each (image, class).

    1 is perfect, 0.5 chance; below it the map points away from the object. Void pixels are left out.

    Attributes:
        layers: Values of one layer, by its name.
        strides: Values of the mean map over the layers of a resolution, by its stride.
    """

    layers: dict[str, list[float]]
    strides: dict[int, list[float]]


def separation(segmenter: DiffSegmenter, samples: Iterable[Sampled], names: Sequence[str], timestep: int, words: Words = list) -> Separation:
    """Measure every cross-attention layer, and the mean of each resolution's, in one call of the UNet per image.

    Args:
        segmenter: Segmenter whose configuration rules prompts and seed.
        samples: Images with ground truth.
        names: All class names, background first; a class's label is its place.
        timestep: Timestep of the noise.
        words: Function from classes to the words to prompt with.
    """
    layers: dict[str, list[float]] = {}
    strides: dict[int, list[float]] = {}
    for sample in samples:
        latents = segmenter.encode(sample.image)
        embeddings, token_weights = segmenter.embed(segmenter.prompts(words(sample.classes), sample.image))
        recording = segmenter.attend(latents, segmenter.noise(sample.image, latents), timestep, embeddings, token_weights)
        for layer, maps in recording.cross.items():
            layers.setdefault(layer, []).extend(_areas(maps, sample, names))
        for stride, maps in recording.by_resolution().items():
            strides.setdefault(stride, []).extend(_areas(maps, sample, names))
    return Separation(layers, strides)


def _areas(maps: Tensor, sample: Sampled, names: Sequence[str]) -> list[float]:
    seen, found = sample.truth != VOID, []
    for name, values in zip(sample.classes, to_numpy(resize(maps.float(), sample.truth.shape)), strict=True):
        inside = (sample.truth == names.index(name))[seen]
        if inside.any() and not inside.all():
            found.append(float(roc_auc_score(inside, values[seen])))
    return found


def layer_separation(segmenter: DiffSegmenter, samples: Iterable[Sampled], names: Sequence[str], timestep: int, words: Words = list) -> dict[str, list[float]]:
    """The :func:`separation` by layer alone: layer name to one area for each (image, class)."""
    return separation(segmenter, samples, names, timestep, words).layers


def short_name(layer: str) -> str:
    """A layer's name for a figure.

    >>> short_name("up_blocks.3.attentions.1.transformer_blocks.0.attn2"), short_name("transformer_blocks.3.attn")
    ('up 3.1', 'block 3')
    >>> short_name("single_transformer_blocks.3.attn"), short_name("transformer_blocks.0.attn2")
    ('single 3', 'block 0')
    """
    stack, number, *_ = layer.split(".")
    if stack.endswith("transformer_blocks"):
        return f"{'single' if stack.startswith('single') else 'block'} {number}"
    block, *rest = layer.split(".attentions.")
    kind = block.split("_")[0]
    return "mid" if kind == "mid" else f"{kind} {block.split('.')[1]}.{rest[0].split('.')[0]}"
