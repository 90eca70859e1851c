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
    """id: unique in its split; image: H W 3, uint8; truth: H W, labels, 255 void; classes: names present.

    notes: what was done to the picture's pixels to get there.
    """

    id: str
    image: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A split of a data set: iterate over it, or load one image by its id.

    names: of the labels, background first. prompts: the word to ask for each label 1..C-1. expected: images the
    full split has (by its publication, or by its list). notes: how it was read, for the record.
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

        Raises:
            DataError: if a file is missing or broken, or sizes differ; it names the file or the image.
            LabelError: if the mask holds labels that are no classes.
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
            ids: of the images that have one.
            read: from an id to its mask, H W, labels or 255.
            note: on where the masks are from.
        """
        return replace(self, ids=tuple(ids), notes=(*self.notes, note), _read=lambda name: (self._read(name)[0], read(name)))

    def words(self, classes: Sequence[str]) -> list[str]:
        """The words to prompt with for names of classes.

        Raises:
            ValueError: on a name that is no class of the data set; it gives the nearest.
        """
        unknown = [name for name in classes if name not in self.names[1:]]
        if unknown:
            from ..support.errors import nearest

            raise ValueError(f"{unknown[0]!r} is no class of {self.name}: {nearest(unknown[0], self.names[1:])}")
        return [self.prompts[self.names.index(name) - 1] for name in classes]

    def fingerprint(self) -> str:
        """A short hash of name, split, class names and ids: two data sets of one fingerprint ask the same of a method."""
        return hashlib.sha256(repr((self.name, self.split, self.names, self.prompts, self.ids)).encode()).hexdigest()[:12]
