"""Where paper, released code and this library differ: each switch turned alone, and both recipes whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..config import recipe
from ..data import Dataset, released_words
from ..evaluation.metrics import best_threshold, count_scores
from ..profiles import PAPER_WEIGHTS
from ..prompts import plural
from ..segmenter import DiffSegmenter
from .measure import Counts, Store, count_splits

OURS, PAPER, RELEASED, PLURAL = "ours", "recipe: paper", "recipe: released", "plural words"
SWEPT = (0.30, 0.74)  # between which the released evaluator sweeps the background's constant
# name: (where the choice is made, changes of our configuration)
SWITCHES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "no min-max before the weights": ("the paper's text names none", {"scale": "none"}),
    "last sub-token alone": ("released", {"span": "last"}),
    "no ++": ("neither: it is what the ablation takes away", {"plus": 0.0}),
    "“a photograph of X”": ("released, VOC", {"template": "a photograph of {class}"}),
    "“a photography of X”": ("released, Context and COCO", {"template": "a photography of {class}"}),
    PLURAL: ("released: “buses”, “people”", {}),
    "BLIP goes on": ("both", {"caption": "complete"}),
    "BLIP goes on, modifiers fused": ("both; the released code fuses a participle alone", {"caption": "complete", "modifiers": True}),
    "min-max before upsampling": ("paper, Eq. (7)", {"final_norm": "before"}),
    "the paper's weights": ("both", {"weights": dict(PAPER_WEIGHTS)}),
    "other noise": ("released: unseeded", {"seed": None}),
}


def variants(segmenter: DiffSegmenter, dataset: str, seed: int) -> dict[str, DiffSegmenter]:
    """A segmenter a row, all of one captioner: ours, ours with one switch turned, and the two recipes.

    Args:
        segmenter: its models, and its profile's numbers.
        dataset: whose prompt the released code words.
        seed: of the noise; the row of other noise takes another.
    """
    base = segmenter.with_config(seed=seed, caption="complete")  # loads the captioner, once
    ours = asdict(segmenter.with_config(seed=seed).config)
    rows = {OURS: ours}
    for name, (_, changes) in SWITCHES.items():
        known = {d: w for d, w in changes.get("weights", {}).items() if d in segmenter.weights}
        rows[name] = ours | changes | ({"weights": known} if "weights" in changes else {}) | ({"seed": seed + 1000} if "seed" in changes else {})
    rows |= {PAPER: asdict(recipe("paper", seed=seed)), RELEASED: asdict(recipe("released", dataset, seed=seed))}
    return {name: base.with_config(**config) for name, config in rows.items()}


def recipe_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    seed: int = 0,
    store: Store | None = None,
) -> dict[str, Any]:
    """Mean IoU of every switch and of both recipes, image-level labels.

    Args:
        segmenter: its profile gives timestep and weights.
        dataset, root, split: to open; each row's threshold is fixed on its train split.
        train_images, images: of train and of `split`.
        seed: of the noise.
        store: keeps the parts.

    Returns:
        ``rows``, each also with ``swept``: the best mean IoU of the evaluated split itself over the released evaluator's
        range of thresholds, an oracle; ``effects`` of every row against ours, and of the recipes against each other.
    """
    configs = {name: asdict(one.config) for name, one in variants(segmenter, dataset, seed).items()}

    def count(opened: Dataset, drawn: int) -> Counts:
        rows = variants(segmenter, dataset, drawn)
        found: Counts = {}
        for sample in opened:
            labels = [opened.names.index(name) for name in sample.classes]
            words = opened.words(sample.classes)
            asked = {PLURAL: [plural(word, segmenter.backbone.profile.words) for word in words], RELEASED: released_words(opened).words(sample.classes)}
            for name, one in rows.items():
                scores = one.segment(sample.image, asked.get(name, words)).scores
                found.setdefault(name, []).append(count_scores(sample.truth, scores, labels, len(opened.names)))
        return found

    splits = count_splits((dataset, root, split), (train_images, images), [seed], count, store, {"study": "recipes", "configs": configs})
    measured = splits.measured()
    for name, row in measured.rows.items():
        cut, value = best_threshold(splits.counts["test"][0][name], len(splits.test.names), SWEPT)
        row["swept"] = {"value": value, "threshold": cut}
    effects = {f"{name} minus {OURS}": measured.effect(name, OURS) for name in measured.rows if name != OURS}
    effects[f"{RELEASED} minus {PAPER}"] = measured.effect(RELEASED, PAPER)
    return {"rows": measured.rows, "effects": effects, "seeds": [seed], "images": len(splits.test), "dataset": dataset, "timestep": segmenter.timesteps[0]}


def where_from(names: Sequence[str]) -> dict[str, str]:
    """Row to where its choice is made, for a table."""
    return {name: SWITCHES[name][0] if name in SWITCHES else "" for name in names}
