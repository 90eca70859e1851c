"""One row of the UNet for all classes: what it costs in accuracy, with the true words asked, and with every word of the data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..data import Dataset
from ..evaluation.metrics import ScoreHistogram, count_scores
from ..optimizations import OPTIMIZATIONS
from ..prompts import PADDING_RUNS, thin_padding
from ..scoremaps import upsample
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from .measure import CommittedRun, Counts, Effect, Row, Store, StudyResult, count_splits, format_effect, format_value

DATASETS = ("voc", "context")
OWN = "own"


@dataclass(frozen=True)
class Way:
    """How the maps of several classes are come by.

    Args:
        label: Its name for people.
        drives: What the rows of the UNet are driven by: "own" is a row a class, by its prompt; "sentence" a row a sentence that names as many classes as it
            holds; the others are one row, which side prompts are held against: "sentences", the mean of such sentences, or "empty", the empty prompt.
        padding: Number of tokens that stand for the padding of a side prompt (:func:`~diffseg_lib.prompts.thin_padding`); None takes all of it.
    """

    label: str
    drives: str
    padding: int | None = None


WAYS: Mapping[str, Way] = {
    OWN: Way("a row a class", "own"),
    "joint": Way("a row a sentence of all classes", "sentence"),
    "side": Way("side prompts, the sentence drives", "sentences", PADDING_RUNS),
    "empty": Way("side prompts, the empty prompt drives", "empty", PADDING_RUNS),
    "cut": Way("side prompts without padding, the sentence drives", "sentences", 0),
    "padded": Way("side prompts with all padding, the sentence drives", "sentences"),
}
EMPHASES: Mapping[str, float] = {"": 2.0, "_plain": 0.0}  # "++", and nothing
# What is asked and what is judged: the true words; all words of the data set, of whose maps the true words' are judged; all of them.
ASKED: Mapping[str, str] = {"true": "true words", "among": "all words, the true ones judged", "all": "all words"}


@dataclass(frozen=True, kw_only=True)
class OnePassResult(StudyResult):
    """Mean IoU of every way, by what is asked.

    Keys of ``rows`` are a data set of :data:`DATASETS`, a key of :data:`ASKED` and one of :data:`WAYS`, with "_plain" behind it where no "++" is given:
    "voc_true_side_plain". ``effects`` have the same keys: the way minus a row a class with "++" on the same images.

    Args:
        rows: Mean IoU by data set, question and way.
        on_train: The same on the images of train that thresholds were fixed on.
        classes: Number of words that a data set has.
        chosen: The way of one row, and the emphasis, that is best on train: of the least mean loss over both data sets, true words alone and among all.
        timestep: The timestep of the noise, 0 to 999.
    """

    rows: Mapping[str, Row]
    on_train: Mapping[str, float]
    classes: Mapping[str, int]
    chosen: str
    timestep: int


def maps_of(segmenter: DiffSegmenter, image: Any, words: Sequence[str], wanted: Collection[str]) -> dict[str, Tensor]:
    """Completed maps of all words, k h w, by the ways wanted; all side prompts that are held against one row are so in one call."""
    backbone, latents = segmenter.backbone, segmenter.encode(image)
    noise, [timestep, *_] = segmenter.noise(image, latents), segmenter.timesteps
    own, sentences = segmenter.prompts(words), segmenter.with_config(one_pass="joint").prompts(words)
    of_sentences = [list(rows) for _, rows in groupby(range(len(sentences)), lambda i: sentences[i].text)]
    drivers = {"sentences": dict.fromkeys(one.text for one in sentences), "empty": [""]}

    def read(embeddings: Tensor, weights: Tensor, **side: Tensor) -> Tensor:
        options: dict[str, Any] = {"optimizations": OPTIMIZATIONS, "resolutions": [d for d, weight in segmenter.weights.items() if weight]}
        return segmenter.score(segmenter.attend(latents, noise, timestep, embeddings, weights, **options, **side))[1]

    found: dict[str, Tensor] = {}
    beside: dict[str, dict[str, tuple[Tensor, Tensor, Tensor]]] = {drive: {} for drive in drivers}  # prompts, how often tokens count, token weights
    for name, way, ending, emphasis in [
        (name, way, ending, plus) for name, way in WAYS.items() for ending, plus in EMPHASES.items() if name + ending in wanted
    ]:
        embeddings, weights = segmenter.with_config(emphasis=emphasis).embed(sentences if way.drives == "sentence" else own)
        if way.drives == "own":
            found[name + ending] = read(embeddings, weights)
        elif way.drives == "sentence":
            found[name + ending] = torch.cat([read(embeddings[rows[:1]], weights[rows][None]) for rows in of_sentences])
        else:
            side, counts = embeddings[:, : weights.shape[-1]], torch.ones_like(weights)
            if way.padding is not None:
                side, counts = thin_padding(side, segmenter.lengths(own), way.padding)
            beside[way.drives][name + ending] = side, counts, weights[:, : side.shape[1]]
    for drive, ways in beside.items():
        if ways:
            driving = torch.cat([backbone.cached_embedding(text) for text in drivers[drive]]).mean(0, keepdim=True)
            prompts, counts, weights = (_joined(parts) for parts in zip(*ways.values(), strict=True))
            maps = read(driving, weights, side_prompts=prompts, side_counts=counts)
            found |= dict(zip(ways, maps.split(len(words)), strict=True))
    return found


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors b l and so on one under the other, the shorter ones filled with zeros."""
    return pad_sequence([row for part in parts for row in part], batch_first=True)


def _count(dataset: Dataset, seed: int, segmenter: DiffSegmenter, every: bool) -> Counts:
    """Histograms by question and way: of the true words asked alone, or of every word of the data set asked."""
    found: Counts = {}
    segmenter, words = segmenter.with_config(seed=seed), dataset.words(dataset.names[1:])
    wanted = [name + ending for name in WAYS for ending in EMPHASES if not (every and name == OWN and ending)]  # which costs a row a word

    def add(key: str, truth: Any, maps: Tensor, labels: Sequence[int]) -> None:
        scores = to_numpy(upsample(maps, truth.shape, segmenter.config.final_norm))
        histograms: list[ScoreHistogram] = found.setdefault(key, [])
        histograms.append(count_scores(truth, scores, labels, len(dataset.names)))

    for sample in dataset:
        labels = [dataset.names.index(name) for name in sample.classes]
        for name, maps in maps_of(segmenter, sample.image, words if every else dataset.words(sample.classes), wanted).items():
            add(f"among_{name}" if every else f"true_{name}", sample.truth, maps[[label - 1 for label in labels]] if every else maps, labels)
            if every and name in WAYS:
                add(f"all_{name}", sample.truth, maps, range(1, len(dataset.names)))
    return found


def one_pass_study(
    segmenter: DiffSegmenter,
    roots: Mapping[str, str],
    split: str = "val",
    train_images: int = 20,
    images: int = 20,
    seed: int = 0,
    store: Store | None = None,
) -> OnePassResult:
    """Mean IoU of every way to the maps of several classes, and what each loses against a row a class.

    Args:
        segmenter: The model; its profile gives timestep and weights.
        roots: Folder of each data set of :data:`DATASETS`; "" is the pocket world's.
        split: The split that is measured; each way's threshold is fixed on train.
        train_images: The number of images of train.
        images: The number of images of `split` that the true words are asked of; every word is asked of a third of them, and of half of train's.
        seed: Seed of the noise.
        store: Keeps the parts; None keeps nothing.
    """
    rows: dict[str, Row] = {}
    effects: dict[str, Effect] = {}
    on_train: dict[str, float] = {}
    classes, names = {}, []
    labels = {name + ending: way.label + ("" if ending else ", ++") for name, way in WAYS.items() for ending in EMPHASES}
    key = {"study": "one_pass", "ways": {name: [way.drives, way.padding] for name, way in WAYS.items()}, "emphases": dict(EMPHASES)}
    for dataset in DATASETS:
        for every in (False, True):
            sizes = (-(-train_images // 2), -(-images // 3)) if every else (train_images, images)
            source = (dataset, roots.get(dataset, ""), split)
            splits = count_splits(source, sizes, [seed], partial(_count, segmenter=segmenter, every=every), store, key | {"every": every})
            told = {f"{asked}_{name}": f"{label}; {dataset}, {ASKED[asked]}" for asked in ASKED for name, label in labels.items()}
            measured, tuned = splits.measured(told), splits.measured(told, on="train")
            rows |= {f"{dataset}_{name}": row for name, row in measured.rows.items()}
            on_train |= {f"{dataset}_{name}": row.value for name, row in tuned.rows.items()}
            for name in measured.rows:
                asked, _, way = name.partition("_")
                if way != OWN:
                    effects[f"{dataset}_{name}"] = measured.effect(name, f"{asked}_{OWN}", f"{labels[way]}; {dataset}, {ASKED[asked]}")
            classes[dataset] = len(splits.test.names) - 1
        names.append(splits.test.name)
    single = [name + ending for name, way in WAYS.items() if way.drives not in ("own", "sentence") for ending in EMPHASES]
    chosen = max(single, key=lambda way: sum(on_train[f"{dataset}_{asked}_{way}"] for dataset in DATASETS for asked in ("true", "among")))
    return OnePassResult(
        rows=rows,
        effects=effects,
        on_train=on_train,
        classes=classes,
        chosen=chosen,
        images=images,
        seeds=(seed,),
        dataset=", ".join(names),
        timestep=segmenter.timesteps[0],
    )


def one_pass_table(result: OnePassResult | None, asked: str = "true") -> Any:
    """A line a way: mean IoU of every data set with its 95 % interval, and the paired difference from a row a class, as a table (pandas).

    Args:
        result: The study's; of None the table is empty.
        asked: A key of :data:`ASKED`.
    """
    import pandas as pd

    lines: dict[str, dict[str, str]] = {}
    for dataset, name in [(dataset, way + ending) for way in WAYS for ending in EMPHASES for dataset in DATASETS if result is not None]:
        key = f"{dataset}_{asked}_{name}"
        if result is None or key not in result.rows:
            continue
        row, effect = result.rows[key], result.effects.get(key)
        line = lines.setdefault(row.label.partition(";")[0], {})
        line |= {f"{dataset}, mIoU, %": format_value(row), f"{dataset}, points": format_effect(effect) if effect else ""}
    return pd.DataFrame(lines).T


def numbers(run: CommittedRun[OnePassResult] | None) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name: what side prompts with "++" lose against a row a class with it."""
    cited = {f"one_pass_{dataset}{ending}": f"{dataset}_{asked}_side" for dataset in DATASETS for asked, ending in (("true", ""), ("among", "_among"))}
    return {name: format_effect(run.result.effects[key]) if run else "(not run)" for name, key in cited.items()}
