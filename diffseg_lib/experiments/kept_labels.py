"""Label maps of a few images by several networks, small enough to lie in a study's JSON beside its figures."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..applications.deeplab import DeepLabV2, predict
from ..data import Dataset, Sample

PICTURED = 4  # images whose labels a study keeps, the first of the split that it measures


@dataclass(frozen=True, kw_only=True)
class KeptLabels:
    """What networks saw in some images; the pictures and the truth stay in the data set.

    Args:
        ids: Ids of the images.
        sizes: Height and width of each, px.
        maps: By network the labels of all images one after the other, row by row, a byte each: deflated, in base64.
    """

    ids: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    maps: Mapping[str, str]

    def labels(self, network: str) -> dict[str, np.ndarray]:
        """The labels of a network by image, H W, uint8.

        Raises:
            KeyError: If no labels of that network were kept.
        """
        flat = np.frombuffer(zlib.decompress(base64.b64decode(self.maps[network])), np.uint8)
        parts = np.split(flat, np.cumsum([height * width for height, width in self.sizes])[:-1])
        return {name: part.reshape(size) for name, part, size in zip(self.ids, parts, self.sizes, strict=True)}


def keep_labels(found: Mapping[str, Mapping[str, np.ndarray]]) -> KeptLabels:
    """Keep labels by network and image, H W each, 0 to 255.

    Raises:
        ValueError: If networks saw other images, or images of another size.

    >>> kept = keep_labels({"drawn": {"a": np.eye(2, dtype=int)}})
    >>> kept.sizes, kept.labels("drawn")["a"].tolist()
    (((2, 2),), [[1, 0], [0, 1]])
    """
    sizes = {network: {name: one.shape for name, one in maps.items()} for network, maps in found.items()}
    first = next(iter(sizes.values()), {})
    if other := [network for network, one in sizes.items() if list(one.items()) != list(first.items())]:
        raise ValueError(f"labels of {other[0]!r} are of other images than the first network's: expected {dict(first)}")
    packed = {network: np.concatenate([one.astype(np.uint8).ravel() for one in maps.values()]).tobytes() for network, maps in found.items()}
    return KeptLabels(
        ids=tuple(first),
        sizes=tuple((height, width) for height, width in first.values()),
        maps={network: base64.b64encode(zlib.compress(one, 9)).decode() for network, one in packed.items()},
    )


def labels_of(network: DeepLabV2, dataset: Dataset, scale: float = 1.0) -> dict[str, np.ndarray]:
    """The labels that a network gives each image, H W, by id, as it sees the image, resized by a factor, and its mirror."""
    return {sample.id: predict(network, sample.image, (scale,), flip=True).argmax(0) for sample in dataset}


def beside_truth(kept: KeptLabels, titles: Mapping[str, str], samples: list[Sample]) -> list[dict[str, np.ndarray]]:
    """The truth and the kept labels of each sample, H W by title, as `plots.label_rows` takes them.

    Args:
        kept: What was kept.
        titles: Title by network; of networks that are not named nothing is shown.
        samples: The samples to show.

    Raises:
        KeyError: If no labels of a sample or of a network were kept.
    """
    maps = {title: kept.labels(network) for network, title in titles.items()}
    return [{"truth": sample.truth} | {title: found[sample.id] for title, found in maps.items()} for sample in samples]
