"""VOC, Context and COCO-Object, read from the layouts that people have on disk.

A :class:`Dataset` lists ids and loads one :class:`Sample` at a time; labels are 0..C-1 with 0 the background
and 255 void, at the picture's own size, which is never changed. Pictures are read by their content, as raw
pixels: EXIF orientation is not applied, since the masks were drawn on the raw pixels.

==========  ==========================================================================================
voc         ``VOCdevkit/VOC2012/{JPEGImages,SegmentationClass[Aug]}``, ``ImageSets/Segmentation/*.txt``
context     ``VOCdevkit/VOC2010/{JPEGImages,SegmentationClassContext}``, ``ImageSets/SegmentationContext/*.txt``
object      ``annotations/instances_*.json`` with ``val2017/*.jpg`` (or the 2014 names)
==========  ==========================================================================================

Lists are read in the shapes that circulate (:func:`~diffseg_lib.data.files.read_list`); one of another length than the
published split is told in the notes. ``classes.txt`` in the root, a name a line, background first, replaces the standard names.

Context's masks come in two label orders. Where the tree has VOC's masks of the same photos
(``VOC2010/SegmentationClass``), the order is found by comparing, and a contrary ``order=`` or list is refused;
else it is taken from ``order=``, ``classes.txt`` or ``VOC2010/59_labels.txt``, and the notes say "assumed".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from .coco import COCO_CONVENTION, open_object, open_photos
from .files import decode_colours, read_mask, read_picture
from .names import ALIASES, CONTEXT, CONTEXT_ORIGINAL, RELEASED_ALIASES, VOC, prompt_words
from .samples import DataError, Dataset, LabelError, Sample
from .voc import open_context, open_voc

__all__ = [
    "ALIASES",
    "COCO_CONVENTION",
    "CONTEXT",
    "CONTEXT_ORIGINAL",
    "READERS",
    "VOC",
    "DataError",
    "Dataset",
    "LabelError",
    "Sample",
    "decode_colours",
    "open_dataset",
    "open_photos",
    "place_of",
    "read_mask",
    "read_picture",
    "released_words",
]
READERS: Mapping[str, Callable[[Path, str, str], Dataset]] = {"voc": open_voc, "context": open_context, "object": open_object}


def place_of(name: str, root: Path) -> Path:
    """Where a data set lies under a folder of several: the folder itself, or ``coco`` in it for "object"."""
    inside = [root / one for one in ("coco", "COCO", "coco2017") if (root / one / "annotations").is_dir()]
    return inside[0] if name == "object" and inside and not (root / "annotations").is_dir() else root


def released_words(dataset: Dataset) -> Dataset:
    """The same data set with the released code's words to prompt with."""
    return replace(dataset, prompts=prompt_words(dataset.names, RELEASED_ALIASES))
