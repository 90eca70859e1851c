"""What came after the paper, on one evaluator: every refinement on the same pictures, words, noise and rule for thresholds, and the best of their combinations.

Protocol: the true class words of each picture are given to every method; each method's threshold, the choice of heads and the best combination are fixed on
images of train; one seed of the noise. Methods that need the same call of the UNet read one recording; what a method costs is measured apart, alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ..baselines.attention import Attention
from ..baselines.base import Method
from ..baselines.dense_clip import DenseClip
from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import best_threshold, boundary_band, confusions_at, count_scores
from ..evaluation.sources import open_splits, with_masks
from ..refinements.base import Refined, Refinement
from ..refinements.combined import PAIRS, SINGLES, Combination
from ..refinements.elbo_t2i import class_losses, exponents
from ..refinements.heads import Head, choose_heads, selected_heads
from ..refinements.registry import REFINEMENTS
from ..scoremaps import label, upsample
from ..segmenter import DiffSegmenter
from ..support.images import to_numpy
from ..support.memory import tensor_peak
from ..support.paths import POCKET
from .claims import effect_verdict
from .measure import Counts, Effect, Estimate, Measured, Row, Store, StudyResult, format_effect, format_value, measure, paired_miou, pooled_miou, side_of_zero

OURS, FUSED, SINGLE, PAIR = "ours", "fused", "single", "pair"
COMBINATIONS: Mapping[str, Combination] = {**SINGLES, **PAIRS}
DATASETS = ("voc", "context")
BAND = 3  # px to each side of an edge
PART = 20  # images of a part that is kept
EDGES = "edges/"  # before the name of a variant whose counts are those near edges


METHODS: Mapping[str, str] = {  # the methods of the comparison by their names for people
    OURS: "the paper's completion",
    FUSED: "fused maps alone",
    "iseg": "iSeg",
    "cliper": "CLIPer",
    "faseg": "FA-Seg",
    "chains": "attention chains",
    "nerve": "NERVE",
    "goca": "GoCA",
    "heads": "chosen heads",
    "elbo-t2i": "ELBO-T2IAlign",
    "text-to-seed": "Text-to-Seed's seeds",
    "diffcut": "DiffCut + CLIP",
    "diffseg": "DiffSeg + CLIP",
}


@dataclass(frozen=True, kw_only=True)
class SuccessorRow(Row):
    """A method on one data set.

    Args:
        edges: Mean IoU of the pixels within :data:`BAND` px of an edge of the truth, percent, at the same threshold.
        unet_rows: Rows of the UNet an image, counted on the images of `costed`.
        seconds: Seconds an image, on the processor those of one core however busy the machine is; on the images of `costed`.
        mib: MiB that tensors take at the peak beside the models, the mean over the images of `costed`.
        costed: The number of images that costs were measured on, the method alone.
    """

    edges: Estimate
    unet_rows: float
    seconds: float
    mib: float
    costed: int


@dataclass(frozen=True, kw_only=True)
class SuccessorResult(StudyResult):
    """Every method on every data set.

    ``rows`` are "voc/iseg" and so on: the keys of :data:`METHODS`, and the best on train of one completion, "single", and of parts of two refinements, "pair".
    ``effects`` are "voc/iseg_minus_ours" and so on for every row but ours, "voc/iseg_minus_fused", "voc/pair_minus_single", "voc/diffcut_minus_diffseg", and
    at edges "voc/edges_iseg_minus_ours".

    Args:
        rows: The methods' rows.
        search: Mean IoU of each combination on train at its best threshold there, percent, the mean over the data sets: what the next two were chosen by.
        single: Key of the best single completion.
        pair: Key of the best parts of two refinements.
        heads: The chosen heads, as layer and number.
        train_images: The number of images of train of each data set.
        datasets: Names of the data sets.
    """

    rows: Mapping[str, SuccessorRow]
    search: Mapping[str, Estimate]
    single: str
    pair: str
    heads: tuple[tuple[str, int], ...]
    train_images: int
    datasets: tuple[str, ...]

    @property
    def best(self) -> str:
        """Key of the best combination on train, of one completion or of two refinements: what the recipe "best" sets."""
        return max((self.single, self.pair), key=lambda name: self.search[name].value)


@dataclass(frozen=True)
class Bench:
    """The models and choices that all methods share.

    Args:
        segmenter: The diffusion model.
        clip: CLIP that names regions.
        heads: The chosen heads.
    """

    segmenter: DiffSegmenter
    clip: DenseClip
    heads: tuple[Head, ...]

    def refinement(self, name: str) -> Refinement:
        """A method's refinement, the chosen heads in it."""
        one = REFINEMENTS[name]
        return replace(one, refine=partial(selected_heads, heads=self.heads)) if name == "heads" else one

    def method(self, name: str) -> Method:
        """A method, or a combination by its key, alone as it would be used."""
        if name in (OURS, FUSED):
            return Attention(self.segmenter, "diffsegmenter" if name == OURS else "cross")
        if name not in REFINEMENTS:
            return Refined(self.segmenter, _alone(COMBINATIONS[name], self.heads))
        return Refined(self.segmenter, self.refinement(name), self.clip if self.refinement(name).unsupervised else None)

    def maps(self, image: np.ndarray, words: Sequence[str], combinations: Mapping[str, Combination]) -> Iterator[tuple[str, Tensor]]:
        """Maps of every method on one image, k h w, and of combinations, by their keys; what needs the same call of the UNet shares one."""
        segmenter = self.segmenter
        whole = Refined(segmenter, Refinement(None, "all", heads=True))  # type: ignore[arg-type]
        found, content = whole.record(image, words), Refined(segmenter, REFINEMENTS["goca"]).record(image, words)
        powers = exponents(class_losses(segmenter, image, words)[0])
        yield OURS, replace(whole, refinement=Refinement(SINGLES[OURS].refine)).refine(found)
        yield FUSED, replace(whole, refinement=Refinement(lambda recording, fused: fused)).refine(found)
        empty = Refined(segmenter, Refinement(None, "all", projections=("self",))).record_empty(image)  # type: ignore[arg-type]
        similarities = self.clip.similarities(image, words)
        for name in REFINEMENTS:
            one = Refined(segmenter, self.refinement(name))
            if one.refinement.unsupervised:
                yield name, one.name(empty, similarities)
            else:
                yield name, one.refine(content if one.refinement.content else found, powers if one.refinement.calibrated else None)
        for name, combination in combinations.items():
            yield name, _combined(whole, combination, found, content, powers, self.heads)


def open_bench(segmenter: DiffSegmenter, heads: Sequence[Head]) -> Bench:
    """The bench of a segmenter, with the CLIP of its profile."""
    known = segmenter.backbone.profile
    clip = DenseClip.from_path(known.clip, device=str(segmenter.backbone.device), pickled=known.pickled_weights)
    return Bench(segmenter, clip, tuple(heads))


def _alone(combination: Combination, heads: tuple[Head, ...]) -> Refinement:
    """A combination as a refinement of its own; where it takes GoCA's maps its fused ones, which nothing then reads, are of content words too."""
    goca = combination.maps == "goca"

    def refine(recording: Any, fused: Tensor, powers: Tensor | None = None) -> Tensor:
        return combination.refine(recording, fused, powers, heads, recording if goca else None)

    which, projections = "all" if "faseg" in combination.completions else "finest", ("self", "cross") if goca else ()
    return Refinement(refine, which, combination.maps != "fused", projections, goca, combination.calibrated)


def _combined(whole: Refined, combination: Combination, found: Any, content: Any, powers: Tensor, heads: tuple[Head, ...]) -> Tensor:
    beside = iter([one for recordings in content for one in recordings])

    def refine(recording: Any, fused: Tensor, given: Tensor) -> Tensor:
        return combination.refine(recording, fused, given, heads, next(beside))

    return replace(whole, refinement=Refinement(refine)).refine(found, powers)


def _count(bench: Bench, dataset: Dataset, combinations: Mapping[str, Combination]) -> Counts:
    """Score histograms of every variant on every image, over the whole image and, under :data:`EDGES`, near edges."""
    found: Counts = {}
    for sample in dataset:
        labels = [dataset.names.index(name) for name in sample.classes]
        band = np.where(boundary_band(sample.truth, BAND), sample.truth, VOID)
        for name, maps in bench.maps(sample.image, dataset.words(sample.classes), combinations):
            scores = to_numpy(upsample(maps, sample.truth.shape, bench.segmenter.config.final_norm))
            found.setdefault(name, []).append(count_scores(sample.truth, scores, labels, len(dataset.names)))
            found.setdefault(EDGES + name, []).append(count_scores(band, scores, labels, len(dataset.names)))
    return found


def _in_parts(bench: Bench, dataset: Dataset, combinations: Mapping[str, Combination], store: Store, key: Mapping[str, Any]) -> Counts:
    """Counts of a data set, some images at a time, so that a run that was cut off goes on and a larger one begins with a smaller one's parts."""
    found: Counts = {}
    for start in range(0, len(dataset), PART):
        part = replace(dataset, ids=dataset.ids[start : start + PART])
        asked = {**key, "data": part.fingerprint(), "combinations": combinations, "heads": bench.heads}
        for name, histograms in store.counts(asked, partial(_count, bench, part, combinations)).items():
            found.setdefault(name, []).extend(histograms)
    return found


def costs(method: Method, dataset: Dataset, device: str = "cpu") -> dict[str, float]:
    """What a method costs an image: rows of the UNet, seconds, MiB at the peak; one call before is not counted.

    Args:
        method: The method.
        dataset: The images, each asked for its own classes.
        device: Kind of device that it runs on.
    """
    samples = [(one.image, dataset.words(one.classes)) for one in dataset]
    method(*samples[0])
    clock = time.process_time if device == "cpu" else time.perf_counter
    rows, peaks, started = 0, 0.0, clock()
    for sample in samples:
        rows += method(*sample).calls
    seconds = clock() - started
    for sample in samples:
        peaks += tensor_peak(partial(method, *sample), device)
    count = len(samples)
    return {"unet_rows": rows / count, "seconds": seconds / count, "mib": peaks / count, "costed": count}


def successor_study(
    segmenter: DiffSegmenter,
    roots: Mapping[str, str] | None = None,
    split: str = "val",
    train_images: int = 60,
    images: int = 300,
    seed: int = 0,
    costed: int = 4,
    store: Store | None = None,
) -> SuccessorResult:
    """Every method that came after the paper, on the same images.

    Args:
        segmenter: The model; its profile gives timestep and weights, its seed is replaced by `seed`.
        roots: Folder of each data set that is measured; None is the pocket world's two, :data:`DATASETS`.
        split: The split that is measured; all that is chosen is chosen on train.
        train_images: The number of images of train of each data set; heads are chosen on the first data set's.
        images: The number of images of `split` of each data set.
        seed: Seed of the noise.
        costed: The number of images that costs are measured on.
        store: Keeps the parts; None keeps nothing.
    """
    store, segmenter = store or Store(), segmenter.with_config(seed=seed)
    opened = {name: open_splits(name, root, split, train_images, images) for name, root in (roots or dict.fromkeys(DATASETS, "")).items()}
    bench = open_bench(segmenter, choose_heads(segmenter, with_masks(next(iter(opened.values()))[0])))
    key = {"study": "successors", "seed": seed, "band": BAND}
    further = {name: one for name, one in COMBINATIONS.items() if name not in METHODS}
    train = {name: _in_parts(bench, one, further, store, key) for name, (one, _) in opened.items()}
    search = {
        name: _on_train([train[data][name] for data in opened], [len(opened[data][0].names) for data in opened], one.label)
        for name, one in COMBINATIONS.items()
    }
    single, pair = (max(some, key=lambda name: search[name].value) for some in (SINGLES, PAIRS))
    rows: dict[str, SuccessorRow] = {}
    effects: dict[str, Effect] = {}
    for data, (_, test) in opened.items():
        counted = _in_parts(bench, test, {name: further[name] for name in (single, pair) if name in further}, store, key)
        labels = {**METHODS, SINGLE: f"best single: {search[single].label}", PAIR: f"best pair: {search[pair].label}"}
        keys = {name: name for name in METHODS} | {SINGLE: single, PAIR: pair}
        measured = measure([_named(train[data], keys)], [_named(counted, keys)], len(test.names), [seed], labels)
        edges = {name: confusions_at(counted[EDGES + key], measured.rows[name].threshold, len(test.names)) for name, key in keys.items()}
        first = test.first(min(costed, len(test)))
        for name, row in measured.rows.items():
            cost: Any = costs(bench.method(keys[name]), first, segmenter.backbone.device.type)
            rows[f"{data}/{name}"] = SuccessorRow(**vars(row), edges=pooled_miou(edges[name], f"{row.label}, at edges"), **cost)
        effects |= {f"{data}/{name}": one for name, one in _effects(measured, edges, seed).items()}
    return SuccessorResult(
        rows=rows,
        effects=effects,
        search=search,
        single=single,
        pair=pair,
        heads=bench.heads,
        train_images=train_images,
        datasets=tuple(opened),
        seeds=(seed,),
        images=min(len(test) for _, test in opened.values()),
        dataset=", ".join(test.name for _, test in opened.values()),
    )


def _named(counts: Counts, keys: Mapping[str, str]) -> Counts:
    return {name: counts[key] for name, key in keys.items()}


def _on_train(counts: Sequence[Sequence[Any]], classes: Sequence[int], told: str) -> Estimate:
    """Mean over data sets of the mean IoU at the best threshold of each; it has no interval, being chosen by."""
    values = [best_threshold(one, number)[1] for one, number in zip(counts, classes, strict=True)]
    return Estimate(label=told, value=float(np.mean(values)), ci95=None, images=sum(len(one) for one in counts))


def _effects(measured: Measured, edges: Mapping[str, np.ndarray], seed: int) -> dict[str, Effect]:
    found = {f"{name}_minus_{OURS}": measured.effect(name, OURS) for name in measured.rows if name != OURS}
    found |= {f"{name}_minus_{FUSED}": measured.effect(name, FUSED) for name in METHODS if name != FUSED}
    found |= {"pair_minus_single": measured.effect(PAIR, SINGLE), "diffcut_minus_diffseg": measured.effect("diffcut", "diffseg")}
    for name in measured.rows:
        if name != OURS:
            told = f"at edges: {measured.rows[name].label} minus {measured.rows[OURS].label}"
            found[f"edges_{name}_minus_{OURS}"] = paired_miou(edges[name], edges[OURS], told, seeds=(seed,))
    return found


def label_scenes(segmenter: DiffSegmenter, result: SuccessorResult, dataset: Dataset) -> list[dict[str, np.ndarray]]:
    """Labels (H W, of the data set) of each of its images by every row of a result, by the rows' labels, at the rows' thresholds.

    Args:
        segmenter: The diffusion model.
        result: What was measured on this data set.
        dataset: The images.
    """
    bench, name = open_bench(segmenter.with_config(seed=result.seeds[0]), result.heads), dataset.name.removeprefix(f"{POCKET}-")
    keys = {one: one for one in METHODS} | {SINGLE: result.single, PAIR: result.pair}
    found = []
    for sample in dataset:
        maps = dict(bench.maps(sample.image, dataset.words(sample.classes), {key: COMBINATIONS[key] for key in keys.values() if key not in METHODS}))
        numbers = np.array([0, *(dataset.names.index(one) for one in sample.classes)])
        labels = {}
        for one, key in keys.items():
            row = result.rows[f"{name}/{one}"]
            scores = upsample(maps[key], sample.truth.shape, segmenter.config.final_norm)
            labels[row.label] = numbers[to_numpy(label(scores, row.threshold))]
        found.append(labels)
    return found


def successor_table(result: SuccessorResult, dataset: str) -> Any:
    """The rows of one data set as a table (pandas), the best mean IoU first."""
    import pandas as pd

    lines = {}
    for name, row in rows_of(result, dataset).items():
        effect = result.effects.get(f"{dataset}/{name}_minus_{OURS}")
        line = {"mIoU, %": format_value(row), "minus the paper's": format_effect(effect) if effect else ""}
        line |= {"mIoU at edges, %": format_value(row.edges), "UNet rows": f"{row.unet_rows:.1f}", "seconds": f"{row.seconds:.2f}", "MiB": f"{row.mib:.0f}"}
        lines[row.label] = line | {"images": row.images}
    return pd.DataFrame(lines).T


def rows_of(result: SuccessorResult, dataset: str) -> dict[str, SuccessorRow]:
    """The rows of one data set by their names without it, the best mean IoU first."""
    found = {key.partition("/")[2]: row for key, row in result.rows.items() if key.startswith(f"{dataset}/")}
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def search_table(result: SuccessorResult) -> Any:
    """What was tried on train, as a table (pandas), the best first."""
    import pandas as pd

    kinds = {**dict.fromkeys(SINGLES, "one refinement"), **dict.fromkeys(PAIRS, "parts of several")}
    ranked = sorted(result.search.items(), key=lambda item: -item[1].value)
    return pd.DataFrame({one.label: {"train mIoU, % (chosen by)": f"{one.value:.1f}", "kind": kinds[name]} for name, one in ranked}).T


def _both(result: SuccessorResult, name: str) -> str:
    return " and ".join(format_effect(result.effects[f"{data}/{name}"]) for data in result.datasets)


def _named_by_side(result: SuccessorResult, side: int) -> str:
    """The methods whose difference from the paper's keeps to one side of zero on every data set, with both differences."""
    names = [one for one in METHODS if one != OURS and all(side_of_zero(result.effects[f"{data}/{one}_minus_{OURS}"]) == side for data in result.datasets)]
    return "; ".join(f"{METHODS[one]} {_both(result, f'{one}_minus_{OURS}')}" for one in names) or "none"


def numbers(result: SuccessorResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    first, best = result.datasets[0], SINGLE if result.best == result.single else PAIR
    ours = result.rows[f"{first}/{OURS}"]
    dearest = max(METHODS, key=lambda name: result.rows[f"{first}/{name}"].seconds)
    widest = max(METHODS, key=lambda name: result.rows[f"{first}/{name}"].mib)
    together = [effect_verdict(result.effects[f"{data}/pair_minus_single"]) for data in result.datasets]
    return {
        "successors_images": str(result.images),
        "successors_train": str(result.train_images),
        "successors_completion": _both(result, f"{OURS}_minus_{FUSED}"),
        "successors_better": _named_by_side(result, 1),
        "successors_worse": _named_by_side(result, -1),
        "successors_single": result.search[result.single].label,
        "successors_pair": result.search[result.pair].label,
        "successors_best": result.search[result.best].label,
        "successors_best_kind": "a single refinement" if best == SINGLE else "parts of several refinements",
        "successors_best_effect": _both(result, f"{best}_minus_{OURS}"),
        "successors_best_edges": _both(result, f"edges_{best}_minus_{OURS}"),
        "successors_together": _both(result, "pair_minus_single"),
        "successors_together_verdict": together[0] if len(set(together)) == 1 else ", then ".join(together),
        "successors_dearest": f"{METHODS[dearest]}, {result.rows[f'{first}/{dearest}'].seconds / ours.seconds:.1f} times the paper's seconds",
        "successors_widest": f"{METHODS[widest]}, {result.rows[f'{first}/{widest}'].mib / ours.mib:.1f} times its memory",
        "successors_edges_nerve": _both(result, f"edges_nerve_minus_{OURS}"),
        "successors_edges_cliper": _both(result, f"edges_cliper_minus_{OURS}"),
    }
