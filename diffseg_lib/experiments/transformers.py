"""From UNets to transformers: where a word looks block by block, whether image-to-image attention completes, at which noise, and beside a UNet.

Protocol: true class words for both models, the same images, template and rule for thresholds (fixed on images of train); each model at the timestep and
weights of its own profile. A transformer's timestep t is the noise level t / 1000 of flow matching.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbone import joint_calls
from ..data import Dataset, Sample
from ..evaluation.fusion_search import separation, short_name
from ..evaluation.metrics import mean_interval
from ..recording import Recording
from ..refinements.concept_attention import ConceptAttention
from ..scoremaps import complete, fuse, upsample
from ..segmenter import DiffSegmenter
from ..support.identity import describe_models, model_keys
from ..support.images import to_numpy
from .claims import effect_verdict
from .measure import Estimate, Row, Store, StudyResult, count_splits, count_variants, format_effect, format_value

LEVELS = (50, 100, 200, 300, 400, 500, 600, 700, 800)  # timesteps that are compared
LOOKED_AT = 100  # images that areas and shares of attention are measured on; no threshold is in either


@dataclass(frozen=True, kw_only=True)
class TransformerResult(StudyResult):
    """Two architectures on the same images.

    ``rows``: "unet_fused" and "unet_completed"; of the transformer "fused", "completed", "completed_by_all" (image-to-image attention of all its blocks),
    "over_words_fused" and "over_words" (maps that are shares of the prompt's words), "concepts" (ConceptAttention), "block_0" and so on (one block's
    image-to-text quarter alone, as Seg4Diff reads one), and "fused_50", "completed_50" and so on by timestep.
    ``effects``: "completion", "unet_completion", "transformer_minus_unet" (completed maps), "fused_transformer_minus_unet", "all_blocks_minus_weighted",
    "over_words_minus_raw", "fusion_minus_block", "concepts_minus_fused", "concepts_minus_completed".

    Args:
        rows: Mean IoU by variant.
        areas: Area under the ROC curve of each block's maps, and under "UNet, " of each layer of the UNet, percent, the mean over (image, class).
        to_text: By block, the share of an image token's attention that goes to the text's tokens, percent.
        to_words: By block, the share of it that goes to the words of the prompt, percent.
        block: Number of the block whose maps alone are best on train.
        level: Timestep whose completed maps are best on train.
        timestep: Timestep of the transformer's other rows.
        blocks: Blocks with a fusion weight.
        unet: Name and content of the UNet beside.
        looked_at: Number of images that areas and shares are measured on.
    """

    rows: Mapping[str, Row]
    areas: Mapping[str, Estimate]
    to_text: Mapping[str, Estimate]
    to_words: Mapping[str, Estimate]
    block: int
    level: int
    timestep: int
    blocks: tuple[int, ...]
    unet: Mapping[str, str]
    looked_at: int


def _recorded(segmenter: DiffSegmenter, sample: Sample, words: Sequence[str], timestep: int, **options: Tensor) -> tuple[Tensor, Tensor, Recording]:
    """Fused and completed maps, and the recording."""
    prompts, latents = segmenter.prompts(words), segmenter.encode(sample.image)
    embeddings, weights = segmenter.embed(prompts)
    recording = segmenter.attend(latents, segmenter.noise(sample.image, latents), timestep, embeddings, weights, **options)
    return (*segmenter.score(recording), recording)


def transformer_study(
    segmenter: DiffSegmenter,
    beside: DiffSegmenter,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 40,
    images: int = 300,
    seed: int = 0,
    levels: Sequence[int] = LEVELS,
    looked_at: int = LOOKED_AT,
    store: Store | None = None,
) -> TransformerResult:
    """A transformer and a UNet on the same images, true words given.

    Args:
        segmenter: The transformer; its seed is replaced, its first timestep and its weights are used.
        beside: The UNet; its seed is replaced, its first timestep and its weights are used.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; thresholds, the block and the noise level are chosen on train.
        train_images: The number of images of train.
        images: The number of images of `split`.
        seed: Seed of the noise.
        levels: Timesteps of the transformer that are compared.
        looked_at: The number of images of `split` that areas and shares of attention are measured on.
        store: Keeps the parts; None keeps nothing.

    Raises:
        ValueError: If `segmenter` has no joint attention.
    """
    joint_calls(segmenter.backbone, "the study")
    joint, unet = segmenter.with_config(seed=seed), beside.with_config(seed=seed)
    timestep = joint.timesteps[0]
    concepts = ConceptAttention(_with_text(joint, timestep))

    def maps(sample: Sample, words: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        def up(scores: Tensor) -> np.ndarray:
            return to_numpy(upsample(scores, sample.truth.shape, joint.config.final_norm))

        for name, scores in zip(("unet_fused", "unet_completed"), _recorded(unet, sample, words, unet.timesteps[0])[:2], strict=True):
            yield name, to_numpy(upsample(scores, sample.truth.shape, unet.config.final_norm))
        fused, completed, recording = _recorded(joint, sample, words, timestep)
        yield "fused", up(fused)
        yield "completed", up(completed)
        yield "completed_by_all", up(complete(fused, *recording.finest(), joint.config.iterations))
        for block, one in recording.by_resolution().items():
            yield f"block_{block}", up(fuse({block: one.float()}, {block: 1.0}, recording.finest_size, joint.config.scale))
        shares = _recorded(joint, sample, words, timestep, content=joint.backbone.content_weights(joint.prompts(words)))
        yield "over_words_fused", up(shares[0])
        yield "over_words", up(shares[1])
        yield "concepts", concepts(sample.image, words).scores
        for level in levels:
            pair = (fused, completed) if level == timestep else _recorded(joint, sample, words, level)[:2]
            for name, scores in zip(("fused", "completed"), pair, strict=True):
                yield f"{name}_{level}", up(scores)

    key = {"study": "transformers", "levels": tuple(levels), "unet": model_keys(unet.backbone.profile), "unet_config": unet.resolved}
    splits = count_splits((dataset, root, split), (train_images, images), [seed], lambda opened, _: count_variants(opened, maps), store, key)
    blocks = tuple(block for block, weight in joint.weights.items() if weight)
    told = ", ".join(map(str, sorted(blocks)))
    labels = {
        "unet_fused": "UNet, fused maps",
        "unet_completed": "UNet, completed",
        "fused": f"transformer, fused maps (blocks {told})",
        "completed": "transformer, completed",
        "completed_by_all": "transformer, completed by all blocks",
        "over_words_fused": "transformer, fused shares of words",
        "over_words": "transformer, completed shares of words",
        "concepts": "ConceptAttention",
    }
    on_train = splits.measured(labels, on="train").rows
    labels |= {name: f"block {name.removeprefix('block_')} alone" for name in on_train if name.startswith("block_")}
    labels |= {f"{name}_{level}": f"{name}, s = {level / 1000:g}" for name in ("fused", "completed") for level in levels}
    measured = splits.measured(labels)
    block = max((name for name in on_train if name.startswith("block_")), key=lambda name: on_train[name].value)
    level = max(levels, key=lambda one: on_train[f"completed_{one}"].value)
    pairs = {
        "unet_completion": ("unet_completed", "unet_fused", "UNet: completed minus fused"),
        "completion": ("completed", "fused", "transformer: completed minus fused"),
        "transformer_minus_unet": ("completed", "unet_completed", "completed maps: transformer minus UNet"),
        "fused_transformer_minus_unet": ("fused", "unet_fused", "fused maps: transformer minus UNet"),
        "all_blocks_minus_weighted": ("completed_by_all", "completed", "completed by all blocks minus by the weighted ones"),
        "over_words_minus_raw": ("over_words", "completed", "shares of words minus raw maps, completed"),
        "fusion_minus_block": ("fused", block, f"fused maps minus those of block {block.removeprefix('block_')} alone"),
        "concepts_minus_fused": ("concepts", "fused", "ConceptAttention minus fused maps"),
        "concepts_minus_completed": ("concepts", "completed", "ConceptAttention minus completed maps"),
    }
    looked = splits.test.first(min(looked_at, len(splits.test)))
    to_text, to_words = attention_shares(joint, looked, timestep)
    return TransformerResult(
        rows=measured.rows,
        effects={name: measured.effect(*pair) for name, pair in pairs.items()},
        areas=block_areas(joint, looked, timestep) | block_areas(unet, looked, unet.timesteps[0], "UNet, "),
        to_text=to_text,
        to_words=to_words,
        block=int(block.removeprefix("block_")),
        level=level,
        timestep=timestep,
        blocks=blocks,
        unet=describe_models(unet.backbone.profile)["diffusion"] | {"profile": unet.backbone.profile.name},
        looked_at=len(looked),
        images=len(splits.test),
        seeds=splits.seeds,
        dataset=splits.test.name,
    )


def _with_text(segmenter: DiffSegmenter, timestep: int) -> DiffSegmenter:
    """The same at one timestep, all blocks whose text goes on weighing alike, which ConceptAttention reads: a last one may have no stream of text."""
    count = len([one for one in segmenter.backbone.unet.transformer_blocks if not getattr(one, "context_pre_only", False)])
    blocks = [block for block, weight in segmenter.weights.items() if weight and block < count] or list(range(count))
    return segmenter.with_config(timesteps=(timestep,), weights=dict.fromkeys(blocks, 1 / len(blocks)))


def _estimate(label: str, values: Sequence[float], images: int) -> Estimate:
    return Estimate(label=label, value=float(np.mean(values)), ci95=mean_interval(np.asarray(values)), images=images)


def block_areas(segmenter: DiffSegmenter, dataset: Dataset, timestep: int, model: str = "") -> dict[str, Estimate]:
    """Area under the ROC curve of each layer's maps by its short name behind the model's, percent, the mean over (image, class): 50 is chance."""
    found = separation(segmenter, dataset, dataset.names, timestep, dataset.words).layers
    return {(told := f"{model}{short_name(name)}"): _estimate(told, [100 * one for one in values], len(dataset)) for name, values in found.items()}


def attention_shares(segmenter: DiffSegmenter, dataset: Dataset, timestep: int) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """By block the share of an image token's attention that goes to the text's tokens, and to the words of the prompt, percent, the mean over prompts."""
    text: dict[str, list[float]] = {}
    words: dict[str, list[float]] = {}
    for sample in dataset:
        prompts, latents = segmenter.prompts(dataset.words(sample.classes)), segmenter.encode(sample.image)
        content = segmenter.backbone.content_weights(prompts)
        both = torch.stack([torch.ones_like(content), content], dim=1)
        embeddings = segmenter.embed(prompts)[0]
        recording = segmenter.attend(latents, segmenter.noise(sample.image, latents), timestep, embeddings, both.to(embeddings), "none")
        for name, maps in recording.cross.items():
            shares = 100 * maps.float().mean((1, 2)).unflatten(0, (-1, 2))
            text.setdefault(short_name(name), []).extend(shares[:, 0].tolist())
            words.setdefault(short_name(name), []).extend(shares[:, 1].tolist())
    text_shares, word_shares = ({name: _estimate(name, values, len(dataset)) for name, values in kind.items()} for kind in (text, words))
    return text_shares, word_shares


def by_level(result: TransformerResult) -> dict[str, dict[float, Row]]:
    """The rows by timestep: kind of map to noise level, 0 to 1, to row."""
    kinds = {"fused": "fused maps", "completed": "completed"}
    return {told: {int(name.split("_")[1]) / 1000: row for name, row in result.rows.items() if _is_level(name, kind)} for kind, told in kinds.items()}


def _is_level(name: str, kind: str) -> bool:
    return name.startswith(f"{kind}_") and name.removeprefix(f"{kind}_").isdigit()


def main_rows(result: TransformerResult) -> dict[str, Row]:
    """The rows that are neither of one block nor of another noise level."""
    return {name: row for name, row in result.rows.items() if not name.split("_")[-1].isdigit()}


def share_table(result: TransformerResult) -> Any:
    """Of each block the area under the ROC curve of its maps, its mean IoU alone, and where an image token's attention goes, as a table (pandas)."""
    import pandas as pd

    lines = {}
    for name, area in islice(result.areas.items(), len(result.to_text)):
        row = result.rows.get(name.replace("block ", "block_"))
        lines[name] = {
            "AUC, %": format_value(area),
            "mIoU alone, %": format_value(row) if row else "",
            "to text, %": f"{result.to_text[name].value:.1f}",
            "to the words, %": f"{result.to_words[name].value:.2f}",
        }
    return pd.DataFrame(lines).T


def numbers(result: TransformerResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    own = {name: one for name, one in result.areas.items() if not name.startswith("UNet, ")}
    theirs = {name: one for name, one in result.areas.items() if name.startswith("UNet, ")}
    best, worst = (pick(own, key=lambda name: own[name].value) for pick in (max, min))
    layer = max(theirs, key=lambda name: theirs[name].value)
    rows, effects = result.rows, result.effects
    told = {name: format_effect(one) for name, one in effects.items()}
    return {
        "transformers_images": str(result.images),
        "transformers_data": result.dataset,
        "transformers_looked_at": str(result.looked_at),
        "transformers_level": f"{result.timestep / 1000:g}",
        "transformers_blocks": ", ".join(map(str, sorted(result.blocks))),
        "transformers_best_area": f"{best}, {own[best].value:.0f}",
        "transformers_worst_area": f"{worst}, {own[worst].value:.0f}",
        "transformers_unet_area": f"{layer.removeprefix('UNet, ')}, {theirs[layer].value:.0f}",
        "transformers_block": str(result.block),
        "transformers_block_miou": f"{rows[f'block_{result.block}'].value:.0f}",
        "transformers_fused": f"{rows['fused'].value:.0f}",
        "transformers_completed": f"{rows['completed'].value:.0f}",
        "transformers_unet_fused": f"{rows['unet_fused'].value:.0f}",
        "transformers_unet_completed": f"{rows['unet_completed'].value:.0f}",
        "transformers_completion": told["completion"],
        "transformers_completion_verdict": effect_verdict(effects["completion"]),
        "transformers_unet_completion": told["unet_completion"],
        "transformers_minus_unet": told["transformer_minus_unet"],
        "transformers_fused_minus_unet": told["fused_transformer_minus_unet"],
        "transformers_all_blocks": told["all_blocks_minus_weighted"],
        "transformers_over_words": told["over_words_minus_raw"],
        "transformers_fusion": told["fusion_minus_block"],
        "transformers_concepts": f"{rows['concepts'].value:.0f}",
        "transformers_concepts_fused": told["concepts_minus_fused"],
        "transformers_concepts_completed": told["concepts_minus_completed"],
        "transformers_best_level": f"{result.level / 1000:g}",
        "transformers_to_text": f"{min(one.value for one in result.to_text.values()):.0f} to {max(one.value for one in result.to_text.values()):.0f}",
        "transformers_to_words": f"{min(one.value for one in result.to_words.values()):.1f} to {max(one.value for one in result.to_words.values()):.1f}",
    }
