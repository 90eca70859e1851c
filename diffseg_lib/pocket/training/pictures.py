"""What the pocket models are trained on: pictures and their captions, and nothing else.

This module composes, paints and describes; it never imports a function that draws a label map
(``tests/test_pocket_training.py`` holds that).
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from numpy.lib.format import open_memmap

from ...support.files import write_text
from ...support.identity import code_hash
from ...support.paths import cache_dir
from ..world import CLASSES, WORLD_SEED, compose, describe, paint

CAPTIONS_EACH = 6  # caption variants kept for each picture


@dataclass(frozen=True)
class Pictures:
    """Pictures with their captions.

    Args:
        images: The pictures, n size size 3, uint8.
        captions: A list of :data:`CAPTIONS_EACH` captions for each of the n pictures.
    """

    images: np.ndarray
    captions: list[list[str]]

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.images)


def _render(job: tuple[str, int, int, int]) -> tuple[int, np.ndarray, list[str]]:
    split, index, seed, size = job
    scene = compose(split, index, seed, size)
    return index, paint(scene), [describe(scene, draw) for draw in range(CAPTIONS_EACH)]


def load_pictures(split: str, n: int, size: int, seed: int = WORLD_SEED, workers: int | None = None) -> Pictures:
    """The first `n` pictures of a split with their captions, rendered once into the cache, under the renderer's hash.

    Args:
        split: The split, "train", "val" or "test".
        n: The number of pictures.
        size: Side of a picture, px.
        seed: Seed of the world.
        workers: The number of processes that render; None is one a core.
    """
    folder = cache_dir() / "pictures" / f"{split}-seed{seed}-{size}px-{n}-{code_hash('pocket.world')}"
    images, captions = folder / "images.npy", folder / "captions.json"
    if not captions.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = images.with_suffix(f".{uuid.uuid4().hex}")
        array = open_memmap(part, "w+", np.uint8, (n, size, size, 3))
        texts: list[list[str]] = [[] for _ in range(n)]
        with get_context("spawn").Pool(workers) as pool:
            for i, image, lines in pool.imap_unordered(_render, [(split, i, seed, size) for i in range(n)], chunksize=64):
                array[i], texts[i] = image, lines
        array.flush()
        part.replace(images)
        write_text(captions, json.dumps(texts))
    return Pictures(np.load(images, mmap_mode="r"), json.loads(captions.read_text()))


def classes_named(caption: str) -> set[str]:
    """The classes that a caption names, by canonical name, plural or synonym.

    >>> sorted(classes_named("two kittens and a spaceship"))
    ['cat', 'rocket']
    """
    words = set(re.findall(r"[a-z]+", caption.lower()))
    return {c.name for c in CLASSES if words & {c.name, c.plural, *(w for pair in c.synonyms for w in pair)}}
