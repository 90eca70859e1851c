"""Whether committed notebooks keep their contract and hold current outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat

from ..support.source_code import PACKAGE
from .notebooks import breaches, code_cells, normalise
from .run import inputs_of


def faults(path: Path) -> list[str]:
    """What is wrong with a committed notebook: breaches of the contract, stale outputs, outputs not normalised."""
    notebook = nbformat.read(path, 4)
    found = breaches(notebook, path.stat().st_size)
    if notebook.metadata.get(PACKAGE, {}).get("inputs") != inputs_of(path):
        found.append("its outputs are stale: code, library or weights changed since; run make refresh")
    elif normalise(notebook) != notebook:
        found.append("its outputs are not normalised; run make refresh")
    if not code_cells(notebook):
        found.append("it has no code")
    return [f"{path.name}: {one}" for one in found]
