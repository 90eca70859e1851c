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
# Other spellings of a class, for names from elsewhere; no data set has two classes of one line. Spaces, hyphens and plurals do not matter.
SPELLINGS: Sequence[tuple[str, ...]] = (
    ("aeroplane", "airplane", "plane"),
    ("motorbike", "motorcycle"),
    ("bicycle", "bike"),
    ("diningtable", "table"),
    ("pottedplant", "plant"),
    ("tvmonitor", "tv", "monitor", "television"),
    ("sofa", "couch"),
    ("bedclothes", "bedding", "bedcloth"),
    ("toothbrush", "toothbrus"),  # as the released code's list of COCO's classes has it
)
# Images of the published splits; COCO's differ by year. Context's are published with and without a few images that were withdrawn since.
SPLIT_SIZES: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("voc", "train"): (1464,),
    ("voc", "val"): (1449,),
    ("voc", "trainaug"): (10582,),
    ("voc", "train_aug"): (10582,),
    ("context", "train"): (4998, 4996),
    ("context", "val"): (5105, 5104),
    ("object", "train2017"): (118287,),
    ("object", "val2017"): (5000,),
    ("object", "train2014"): (82783,),
    ("object", "val2014"): (40504,),
}
PUBLISHED = "the published split"  # begins what is said of a list that is not one, in notes and checks alike


def prompt_words(names: Sequence[str], aliases: Mapping[str, str] = ALIASES) -> tuple[str, ...]:
    """The word to prompt with for every name but the first, the background.

    >>> prompt_words(["background", "tvmonitor", "fish"])
    ('monitor', 'fish')
    """
    return tuple(aliases.get(name, name) for name in names[1:])


def published_size(sizes: Sequence[int], found: int) -> int:
    """Number of images that a split should have: as many as the list has, if a published split has as many, else the most that one has.

    Args:
        sizes: Numbers of images of the published split, of :data:`SPLIT_SIZES`; () if they are not known, or the data are one's own.
        found: Number of images in the list.

    >>> [published_size((5105, 5104), found) for found in (5105, 5104, 5000)], published_size((), 7)
    ([5105, 5104, 5105], 7)
    """
    return found if not sizes or found in sizes else max(sizes)


def split_note(path: str, split: str, found: int, sizes: Sequence[int]) -> tuple[str, ...]:
    """A note where a list is of another length than the published split; () where it is of the same, or the length is not known.

    Args:
        path: Path of the list, as the note names it.
        split: Name of the split.
        found: Number of images in the list.
        sizes: Numbers of images of the published split, as :func:`published_size` takes them.
    """
    if found == published_size(sizes, found):
        return ()
    return (f"{path} lists {found} images, {PUBLISHED} {' or '.join(map(str, sizes))}: restore the whole {split} list for numbers to compare",)
