"""The category filter: which of many class names are worth a UNet evaluation on this picture.

Two witnesses, and the union of what they name (Sec. 3.6, Wang et al. 2023): the nouns of a BLIP caption, matched with the class names by lemma, synonym or
CLIP's text similarity; and CLIP's image-text scores.

The paper keeps classes whose cosine is above .97. No raw cosine of CLIP is; the released label files are what a threshold *relative to the picture's best
class* gives, and that is what is built here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .support.images import to_numpy
from .support.words import ADJECTIVES, FUNCTION_WORDS, SYNONYMS, lemma

if TYPE_CHECKING:
    from torch import Tensor

    from .profiles import Profile


class Captions(Protocol):
    """What the filter asks of a captioner; :class:`diffseg_lib.vision_language.Captioner` gives it."""

    def caption(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """One caption for each picture, H W 3, uint8."""
        ...


class ImageTextScorer(Protocol):
    """What the filter asks of a judge of images and words; :class:`diffseg_lib.vision_language.Clip` gives it."""

    def similarities(self, pictures: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
        """Cosines of pictures with names, b k."""
        ...

    def texts(self, names: Sequence[str]) -> Tensor:
        """Unit embeddings of names, k d."""
        ...


@dataclass(frozen=True)
class KeptClass:
    """A class that passed the filter.

    Args:
        name: Name of the class.
        word: Word of the caption that named it; "" where none did.
        relative_clip_score: CLIP's score relative to that of the best class, at most 1.
        why: Reason for which it was kept.
    """

    name: str
    word: str
    relative_clip_score: float
    why: str


@dataclass(frozen=True)
class FilterResult:
    """What the filter found on one picture: its caption, the classes kept, and every class's CLIP score relative to the best."""

    caption: str
    kept: tuple[KeptClass, ...]
    relative_clip_scores: Mapping[str, float]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes kept, in the vocabulary's order."""
        return tuple(one.name for one in self.kept)


def nouns(caption: str, adjectives: Collection[str] = ADJECTIVES) -> list[str]:
    """The words of a caption that may name a thing, in the singular, and pairs of neighbours ("potted plant").

    Function words are left out, and the `adjectives` given; the rest is left to the comparison with the class names,
    which no verb or adverb survives.

    >>> nouns("a photograph of two red houses on grass")
    ['photograph', 'house', 'grass']
    """
    found: list[str] = []
    for phrase in re.split(r"[^\w\s'-]", caption.lower()):
        before = ""
        for word in phrase.split():
            if word in FUNCTION_WORDS or word in adjectives:
                before = ""
                continue
            found += [lemma(word)] + ([f"{before} {lemma(word)}"] if before else [])
            before = lemma(word)
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class CategoryFilter:
    """Class names to choose from, and the two models that choose.

    Args:
        names: Names of the classes, without the background.
        captioner: BLIP, as :mod:`diffseg_lib.vision_language` has it.
        clip: CLIP, as :mod:`diffseg_lib.vision_language` has it.
        synonyms: Other words for a class.
        text_similarity_threshold: CLIP text cosine at which a caption's word means a class, in [0, 1] (.8, the released code).
        relative_clip_threshold: Share of the best class's CLIP score at which a class is kept, in [0, 1] (.97, the paper's figure).
        adjectives: Words that are never a noun.
        sources: Witnesses that are heard: "union", "caption" or "clip".

    Raises:
        ValueError: On no names, on numbers outside [0, 1], or on unknown sources.
    """

    names: tuple[str, ...]
    captioner: Captions
    clip: ImageTextScorer
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=lambda: SYNONYMS)
    text_similarity_threshold: float = 0.8
    relative_clip_threshold: float = 0.97
    adjectives: Collection[str] = ADJECTIVES
    sources: str = "union"

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a vocabulary needs at least one class name")
        if not (0 <= self.text_similarity_threshold <= 1 and 0 <= self.relative_clip_threshold <= 1):
            shown = f"text_similarity_threshold {self.text_similarity_threshold}, relative_clip_threshold {self.relative_clip_threshold}"
            raise ValueError(f"{shown}: expected numbers from 0 to 1")
        if self.sources not in ("union", "caption", "clip"):
            raise ValueError(f"sources {self.sources!r}: expected union, caption or clip")

    @classmethod
    def load(
        cls, names: Sequence[str], captioner: str = "pocket", clip: str = "pocket", device: str = "cpu", pickled: bool = True, **changes: Any
    ) -> CategoryFilter:
        """Load a filter with the models of :mod:`diffseg_lib.vision_language` by source; `changes` are fields of the class."""
        from .vision_language import Captioner, Clip

        return cls(tuple(names), Captioner.load(captioner, device, pickled), Clip.load(clip, device, pickled), **changes)

    @classmethod
    def of_profile(cls, names: Sequence[str], profile: Profile, device: str = "", **changes: Any) -> CategoryFilter:
        """Load a filter with a profile's models and thresholds, on its device if none is named; `changes` are fields of the class."""
        given = {"relative_clip_threshold": profile.relative_clip_threshold, "text_similarity_threshold": profile.text_similarity_threshold} | changes
        return cls.load(names, profile.captioner, profile.clip, device or profile.device, profile.pickled_weights, **given)

    def match(self, caption: str) -> dict[str, tuple[str, float]]:
        """Class name to (the caption's word for it, similarity): 1 for the same lemma or a synonym, else CLIP's cosine."""
        words = nouns(caption, self.adjectives)
        forms = {name: {" ".join(lemma(w) for w in form.split()) for form in (name, *self.synonyms.get(name, ()))} for name in self.names}
        found = {name: (word, 1.0) for name in self.names for word in words if word in forms[name]}
        known = {word for word, _ in found.values()}
        rest = [word for word in words if word not in known and not any(word in pair.split() for pair in known)]
        if rest:
            cosines = to_numpy(self.clip.texts(rest)) @ to_numpy(self.clip.texts(self.names)).T
            for word, row in zip(rest, cosines, strict=True):
                name, value = self.names[int(row.argmax())], float(row.max())
                if value >= self.text_similarity_threshold and value > found.get(name, ("", 0.0))[1]:
                    found[name] = (word, value)
        return found

    def filter(self, image: np.ndarray) -> FilterResult:
        """The classes worth asking for in a picture (H W 3, uint8), each with the reason it was kept."""
        [caption] = self.captioner.caption([image])
        cosines = self.clip.similarities([image], self.names)[0]
        best = float(cosines.max())
        relative = {name: float(value) / best if best > 0 else 0.0 for name, value in zip(self.names, cosines, strict=True)}
        said = self.match(caption) if self.sources != "clip" else {}
        kept = []
        for name in self.names:
            word, similarity = said.get(name, ("", 0.0))
            seen = self.sources != "caption" and relative[name] >= self.relative_clip_threshold
            reasons = [f"caption says “{word}”" + (f" (similarity {similarity:.2f})" if similarity < 1 else "")] if word else []
            reasons += [f"CLIP scores {relative[name]:.2f} of the best class"] if seen else []
            if reasons:
                kept.append(KeptClass(name, word, relative[name], "; ".join(reasons)))
        return FilterResult(caption, tuple(kept), relative)


def precision_recall(kept: Sequence[Sequence[str]], present: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Share of the kept classes that are present, and of the present ones that are kept, over all pictures together.

    >>> precision_recall([["cat", "cup"], []], [["cat"], ["fish"]])
    (0.5, 0.5)
    """
    right = sum(len(set(k) & set(p)) for k, p in zip(kept, present, strict=True))
    return right / max(sum(len(set(k)) for k in kept), 1), right / max(sum(len(set(p)) for p in present), 1)
