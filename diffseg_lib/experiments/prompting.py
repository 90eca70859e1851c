"""Fig. 6 and Sec. 3.5: what the captioner's words, the class's modifiers and "++" do, and the exponent's curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data import Dataset
from ..segmenter import DiffSegmenter
from .ablation import PROMPTS, AblationResult
from .claims import effect_verdict
from .measure import CommittedRun, Row, Store, StudyResult, count_maps, count_splits, format_effect

KINDS: Mapping[str, Mapping[str, Any]] = {
    **PROMPTS,
    "caption_alone": {"caption": "complete", "modifiers": False, "emphasis": 0.0},
    "adjectives_written": {"caption": "phrase", "modifiers": False, "emphasis": 0.0},
    "adjectives_fused": {"caption": "phrase", "modifiers": True, "emphasis": 0.0},
    "adjectives_fused_emphasis": {"caption": "phrase", "modifiers": True, "emphasis": 2.0},
}
LABELS: Mapping[str, str] = {
    "plain": "plain",
    "caption": "BLIP",
    "emphasis": "++",
    "caption_emphasis": "BLIP ++",
    "caption_alone": "BLIP, no modifiers",
    "adjectives_written": "adjectives written",
    "adjectives_fused": "adjectives fused",
    "adjectives_fused_emphasis": "adjectives fused ++",
}

SHARED: Mapping[str, str] = {  # effects that the ablation measures under another key
    "caption_minus_plain": "caption_on_plain",
    "emphasis_minus_plain": "emphasis_on_plain",
    "caption_emphasis_minus_plain": "both_on_plain",
}


@dataclass(frozen=True, kw_only=True)
class PromptResult(StudyResult):
    """Kinds of prompts, and the exponent's curve.

    ``rows`` are the keys of :data:`KINDS`, and "emphasis4" and so on (:func:`emphasis_key`). ``effects`` are "caption_minus_plain" and so on for
    every row but "plain", and "fused_minus_written".

    Args:
        rows: Mean IoU by kind of prompt.
        exponents: The numbers of "+" that were tried beside 0 ("plain") and 2 ("emphasis").
        modified: The share of prompts in which a modifier of the class was found, 0 to 1, by kind: "caption", "adjectives_fused".
    """

    rows: Mapping[str, Row]
    exponents: tuple[float, ...]
    modified: Mapping[str, float]

    def curve(self) -> tuple[list[float], list[float], list[tuple[float, float] | None]]:
        """The exponents in order, and the mean IoU (percent) and its interval at each."""
        known = {0.0: self.rows["plain"], 2.0: self.rows["emphasis"]} | {e: self.rows[emphasis_key(e)] for e in self.exponents}
        order = sorted(known)
        return order, [known[e].value for e in order], [known[e].ci95 for e in order]


def emphasis_key(exponent: float) -> str:
    """The key of the plain prompt with a number of "+".

    >>> emphasis_key(-4.0), emphasis_key(8)
    ('emphasis-4', 'emphasis8')
    """
    return f"emphasis{exponent:g}"


def completed_maps(segmenter: DiffSegmenter, image: np.ndarray, words: Sequence[str], kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The completed maps of one image under each kind of prompt, same noise: k h w tensors by kind."""
    latents = segmenter.encode(image)
    noise, found = segmenter.noise(image, latents), {}
    for name, changes in kinds.items():
        one = segmenter.with_config(**changes)
        embeddings, token_weights = one.embed(one.prompts(words, image))
        found[name] = one.score(one.attend(latents, noise, one.timesteps[0], embeddings, token_weights))[1]
    return found


def prompt_study(
    segmenter: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    exponents: Sequence[float] = (-4.0, 4.0, 8.0),
    seed: int = 0,
    store: Store | None = None,
) -> PromptResult:
    """Mean IoU of completed maps by kind of prompt and by the number of "+", image-level labels.

    Args:
        segmenter: The model; its profile gives timestep and weights.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; each row's threshold is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        exponents: Numbers of "+" on the plain prompt beside 0 and 2: a weight of 1.1^exponent.
        seed: Seed of the noise.
        store: Keeps the parts; None keeps nothing.
    """
    segmenter = segmenter.with_config(seed=seed, caption="none", modifiers=False)
    kinds = {**KINDS, **{emphasis_key(e): {"caption": "none", "modifiers": False, "emphasis": float(e)} for e in exponents}}
    splits = count_splits(
        (dataset, root, split),
        (train_images, images),
        [seed],
        lambda opened, _: count_maps(opened, lambda sample, words: completed_maps(segmenter, sample.image, words, kinds), segmenter.config.final_norm),
        store,
        {"study": "prompts", "kinds": kinds},
    )
    measured = splits.measured({**LABELS, **{emphasis_key(e): f"plus = {e:g}" for e in exponents}})
    effects = {f"{name}_minus_plain": measured.effect(name, "plain") for name in kinds if name != "plain"}
    effects["fused_minus_written"] = measured.effect("adjectives_fused", "adjectives_written", "adjectives fused minus written")
    return PromptResult(
        rows=measured.rows,
        effects=effects,
        exponents=tuple(exponents),
        modified={name: _modified(segmenter.with_config(**KINDS[name]), splits.test) for name in ("caption", "adjectives_fused")},
        seeds=(seed,),
        images=len(splits.test),
        dataset=splits.test.name,
    )


def _modified(segmenter: DiffSegmenter, dataset: Dataset) -> float:
    """Share of the prompts of a data set's images (its first 100) in which a modifier of the class was found."""
    found = [
        bool(prompt.modifiers)
        for name in dataset.ids[:100]
        for sample in [dataset.load(name)]
        for prompt in segmenter.prompts(dataset.words(sample.classes), sample.image)
    ]
    return float(np.mean(found))


def prompt_table(segmenter: DiffSegmenter, image: np.ndarray, words: Sequence[str], kinds: Sequence[str]) -> Any:
    """The prompts of a picture by kind and class, with the tokens of the class and of its modifiers, as a table (pandas)."""
    import pandas as pd

    lines = {}
    for kind in kinds:
        one = segmenter.with_config(**KINDS[kind])
        for prompt in one.prompts(words, image):
            tokens = [token.removesuffix("</w>") for token in one.backbone.tokenizer.convert_ids_to_tokens(one.backbone.tokenizer(prompt.text).input_ids)]
            spans = {"class tokens": prompt.span, "modifiers": prompt.modifiers}
            lines[LABELS[kind], prompt.name] = {"prompt": prompt.text} | {name: " ".join(tokens[i] for i in span) for name, span in spans.items()}
    return pd.DataFrame(lines).T


def settled(result: PromptResult, ablation: CommittedRun[AblationResult] | None) -> PromptResult:
    """The result with the effects that the ablation measured too, on more images, taken from there: one effect has one figure and one verdict.

    Args:
        result: What the study of prompts measured.
        ablation: The committed run of the ablation; None, or one of fewer images, changes nothing.
    """
    if ablation is None or ablation.result.images <= result.images:
        return result
    found = ablation.result
    on = f"({found.images} images, {len(found.seeds)} seeds)"
    taken = {ours: replace(found.effects[theirs], label=f"{result.effects[ours].label} {on}") for ours, theirs in SHARED.items()}
    return replace(result, effects={**result.effects, **taken})


def numbers(result: PromptResult, live: PromptResult, exponent: float) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name.

    Args:
        result: The larger run, or the page's own.
        live: The page's own run.
        exponent: The largest number of "+" that the page tried.
    """
    effects, far = result.effects, f"{emphasis_key(exponent)}_minus_plain"
    judged = {
        "prompts_blip": "caption_minus_plain",
        "prompts_adjectives": "adjectives_fused_minus_plain",
        "prompts_fusing": "fused_minus_written",
        "prompts_plus": "emphasis_minus_plain",
        "prompts_both": "caption_emphasis_minus_plain",
    }
    return {
        "prompts_images": str(result.images),
        "prompts_modified": f"{100 * live.modified['caption']:.0f} % and {100 * live.modified['adjectives_fused']:.0f} %",
        **{name: f"{format_effect(effects[key])}, {effect_verdict(effects[key])}" for name, key in judged.items()},
        "prompts_far": format_effect(effects[far]) if far in effects else "not run",
        "prompts_far_exponent": str(exponent),
    }
