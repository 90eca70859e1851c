"""Why do masks of a high mean IoU teach a network so little? Drawn masks, spoilt in one way each until they are as wrong as the method's own.

Each way (:data:`WAYS`) has a strength; the one at which the masks that are trained on have the mean IoU of the method's is found by
bisection. Then the same network is trained on each, and measured on images that nobody trained on: at equal mean IoU of the masks,
what is left between the networks is the way of being wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.ndimage import label as components

from ..applications.crf import Crf
from ..applications.deeplab import POCKET, Recipe, confusions, load, train
from ..applications.pseudo_labels import MASKS, with_masks
from ..baselines.base import Method
from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import confusion, interval_text, iou
from ..evaluation.sources import open_splits
from ..segmenter import DiffSegmenter
from ..support.files import atomic_write, claim
from ..support.identity import describe_code, model_keys
from ..support.images import save_labels
from .kept_labels import PICTURED, KeptLabels, keep_labels, labels_of
from .measure import StudyResult, format_effect, paired_miou, pooled_miou, side_of_zero
from .network import DRAWN, LABELS, OURS, NetworkResult, make_masks
from .pseudo import FOUR, both_means

RECIPE = replace(POCKET, iterations=1200, crop=64, scales=(0.45, 0.7))  # shorter than the network study's, on pictures of about half the size
SCALE = 0.575  # at which pictures are measured, in the middle of those that are trained on
EIGHT = np.ones((3, 3), int)  # pixels that touch by a corner are of one object
BLOB, SQUARE = 3.0, 16  # px: the width over which the noise behind blobs is smoothed, and the side of a square whose blobs are of one label
NEAR, TOLERANCE = 0.2, 1.0  # points of mean IoU from the one that is asked for at which a search ends, and by which masks may miss it

Spoil = Callable[[np.ndarray, float, np.random.Generator, int], np.ndarray]  # labels without void, strength, generator, number of classes


# -- ways to spoil a mask


@dataclass(frozen=True)
class Way:
    """A way of spoiling masks.

    Args:
        label: The way, for people.
        unit: What its strength is, for people.
        most: The greatest strength that is tried.
        shown: The strength of a picture where none was found.
        spoil: The function; strength 0 changes nothing.
        whole: Whether it befalls things as a whole, a share of them.
    """

    label: str
    unit: str
    most: float
    shown: float
    spoil: Spoil
    whole: bool = False


def fill_void(truth: np.ndarray) -> np.ndarray:
    """Labels H W whose void took the nearest label; all background where there is no label at all."""
    if (truth == VOID).all():
        return np.zeros_like(truth)
    return np.asarray(truth[tuple(distance_transform_edt(truth == VOID, return_distances=False, return_indices=True))])


def objects(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The connected parts of each class but the background: label and mask (H W, bool), in the order of labels and rows."""
    found = []
    for one in np.unique(labels[labels > 0]):
        parts, count = components(labels == one, EIGHT)
        found += [(int(one), parts == i) for i in range(1, count + 1)]
    return found


def _moved(labels: np.ndarray, offsets: Sequence[float]) -> np.ndarray:
    """Each object's edge moved outwards by its offset, px; what an object leaves is background, what it reaches is its own."""
    made, grown = labels.copy(), []
    for (one, mask), offset in zip(objects(labels), offsets, strict=True):
        within = distance_transform_edt(mask) if offset <= 0 else -distance_transform_edt(~mask)
        reached = within > -offset if offset <= 0 else within >= -offset
        made[mask & ~reached] = 0
        grown.append((one, reached & ~mask))
    for one, more in grown:
        made[more] = one
    return made


def uneven_edges(labels: np.ndarray, strength: float, rng: np.random.Generator, classes: int) -> np.ndarray:
    """Every object grown or shrunk by a distance of its own, evenly drawn from -strength to strength px."""
    return _moved(labels, [strength * one for one in rng.uniform(-1, 1, len(objects(labels)))])


def coarse(labels: np.ndarray, strength: float, rng: np.random.Generator, classes: int) -> np.ndarray:
    """Labels in squares of 1 + strength px, each of the label in its middle: a small mask enlarged."""
    rows, columns = (np.minimum(((np.arange(side) // (1 + strength) + 0.5) * (1 + strength)).astype(int), side - 1) for side in labels.shape)
    return labels[np.ix_(rows, columns)]


def void_edges(labels: np.ndarray, strength: float, rng: np.random.Generator, classes: int) -> np.ndarray:
    """Void wherever another label is no farther than strength px."""
    made = labels.copy()
    for one in np.unique(labels):
        mask = labels == one
        if not mask.all():
            made[mask & (distance_transform_edt(mask) <= strength)] = VOID
    return made


def renamed(labels: np.ndarray, strength: float, rng: np.random.Generator, classes: int) -> np.ndarray:
    """A share, strength, of the objects called another class, drawn evenly from all others."""
    made = labels.copy()
    for one, mask in objects(labels):
        chosen, by = rng.random() < strength, int(rng.integers(1, max(2, classes - 1)))
        if chosen and classes > 2:
            made[mask] = (one - 1 + by) % (classes - 1) + 1
    return made


def blobs(labels: np.ndarray, strength: float, rng: np.random.Generator, classes: int) -> np.ndarray:
    """A share, strength, of the pixels in blobs some px wide; each square of the picture has its label, drawn evenly from all, the background included."""
    field = gaussian_filter(rng.normal(size=labels.shape), BLOB)
    order = field.argsort(axis=None).argsort().reshape(field.shape)
    drawn = rng.integers(0, classes, [side // SQUARE + 1 for side in labels.shape]).repeat(SQUARE, 0).repeat(SQUARE, 1)
    return np.where(order < strength * field.size, drawn[: labels.shape[0], : labels.shape[1]], labels).astype(labels.dtype)


def cut(labels: np.ndarray, strength: float, rng: np.random.Generator, classes: int) -> np.ndarray:
    """The lowest part of every object, a share, strength, of its pixels, left to the background: the same part in every image."""
    made = labels.copy()
    for _, mask in objects(labels):
        places = np.flatnonzero(mask)  # row by row, from the top
        made.reshape(-1)[places[len(places) - int(strength * len(places)) :]] = 0
    return made


WAYS: Mapping[str, Way] = {
    "uneven": Way("edges moved at random", "px at most, in or out", 30, 5, uneven_edges),
    "coarse": Way("edges made coarse", "px more than one to a square's side", 40, 6, coarse),
    "void": Way("edges left void", "px to each side of an edge", 20, 2, void_edges),
    "renamed": Way("things called another class", "of the things", 1, 0.4, renamed, True),
    "blobs": Way("blobs of any class", "of the pixels", 1, 0.1, blobs),
    "cut": Way("things all cut below", "of a thing's pixels", 1, 0.15, cut),
}


def spoilt(truth: np.ndarray, way: Way, strength: float, classes: int, seed: int, name: str) -> np.ndarray:
    """A mask H W, spoilt; void in the truth stays void, and what is drawn follows from seed and name alone, whatever the strength.

    Args:
        truth: Labels, H W, 0 to classes - 1, 255 void.
        way: The way of spoiling.
        strength: How much of it, 0 to the way's `most`.
        classes: The number of classes, the background included.
        seed: The study's seed.
        name: Id of the image.

    Raises:
        ValueError: If the strength is below 0 or above the way's `most`.
    """
    if not 0 <= strength <= way.most:
        raise ValueError(f"{way.label}: strength {strength}: expected 0 to {way.most} ({way.unit})")
    rng = np.random.default_rng([seed, *name.encode()])
    return np.where(truth == VOID, VOID, way.spoil(fill_void(truth), strength, rng, classes)).astype(np.uint8)


def quality(pairs: Sequence[tuple[np.ndarray, np.ndarray]], classes: int) -> float:
    """Mean IoU of masks, percent: a pixel that a mask leaves void is missed by its true class and found by none; void in the truth is never counted.

    Args:
        pairs: Truth and mask of each image, H W each, labels or 255.
        classes: The number of classes, the background included.

    >>> truth = np.array([[0, 1, 1, 255]])
    >>> quality([(truth, truth)], 2), quality([(truth, np.array([[0, 1, 255, 0]]))], 2)
    (100.0, 75.0)
    """
    total = sum(confusion(truth, np.where(mask == VOID, classes, mask), classes + 1) for truth, mask in pairs)
    return float(100 * np.nanmean(iou(np.asarray(total))[:classes]))


def find_strength(measure: Callable[[float], float], target: float, most: float, tolerance: float = TOLERANCE, steps: int = 12) -> float:
    """The strength at which a value that falls with it, perhaps in steps, comes nearest to a target, by bisection; one within :data:`NEAR` ends the search.

    Args:
        measure: From a strength, 0 to `most`, to the value.
        target: The value to meet.
        most: The greatest strength.
        tolerance: The distance from the target that is let pass.
        steps: Values that are measured at most.

    Raises:
        ValueError: If no strength that was tried comes within the tolerance.

    >>> round(find_strength(lambda strength: 100 - 10 * strength, 86, 8), 1)
    1.4
    """
    low, high, tried = 0.0, most, {}
    for _ in range(steps):
        middle = (low + high) / 2
        tried[middle] = value = measure(middle)
        if abs(value - target) <= NEAR:
            break
        low, high = (middle, high) if value > target else (low, middle)
    best = min(tried, key=lambda one: abs(tried[one] - target))
    if abs(tried[best] - target) > tolerance:
        raise ValueError(f"no strength up to {most} gives {target:.1f} within {tolerance}: the nearest that was found is {tried[best]:.1f}")
    return best


# -- the study


@dataclass(frozen=True, kw_only=True)
class Spoilt:
    """Masks that a network was trained on.

    Args:
        strength: The strength of the way, in its unit; None of masks that were not spoilt here.
        miou: Their mean IoU against the truth, percent, void counted as missed.
        kept: The share of the pixels with a true label that they label, 0 to 1.
    """

    strength: float | None
    miou: float
    kept: float


@dataclass(frozen=True, kw_only=True)
class DegradationResult(StudyResult):
    """Networks by the masks that they were trained on: "drawn", "ours", and a row for each of :data:`WAYS`.

    ``effects`` are "X_minus_drawn" of every other row, and "X_minus_ours" of every way.

    Args:
        masks: What was trained on, by row.
        target: The mean IoU that the spoilt masks were brought to, that of ours, percent.
        recipe: How every network was trained.
        scale: The factor by which pictures are resized before they are measured.
        train_images: The number of images that were trained on.
        shown: Labels of the first measured images by every network.
    """

    masks: Mapping[str, Spoilt]
    target: float
    recipe: Recipe
    scale: float
    train_images: int
    shown: KeptLabels
    words: ClassVar[str] = "none"


def labels_for_people() -> dict[str, str]:
    """What each row's network was trained on, for people."""
    return {DRAWN: LABELS[DRAWN], OURS: LABELS[OURS]} | {name: way.label for name, way in WAYS.items()}


def described(drawn: Dataset, made: Dataset, strength: float | None = None) -> Spoilt:
    """What masks are worth against the drawn ones of the same images."""
    pairs = [(drawn.load(name).truth, made.load(name).truth) for name in made.ids]
    seen = sum(int((truth != VOID).sum()) for truth, _ in pairs)
    kept = sum(int(((truth != VOID) & (mask != VOID)).sum()) for truth, mask in pairs)
    return Spoilt(strength=strength, miou=quality(pairs, len(drawn.names)), kept=kept / max(1, seen))


def spoil_to(dataset: Dataset, way: Way, target: float, seed: int, tolerance: float = TOLERANCE) -> float:
    """The strength at which a way brings a data set's masks to a mean IoU, percent; raises as :func:`find_strength` does."""
    truths, classes = {sample.id: sample.truth for sample in dataset}, len(dataset.names)

    def reached(strength: float) -> float:
        return quality([(truth, spoilt(truth, way, strength, classes, seed, name)) for name, truth in truths.items()], classes)

    return find_strength(reached, target, way.most, tolerance)


def write_spoilt(dataset: Dataset, name: str, strength: float, seed: int, folder: Path) -> Dataset:
    """Write every mask of a data set spoilt in one way, where it is not there yet; returns the data set under these masks.

    Raises:
        RunError: If the folder holds masks of another way, strength, seed or data set.
    """
    claim(folder, {"way": name, "strength": strength, "seed": seed, "data": dataset.fingerprint(), "code": describe_code("experiments.degradation")})
    (folder / MASKS).mkdir(parents=True, exist_ok=True)
    for sample in dataset:
        target = folder / MASKS / f"{sample.id}.png"
        if not target.is_file():
            with atomic_write(target) as file:
                save_labels(spoilt(sample.truth, WAYS[name], strength, len(dataset.names), seed, sample.id), file)
    return with_masks(dataset, folder)


def degradation_study(
    segmenter: DiffSegmenter,
    out: Path,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 250,
    images: int = 300,
    tuning_images: int = 20,
    recipe: Recipe = RECIPE,
    scale: float = SCALE,
    candidates: Sequence[Crf] | None = None,
    ours: Method | None = None,
    tolerance: float = TOLERANCE,
    progress: Callable[[str], Any] = lambda text: None,
) -> DegradationResult:
    """Mean IoU on a split that nobody trained on, by the way in which the masks that were trained on are wrong.

    Args:
        segmenter: The model of our masks, by the mean of four timesteps.
        out: Folder of masks and networks; what is there is not made again.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured.
        train_images: The number of images of train, whose masks are trained on.
        images: The number of images of `split`.
        tuning_images: The number of the first images of train, on which our threshold and CRF are fixed.
        recipe: How every network is trained, and by its seed what masks are spoilt with.
        scale: The factor by which pictures are resized before they are measured.
        candidates: CRF settings to choose from; None is :func:`~diffseg_lib.experiments.pseudo.grid`.
        ours: The method whose masks set the mean IoU; None is the segmenter.
        tolerance: Points of mean IoU by which spoilt masks may miss ours.
        progress: Called with a line after each step.

    Raises:
        ValueError: If a way cannot bring the masks to that mean IoU, and as :func:`~diffseg_lib.experiments.network.make_masks` does.
    """
    train_set, test = open_splits(dataset, root, split, train_images, images)
    about = {"models": model_keys(segmenter.backbone.profile), "config": asdict(segmenter.resolved), "code": describe_code("experiments.network")}
    make_masks({OURS: ours or both_means(segmenter)[FOUR]}, train_set, tuning_images, out / "masks", 0.5, about, candidates)
    sets = {DRAWN: train_set, OURS: with_masks(train_set, out / "masks" / OURS)}
    masks = {name: described(train_set, one) for name, one in sets.items()}
    target = masks[OURS].miou
    progress(f"our masks: mean IoU {target:.1f}")
    for name, way in WAYS.items():
        strength = spoil_to(train_set, way, target, recipe.seed, tolerance)
        sets[name] = write_spoilt(train_set, name, strength, recipe.seed, out / "masks" / name)
        masks[name] = described(train_set, sets[name], strength)
        progress(f"{way.label}: {strength:.3g} {way.unit} gives {masks[name].miou:.1f}")
    found, shown = {}, {}
    for name, one in sets.items():
        network, _ = load(train(one, recipe, out / name))
        found[name], shown[name] = confusions(network, test, (scale,)), labels_of(network, test.first(PICTURED), scale)
        progress(f"{labels_for_people()[name]}: trained and measured")
    told, effect = labels_for_people(), partial(_effect, found, recipe.seed)
    return DegradationResult(
        rows={name: pooled_miou(one, told[name]) for name, one in found.items()},
        effects={f"{name}_minus_{DRAWN}": effect(name, DRAWN) for name in (OURS, *WAYS)} | {f"{name}_minus_{OURS}": effect(name, OURS) for name in WAYS},
        masks=masks,
        target=target,
        recipe=recipe,
        scale=scale,
        train_images=len(train_set),
        shown=keep_labels(shown),
        images=len(test),
        seeds=(recipe.seed,),
        dataset=test.name,
    )


def _effect(found: Mapping[str, np.ndarray], seed: int, first: str, second: str) -> Any:
    told = labels_for_people()
    return paired_miou(found[first], found[second], f"{told[first]} minus {told[second]}", seeds=(seed,))


# -- shown


def masks_of_one(truth: np.ndarray, ours: np.ndarray | None, classes: int, name: str, result: DegradationResult | None) -> dict[str, np.ndarray]:
    """The mask of one image as drawn, as ours and spoilt in every way, H W by its title; what befalls a share of the things befalls all of these.

    Args:
        truth: Its drawn mask, H W.
        ours: Our mask, H W, or None to leave it out.
        classes: The number of classes, the background included.
        name: Id of the image.
        result: The study whose strengths are taken; None takes each way's own.
    """
    made = {LABELS[DRAWN]: truth} | ({} if ours is None else {LABELS[OURS]: ours})
    for key, way in WAYS.items():
        found = None if result is None else result.masks[key].strength
        strength = way.most if way.whole else way.shown if found is None else found
        made[way.label] = spoilt(truth, way, strength, classes, result.seeds[0] if result else 0, name)
    return made


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """Labels of networks that a page shows.

    Args:
        kept: The labels.
        titles: Titles of the networks that are shown, by row.
        told: Whose networks they are, for people.
    """

    kept: KeptLabels
    titles: Mapping[str, str]
    told: str


def pictured(live: NetworkResult, large: NetworkResult | None, spoilt_masks: DegradationResult | None, ids: Sequence[str]) -> Pictured | None:
    """Of runs that kept labels of these very images the first: the larger run, the study of spoilt masks, the page's own; None if no run did.

    Args:
        live: What the page measured.
        large: The larger run.
        spoilt_masks: The study of spoilt masks; of its networks those of drawn masks and of ours are shown.
        ids: Ids of the images that the page can show.
    """
    runs: list[tuple[str, NetworkResult | DegradationResult | None, Sequence[str]]] = [
        ("the larger run", large, tuple(LABELS)),
        ("the smaller study of spoilt masks, as the larger run kept none", spoilt_masks, (DRAWN, OURS)),
        ("this page, and no picture of those measured above", live, tuple(LABELS)),
    ]
    for told, one, names in runs:
        if one is not None and one.shown is not None and set(one.shown.ids) <= set(ids):
            length = f"{one.recipe.iterations} updates on {one.train_images} images"
            return Pictured(kept=one.shown, titles={name: LABELS[name] for name in names}, told=f"{length}, {told}")
    return None


def against_drawn() -> list[str]:
    """The effects of our masks and of every way against drawn masks, by key."""
    return [f"{name}_minus_{DRAWN}" for name in (OURS, *WAYS)]


def degradation_table(result: DegradationResult | None) -> Any:
    """What was trained on and what it taught, as a table (pandas), by the mean IoU of the networks, falling; None gives a line that says so."""
    import pandas as pd

    if result is None:
        return pd.DataFrame({"trained on": ["not run on this profile"]}).set_index("trained on")
    lines = {}
    for name, row in sorted(result.rows.items(), key=lambda one: -one[1].value):
        masks = result.masks[name]
        line = {"strength": "" if masks.strength is None else f"{masks.strength:.2g} {WAYS[name].unit}", "masks: mIoU, %": f"{masks.miou:.1f}"}
        line |= {
            "masks: pixels with a label": f"{masks.kept:.0%}",
            "network: mIoU, %": f"{row.value:.1f}",
            "95 % interval": interval_text(row.ci95, row.images),
        }
        lines[row.label] = line
    return pd.DataFrame(lines).T


def numbers(result: DegradationResult | None) -> dict[str, str]:
    """The numbers and the sentence that the chapter's prose cites, by name."""
    keys = ("target", "images", "train", "updates", "crop", "drawn", "ours", "least", "most", "sentence")
    if result is None:
        return {f"degradation_{key}": "not run" for key in keys}
    by_loss = sorted(WAYS, key=lambda name: result.effects[f"{name}_minus_{DRAWN}"].value)
    told = {name: f"{WAYS[name].label}, {format_effect(result.effects[f'{name}_minus_{DRAWN}'])}" for name in WAYS}
    rows = result.rows
    values = (
        f"{result.target:.0f}",
        str(result.images),
        str(result.train_images),
        str(result.recipe.iterations),
        str(result.recipe.crop),
        f"{rows[DRAWN].value:.0f}",
        f"{rows[OURS].value:.0f}",
        told[by_loss[-1]],
        told[by_loss[0]],
        sentence(result),
    )
    return {f"degradation_{key}": value for key, value in zip(keys, values, strict=True)}


def sentence(result: DegradationResult) -> str:
    """What the networks say of the question, by the sides of zero on which the intervals lie."""
    ours = result.effects[f"{OURS}_minus_{DRAWN}"]
    sides: dict[int | None, list[str]] = {1: [], 0: [], -1: [], None: []}
    for name, way in WAYS.items():
        sides[side_of_zero(result.effects[f"{name}_minus_{OURS}"])].append(way.label)
    if side_of_zero(ours) is None or sides[None]:
        return f"too few images to decide: our masks minus drawn ones, {format_effect(ours)} points"
    if side_of_zero(ours) != -1:
        less = [way.label for name, way in WAYS.items() if side_of_zero(result.effects[f"{name}_minus_{DRAWN}"]) == -1]
        told = f"inconclusive: after so short a training our masks cannot be told from drawn ones, {format_effect(ours)} points: no loss to explain"
        return f"{told}; of the spoilt masks these teach less than drawn ones: {_listed(less) or 'none'}"
    parts = [f"our masks cost the network {format_effect(ours)} points"]
    parts += [f"of the same mean IoU, these teach more than ours: {_listed(sides[1])}"] if sides[1] else []
    parts += [f"these cannot be told from ours: {_listed(sides[0])}"] if sides[0] else []
    parts += [f"these teach less: {_listed(sides[-1])}"] if sides[-1] else []
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
