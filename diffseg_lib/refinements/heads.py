"""A selection of heads: the best quarter of those of cross-attention, chosen on train images with masks."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..recording import Recording
from ..scoremaps import complete, normalise, resize
from ..segmenter import DiffSegmenter
from ..support.files import write_json
from .base import Refined, Refinement

Head = tuple[str, int]  # name of the layer, number of the head from 0


def selected_heads(recording: Recording, maps: Float[Tensor, "k h w"], heads: Collection[Head]) -> Float[Tensor, "k h w"]:
    """The mean of the min-maxed maps of some heads alone, completed (the baselines of Table 4 take all; a choice on masks is ours).

    Args:
        recording: Recording with every head's cross maps and the finest self-attention.
        maps: Maps at the finest resolution, of which the size alone is read.
        heads: The heads.

    Raises:
        ValueError: If the recording lacks some of them.
    """
    return complete(head_maps(recording, maps, heads), *recording.finest())


def head_maps(recording: Recording, maps: Float[Tensor, "k h w"], heads: Collection[Head]) -> Float[Tensor, "k h w"]:
    """The maps of :func:`selected_heads` before they are completed; arguments and errors are its own."""
    missing = [head for head in heads if head[0] not in recording.cross or head[1] >= recording.cross[head[0]].shape[1]]
    if missing or not heads:
        raise ValueError(
            f"heads {missing[:3]} of {len(heads)} are none of the model's {sum(one.shape[1] for one in recording.cross.values())}: choose them anew"
        )
    size = (maps.shape[1], maps.shape[2])
    chosen = [normalise(resize(recording.cross[layer][:, number].float(), size)) for layer, number in heads]
    return torch.stack(chosen).mean(0)


def head_scores(recording: Recording, masks: Bool[Tensor, "k H W"]) -> dict[Head, float]:
    """How well each head's maps follow masks: their correlation over pixels, at the head's own resolution, the mean over classes (0 of a constant map).

    Args:
        recording: Recording with every head's cross maps, one a class.
        masks: Masks of the same classes, at the picture's size.
    """
    found = {}
    for layer, cross in recording.cross.items():
        truth = adaptive_avg_pool2d(masks.to(cross).float(), (cross.shape[2], cross.shape[3])).flatten(1)
        truth = truth - truth.mean(1, keepdim=True)
        for number in range(cross.shape[1]):
            values = cross[:, number].float().flatten(1)
            values = values - values.mean(1, keepdim=True)
            norms = values.norm(dim=1) * truth.norm(dim=1)
            found[layer, number] = float(torch.where(norms > 0, (values * truth).sum(1) / torch.where(norms > 0, norms, 1), 0).mean())
    return found


def best_heads(scores: Mapping[Head, float], share: float = 0.25) -> tuple[Head, ...]:
    """The best share of heads, best first; one at least.

    Args:
        scores: Score of each head.
        share: Share of them that is taken, in (0, 1].

    Raises:
        ValueError: On another share, or no heads.

    >>> best_heads({("a", 0): 0.1, ("a", 1): 0.4, ("b", 0): 0.3, ("b", 1): 0.2}, 0.5)
    (('a', 1), ('b', 0))
    """
    if not 0 < share <= 1 or not scores:
        raise ValueError(f"share {share} of {len(scores)} heads: expected a share above 0 and up to 1, and at least one head")
    ranked = sorted(scores, key=lambda head: (-scores[head], head))
    return tuple(ranked[: max(1, round(share * len(ranked)))])


def choose_heads(segmenter: DiffSegmenter, samples: Iterable[tuple[np.ndarray, Sequence[str], np.ndarray]], share: float = 0.25) -> tuple[Head, ...]:
    """The heads whose maps follow the masks of some images best, of which none should be measured later.

    Args:
        segmenter: The diffusion model.
        samples: Pictures (H W 3, uint8), the names of the k classes in each, and their masks, k H W.
        share: Share of the heads that is taken, in (0, 1].

    Raises:
        ValueError: On no images, or another share.
    """
    method, sums, count = Refined(segmenter, Refinement(selected_heads, "none", heads=True)), dict[Head, float](), 0
    for image, classes, masks in samples:
        done = 0
        for recordings in method.record(image, classes):
            rows = len(next(iter(recordings[0].cross.values())))
            for recording in recordings:
                for head, score in head_scores(recording, torch.from_numpy(np.asarray(masks[done : done + rows], bool))).items():
                    sums[head] = sums.get(head, 0.0) + score * rows
            done += rows
            count += rows
    if not count:
        raise ValueError("heads are chosen on images with masks: expected at least one")
    return best_heads({head: total / count for head, total in sums.items()}, share)


def write_heads(heads: Sequence[Head], path: str | Path, chosen_on: str) -> Path:
    """Write a choice of heads as JSON, with a phrase that says what it was chosen on; returns the path."""
    write_json(Path(path), {"heads": [list(head) for head in heads], "chosen_on": chosen_on})
    return Path(path)


def read_heads(path: str | Path) -> tuple[Head, ...]:
    """A choice of heads, as :func:`write_heads` writes it.

    Raises:
        ValueError: On no file, or one of another form.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))["heads"]
        heads = tuple((str(layer), int(number)) for layer, number in found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"heads {str(path)!r} ({error}): expected a JSON file with layers and numbers of heads that were chosen on train images; make one by: "
            "diffseg heads --dataset NAME --out FILE"
        ) from error
    return heads
