"""A folder of rendered scenes as photos that nobody labelled: what is found in them, corrected in part by who painted them, teaches a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..applications.deeplab import Recipe, confusions, load, train
from ..data import Dataset, open_photos
from ..evaluation.metrics import bootstrap_miou, confusion, interval_text, miou
from ..pocket.scenes import VOC_NAMES, voc_truth
from ..pocket.world import Scene, compose, paint
from ..support.files import write_json
from ..support.images import Photo


@dataclass(frozen=True)
class Measured:
    """A mean IoU.

    Args:
        label: What was measured, for people.
        value: Mean IoU, 0 to 100, the background among the classes.
        ci95: Its 95 % interval over images; None where there are too few for one.
        images: Number of images.
    """

    label: str
    value: float
    ci95: tuple[float, float] | None
    images: int

    def text(self) -> str:
        """The figure with its interval."""
        return f"{self.value:.0f} ({interval_text(self.ci95, self.images, '.0f')})"


def scenes_with(words: Sequence[str], split: str, images: int, seed: int = 0) -> dict[str, Scene]:
    """The first scenes of a split in which any of the words is to be seen, by the file names of their photos.

    Args:
        words: Names of objects of the pocket world.
        split: Split of the scenes.
        images: Number of scenes.
        seed: Seed of the world.

    Raises:
        ValueError: On a word that is no object of the pocket world.
    """
    if unknown := sorted(set(words) - set(VOC_NAMES[1:])):
        raise ValueError(f"{', '.join(unknown)}: expected objects of the pocket world, {', '.join(VOC_NAMES[1:])}")
    composed = ((f"{split}-{index:04d}.jpg", compose(split, index, seed)) for index in count())
    return dict(islice(((name, scene) for name, scene in composed if set(words) & set(scene.classes)), images))


def write_photos(scenes: Mapping[str, Scene], folder: Path) -> list[Path]:
    """Write scenes as photos; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in scenes.items():
        Image.fromarray(paint(scene)).save(folder / name, quality=95, subsampling=0)
    return [folder / name for name in scenes]


def truth_of(scene: Scene, words: Sequence[str]) -> np.ndarray:
    """What a person would draw of the words: H W, uint8; 0 is all else, i the i-th word, 255 the rims."""
    drawn = voc_truth(scene)
    labels = np.zeros_like(drawn)
    for label, word in enumerate(words, start=1):
        labels[drawn == VOC_NAMES.index(word)] = label
    labels[drawn == 255] = 255
    return labels


def drawn_set(scenes: Mapping[str, Scene], words: Sequence[str]) -> Dataset:
    """Scenes and their truth as a data set, in memory."""
    read = lambda name: (Photo(paint(scenes[name])), truth_of(scenes[name], words))  # noqa: E731
    return Dataset("scenes", "truth", ("background", *words), tuple(words), tuple(scenes), len(scenes), (), read)


def weakest(file: Path, images: int) -> list[str]:
    """The photos of a COCO file whose annotations have the lowest mean score, those without any first: where a person looks first."""
    facts = json.loads(file.read_text(encoding="utf-8"))
    scores: dict[int, list[float]] = {one["id"]: [] for one in facts["images"]}
    for one in facts["annotations"]:
        scores[one["image_id"]].append(one["score"])
    order = sorted(facts["images"], key=lambda one: (float(np.mean(scores[one["id"]] or [0])), one["file_name"]))
    return [one["file_name"] for one in order[:images]]


def corrected(file: Path, target: Path, truths: Mapping[str, np.ndarray]) -> Path:
    """Write a COCO file in which some photos are drawn anew, as CVAT exports masks: uncompressed runs, iscrowd 1, no score; returns its path.

    Args:
        file: The file that was found.
        target: Place of the corrected file.
        truths: Labels by name of photo, H W; the i-th category is i. Rims, 255, are drawn as background.
    """
    facts = json.loads(file.read_text(encoding="utf-8"))
    numbers = {one["file_name"]: one["id"] for one in facts["images"]}
    again = {numbers[name] for name in truths}
    kept = [one for one in facts["annotations"] if one["image_id"] not in again]
    drawn = [one for name, labels in truths.items() for one in _drawn(labels, numbers[name], [c["id"] for c in facts["categories"]])]
    for number, one in enumerate([*kept, *drawn], start=1):
        one["id"] = number
    return write_json(target, facts | {"annotations": [*kept, *drawn]})


def _drawn(labels: np.ndarray, image: int, categories: Sequence[int]) -> Iterator[dict[str, Any]]:
    for category in categories:
        mask = labels == category
        if mask.any():
            flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
            counts = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            runs = {"counts": counts, "size": list(mask.shape)}
            yield {"image_id": image, "category_id": category, "segmentation": runs, "area": int(mask.sum()), "bbox": box, "iscrowd": 1}


def measure_masks(label: str, file: Path, folder: Path, scenes: Mapping[str, Scene], words: Sequence[str]) -> Measured:
    """How near the masks of a COCO file are to what was painted.

    Args:
        label: What is measured, for people.
        file: The COCO file.
        folder: Folder of the photos.
        scenes: Scenes by name of photo.
        words: Names of the classes, in the order of the file's categories.
    """
    found = [confusion(truth_of(scenes[one.id], words), one.truth, len(words) + 1) for one in open_photos(folder, file)]
    return _measured(label, np.stack(found))


def learn(label: str, data: Dataset, out: Path, recipe: Recipe, scenes: Mapping[str, Scene]) -> Measured:
    """Train a network on a data set's masks, and measure it on scenes that it was not trained on.

    Args:
        label: What is measured, for people.
        data: Photos and masks; its names after the background are words of the scenes.
        out: Folder of the network.
        recipe: How it is trained.
        scenes: Scenes to measure on, by name.
    """
    network, _ = load(train(data, recipe, out))
    return _measured(label, confusions(network, drawn_set(scenes, data.names[1:])))


def _measured(label: str, matrices: np.ndarray) -> Measured:
    return Measured(label, float(miou(matrices.sum(0))), bootstrap_miou(matrices), len(matrices))
