"""Table 3: one network, trained on masks that were drawn, on ours and on a rival's; what share of full supervision do free masks reach?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..applications.crf import Crf
from ..applications.deeplab import POCKET, SCALES, Recipe, confusions, load, train
from ..applications.pseudo_labels import Pseudo, with_masks, write_masks
from ..baselines.base import Method
from ..baselines.dense_clip import DenseClip
from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import confusion, interval_text, miou
from ..evaluation.sources import open_splits
from ..segmenter import DiffSegmenter
from ..support.identity import describe_code, model_keys
from .claims import effect_texts, effect_verdict
from .kept_labels import PICTURED, KeptLabels, keep_labels, labels_of
from .measure import Estimate, StudyResult, paired_miou, pooled_miou
from .pseudo import FOUR, both_means, choose_crf, choose_threshold, score_all

DRAWN, OURS, RIVAL = "drawn", "ours", "rival"
LABELS: Mapping[str, str] = {DRAWN: "drawn masks", OURS: "our pseudo-labels", RIVAL: "dense CLIP's pseudo-labels"}
POINTS = 100  # of a curve that are kept


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Pseudo-labels that a network was trained on.

    Args:
        pseudo: Threshold, CRF and least probability with which they were made.
        miou: Their mean IoU, percent, on the pixels that they label of the images that nothing was fixed on.
        kept: The share of those images' pixels that has a label, 0 to 1.
    """

    pseudo: Pseudo
    miou: float
    kept: float


@dataclass(frozen=True, kw_only=True)
class NetworkResult(StudyResult):
    """Networks by the masks that they were trained on: "drawn", "ours", "rival" (:data:`LABELS`).

    ``effects`` are "ours_minus_rival", "ours_minus_drawn", and, of the masks themselves, "masks_ours_minus_rival".

    Args:
        masks: What was trained on, of "ours" and "rival".
        curves: The loss of each network on its own masks: (update, loss), thinned.
        reached: Our share of what drawn masks give, percent.
        recipe: How every network was trained.
        train_images: The number of images that were trained on.
        shown: Labels of the first measured images by every network; None of a run that kept none.
    """

    masks: Mapping[str, Masks]
    curves: Mapping[str, tuple[tuple[int, float], ...]]
    reached: float
    recipe: Recipe
    train_images: int
    shown: KeptLabels | None = None
    words: ClassVar[str] = "none"


def make_masks(
    methods: Mapping[str, Method],
    train_set: Dataset,
    tuning_images: int,
    out: Path,
    min_confidence: float,
    about: Mapping[str, Any],
    candidates: Sequence[Crf] | None,
) -> dict[str, tuple[np.ndarray, Masks]]:
    """Each method's pseudo-labels of a train split, threshold and CRF fixed on its first images.

    Returns:
        By method, of the images that nothing was fixed on, the confusions on the pixels that the masks label, images C C; and
        what these masks are.

    Raises:
        ValueError: If no image is left, or an image has no mask.
    """
    classes = len(train_set.names)
    if not 0 < tuning_images < len(train_set):
        raise ValueError(f"{tuning_images} images to tune on of {len(train_set)}: expected at least one, and one left to measure")
    tuning = score_all(methods, replace(train_set, ids=train_set.ids[:tuning_images]))
    found = {}
    for name, method in methods.items():
        threshold = choose_threshold(tuning, name, classes)
        pseudo = Pseudo(threshold, choose_crf(tuning, name, threshold, classes, candidates), min_confidence)
        folder = out / name
        if errors := write_masks(train_set, method, pseudo, folder, about):
            raise ValueError(f"{len(errors)} images have no mask, the first: {next(iter(errors.items()))}")
        made = with_masks(train_set, folder)
        counts, kept, seen = [], 0, 0
        for one in train_set.ids[tuning_images:]:
            truth, mask = train_set.load(one).truth, made.load(one).truth
            labelled = mask != VOID
            counts.append(confusion(np.where(labelled, truth, VOID), np.where(labelled, mask, 0), classes))
            kept, seen = kept + int((labelled & (truth != VOID)).sum()), seen + int((truth != VOID).sum())
        found[name] = np.stack(counts), Masks(pseudo=pseudo, miou=float(miou(np.sum(counts, axis=0))), kept=kept / seen)
    return found


def training_sets(train_set: Dataset, out: Path) -> dict[str, Dataset]:
    """The train split of a study in `out` under each row's masks."""
    return {DRAWN: train_set} | {name: with_masks(train_set, out / "masks" / name) for name in (OURS, RIVAL)}


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
) -> NetworkResult:
    """Mean IoU on a split that nobody trained on, by the masks that were trained on.

    Args:
        segmenter: The model of our masks, by the mean of four timesteps.
        out: Folder of masks and networks; what is there is not made again.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured; masks of train are trained on, and no image of them is measured.
        train_images: The number of images of train.
        images: The number of images of `split`.
        tuning_images: The number of the first images of train, on which thresholds and CRFs are fixed.
        recipe: How every network is trained.
        min_confidence: The least probability of a pseudo-label, 0 to 1; a pixel less sure is void.
        multiscale: Test at several scales and mirrored.
        candidates: CRF settings to choose from; None is :func:`~diffseg_lib.experiments.pseudo.grid`.
        rival: The rival's method; None is dense CLIP with the CLIP of the segmenter's profile.
        progress: Called with a line after each step.
    """
    train_set, test = open_splits(dataset, root, split, train_images, images)
    profile = segmenter.backbone.profile
    rival = rival or DenseClip.from_path(profile.clip, device=str(segmenter.backbone.device), pickled=profile.pickled_weights)
    methods: dict[str, Method] = {OURS: both_means(segmenter)[FOUR], RIVAL: rival}
    about = {"models": model_keys(profile), "config": asdict(segmenter.resolved), "code": describe_code("experiments.network")}
    masks = make_masks(methods, train_set, tuning_images, out / "masks", min_confidence, about, candidates)
    progress("masks written")
    found, curves, shown = {}, {}, {}
    for name, trained_on in training_sets(train_set, out).items():
        folder = train(trained_on, recipe, out / name)
        network, _ = load(folder)
        losses = np.loadtxt(folder / "curve.csv", delimiter=",", skiprows=1, ndmin=2)
        width = max(1, len(losses) // POINTS)
        curves[name] = tuple((int(part[-1, 0]), float(part[:, 1].mean())) for part in np.array_split(losses, max(1, len(losses) // width)))
        found[name] = confusions(network, test, SCALES if multiscale else (1.0,), multiscale)
        shown[name] = labels_of(network, test.first(PICTURED))
        progress(f"{LABELS[name]}: trained and measured")
    rows = {name: pooled_miou(one, LABELS[name]) for name, one in found.items()}
    effects = {
        f"{OURS}_minus_{other}": paired_miou(found[OURS], found[other], f"{LABELS[OURS]} minus {LABELS[other]}", seeds=(recipe.seed,))
        for other in (RIVAL, DRAWN)
    }
    label = f"masks: {LABELS[OURS]} minus {LABELS[RIVAL]}"
    effects[f"masks_{OURS}_minus_{RIVAL}"] = paired_miou(masks[OURS][0], masks[RIVAL][0], label, seeds=(segmenter.config.seed,))
    return NetworkResult(
        rows=rows,
        effects=effects,
        masks={name: made for name, (_, made) in masks.items()},
        curves=curves,
        reached=100 * rows[OURS].value / rows[DRAWN].value,
        recipe=recipe,
        train_images=len(train_set),
        shown=keep_labels(shown),
        images=len(test),
        seeds=(recipe.seed,),
        dataset=test.name,
    )


def masks_table(masks: Mapping[str, Masks]) -> Any:
    """What networks were trained on, as a table (pandas)."""
    import pandas as pd

    lines = {}
    for name, one in masks.items():
        line = {"mIoU of the masks, %": f"{one.miou:.1f}", "pixels with a label": f"{one.kept:.0%}"}
        lines[LABELS[name]] = line | {"threshold": f"{one.pseudo.threshold:.2f}"}
    return pd.DataFrame(lines).T


def network_table(rows: Mapping[str, Estimate]) -> Any:
    """Mean IoU of networks, as a table (pandas)."""
    import pandas as pd

    return pd.DataFrame({row.label: {"mIoU, %": f"{row.value:.1f}", "95 % interval": interval_text(row.ci95, row.images)} for row in rows.values()}).T


def numbers(result: NetworkResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    over, rows = f"{OURS}_minus_{RIVAL}", result.rows
    return {
        "network_images": str(result.images),
        "network_train": str(result.train_images),
        "network_updates": str(result.recipe.iterations),
        **{f"network_{name}": f"{rows[name].value:.0f}" for name in (DRAWN, OURS, RIVAL)},
        "network_reached": f"{result.reached:.0f} %",
        "network_masks": f"{result.masks[OURS].miou:.0f}",
        **effect_texts(result.effects, {"network_over_rival": over, "network_masks_effect": f"masks_{over}"}),
        "network_verdict": effect_verdict(result.effects[over]),
    }
