"""Words that the category filter knows of: what captions set before nouns, and other names for classes."""

from __future__ import annotations

from collections.abc import Mapping

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
