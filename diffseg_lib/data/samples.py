"""What every reader gives: a split that lists ids and loads one checked sample at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..support.images import Photo

VOID = 255  # the label of pixels that do not count


class DataError(ValueError):
    """A data set, or one image of it, that is not what its layout promises."""


class LabelError(DataError):
    """Labels that are no classes of the data set: not one broken file, but a wrong set or order of labels."""


@dataclass(frozen=True)
class Sample:
    """One image of a split with its labels.

    Args:
        id: Id of the image, unique in its split.
        image: Picture, H W 3, uint8.
        truth: Labels, H W, 0..C-1 with 0 the background, and 255 void.
        classes: Names of the classes present, without the background.
        notes: Sentences on what was done to the picture's pixels to get there.
    """

    id: str
    image: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A split of a data set: iterate over it, or load one image by its id.

    Args:
        name: Name of the data set: "voc", "context" or "object".
        split: Name of the split.
        names: Names of the labels 0..C-1, background first.
        prompts: Words to prompt with, one for each label 1..C-1.
        ids: Ids of the images, in the order of the list.
        expected: Number of images that the full split has, by its publication or by its list.
        notes: Sentences on how the split was read, for the record.
    """

    name: str
    split: str
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    ids: tuple[str, ...]
    expected: int
    notes: tuple[str, ...]
    _read: Callable[[str], tuple[Photo, np.ndarray]] = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.load, self.ids)

    def load(self, name: str) -> Sample:
        """Read one image and its labels.

        Args:
            name: Id of the image.

        Raises:
            DataError: If a file is missing or broken, or sizes differ; the file or the image is named.
            LabelError: If the mask holds labels that are no classes.
        """
        photo, truth = self._read(name)
        (height, width), (rows, columns) = photo.pixels.shape[:2], truth.shape
        if (height, width) != (rows, columns):
            raise DataError(f"{name}: the image is {width} x {height} px, its mask {columns} x {rows}: expected one size; restore the pair")
        found = np.unique(truth[truth != VOID])
        if found.size and found[-1] >= len(self.names):
            wrong = found[found >= len(self.names)].tolist()
            raise LabelError(f"{name}: labels {wrong}, expected 0..{len(self.names) - 1} or {VOID}: is this another set's mask, or another label order?")
        return Sample(name, photo.pixels, truth, tuple(self.names[i] for i in found if i), photo.notes)

    def with_truth(self, ids: Sequence[str], read: Callable[[str], np.ndarray], note: str) -> Dataset:
        """The same pictures under other masks.

        Args:
            ids: Ids of the images that have another mask.
            read: Function from an id to its mask, H W, labels or 255.
            note: Sentence on where the masks are from.
        """
        return replace(self, ids=tuple(ids), notes=(*self.notes, note), _read=lambda name: (self._read(name)[0], read(name)))

    def words(self, classes: Sequence[str]) -> list[str]:
        """The words to prompt with for names of classes.

        Args:
            classes: Names of classes, without the background.

        Raises:
            ValueError: On a name that is no class of the data set; the nearest one is given.
        """
        unknown = [name for name in classes if name not in self.names[1:]]
        if unknown:
            from ..support.errors import nearest

            raise ValueError(f"{unknown[0]!r} is no class of {self.name}: {nearest(unknown[0], self.names[1:])}")
        return [self.prompts[self.names.index(name) - 1] for name in classes]

    def fingerprint(self) -> str:
        """A short hash of the name, the split, the class names, the words to prompt with and the ids.

        It covers names and ids, not content: two data sets of one fingerprint list the same ids and ask for the same words, but their pixels and masks may
        differ.
        """
        return hashlib.sha256(repr((self.name, self.split, self.names, self.prompts, self.ids)).encode()).hexdigest()[:12]
