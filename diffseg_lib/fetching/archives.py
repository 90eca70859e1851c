"""Data sets from their organisers: archives of known size and checksum, unpacked so that no half-written tree looks whole."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .transfer import Item, transfer

UNPACKING = ".unpacking-"  # before the name of a folder that is not whole


@dataclass(frozen=True)
class Archive:
    """An archive of a data set.

    Args:
        name: Name of the file.
        folder: Address of the folder that it lies in.
        tree: Path of the tree that it brings, inside the archive.
        under: Folder of the data's that the tree is put below; "" is the data's folder itself.
        md5: Checksum that its organisers or its common readers publish; "" where none is known for certain.
        size: Number of its bytes; None where none is known for certain, so that the server's word is taken.
    """

    name: str
    folder: str
    tree: str
    under: str = ""
    md5: str = ""
    size: int | None = None

    def item(self, root: Path, mirror: str = "") -> Item:
        """The archive as a file to fetch into a folder, from another address where one is given."""
        digests = {"md5": self.md5} if self.md5 else {}
        return Item(self.name, f"{(mirror or self.folder).rstrip('/')}/{self.name}", root / self.name, self.size, digests)

    def place(self, root: Path) -> Path:
        """Where its tree lies below the data's folder."""
        return root / self.under / self.tree


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Args:
        archives: Archives that are fetched.
        licence: Sentence on the terms.
        lacking: Sentence on what is not fetched and has to be added by hand; "" where nothing is.
    """

    archives: tuple[Archive, ...]
    licence: str
    lacking: str = ""


_VOC, _COCO = "http://host.robots.ox.ac.uk/pascal/VOC", "http://images.cocodataset.org"
SOURCES: Mapping[str, Source] = {
    "voc": Source(
        (Archive("VOCtrainval_11-May-2012.tar", f"{_VOC}/voc2012", "VOCdevkit/VOC2012", "", "6cd6e144f989b92b3379bac3b3de84fd", 1_999_639_040),),
        "the photos' own terms (Flickr)",
        "trainaug needs the masks of SBD as palette pictures in SegmentationClassAug, and its list",
    ),
    "context": Source(
        (Archive("VOCtrainval_03-May-2010.tar", f"{_VOC}/voc2010", "VOCdevkit/VOC2010", "", "da459979d0c395079b5c75ee67908abb"),),
        "the photos' own terms (Flickr)",
        "the masks of 59 classes are of the Context project: palette pictures in SegmentationClassContext, and the lists in ImageSets/SegmentationContext",
    ),
    "object": Source(
        (
            Archive("annotations_trainval2017.zip", f"{_COCO}/annotations", "annotations", "coco", "f4bbac642086de4f52a3fdda2de5fa2c", 252_907_541),
            Archive("val2017.zip", f"{_COCO}/zips", "val2017", "coco", "442b8da7639aecaf257c1dceb8ba8c80", 815_585_330),
        ),
        "annotations CC BY 4.0, the photos' own terms (Flickr)",
        "train2017 (19 GB) is needed only where a threshold is chosen there",
    ),
}


def fetch_archive(archive: Archive, root: Path, mirror: str = "") -> dict[str, Any]:
    """Fetch an archive, check it, unpack it and remove it; returns what a lock holds of it.

    Args:
        archive: Archive that is wanted.
        root: Folder of the data.
        mirror: Address of another folder that it is fetched from; it has to be the same file.

    Raises:
        FileExistsError: If its tree is there.
        OSError, ValueError: As of :func:`~diffseg_lib.fetching.transfer.transfer`, and on an archive that would write outside its folder.
    """
    place, item = archive.place(root), archive.item(root, mirror)
    if place.exists():
        raise FileExistsError(f"{place} is there already")
    facts = {"address": item.address, "sha256": transfer(item), "size": item.place.stat().st_size} | ({"md5": archive.md5} if archive.md5 else {})
    unpack(item.place, archive.tree, place)
    item.place.unlink()
    return facts


def unpack(path: Path, tree: str, place: Path) -> None:
    """Unpack one tree of an archive; it appears at its place whole or not at all.

    Args:
        path: Path of the archive, ``.tar`` (compressed or not) or ``.zip``.
        tree: Path of the tree inside.
        place: Path that it goes to.

    Raises:
        ValueError: If the archive is damaged, has no such tree, or names a path outside its own folder.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f"{UNPACKING}{place.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _refuse_outside(path, archive.namelist())
                archive.extractall(aside)
        else:
            with tarfile.open(path) as archive:
                _refuse_outside(path, archive.getnames())
                archive.extractall(aside, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise ValueError(f"{path} cannot be unpacked ({error}): delete it, and fetch again") from error
    if not (aside / tree).is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        raise ValueError(f"{path} holds no {tree}: expected the organisers' archive of that name")
    (aside / tree).replace(place)
    shutil.rmtree(aside)


def _refuse_outside(path: Path, names: list[str]) -> None:
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name.split("/")[0]:
            raise ValueError(f"{path} would write outside its folder ({name!r}), so nothing was unpacked: delete it, and fetch it from its organisers")
