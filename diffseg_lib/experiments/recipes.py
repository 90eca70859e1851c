"""Where paper, released code and this library differ: each switch turned alone, and both recipes whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..config import recipe
from ..data import Dataset, released_words
from ..evaluation.metrics import best_threshold, count_scores, interval_text
from ..profiles import PAPER_WEIGHTS
from ..segmenter import DiffSegmenter
from ..support.words import plural
from .claims import effect_texts
from .measure import Counts, Row, Store, StudyResult, count_splits, format_effect, side_of_zero

OURS, PAPER, RELEASED, PLURAL = "ours", "paper", "released", "plural"
SWEPT = (0.30, 0.74)  # between which the released evaluator sweeps the background's constant


@dataclass(frozen=True)
class Switch:
    """A choice in which paper, released code and this library differ.

    Args:
        label: What is changed, for people.
        source: Where the choice is made.
        changes: The changes of our configuration.
    """

    label: str
    source: str
    changes: Mapping[str, Any]


SWITCHES: Mapping[str, Switch] = {
    "no_scale": Switch("no min-max before the weights", "the paper's text names none", {"scale": "none"}),
    "last_token": Switch("last sub-token alone", "released", {"span": "last"}),
    "no_emphasis": Switch("no ++", "neither: it is what the ablation takes away", {"emphasis": 0.0}),
    "photograph": Switch("“a photograph of X”", "released, VOC", {"template": "a photograph of {class}"}),
    "photography": Switch("“a photography of X”", "released, Context and COCO", {"template": "a photography of {class}"}),
    PLURAL: Switch("plural words", "released: “buses”, “people”", {}),
    "caption": Switch("BLIP goes on", "both", {"caption": "complete"}),
    "caption_fused": Switch("BLIP goes on, modifiers fused", "both; the released code fuses a participle alone", {"caption": "complete", "modifiers": True}),
    "norm_before": Switch("min-max before upsampling", "paper, Eq. (7)", {"final_norm": "before"}),
    "paper_weights": Switch("the paper's weights", "both", {"weights": dict(PAPER_WEIGHTS)}),
    "other_noise": Switch("other noise", "released: unseeded", {"seed": None}),
}
LABELS = {OURS: "ours"} | {name: one.label for name, one in SWITCHES.items()} | {PAPER: "recipe: paper", RELEASED: "recipe: released"}


@dataclass(frozen=True, kw_only=True)
class Swept:
    """The best mean IoU of the measured split itself over the released evaluator's thresholds (:data:`SWEPT`): an oracle's.

    Args:
        value: The mean IoU, percent.
        threshold: The threshold at which it is reached.
    """

    value: float
    threshold: float


@dataclass(frozen=True, kw_only=True)
class RecipeRow(Row):
    """A row of the recipes' table.

    Args:
        swept: What the released evaluator would print.
    """

    swept: Swept


@dataclass(frozen=True, kw_only=True)
class RecipeResult(StudyResult):
    """Our defaults ("ours"), each switch turned alone (keys of :data:`SWITCHES`), and both recipes ("paper", "released").

    ``effects`` are "photograph_minus_ours" and so on for every row but ours, and "released_minus_paper".

    Args:
        rows: Mean IoU by variant.
        timestep: The timestep of the noise, 0 to 999.
    """

    rows: Mapping[str, RecipeRow]
    timestep: int


def variants(segmenter: DiffSegmenter, dataset: str, seed: int) -> dict[str, DiffSegmenter]:
    """A segmenter a row, all of one captioner: ours, ours with one switch turned, and the two recipes.

    Args:
        segmenter: The models, with the numbers of their profile.
        dataset: The data set whose prompt the released code words.
        seed: Seed of the noise; the row of other noise takes another.
    """
    base = segmenter.with_config(seed=seed, caption="complete")  # loads the captioner, once
    ours = asdict(segmenter.with_config(seed=seed).config)
    rows = {OURS: ours}
    for name, switch in SWITCHES.items():
        changes = switch.changes
        known = {d: w for d, w in changes.get("weights", {}).items() if d in segmenter.weights}
        rows[name] = ours | dict(changes) | ({"weights": known} if "weights" in changes else {}) | ({"seed": seed + 1000} if "seed" in changes else {})
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
) -> RecipeResult:
    """Mean IoU of every switch and of both recipes, image-level labels.

    Args:
        segmenter: The model; its profile gives timestep and weights.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; each row's threshold is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        seed: Seed of the noise.
        store: Keeps the parts; None keeps nothing.
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
    measured, rows = splits.measured(LABELS), {}
    for name, row in measured.rows.items():
        cut, value = best_threshold(splits.counts["test"][0][name], len(splits.test.names), SWEPT)
        rows[name] = RecipeRow(**vars(row), swept=Swept(value=value, threshold=cut))
    effects = {f"{name}_minus_{OURS}": measured.effect(name, OURS) for name in rows if name != OURS}
    effects[f"{RELEASED}_minus_{PAPER}"] = measured.effect(RELEASED, PAPER)
    return RecipeResult(rows=rows, effects=effects, seeds=(seed,), images=len(splits.test), dataset=splits.test.name, timestep=segmenter.timesteps[0])


def moving(result: RecipeResult) -> list[str]:
    """The switches whose effect's 95 % interval keeps to one side of zero, by key."""
    effects = {name: result.effects[f"{name}_minus_{OURS}"] for name in SWITCHES}
    return [name for name, one in effects.items() if side_of_zero(one)]


def recipe_table(rows: Mapping[str, RecipeRow]) -> Any:
    """The rows as a table (pandas), each with where its choice is made."""
    import pandas as pd

    swept = f"best of {SWEPT[0]:.2f} to {SWEPT[1]:.2f} on this split (oracle)".replace("0.", ".")
    lines = {}
    for name, row in rows.items():
        line = {"mIoU, %": f"{row.value:.1f}", "95 % interval": interval_text(row.ci95, row.images), swept: f"{row.swept.value:.1f}"}
        lines[row.label] = line | {"whose choice": SWITCHES[name].source if name in SWITCHES else ""}
    return pd.DataFrame(lines).T


def numbers(result: RecipeResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    effects, released = result.effects, result.rows[RELEASED]
    cited = {
        "recipes_released": f"{RELEASED}_minus_{OURS}",
        "recipes_paper": f"{PAPER}_minus_{OURS}",
        "recipes_between": f"{RELEASED}_minus_{PAPER}",
        "recipes_span": f"last_token_minus_{OURS}",
        "recipes_plural": f"{PLURAL}_minus_{OURS}",
        "recipes_article": f"photograph_minus_{OURS}",
        "recipes_photography": f"photography_minus_{OURS}",
        "recipes_noise": f"other_noise_minus_{OURS}",
    }
    moved = [f"{LABELS[name]} {format_effect(effects[f'{name}_minus_{OURS}'])}" for name in moving(result)]
    return {
        "recipes_images": str(result.images),
        **effect_texts(effects, cited),
        "recipes_moved": "; ".join(moved) or "none",
        "recipes_oracle": f"{released.swept.value - released.value:+.1f}",
        "recipes_swept": f"{SWEPT[0]:.2f} to {SWEPT[1]:.2f}",
    }
