"""Words that the category filter knows of: what captions set before nouns, and other names for classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

# Words that captions set before nouns and that are no thing themselves, though CLIP may find them close to one.
ADJECTIVES = frozenset(
    "red orange yellow green blue purple pink brown white black grey gray golden silver dark light bright small big large little tiny huge tall short "
    "long old young new wooden metal plastic glass colorful colourful many other".split()
)
# Other words for a class, beside its plural (which the lemma takes care of).
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "person": ("man", "woman", "boy", "girl", "child", "kid", "baby", "lady", "guy", "player", "rider"),
    "plane": ("airplane", "aeroplane", "jet", "aircraft"),
    "airplane": ("plane", "aeroplane", "jet", "aircraft"),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike", "scooter"),
    "boat": ("ship", "sailboat", "canoe"),
    "car": ("automobile", "van", "taxi"),
    "cat": ("kitten",),
    "dog": ("puppy",),
    "cow": ("cattle", "bull", "calf"),
    "sheep": ("lamb", "goat"),
    "horse": ("pony", "foal"),
    "sofa": ("couch",),
    "couch": ("sofa",),
    "table": ("dining table", "desk"),
    "dining table": ("table",),
    "potted plant": ("plant", "houseplant"),
    "monitor": ("tv", "television", "screen", "computer"),
    "tv": ("television", "monitor", "screen"),
    "cup": ("mug",),
    "bird": ("parrot", "duck", "goose", "pigeon"),
}

# Plurals that name another thing than their singular does.
THINGS_OF_THEIR_OWN = frozenset(
    "glasses sunglasses eyeglasses spectacles goggles binoculars scissors clothes bedclothes jeans pants shorts trousers tights tongs woods waters goods arms "
    "customs grounds stairs blinds drawers greens spirits news series species lens gas tennis".split()
)


def class_names(classes: str | Sequence[str], merge: bool = True) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of classes as a user gives them, and sentences on what was made of them.

    A text is one class, or several with commas between. Spellings of one class (upper and lower case, an article before it, its plural, spaces) are one class,
    which has the first one's name.

    Args:
        classes: Names, or one text.
        merge: Whether texts are taken apart at commas and spellings of one class made one; a data set's own list is taken as it is.

    >>> class_names("dog, cat")
    (('dog', 'cat'), ())
    >>> class_names(["Dog", "a dog", "glass", "glasses"])
    (('Dog', 'glass', 'glasses'), ('Dog and a dog are one class, Dog',))
    """
    given = [classes] if isinstance(classes, str) else [str(name) for name in classes]
    if not merge:
        return tuple(given), ()
    parts = [[one for one in name.split(",") if one.strip()] or [name] for name in given]
    spelled: dict[str, list[str]] = {}
    for name in (" ".join(one.split()) for part in parts for one in part):
        spelled.setdefault(spelling(name), []).append(name)
    notes = [f"{' and '.join(names)} are one class, {names[0]}" for names in spelled.values() if len(names) > 1]
    return tuple(names[0] for names in spelled.values()), tuple(notes)


@cache
def spelling(name: str) -> str:
    """What all spellings of a class have in common: small letters, no article, the last word in the singular.

    >>> spelling("The  Red Houses"), spelling("bus"), spelling("buses"), spelling("glasses")
    ('red house', 'bus', 'bus', 'glasses')
    """
    name = re.sub(r"^(an?|the)\s+(?=\S)", "", " ".join(name.casefold().split()))
    *before, last = name.split() or [""]
    return " ".join([*before, _singular(last)])


def _singular(word: str) -> str:
    if word in THINGS_OF_THEIR_OWN or not word.isascii() or not word.isalpha() or len(word) < 3 or word.endswith(("ss", "us")):
        return word
    one = _engine().singular_noun(word)
    # a word that is a singular already, as "bus" is, is not the plural of what the library cuts it to
    return one if one and _engine().plural_noun(one) == word else word


@cache
def _engine() -> Any:
    import inflect

    return inflect.engine()
