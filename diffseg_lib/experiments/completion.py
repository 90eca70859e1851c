"""Eq. (6, 7): what self-attention adds, once and again, and what its matrix would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..data import Sample
from ..evaluation.fusion_search import collect, combine
from ..segmenter import DiffSegmenter
from .claims import shown
from .measure import Row, Store, StudyResult, count_maps, count_splits, format_effect

ROUNDS = ("fused", "completed once", "twice", "three times")


@dataclass(frozen=True, kw_only=True)
class CompletionResult(StudyResult):
    """Mean IoU by the number of rounds of completion ("rounds_0" to "rounds_3"), with the profile's fusion weights.

    ``effects`` are each round against the one before: "rounds_1_minus_0" and so on.

    Args:
        rows: Mean IoU by rounds.
        timestep: The timestep of the noise, 0 to 999.
    """

    rows: Mapping[str, Row]
    timestep: int


def completion_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    seed: int = 0,
    store: Store | None = None,
) -> CompletionResult:
    """Mean IoU after 0, 1, 2 and 3 rounds of completion, image-level labels, at the first of the segmenter's timesteps.

    Args:
        segmenter: The model; its seed is replaced.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; the threshold after each round is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        seed: Seed of the noise.
        store: Keeps the parts; None keeps nothing.
    """
    seeded, [timestep] = segmenter.with_config(seed=seed), segmenter.timesteps[:1]

    def maps(sample: Sample, words: Sequence[str]) -> dict[str, Tensor]:
        [one] = collect(seeded, [sample], ["", *sample.classes], timestep, rounds=len(ROUNDS) - 1, words=lambda _: words)
        return {f"rounds_{i}": combine(some, segmenter.weights) for i, some in enumerate(one.rounds)}

    count = partial(count_maps, maps=maps, final_norm=segmenter.config.final_norm)
    key = {"study": "completion", "timestep": timestep, "rounds": len(ROUNDS)}
    splits = count_splits((dataset, root, split), (train_images, images), [seed], lambda opened, _: count(opened), store, key)
    measured = splits.measured({f"rounds_{i}": name for i, name in enumerate(ROUNDS)})
    return CompletionResult(
        rows=measured.rows,
        effects={f"rounds_{i}_minus_{i - 1}": measured.effect(f"rounds_{i}", f"rounds_{i - 1}") for i in range(1, len(ROUNDS))},
        timestep=timestep,
        images=len(splits.test),
        seeds=splits.seeds,
        dataset=splits.test.name,
    )


def memory_table(queries: Sequence[Tensor]) -> Any:
    """MiB per class of what could be kept of self-attention, as a table (pandas): here, and by count for Stable Diffusion 1.5 at 512 px.

    Args:
        queries: Queries of the finest self-attention layers, b heads n d each, float32.
    """
    import pandas as pd

    def held(layers: int, heads: int, pixels: int, width: int) -> dict[str, int]:
        matrix = pixels**2 * 4
        return {
            "every head's matrix, kept": layers * heads * matrix,
            "their mean, kept": matrix,
            "queries and keys, kept (apply-only)": 2 * 4 * layers * heads * pixels * width,
        }

    _, heads, pixels, width = queries[0].shape
    here, large = held(len(queries), heads, pixels, width), held(5, 8, 4096, 40)
    table = pd.DataFrame({"pocket, MiB per class": here, "Stable Diffusion 1.5 at 512 px, MiB per class (by count)": large})
    return table.map(lambda count: f"{count / 2**20:,.1f}")


def numbers(result: CompletionResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    rows, added = result.rows, result.effects["rounds_1_minus_0"]
    return {
        "completion_images": str(result.images),
        "completion_fused": f"{rows['rounds_0'].value:.0f}",
        "completion_once": f"{rows['rounds_1'].value:.0f}",
        "completion_oracle": f"{rows['rounds_1'].oracle:.0f}",
        "completion_gain": format_effect(added),
        "completion_verdict": shown(added),
        "completion_twice": format_effect(result.effects["rounds_2_minus_1"]),
    }
