"""Eq. (6, 7): what self-attention adds, once and again, and what its matrix would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..evaluation.fusion_search import ResolutionMaps, Score
from .benchmark import BenchmarkResult
from .claims import shown
from .fusion import fused_score, gained, score_facts
from .measure import CommittedRun, format_effect

ROUNDS = ("fused", "completed once", "twice", "three times")


def completion_scores(train: Sequence[ResolutionMaps], test: Sequence[ResolutionMaps], weights: Mapping[int, float], classes: int) -> dict[str, Score]:
    """Mean IoU on `test` after 0, 1, 2 and 3 rounds of completion, the threshold of each fixed on `train`."""
    return {name: fused_score(train, test, weights, classes, rounds) for rounds, name in enumerate(ROUNDS)}


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


def metrics(results: Mapping[str, Score], difference: float, images: int) -> dict[str, Any]:
    """What the chapter's JSON holds."""
    added = gained(results["completed once"], results["fused"])
    rows = {name: score_facts(one, images) for name, one in results.items()}
    return {"miou": rows, "gain": {"value": added.value, "ci95": added.ci95, "images": images}, "materialised_difference": difference}


def numbers(results: Mapping[str, Score], images: int, run: CommittedRun[BenchmarkResult] | None = None) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name.

    Args:
        results: What :func:`completion_scores` gave.
        images: The number of images that it measured.
        run: The committed benchmark, which measures completion on more images and then gives the verdict; None leaves that to this page.
    """
    larger = run and run.result.over("cross", "image")
    added, twice = gained(results["completed once"], results["fused"]), gained(results["twice"], results["completed once"])
    return {
        "completion_images": str(images),
        "completion_fused": f"{results['fused'].miou:.0f}",
        "completion_once": f"{results['completed once'].miou:.0f}",
        "completion_oracle": f"{results['completed once'].oracle:.0f}",
        "completion_gain": format_effect(added),
        "completion_verdict": f"{shown(larger)}: {format_effect(larger)} on {larger.images} images" if larger else shown(added),
        "completion_twice": format_effect(twice),
    }
