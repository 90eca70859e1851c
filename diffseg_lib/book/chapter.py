"""A chapter's two calls: :func:`open_chapter` checks, loads and says what it runs on; :meth:`Chapter.close` leaves its results behind."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..data import Dataset
from ..evaluation.preflight import require
from ..evaluation.sources import open_dataset, open_splits
from ..profiles import Profile
from ..segmenter import DiffSegmenter
from ..support.provenance import provenance, write_results
from . import plots

PLAIN = (str, int, float, bool, list, dict, tuple)  # types of a parameter


@dataclass(frozen=True)
class Chapter:
    """A chapter that is running: what it was asked for, and the models and data that it reads.

    Args:
        name: The stem of its file.
        parameters: The parameters of its cell, by name.
        profile: The profile, with the data's folders in it.
        seed: Seed of the noise.
        started: When it began, as ``time.perf_counter()`` told it, seconds.
    """

    name: str
    parameters: Mapping[str, Any]
    profile: Profile
    seed: int
    started: float = field(default_factory=time.perf_counter)

    @cached_property
    def segmenter(self) -> DiffSegmenter:
        """The profile's diffusion model under the default switches, loaded when first asked for."""
        return DiffSegmenter.from_profile(self.profile, seed=self.seed)

    def data(self, dataset: str, split: str, images: int = 0) -> Dataset:
        """A split of a data set in the profile's folder: its first `images` images, 0 for all."""
        order = str(self.parameters.get("order", "")) if dataset == "context" else ""
        return open_dataset(dataset, self.profile.data_root(dataset), split, images, order)

    def splits(self, dataset: str, split: str, train_images: int, images: int) -> tuple[Dataset, Dataset]:
        """Images of train to choose on, and images of a split to measure, none of which is in both; as :func:`~diffseg_lib.evaluation.sources.open_splits`."""
        return open_splits(dataset, self.profile.data_root(dataset), split, train_images, images)

    def close(self, metrics: Mapping[str, Any], **numbers: str) -> None:
        """Write the chapter's JSON, and glue numbers for its prose.

        Args:
            metrics: Name to a number, or to a mapping with ``value``, ``ci95`` and ``images``.
            numbers: Texts by the name under which ``{glue:text}`` finds them; they are printed, for the tests to compare.
        """
        glue_numbers(**numbers)
        facts: dict[str, Any] = {"profile": self.profile, "parameters": self.parameters, "seed": self.seed, "started": self.started}
        path = write_results(self.name, metrics=metrics, out=str(self.parameters.get("out", "")), **facts)
        print(path.name)


def open_chapter(name: str, namespace: Mapping[str, Any], *models: str, datasets: Sequence[str] = ()) -> Chapter:
    """Open a chapter: one style for its figures, everything that it needs checked at once, a line of provenance printed.

    Args:
        name: The stem of its file.
        namespace: The notebook's ``globals()``; plain values in it are the parameters, since nothing else has run yet.
        models: Models beside the diffusion model that will be needed, "captioner" and "clip".
        datasets: Data sets that will be read, from ``data_root`` or the profile's folders.

    Raises:
        ValueError: On an unknown profile.
        FileNotFoundError: If a model or data set is missing; all that is missing is told in one message.
    """
    import pandas as pd

    hidden = {"In", "Out", "exit", "quit"}
    parameters: dict[str, Any] = {key: value for key, value in namespace.items() if key[0] != "_" and key not in hidden and isinstance(value, PLAIN)}
    started = time.perf_counter()
    plots.use_style()
    pd.set_option("display.max_colwidth", None)  # no cell of a table is cut
    warnings.filterwarnings("ignore", message="IProgress not found")  # bars of progress need widgets, and say so on their first import
    seed = int(parameters.get("seed", [*parameters.get("seeds", ()), 0][0]))
    options = {"data_root": parameters.get("data_root", ""), "split": parameters.get("split", "val"), "order": parameters.get("order", "")}
    profile = require(parameters.get("profile", "pocket"), *models, datasets=datasets, **options)
    print(provenance(profile, seed, profile.device))
    return Chapter(name, parameters, profile, seed, started)


def glue_numbers(**numbers: str) -> None:
    """Glue strings under their names, for ``{glue:text}`` in the prose, and print them for the tests to compare."""
    from myst_nb import glue

    for name, text in numbers.items():
        glue(name, text, display=False)
        print(f"{name} = {text}")
