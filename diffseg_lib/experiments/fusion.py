"""Eq. (5): the paper's weights, equal ones, chosen ones and single resolutions, before and after completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..data import Sample
from ..evaluation.fusion_search import ResolutionMaps, choose_weights, collect, combine, score_histograms
from ..evaluation.metrics import best_threshold
from ..evaluation.sources import open_splits
from ..profiles import PAPER_WEIGHTS
from ..segmenter import DiffSegmenter
from .measure import Effect, Row, Store, StudyResult, count_maps, count_splits, format_effect, side_of_zero

LABELS = {"paper": "the paper's", "equal": "equal", "chosen": "chosen on train", "several": "several, chosen on train"}
FUSED, COMPLETED = "fused", "completed"
Weights = Mapping[int, float]  # by stride


@dataclass(frozen=True, kw_only=True)
class FusionResult(StudyResult):
    """Mean IoU by fusion weights, of maps fused ("fused_paper" and so on) and of those completed once ("completed_paper").

    ``effects`` are of fused maps: "chosen_minus_paper", "chosen_minus_equal", and "several_minus_single", the best weights on train that keep two
    resolutions or more against the resolution that is best alone there; "completed_several_minus_single" is the last one of completed maps.

    Args:
        rows: Mean IoU by what was done and choice of weights.
        weights: The weights of each choice, by stride.
        single: The choice that is best on train of those that keep one resolution.
        timestep: The timestep of the noise, 0 to 999.
    """

    rows: Mapping[str, Row]
    weights: Mapping[str, Mapping[str, float]]
    single: str
    timestep: int

    def of(self, kind: str) -> dict[str, Row]:
        """The rows of fused or of completed maps, by choice of weights."""
        return {name: self.rows[f"{kind}_{name}"] for name in self.weights}


def named(choice: str) -> str:
    """A choice of weights, for people.

    >>> named("equal"), named("stride_2")
    ('equal', 'stride 2 alone')
    """
    return LABELS.get(choice) or f"{choice.replace('_', ' ')} alone"


def weight_choices(train: Sequence[ResolutionMaps], classes: int) -> dict[str, dict[int, float]]:
    """Fusion weights by stride that are worth comparing: the paper's, equal ones, those that are best on `train` before completion, and the best that keep
    two resolutions or more."""
    strides = list(train[0].rounds[0])
    chosen, several = (choose_weights(train, classes, rounds=0, least=least)[0] for least in (1, 2))
    return {"paper": {d: PAPER_WEIGHTS.get(d, 0.0) for d in strides}, "equal": dict.fromkeys(strides, 1 / len(strides)), "chosen": chosen, "several": several}


def single_resolutions(train: Sequence[ResolutionMaps]) -> dict[str, dict[int, float]]:
    """Each resolution alone, as weights by stride."""
    return {f"stride_{d}": {d: 1.0} for d in train[0].rounds[0]}


def best_on_train(train: Sequence[ResolutionMaps], choices: Mapping[str, Weights], classes: int) -> str:
    """The name of the weights, by stride, whose fused maps have the highest mean IoU on `train`, not completed."""
    return max(choices, key=lambda name: best_threshold(score_histograms(train, choices[name], classes, rounds=0), classes)[1])


def fusion_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    seed: int = 0,
    store: Store | None = None,
) -> FusionResult:
    """Mean IoU by fusion weights, image-level labels, at the first of the segmenter's timesteps; weights and thresholds are chosen on train.

    Args:
        segmenter: The model; its seed is replaced.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured.
        train_images: The number of images of train.
        images: The number of images of `split`.
        seed: Seed of the noise.
        store: Keeps the parts; None keeps nothing.
    """
    seeded, [timestep] = segmenter.with_config(seed=seed), segmenter.timesteps[:1]
    source, sizes = (dataset, root, split), (train_images, images)
    train, _ = open_splits(*source, *sizes)
    classes = len(train.names)
    found = collect(seeded, train, train.names, timestep, rounds=0, words=train.words)
    singles = single_resolutions(found)
    weights = weight_choices(found, classes) | singles

    def maps(sample: Sample, words: Sequence[str]) -> dict[str, Tensor]:
        [one] = collect(seeded, [sample], ["", *sample.classes], timestep, words=lambda _: words)
        return {f"{kind}_{name}": combine(some, weights[name]) for kind, some in zip((FUSED, COMPLETED), one.rounds, strict=True) for name in weights}

    told = {name: {str(d): w for d, w in one.items()} for name, one in weights.items()}
    key = {"study": "fusion", "timestep": timestep, "weights": told}
    count = partial(count_maps, maps=maps, final_norm=segmenter.config.final_norm)
    splits = count_splits(source, sizes, [seed], lambda opened, _: count(opened), store, key)
    measured = splits.measured({f"{kind}_{name}": f"{named(name)}{ending}" for kind, ending in ((FUSED, ""), (COMPLETED, ", completed")) for name in weights})
    single = best_on_train(found, singles, classes)
    pairs = {"chosen_minus_paper": ("chosen", "paper"), "chosen_minus_equal": ("chosen", "equal"), "several_minus_single": ("several", single)}
    effects = {name: measured.effect(f"{FUSED}_{a}", f"{FUSED}_{b}") for name, (a, b) in pairs.items()}
    return FusionResult(
        rows=measured.rows,
        effects=effects | {"completed_several_minus_single": measured.effect(f"{COMPLETED}_several", f"{COMPLETED}_{single}")},
        weights=told,
        single=single,
        timestep=timestep,
        images=len(splits.test),
        seeds=splits.seeds,
        dataset=splits.test.name,
    )


def weights_table(result: FusionResult) -> Any:
    """The weights of the choices that are compared, as a table (pandas), a line a resolution."""
    import pandas as pd

    return pd.DataFrame({named(name): result.weights[name] for name in LABELS}).rename(index="stride {}".format).fillna(0.0)


def fusion_table(result: FusionResult) -> Any:
    """Mean IoU before and after completion, beside that at the oracle threshold, as a table (pandas), a line a choice of weights."""
    import pandas as pd

    kinds = {kind: result.of(kind) for kind in (FUSED, COMPLETED)}
    lines = {
        named(name): {
            column: value for kind, rows in kinds.items() for column, value in ((kind, rows[name].value), (f"{kind}, oracle threshold", rows[name].oracle))
        }
        for name in result.weights
    }
    return pd.DataFrame(lines).T.round(1)


def judged(effect: Effect) -> str:
    """What an effect says, for prose."""
    told = {1: "better", -1: "worse", 0: "neither better nor worse, as far as these scenes can tell"}
    side = side_of_zero(effect)
    return f"undecided: {effect.images} images" if side is None else told[side]


def numbers(result: FusionResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    rows, effects = result.of(FUSED), result.effects
    return {
        "fusion_images": str(result.images),
        "fusion_paper": f"{rows['paper'].value:.0f}",
        "fusion_equal": f"{rows['equal'].value:.0f}",
        "fusion_chosen": f"{rows['chosen'].value:.0f}",
        "fusion_over_paper": format_effect(effects["chosen_minus_paper"]),
        "fusion_over_equal": format_effect(effects["chosen_minus_equal"]),
        "fusion_single": named(result.single),
        "fusion_over_single": format_effect(effects["several_minus_single"]),
        "fusion_verdict": judged(effects["chosen_minus_paper"]),
        "fusion_equal_verdict": judged(effects["chosen_minus_equal"]),
        "fusion_single_verdict": judged(effects["several_minus_single"]),
        "fusion_completed_single": format_effect(effects["completed_several_minus_single"]),
        "fusion_completed_verdict": judged(effects["completed_several_minus_single"]),
    }
