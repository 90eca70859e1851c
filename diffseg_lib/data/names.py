"""Class names of VOC, Context and COCO-Object, the words to prompt with, and how many images each split has.

The orders are facts of the data sets: the index in a mask is the place in the list, from 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

VOC = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor".split()
CONTEXT = (
    "aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat ceiling chair cloth computer cow cup curtain dog "
    "door fence floor flower food grass ground horse keyboard light motorbike mountain mouse person plate platform pottedplant road rock sheep shelves "
    "sidewalk sign sky snow sofa table track train tree truck tvmonitor wall water window wood"
).split()
CONTEXT_ORIGINAL = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant sheep sofa train tvmonitor bag bed bench book "
    "building cabinet ceiling cloth computer cup door fence floor flower food grass ground keyboard light mountain mouse curtain platform sign plate road "
    "rock shelves sidewalk sky snow bedclothes track tree truck wall water window wood"
).split()
CONTEXT_ORDERS = {"alphabetical": CONTEXT, "original": CONTEXT_ORIGINAL}
# The word to prompt with, where a class's name is not what people write.
ALIASES: Mapping[str, str] = {
    "aeroplane": "plane",
    "diningtable": "table",
    "pottedplant": "potted plant",
    "tvmonitor": "monitor",
    "bedclothes": "bedding",
    "motorbike": "motorcycle",
}
# The released code's words, where they are others.
RELEASED_ALIASES: Mapping[str, str] = {
    "aeroplane": "plane",
    "bus": "buses",
    "diningtable": "table",
    "person": "people",
    "pottedplant": "plant",
    "tvmonitor": "monitor",
}
# Images of the published splits; COCO's differ by year.
SPLIT_SIZES: Mapping[tuple[str, str], int] = {
    ("voc", "train"): 1464,
    ("voc", "val"): 1449,
    ("voc", "trainaug"): 10582,
    ("context", "train"): 4998,
    ("context", "val"): 5105,
    ("object", "train2017"): 118287,
    ("object", "val2017"): 5000,
    ("object", "train2014"): 82783,
    ("object", "val2014"): 40504,
}


def prompt_words(names: Sequence[str], aliases: Mapping[str, str] = ALIASES) -> tuple[str, ...]:
    """The word to prompt with for every name but the first, the background.

    >>> prompt_words(["background", "tvmonitor", "fish"])
    ('monitor', 'fish')
    """
    return tuple(aliases.get(name, name) for name in names[1:])


def split_note(path: str, split: str, found: int, published: int) -> tuple[str, ...]:
    """A note where a list is of another length than the published split; () where it is of the same, or the length is not known.

    Args:
        path: Path of the list, as the note names it.
        split: Name of the split.
        found: Number of images in the list.
        published: Number of images in the published split; 0 if it is not known.
    """
    if not published or found == published:
        return ()
    return (f"{path} lists {found} images, the published split {published}: restore the whole {split} list for numbers to compare",)
