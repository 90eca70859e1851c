"""Eq. (5): the paper's weights, equal ones, chosen ones and single resolutions, before and after completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.fusion_search import ResolutionMaps, Score, choose_weights, gain, score, score_histograms
from ..evaluation.metrics import best_threshold
from ..profiles import PAPER_WEIGHTS
from .measure import Effect, format_effect, side_of_zero

CHOSEN, SEVERAL = "chosen on train", "several, chosen on train"


def weight_choices(train: Sequence[ResolutionMaps], classes: int) -> dict[str, dict[int, float]]:
    """Fusion weights by stride that are worth comparing: the paper's, equal ones, those that are best on `train` before completion, and the best that keep
    two resolutions or more."""
    strides = list(train[0].rounds[0])
    chosen, several = (choose_weights(train, classes, rounds=0, least=least)[0] for least in (1, 2))
    paper, equal = {d: PAPER_WEIGHTS.get(d, 0.0) for d in strides}, dict.fromkeys(strides, 1 / len(strides))
    return {"paper": paper, "equal": equal, CHOSEN: chosen, SEVERAL: several}


def single_resolutions(train: Sequence[ResolutionMaps]) -> dict[str, dict[int, float]]:
    """Each resolution alone, as weights by stride."""
    return {f"stride {d} alone": {d: 1.0} for d in train[0].rounds[0]}


def best_on_train(train: Sequence[ResolutionMaps], choices: Mapping[str, Mapping[int, float]], classes: int) -> str:
    """The name of the weights, by stride, whose fused maps have the highest mean IoU on `train`, not completed."""
    return max(choices, key=lambda name: best_threshold(score_histograms(train, choices[name], classes, rounds=0), classes)[1])


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


def numbers(fused: Mapping[str, Score], single: str, images: int) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name.

    Args:
        fused: Mean IoU by choice of weights.
        single: Name of the resolution that is best alone on train.
        images: Number of images that were measured.
    """
    over = {name: gained(fused[CHOSEN], fused[name]) for name in ("paper", "equal")} | {single: gained(fused[SEVERAL], fused[single])}

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
        "fusion_single": single,
        "fusion_over_single": format_effect(over[single]),
        "fusion_verdict": judged("paper"),
        "fusion_single_verdict": judged(single),
    }
