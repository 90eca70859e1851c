"""Files of frozen labels: for every image the names of the classes that a filter once chose, read as they circulate.

Two forms are read: an object from image ids to lists of names, and the released code's, an object of dictionaries from paths of images to lists of names, one
for each way in which the names were found (:data:`AS_RELEASED` are the two whose union it runs on). Images are known by the stem of their path, names by the
class's own, the word it is prompted with, their plurals, and the other spellings of ``data.names.SPELLINGS``; the number of
its label, 1..C-1, stands for it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..data import Dataset
from ..data.names import SPELLINGS
from ..support.errors import nearest
from ..support.words import lemma

LABELS = ("image", "filter", "all")
AS_RELEASED = ("image_similarity", "text_similarity")  # the released code's choice; its files have "synonym_matching" as well
SHOWN = 5  # images or words named in an error


def check_labels(labels: str, labels_from: Sequence[str] = ()) -> str:
    """The choice of labels itself, if it is a known one.

    Args:
        labels: One of :data:`LABELS`, or the path of a JSON file.
        labels_from: Dictionaries of the file, as :func:`read_labels` takes them.

    Raises:
        ValueError: If it is none of :data:`LABELS` and no existing JSON file, or has no dictionaries to choose from.
    """
    if labels not in LABELS and not (labels.endswith(".json") and Path(labels).is_file()):
        raise ValueError(f"labels {labels!r}: expected {', '.join(LABELS)}, or an existing JSON file that maps image ids to class names")
    if labels in LABELS and labels_from:
        raise ValueError(f"labels {labels!r} are from no file, so that {', '.join(labels_from)} cannot be chosen from it: leave --labels-from out")
    return labels


@lru_cache(maxsize=2)
def _content(path: str) -> tuple[dict[str, dict[str, list[str]]], bool]:
    """The dictionaries of a file by their names, and whether it has several; the plain form is one, named ""."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise _form_error(path, str(error)) from error
    if not isinstance(found, dict):
        raise _form_error(path, f"it is a {type(found).__name__}")
    several = bool(found) and all(isinstance(one, dict) for one in found.values())
    dictionaries: dict[str, Any] = found if several else {"": found}
    for one in dictionaries.values():
        for image, names in one.items():
            if not (isinstance(names, list) and all(type(name) in (str, int) for name in names)):
                raise _form_error(path, f"{image!r} has {str(names)[:40]!r}")
            one[image] = [str(name) for name in names]
    return dictionaries, several


def _form_error(path: str, found: str) -> ValueError:
    return ValueError(f"{path} ({found}): expected a JSON object from image ids to lists of class names or numbers, or one of several such dictionaries")


def dictionaries_of(path: str, labels_from: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the dictionaries that a file's labels are the union of; () of a file in the plain form.

    Args:
        path: Path of the file.
        labels_from: Names asked for; without any, :data:`AS_RELEASED`.

    Raises:
        ValueError: On a file of another form, or dictionaries that it lacks.
    """
    dictionaries, several = _content(path)
    if not several:
        if labels_from:
            raise ValueError(f"{path} maps images to names directly, so that {', '.join(labels_from)} cannot be chosen from it: leave --labels-from out")
        return ()
    wanted = tuple(sorted(set(labels_from or AS_RELEASED)))
    lacking = [name for name in wanted if name not in dictionaries]
    if lacking:
        raise ValueError(f"{path} has no dictionary {lacking[0]!r}, it has {', '.join(dictionaries)}: choose among these by --labels-from")
    return wanted


def image_key(name: str) -> str:
    r"""What an image is known by: the stem of its path, without what COCO's names of 2014 say of the split.

    >>> image_key("/data/JPEGImages/2007_000033.jpg"), image_key("COCO_val2014_000000182611.jpg"), image_key("C:\\a.b.jpg")
    ('2007_000033', '000000182611', 'a.b')
    """
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"^COCO_[a-z]+\d{4}_", "", re.sub(r"\.(jpe?g|png)$", "", last, flags=re.IGNORECASE))


@lru_cache(maxsize=2)
def read_labels(path: str, labels_from: tuple[str, ...] = ()) -> Mapping[str, tuple[str, ...]]:
    """Frozen labels: images, by :func:`image_key`, to names, as the file spells them.

    Args:
        path: Path of a JSON file with an object from image ids to lists of names, or with several such dictionaries.
        labels_from: Names of the dictionaries whose union is taken; without any, :data:`AS_RELEASED`. An image counts if all of them have it.

    Raises:
        ValueError: On a file of another form, dictionaries that it lacks, or two entries of one image.
    """
    wanted, dictionaries = dictionaries_of(path, labels_from) or ("",), _content(path)[0]
    keyed: list[dict[str, list[str]]] = []
    for name in wanted:
        keyed.append({})
        for image, names in dictionaries[name].items():
            if image_key(image) in keyed[-1]:
                raise ValueError(f"{path} has two entries of image {image_key(image)}, {image!r} the second: expected one for each image; remove the other")
            keyed[-1][image_key(image)] = names
    return {image: tuple(dict.fromkeys(name for one in keyed for name in one[image])) for image in keyed[0] if all(image in one for one in keyed)}


@lru_cache(maxsize=4)
def class_places(names: tuple[str, ...], prompts: tuple[str, ...]) -> Mapping[str, int]:
    """The labels 1..C-1 by the words that may stand for their classes, in the form of :func:`word_key`.

    Args:
        names: Names of the labels 0..C-1, background first.
        prompts: Words to prompt with, one for each label 1..C-1.
    """
    places = {word_key(name): place for place, name in enumerate(names) if place}
    for place, word in enumerate(prompts, start=1):
        places.setdefault(word_key(word), place)
    for spellings in SPELLINGS:
        own = {places[key] for key in map(word_key, spellings) if key in places}
        for spelling in spellings if len(own) == 1 else ():
            places.setdefault(word_key(spelling), min(own))
    return places


def _place(word: str, dataset: Dataset) -> int | None:
    """The label of a word, or of a number as text; None if it is no class of the data set."""
    if re.fullmatch(r"-?\d+", word):
        return int(word) if 0 < int(word) < len(dataset.names) else None
    return class_places(dataset.names, dataset.prompts).get(word_key(word))


def _meant(word: str, dataset: Dataset) -> str:
    """What was expected in place of a word that is no class of a data set."""
    if re.fullmatch(r"-?\d+", word):
        return f"expected a name, or a number from 1 to {len(dataset.names) - 1}, since 0 is the background: raise numbers that count classes from 0 by one"
    return nearest(word, dataset.names[1:])


def word_key(word: str) -> str:
    """What a name is known by: lower case, in the singular, in one word.

    >>> [word_key(word) for word in ("people", "buses", "Potted plants", "potted_plant", "pottedplant", "skis")]
    ['person', 'bus', 'pottedplant', 'pottedplant', 'pottedplant', 'ski']
    """
    *before, last = re.split(r"[\s_-]+", word.strip().lower())
    return "".join([*before, lemma(last)])


def frozen_labels(dataset: Dataset, image: str, labels: str, labels_from: tuple[str, ...] = ()) -> tuple[int, ...]:
    """The labels 1..C-1 that a file has for one image, in rising order.

    Args:
        dataset: Data set of the image.
        image: Id of the image.
        labels: Path of the file.
        labels_from: Dictionaries of the file, as :func:`read_labels` takes them.

    Raises:
        ValueError: On a file that lacks the image or has words that are no class of the data set.
    """
    frozen = read_labels(check_labels(labels), labels_from)
    if image_key(image) not in frozen:
        raise ValueError(f"{labels} has no entry for image {image}: expected one for each of {len(dataset)} images, it has {len(frozen)}")
    words = frozen[image_key(image)]
    found = {word: _place(word, dataset) for word in words}
    for word, place in found.items():
        if place is None:
            raise ValueError(f"{labels} gives image {image} the class {word!r}, which is none of {dataset.name}'s: {_meant(word, dataset)}")
    return tuple(sorted({place for place in found.values() if place}))


def check_coverage(dataset: Dataset, labels: str, labels_from: Sequence[str] = ()) -> int:
    """Look at a choice of labels for every image of a data set, before any is computed.

    Args:
        dataset: Data set whose images are meant.
        labels: Choice of labels, as :func:`check_labels` takes it; only a file is looked into.
        labels_from: Dictionaries of the file, as :func:`read_labels` takes them.

    Returns:
        The number of images that a file has labels for; 0 where `labels` is no file.

    Raises:
        ValueError: On a file that lacks images or has words that are no class of the data set; they are counted, and some are named.
    """
    if check_labels(labels, labels_from) in LABELS:
        return 0
    frozen = read_labels(labels, tuple(labels_from))
    missing = [image for image in dataset.ids if image_key(image) not in frozen]
    if missing:
        some = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise ValueError(
            f"{labels} has no entry for {len(missing)} of the {len(dataset)} images of {dataset.name} {dataset.split} ({some}), it has {len(frozen)}: "
            "give a file of this split"
        )
    unknown = {word: image for image in reversed(dataset.ids) for word in frozen[image_key(image)] if _place(word, dataset) is None}
    if unknown:
        some = "; ".join(f"{word!r} of image {image}, {_meant(word, dataset)}" for word, image in list(unknown.items())[::-1][:SHOWN])
        raise ValueError(f"{labels} has {len(unknown)} words that are no class of {dataset.name}: {some}")
    return len(dataset)
