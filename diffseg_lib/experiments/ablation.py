"""Table 4: its rows in one pass an image and prompt, image-level labels, paired differences between rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import Sample
from ..profiles import PAPER_WEIGHTS
from ..scoremaps import complete, fuse, resize
from ..segmenter import DiffSegmenter
from .claims import effect_texts, effect_verdicts
from .measure import CommittedRun, Row, Store, StudyResult, count_maps, count_splits, format_value, seeds_text

EQUAL = dict.fromkeys(PAPER_WEIGHTS, 0.25)
PROMPTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"caption": "none", "modifiers": False, "emphasis": 0.0},
    "caption": {"caption": "complete", "modifiers": True, "emphasis": 0.0},
    "emphasis": {"caption": "none", "modifiers": False, "emphasis": 2.0},
    "caption_emphasis": {"caption": "complete", "modifiers": True, "emphasis": 2.0},
}


@dataclass(frozen=True)
class Variant:
    """A row of Table 4.

    Args:
        label: Its name for people; the number is that of the paper's row.
        short: A shorter name, to stand above a picture.
        weights: Weights of Eq. 5: "equal", the profile's ("chosen" on the train split), the "paper"'s, or strides that share them equally, as in "4+2".
        completion: The self-attention that completes the maps: "none", that of "all" layers, or of the "finest".
        prompt: A key of :data:`PROMPTS`.
    """

    label: str
    short: str
    weights: str
    completion: str
    prompt: str


ROWS: Mapping[str, Variant] = {
    "fused_equal": Variant("1 cross, equal weights", "1 cross", "equal", "none", "caption_emphasis"),
    "completed_all": Variant("2 cross, equal weights + all self-attention", "2 cross + all self", "equal", "all", "caption_emphasis"),
    "completed_finest": Variant("3 cross, equal weights + finest self-attention", "3 cross + finest self", "equal", "finest", "caption_emphasis"),
    "plain": Variant("4 weighted cross + finest self-attention", "4 weights + self", "chosen", "finest", "plain"),
    "caption": Variant("5 row 4 + BLIP", "5 row 4 + BLIP", "chosen", "finest", "caption"),
    "emphasis": Variant("6 row 4 + ++", "6 row 4 + ++", "chosen", "finest", "emphasis"),
    "full": Variant("7 row 4 + BLIP and ++", "7 row 4 + BLIP and ++", "chosen", "finest", "caption_emphasis"),
    "paper_weights": Variant("7 with the paper's weights", "7 with the paper's weights", "paper", "finest", "caption_emphasis"),
}
SINGLE = {f"single_{d}": Variant(f"stride {d} alone", f"stride {d}", str(d), "finest", "caption_emphasis") for d in PAPER_WEIGHTS}
PAIRS = {
    f"pair_{a}_{b}": Variant(f"strides {a} and {b}", f"strides {a}, {b}", f"{a}+{b}", "finest", "caption_emphasis") for a, b in combinations(PAPER_WEIGHTS, 2)
}
COARSE_FINE = ("pair_8_4", "pair_2_1")  # the two coarsest resolutions, the two finest
SEVERAL = (*PAIRS, "completed_finest", "paper_weights")  # rows that weigh two resolutions or more
EFFECTS: Mapping[str, tuple[str, str, str]] = {  # label, and the two rows
    "completion_by_all": ("self-attention of all layers", "completed_all", "fused_equal"),
    "finest_over_all": ("finest layers instead of all", "completed_finest", "completed_all"),
    "completion_by_finest": ("finest self-attention", "completed_finest", "fused_equal"),
    "chosen_weights": ("chosen weights instead of equal", "full", "completed_finest"),
    "paper_weights": ("paper's weights instead of equal", "paper_weights", "completed_finest"),
    "caption_on_plain": ("BLIP on plain", "caption", "plain"),
    "emphasis_on_plain": ("++ on plain", "emphasis", "plain"),
    "both_on_plain": ("both on plain", "full", "plain"),
    "caption_on_emphasis": ("BLIP on ++", "full", "emphasis"),
    "emphasis_on_caption": ("++ on BLIP", "full", "caption"),
    "full_over_fused": ("everything against cross alone", "full", "fused_equal"),
}
PAPER: Mapping[str, float] = {  # effects on VOC's train images as Table 4 prints them, points
    "completion_by_all": 3.76,
    "finest_over_all": 2.88,
    "chosen_weights": 2.60,
    "caption_on_plain": 2.67,
    "emphasis_on_plain": 4.14,
    "both_on_plain": 5.17,
    "caption_on_emphasis": 1.03,
    "emphasis_on_caption": 2.50,
}


@dataclass(frozen=True, kw_only=True)
class AblationResult(StudyResult):
    """The rows of Table 4 (keys of :data:`ROWS`) and paired differences.

    ``effects`` are the keys of :data:`EFFECTS` and "fused_over_nothing"; and, of row 7 with other weights, "several_over_single" and
    "several_over_equal": several resolutions fused (the one of :data:`SEVERAL` that is best on train) against the one that is best alone on
    train, and against equal weights; and "coarse_over_fine", the pairs of :data:`COARSE_FINE` against each other where the model has these resolutions.

    Args:
        rows: Mean IoU by variant.
        weights: Weights of Eq. 5 by stride, "chosen" and the "paper"'s.
        timestep: The timestep of the noise, 0 to 999.
    """

    rows: Mapping[str, Row]
    weights: Mapping[str, Mapping[str, float]]
    timestep: int


def variants(segmenter: DiffSegmenter, sample: Sample, words: Sequence[str], rows: Mapping[str, Variant] = ROWS) -> dict[str, Tensor]:
    """The maps of every row on one image, k h w, one UNet call a kind of prompt; a row of resolutions that the model lacks is left out."""
    latents = segmenter.encode(sample.image)
    noise, [timestep] = segmenter.noise(sample.image, latents), segmenter.timesteps[:1]
    found: dict[str, Tensor] = {}
    for prompt in dict.fromkeys(row.prompt for row in rows.values()):
        one = segmenter.with_config(**PROMPTS[prompt])
        embeddings, token_weights = one.embed(one.prompts(words, sample.image))
        recording = one.attend(latents, noise, timestep, embeddings, token_weights, self_attention="all")
        cross = {d: maps.float() for d, maps in recording.by_resolution().items()}
        known = {"equal": EQUAL, "chosen": segmenter.weights, "paper": PAPER_WEIGHTS}
        weights = {name: {d: w for d, w in one.items() if d in cross} for name, one in known.items()}  # of the resolutions that the model has
        for name, row in rows.items():
            shared = [int(d) for d in row.weights.split("+")] if row.weights not in weights else []
            if row.prompt != prompt or not set(shared) <= set(cross):
                continue
            fused = fuse(cross, weights.get(row.weights) or dict.fromkeys(shared, 1 / len(shared)), recording.finest_size, segmenter.config.scale)
            if row.completion == "finest":
                fused = complete(fused, *recording.finest())
            elif row.completion == "all":
                fused = complete_all_resolutions(fused, recording.self_attention())
            found[name] = fused
    return {name: found[name] for name in rows if name in found}


def complete_all_resolutions(
    maps: Float[Tensor, "k h w"], groups: Mapping[tuple[int, int], tuple[Sequence[Float[Tensor, "_ _ _ _"]], Sequence[Float[Tensor, "_ _ _ _"]]]]
) -> Float[Tensor, "k h w"]:
    """Complete maps by the self-attention of every resolution (A_self_all of Table 4, Wang et al. 2023), each layer at its own.

    A layer of a coarser resolution acts on the maps brought to that resolution; the result is the mean over all layers.

    Args:
        maps: Fused maps, one a class, k h w.
        groups: Height and width to the queries and keys of the layers that attend there.

    Raises:
        ValueError: If there are no layers or the shapes do not fit.
    """
    if not groups:
        raise ValueError("completion needs queries and keys of at least one layer: record with self_attention='all'")
    size, layers = (maps.shape[1], maps.shape[2]), sum(len(queries) for queries, _ in groups.values())
    parts = [resize(complete(resize(maps, side), queries, keys), size) * (len(queries) / layers) for side, (queries, keys) in groups.items()]
    return torch.stack(parts).sum(0)


def ablation_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    seeds: Sequence[int] = (0,),
    store: Store | None = None,
) -> AblationResult:
    """The rows of Table 4 and the paired differences that its text speaks of.

    Args:
        segmenter: The model; its profile gives timestep and chosen weights, its seed is replaced by each of `seeds`.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; each row's threshold is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        seeds: Seeds of the noise.
        store: Keeps the parts; None keeps nothing.
    """
    asked = {**ROWS, **SINGLE, **PAIRS}
    splits = count_splits(
        (dataset, root, split),
        (train_images, images),
        seeds,
        lambda opened, seed: count_maps(opened, partial(variants, segmenter.with_config(seed=seed), rows=asked), segmenter.config.final_norm),
        store,
        {"study": "ablation", "rows": {name: [row.weights, row.completion, row.prompt] for name, row in asked.items()}, "prompts": dict(PROMPTS)},
    )
    measured, on_train = splits.measured({name: row.label for name, row in asked.items()}), splits.measured(on="train").rows
    single, several = (max((name for name in names if name in on_train), key=lambda name: on_train[name].value) for names in (SINGLE, SEVERAL))
    return AblationResult(
        rows={name: measured.rows[name] for name in ROWS},
        effects={name: measured.effect(a, b, label) for name, (label, a, b) in EFFECTS.items()}
        | {"fused_over_nothing": measured.against_nothing("fused_equal", "cross attention against nothing found")}
        | {"several_over_single": measured.effect(several, single), "several_over_equal": measured.effect(several, "completed_finest")}
        | ({"coarse_over_fine": measured.effect(*COARSE_FINE)} if {*COARSE_FINE} <= set(measured.rows) else {}),
        weights={"chosen": {str(d): w for d, w in segmenter.weights.items()}, "paper": {str(d): w for d, w in PAPER_WEIGHTS.items()}},
        timestep=segmenter.timesteps[0],
        seeds=tuple(seeds),
        images=len(splits.test),
        dataset=splits.test.name,
    )


def captions_table(run: CommittedRun[AblationResult] | None) -> Any:
    """Mean IoU of the method's defaults, without captions, and with BLIP's continuation of the prompt, as a table (pandas), with what both were measured on."""
    import pandas as pd

    named = {"without captions (the defaults, as above)": "emphasis", "with BLIP's continuation": "full"}
    if run is None:
        return pd.DataFrame({name: {"mIoU, %": "not run"} for name in named}).T
    found = run.result
    measured = {"on": f"{found.dataset}, {found.images} images, {len(found.seeds)} seeds", "words": "the true ones", "++": "yes", "completion": "finest"}
    return pd.DataFrame({name: {"mIoU, %": format_value(found.rows[key])} | measured for name, key in named.items()}).T


def numbers(result: AblationResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    cited = {
        "ablation_finest": "completion_by_finest",
        "ablation_finest_all": "finest_over_all",
        "ablation_weights": "chosen_weights",
        "ablation_paper_weights": "paper_weights",
        "ablation_blip": "caption_on_plain",
        "ablation_plus": "emphasis_on_plain",
        "ablation_both": "both_on_plain",
    }
    judged = {f"{name}_verdict": cited[name] for name in ("ablation_finest_all", "ablation_blip", "ablation_plus", "ablation_both")}
    counted = {"ablation_images": str(result.images), "ablation_seeds": seeds_text(result.seeds)}
    kept = [d for d, weight in result.weights["chosen"].items() if weight > 0]
    counted["ablation_kept"] = f"{len(kept)} of {len(result.weights['chosen'])} resolutions"
    return counted | effect_texts(result.effects, cited) | effect_verdicts(result.effects, judged)
