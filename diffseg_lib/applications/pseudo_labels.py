"""Masks nobody drew: pseudo-labels from image-level labels (Sec. 4.3, Wang et al. 2023), written as VOC writes its own.

``OUT/manifest.json`` says by which settings; ``OUT/VOCdevkit/VOC2012/SegmentationClass/ID.png`` are palette images, 255 where the
method is unsure; ``ImageSets/Segmentation/SPLIT.txt`` lists those that are there. A mask is written under another name and renamed, so
that the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ..baselines.base import Method
from ..data import Dataset, read_mask
from ..data.samples import VOID, Files
from ..support.files import RunError, atomic_write, claim, write_text
from ..support.identity import digest_files
from ..support.images import save_labels
from ..support.settings import PLAIN, Share, settings
from .crf import Crf, probabilities, refine

TIMESTEPS = (1, 50, 100, 150)  # whose mean the paper takes for weak supervision
MASKS, LISTS = Path("VOCdevkit/VOC2012/SegmentationClass"), Path("VOCdevkit/VOC2012/ImageSets/Segmentation")


@settings
class Pseudo:
    """How scores become a mask.

    Args:
        threshold: Score of the background, above 0 and up to 1.
        crf: The dense CRF that refines the probabilities, or None.
        min_confidence: Pixels whose most probable label is less probable than this become void (255), 0 to 1.

    Raises:
        ValueError: On numbers out of range, values of another type, or an unknown name.
    """

    threshold: Annotated[float, Field(gt=0, le=1), PLAIN]
    crf: Crf | None = None
    min_confidence: Share = 0.0

    def mask(self, image: np.ndarray, scores: np.ndarray, labels: tuple[int, ...]) -> np.ndarray:
        """Labels of an image: H W, uint8, 0 background, 255 void.

        Args:
            image: The picture, H W 3, uint8.
            scores: Scores of the k classes, k H W in [0, 1].
            labels: Labels of the k score maps.
        """
        given = probabilities(scores, self.threshold)
        found = given if self.crf is None else refine(image, given, self.crf)
        places = np.array([0, *labels], np.uint8)
        return np.where(found.max(0) >= self.min_confidence, places[found.argmax(0)], VOID).astype(np.uint8)


def with_masks(dataset: Dataset, folder: str | Path) -> Dataset:
    """The same pictures, with the masks of another folder for the truth: those that are there.

    Args:
        dataset: The data set whose pictures are kept.
        folder: The folder that :func:`write_masks` wrote.

    Raises:
        FileNotFoundError: If it holds no masks.
    """
    masks = Path(folder) / MASKS
    there = {path.stem for path in masks.glob("*.png")}
    ids = [name for name in dataset.ids if name in there]
    if not ids:
        known = f"the {len(dataset)} images of {dataset.name}, {dataset.split}"
        raise FileNotFoundError(f"{masks} holds no mask of {known}: expected ID.png, as pseudo-labels are written")
    manifest = Path(folder) / "manifest.json"  # by which settings
    told = f" ({digest_files([manifest])})" if manifest.is_file() else ""
    files = Files((manifest,), lambda name: (masks / f"{name}.png",))
    return dataset.with_truth(ids, lambda name: read_mask(masks / f"{name}.png"), f"masks from {Path(folder).name}{told}", files)


def write_masks(
    dataset: Dataset, method: Method, pseudo: Pseudo, out: str | Path, about: Mapping[str, Any], progress: Callable[[str, str], Any] = lambda name, error: None
) -> dict[str, str]:
    """Write the mask of every image that has none yet; the classes present are given (image-level labels).

    Args:
        dataset: The data set; its truth is read for the names of the classes present, and for nothing else.
        method: The method whose scores become masks.
        pseudo: How scores become masks.
        out: The folder to write into.
        about: Further facts of the manifest, e.g. models and seed.
        progress: Called with every image's id and its error ("" where there is none).

    Returns:
        Errors by image id; images that cannot be read or segmented have no mask and are not listed.

    Raises:
        RunError: If the folder holds masks by other settings, or cannot be written.
    """
    top = Path(out)
    facts = {"dataset": dataset.name, "split": dataset.split, "data": dataset.fingerprint(), "names": list(dataset.names), "pseudo": asdict(pseudo)}
    errors: dict[str, str] = {}
    try:
        claim(top, facts | dict(about))
        for folder in (MASKS, LISTS):
            (top / folder).mkdir(parents=True, exist_ok=True)
        for name in dataset.ids:
            target = top / MASKS / f"{name}.png"
            if not target.is_file():
                try:
                    mask = _mask(dataset, method, pseudo, name)
                except ValueError as error:
                    errors[name] = " ".join(str(error).split())
                    progress(name, errors[name])
                    continue
                with atomic_write(target) as file:
                    save_labels(mask, file)
            progress(name, "")
        done = [name for name in dataset.ids if (top / MASKS / f"{name}.png").is_file()]
        write_text(top / LISTS / f"{dataset.split}.txt", "\n".join(done) + "\n")
    except OSError as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{top} cannot be written ({error}); masks that are there are whole, and the same command goes on") from error
    return errors


def _mask(dataset: Dataset, method: Method, pseudo: Pseudo, name: str) -> np.ndarray:
    sample = dataset.load(name)
    if not sample.classes:
        return np.zeros(sample.truth.shape, np.uint8)
    labels = tuple(dataset.names.index(one) for one in sample.classes)
    return pseudo.mask(sample.image, method(sample.image, dataset.words(sample.classes)).scores, labels)
