"""What every reader gives: a split that lists ids and loads one checked sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..support.identity import digest_files, fingerprint
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
class Files:
    """Where the files of a data set lie, which tell two of the same ids apart.

    Args:
        lists: Files that say what the split holds, such as its list or COCO's annotations: they count by content.
        of: Function from an id to the files of that image, its picture and its mask: they count by size and time of change, or, strictly, by content.
        made_by: What renders all these files, by its code; then that is what they count by, since they are the same wherever they are rendered.
    """

    lists: tuple[Path, ...] = ()
    of: Callable[[str], tuple[Path, ...]] = lambda name: ()
    made_by: str = ""

    def facts(self, ids: Sequence[str], strict: bool) -> dict[str, str]:
        """What the files of `ids` count by."""
        if self.made_by and not strict:
            return {"made_by": self.made_by}
        lists, images = digest_files(self.lists), digest_files((path for name in ids for path in self.of(name)), strict=strict)
        return {"lists": lists, "images": images}


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
        files: Where its files lie; masks that were put in place of others count beside the tree's own files.
        listed: Ids of the whole split, where `ids` are the first of them only.
    """

    name: str
    split: str
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    ids: tuple[str, ...]
    expected: int
    notes: tuple[str, ...]
    _read: Callable[[str], tuple[Photo, np.ndarray]] = field(repr=False, compare=False)
    files: tuple[Files, ...] = field(default=(), repr=False, compare=False)
    listed: tuple[str, ...] = field(default=(), repr=False, compare=False)

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

    def first(self, limit: int) -> Dataset:
        """The first `limit` images of the split; 0 keeps all."""
        return replace(self, ids=self.ids[:limit], listed=self.listed or self.ids) if limit else self

    def with_truth(self, ids: Sequence[str], read: Callable[[str], np.ndarray], note: str, files: Files) -> Dataset:
        """The same pictures under other masks.

        Args:
            ids: Ids of the images that have another mask.
            read: Function from an id to its mask, H W, labels or 255.
            note: Sentence on where the masks are from.
            files: Where the masks lie.
        """
        read_both = lambda name: (self._read(name)[0], read(name))  # noqa: E731
        return replace(self, ids=tuple(ids), notes=(*self.notes, note), files=(*self.files, files), _read=read_both)

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

    def fingerprint(self, *, whole: bool = False, strict: bool = False) -> str:
        """A short hash of the names, the words to prompt with, the ids, and of what the files hold.

        Lists and annotations count by content, pictures and masks by size and time of change, so that a data set that is moved as it is keeps its hash, and one
        of the same ids and other pictures has another. The pocket world's own trees count by the code that renders them.

        Args:
            whole: Whether the whole split is meant, of which this may be the first images only.
            strict: Whether pictures and masks count by their content, which is read.
        """
        ids = (self.listed or self.ids) if whole else self.ids
        rendered = all(one.made_by for one in self.files) and bool(self.files)
        facts: dict[str, Any] = {"name": self.name, "split": self.split, "names": self.names, "prompts": self.prompts}
        facts |= {"ids": () if whole and rendered else ids, "files": [one.facts(ids, strict) for one in self.files]}
        return fingerprint(facts)[:12]

    def describe(self) -> dict[str, str]:
        """Name, split and :meth:`fingerprint` of the whole split, with which results are marked."""
        return {"name": self.name, "split": self.split, "content": self.fingerprint(whole=True)}
