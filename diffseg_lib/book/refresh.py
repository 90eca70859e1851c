"""Outputs in git: notebooks executed with their defaults, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nbformat

from ..support.paths import build_dir
from .notebooks import normalise
from .run import Outcome, inputs_of, run, write_notebook


def refresh(paths: Sequence[Path], *, force: bool = False, timeout: float = 1800, workers: int = 0) -> list[Outcome]:
    """Execute notebooks with their defaults and keep the normalised outputs in ``notebooks/``."""
    out = build_dir() / "notebooks"
    outcomes = run([(path, {}) for path in paths], out, force=force, timeout=timeout, workers=workers)
    for path, outcome in zip(paths, outcomes, strict=True):
        if outcome.state != "failed":
            write_notebook(normalise(nbformat.read(out / path.name, 4), inputs_of(path)), path)
    return outcomes
