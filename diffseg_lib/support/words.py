"""English words: other names for classes, plurals, and what captions set before nouns."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
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

# Words that end the run of adjectives before a noun: determiners, numbers, prepositions, conjunctions, forms of "to be".
FUNCTION_WORDS = frozenset(
    "a an the this that these those some any many several each every his her its their my your our no one two three four five six "
    "of in on at by to from with without under over above below behind beside between near against through into onto for and or but as "
    "is are was were be been being there it he she they we you i who which while".split()
)

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
    one = inflector().singular_noun(word)
    # a word that is a singular already, as "bus" is, is not the plural of what the library cuts it to
    return one if one and inflector().plural_noun(one) == word else word


@cache
def inflector() -> Any:
    """The library that knows plurals and articles; it takes seconds to load."""
    import inflect

    return inflect.engine()


@cache
def lemma(word: str) -> str:
    """A noun in the singular, lower case.

    >>> lemma("Butterflies"), lemma("fish"), lemma("bus")
    ('butterfly', 'fish', 'bus')
    """
    word = word.lower()
    if len(word) < 3 or not word.isascii() or not word.isalpha() or word.endswith(("ss", "us")):
        return word
    return inflector().singular_noun(word) or word


def plural(name: str, words: Collection[str] = ()) -> str:
    """The plural of a name's last word; the name itself where a vocabulary does not have it.

    >>> plural("bus"), plural("traffic light"), plural("house", {"house", "houses"}), plural("fish", {"fish"})
    ('buses', 'traffic lights', 'houses', 'fish')
    """
    *before, last = name.split()
    many = inflector().plural_noun(last) or last
    return " ".join([*before, many]) if not words or many in words else name


def adjectives(caption: str, name: str) -> str:
    """The words that describe a name in a caption: those right before it, back to an article or the like.

    >>> adjectives("a photograph of a fish and two small red houses on grass", "house")
    'small red'
    """
    words = re.findall(r"[\w'-]+|[^\w\s]", caption.lower())
    wanted = [lemma(word) for word in name.split()]
    for start in range(len(words) - len(wanted) + 1):
        if [lemma(word) for word in words[start : start + len(wanted)]] == wanted:
            first = start
            while first and words[first - 1] not in FUNCTION_WORDS and words[first - 1].isalpha():
                first -= 1
            return " ".join(words[first:start])
    return ""
