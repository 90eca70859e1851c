"""Eq. (6, 7): what self-attention adds, once and again, and what its matrix would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..evaluation.fusion_search import ResolutionMaps, Score, gain
from .fusion import fused_score

ROUNDS = ("fused", "completed once", "twice", "three times")


def completion_scores(train: Sequence[ResolutionMaps], test: Sequence[ResolutionMaps], weights: Mapping[int, float], classes: int) -> dict[str, Score]:
    """Mean IoU on `test` after 0, 1, 2 and 3 rounds of completion, the threshold of each fixed on `train`."""
    return {name: fused_score(train, test, weights, classes, rounds) for rounds, name in enumerate(ROUNDS)}


def memory_table(queries: Sequence[Tensor]) -> Any:
    """MiB a class of what could be kept of self-attention, as a table (pandas): here, and by count for Stable Diffusion 1.5 at 512 px.

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
    table = pd.DataFrame({"pocket, MiB a class": here, "Stable Diffusion 1.5 at 512 px, MiB a class (by count)": large})
    return table.map(lambda count: f"{count / 2**20:,.1f}")


def metrics(results: Mapping[str, Score], difference: float, images: int) -> dict[str, Any]:
    """What the chapter's JSON holds."""
    added, interval = gain(results["completed once"], results["fused"])
    rows = {name: {"value": one.miou, "ci95": one.ci95, "oracle": one.oracle, "threshold": one.threshold, "images": images} for name, one in results.items()}
    return {"miou": rows, "gain": {"value": added, "ci95": interval, "images": images}, "materialised_difference": difference}


def numbers(results: Mapping[str, Score], images: int) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    added, added_ci = gain(results["completed once"], results["fused"])
    twice, twice_ci = gain(results["twice"], results["completed once"])
    return {
        "completion_images": str(images),
        "completion_fused": f"{results['fused'].miou:.0f}",
        "completion_once": f"{results['completed once'].miou:.0f}",
        "completion_oracle": f"{results['completed once'].oracle:.0f}",
        "completion_gain": f"{added:+.0f} ({added_ci[0]:+.0f} to {added_ci[1]:+.0f})",
        "completion_verdict": "holds in the pocket world" if added_ci[0] > 0 else "is not shown by these scenes",
        "completion_twice": f"{twice:+.0f} ({twice_ci[0]:+.0f} to {twice_ci[1]:+.0f})",
    }
