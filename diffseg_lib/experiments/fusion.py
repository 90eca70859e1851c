"""Eq. (5): the paper's weights, equal ones, chosen ones and single resolutions, before and after completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.fusion_search import ResolutionMaps, Score, choose_weights, gain, score, score_histograms
from ..evaluation.metrics import best_threshold
from ..profiles import PAPER_WEIGHTS
from .measure import Effect, format_effect, side_of_zero

CHOSEN = "chosen on train"


def weight_choices(train: Sequence[ResolutionMaps], classes: int) -> dict[str, dict[int, float]]:
    """Fusion weights by stride that are worth comparing: the paper's, equal ones, and those that are best on `train` before completion."""
    strides = list(train[0].rounds[0])
    chosen, _, _ = choose_weights(train, classes, rounds=0)
    return {"paper": {d: PAPER_WEIGHTS.get(d, 0.0) for d in strides}, "equal": dict.fromkeys(strides, 1 / len(strides)), CHOSEN: chosen}


def single_resolutions(train: Sequence[ResolutionMaps]) -> dict[str, dict[int, float]]:
    """Each resolution alone, as weights by stride."""
    return {f"latent/{d} alone": {d: 1.0} for d in train[0].rounds[0]}


def fused_score(train: Sequence[ResolutionMaps], test: Sequence[ResolutionMaps], weights: Mapping[int, float], classes: int, rounds: int = 0) -> Score:
    """Mean IoU on `test` of maps fused by `weights`, at the threshold that is best on `train`.

    Args:
        train: Maps on which the threshold is chosen.
        test: Maps that are measured.
        weights: Fusion weights by stride.
        classes: The number of classes, the background included.
        rounds: How often the maps are completed first.
    """
    threshold, _ = best_threshold(score_histograms(train, weights, classes, rounds=rounds), classes)
    return score(score_histograms(test, weights, classes, rounds=rounds), threshold, classes)


def fusion_table(fused: Mapping[str, Score], completed: Mapping[str, Score]) -> Any:
    """Mean IoU before and after completion, beside that at the oracle threshold, as a table (pandas), a line a choice of weights."""
    import pandas as pd

    lines = {
        name: {
            "fused": one.miou,
            "fused, oracle threshold": one.oracle,
            "completed": completed[name].miou,
            "completed, oracle threshold": completed[name].oracle,
        }
        for name, one in fused.items()
    }
    return pd.DataFrame(lines).T.round(1)


def score_facts(one: Score, images: int) -> dict[str, Any]:
    """What a chapter's JSON holds of a mean IoU."""
    return {"value": one.miou, "ci95": one.ci95, "oracle": one.oracle, "threshold": one.threshold, "images": images}


def gained(first: Score, second: Score) -> Effect:
    """The first mean IoU minus the second, points, paired over images."""
    value, interval = gain(first, second)
    return Effect(value=value, ci95=interval, images=len(first.confusions))


def metrics(scores: Mapping[str, Score], weights: Mapping[str, Mapping[int, float]], images: int) -> dict[str, dict[str, Any]]:
    """What the chapter's JSON holds of each choice of weights."""
    return {name: score_facts(one, images) | {"weights": weights[name]} for name, one in scores.items()}


def numbers(fused: Mapping[str, Score], images: int) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    best_single = max((name for name in fused if name.endswith("alone")), key=lambda name: fused[name].miou)
    over = {name: gained(fused[CHOSEN], fused[name]) for name in ("paper", "equal", best_single)}

    def judged(name: str) -> str:
        told = {1: "better", -1: "worse", 0: "neither better nor worse, as far as these scenes can tell"}
        return told.get(side_of_zero(over[name]), f"undecided: {images} images")  # type: ignore[arg-type]

    return {
        "fusion_images": str(images),
        "fusion_paper": f"{fused['paper'].miou:.0f}",
        "fusion_equal": f"{fused['equal'].miou:.0f}",
        "fusion_chosen": f"{fused[CHOSEN].miou:.0f}",
        "fusion_over_paper": format_effect(over["paper"]),
        "fusion_over_equal": format_effect(over["equal"]),
        "fusion_single": best_single,
        "fusion_over_single": format_effect(over[best_single]),
        "fusion_verdict": judged("paper"),
        "fusion_single_verdict": judged(best_single),
    }
