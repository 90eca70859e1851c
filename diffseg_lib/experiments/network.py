"""Table 3: one network, trained on masks that were drawn, on ours and on a rival's; what share of full supervision do free masks reach?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..applications.crf import Crf
from ..applications.deeplab import POCKET, SCALES, DeepLabV2, Recipe, confusions, load, train
from ..applications.pseudo_labels import Pseudo, with_masks, write_masks
from ..baselines.base import Method
from ..baselines.dense_clip import DenseClip
from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import bootstrap_miou, confusion, miou
from ..evaluation.sources import open_dataset
from ..segmenter import DiffSegmenter
from .pseudo import FOUR, both_means, choose_crf, choose_threshold, paired, score_all

DRAWN, OURS, RIVAL = "drawn masks", "our pseudo-labels", "dense CLIP's pseudo-labels"
POINTS = 100  # of a curve that are kept


def folder_of(name: str) -> str:
    """A row's name as that of a folder."""
    return name.replace(" ", "-").replace("'", "")


def make_masks(
    methods: Mapping[str, Method],
    train_set: Dataset,
    tuning_images: int,
    out: Path,
    min_confidence: float,
    about: Mapping[str, Any],
    candidates: Sequence[Crf] | None,
) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Each method's pseudo-labels of a train split, threshold and CRF fixed on its first images.

    Returns:
        By method, of the images that nothing was fixed on, the confusions on the pixels that the masks label, images C C; and
        facts: the settings, the mean IoU of those, the share of pixels labelled.

    Raises:
        ValueError: if no image is left, or an image has no mask.
    """
    classes = len(train_set.names)
    if not 0 < tuning_images < len(train_set):
        raise ValueError(f"{tuning_images} images to tune on of {len(train_set)}: expected at least one, and one left to measure")
    tuning = score_all(methods, replace(train_set, ids=train_set.ids[:tuning_images]))
    found = {}
    for name, method in methods.items():
        threshold = choose_threshold(tuning, name, classes)
        pseudo = Pseudo(threshold, choose_crf(tuning, name, threshold, classes, candidates), min_confidence)
        folder = out / folder_of(name)
        if errors := write_masks(train_set, method, pseudo, folder, about):
            raise ValueError(f"{len(errors)} images have no mask, the first: {next(iter(errors.items()))}")
        made = with_masks(train_set, folder)
        counts, kept, seen = [], 0, 0
        for one in train_set.ids[tuning_images:]:
            truth, mask = train_set.load(one).truth, made.load(one).truth
            labelled = mask != VOID
            counts.append(confusion(np.where(labelled, truth, VOID), np.where(labelled, mask, 0), classes))
            kept, seen = kept + int((labelled & (truth != VOID)).sum()), seen + int((truth != VOID).sum())
        found[name] = np.stack(counts), {"pseudo": asdict(pseudo), "miou": float(miou(np.sum(counts, axis=0))), "kept": kept / seen}
    return found


def training_sets(train_set: Dataset, out: Path) -> dict[str, Dataset]:
    """The train split of a study in `out` under each row's masks."""
    return {DRAWN: train_set} | {name: with_masks(train_set, out / "masks" / folder_of(name)) for name in (OURS, RIVAL)}


def networks(out: Path) -> dict[str, DeepLabV2]:
    """The trained networks of a study in `out`, by row."""
    return {name: load(out / folder_of(name))[0] for name in (DRAWN, OURS, RIVAL)}


def network_study(
    segmenter: DiffSegmenter,
    out: Path,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    train_images: int = 200,
    images: int = 100,
    tuning_images: int = 40,
    recipe: Recipe = POCKET,
    min_confidence: float = 0.5,
    multiscale: bool = True,
    candidates: Sequence[Crf] | None = None,
    rival: Method | None = None,
    progress: Callable[[str], Any] = lambda text: None,
) -> dict[str, Any]:
    """Mean IoU on a split that nobody trained on, by the masks that were trained on.

    Args:
        segmenter: of our masks, by the mean of four timesteps.
        out: folder of masks and networks; what is there is not made again.
        dataset, root, split: to open; `split` is what is measured.
        train_images: whose masks are trained on; images: that are measured.
        tuning_images: the first of train, on which thresholds and CRFs are fixed.
        recipe: the same for every network.
        min_confidence: a pseudo-label less probable is void.
        multiscale: test at several scales and mirrored.
        tried: CRF settings to choose from.
        rival: dense CLIP, if it is not to be the profile's.
        progress: progress.

    Returns:
        ``rows``: mean IoU of the networks, with intervals; ``effects``: paired differences; ``masks``: what was trained on; ``curves``:
        (update, loss), thinned; ``reached``: our share of what drawn masks give, percent.
    """
    train_set, test = open_dataset(dataset, root, "train", train_images), open_dataset(dataset, root, split, images)
    profile = segmenter.backbone.profile
    methods: dict[str, Method] = {OURS: both_means(segmenter)[FOUR], RIVAL: rival or DenseClip.from_path(profile.clip, device=str(segmenter.backbone.device))}
    masks = make_masks(methods, train_set, tuning_images, out / "masks", min_confidence, {"profile": profile.name, "seed": segmenter.config.seed}, candidates)
    progress("masks written")
    found, curves = {}, {}
    for name, trained_on in training_sets(train_set, out).items():
        folder = train(trained_on, recipe, out / folder_of(name))
        network, _ = load(folder)
        losses = np.loadtxt(folder / "curve.csv", delimiter=",", skiprows=1, ndmin=2)
        width = max(1, len(losses) // POINTS)
        curves[name] = [[int(part[-1, 0]), float(part[:, 1].mean())] for part in np.array_split(losses, max(1, len(losses) // width))]
        found[name] = confusions(network, test, SCALES if multiscale else (1.0,), multiscale)
        progress(f"{name}: trained and measured")
    rows: dict[str, dict[str, Any]] = {name: {"value": float(miou(one.sum(0))), "ci95": bootstrap_miou(one), "images": len(one)} for name, one in found.items()}
    effects = {f"{OURS} minus {other}": paired(found[OURS], found[other]) for other in (RIVAL, DRAWN)}
    effects[f"masks: {OURS} minus {RIVAL}"] = paired(masks[OURS][0], masks[RIVAL][0])
    return {
        "rows": rows,
        "effects": effects,
        "masks": {name: facts for name, (_, facts) in masks.items()},
        "curves": curves,
        "reached": 100 * rows[OURS]["value"] / rows[DRAWN]["value"],
        "recipe": asdict(recipe),
        "train_images": len(train_set),
        "images": len(test),
        "seeds": [recipe.seed],
        "dataset": dataset,
    }
