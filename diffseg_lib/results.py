"""What a chapter leaves behind: one JSON of results, numbers for its prose, a line of provenance."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import __version__
from .locations import repository_root

LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


def build_dir() -> Path:
    """Where everything generated goes; git does not look there."""
    return repository_root() / "build"


@cache
def weights_hash(folder: str | Path, kinds: tuple[str, ...] = (".safetensors", ".json")) -> str:
    """A short hash of the weights and settings in a folder, by content; the hub id itself if it is none."""
    root = Path(folder)
    if not root.is_dir():
        return str(folder)
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.suffix in kinds and p.is_file()):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def provenance(profile: Any, seed: int, device: str = "cpu") -> str:
    """One line: which model, which weights, where, which versions, which seed.

    Args:
        profile: a :class:`diffseg_lib.profiles.Profile`.
        seed: of the chapter.
        device: it runs on.
    """
    libraries = ", ".join(f"{name} {version(name).split('+')[0]}" for name in LIBRARIES)
    return f"profile {profile.name} (weights {weights_hash(profile.source)}), {device}, seed {seed}; diffseg_lib {__version__}, {libraries}"


def _commit() -> str | None:
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository_root(), capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def write_results(
    chapter: str, *, parameters: Mapping[str, Any], metrics: Mapping[str, Any], seed: int, started: float, device: str = "cpu", out: str | Path = ""
) -> Path:
    """Write a chapter's JSON, atomically; returns its path.

    Args:
        chapter: its file's stem.
        parameters: what it was run with.
        metrics: name to a number, or to a mapping with ``value``, ``ci95`` and ``images``.
        seed: of the chapter.
        started: ``time.perf_counter()`` at its start.
        device: it ran on.
        out: folder; by default ``build/results/<profile>``.
    """
    folder = Path(out) if out else build_dir() / "results" / Path(str(parameters.get("profile", "pocket"))).name
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"chapter": chapter, "parameters": dict(parameters), "metrics": dict(metrics), "seed": seed, "device": device}
    return write_json(folder / f"{chapter}.json", facts | made(started))


def made(started: float) -> dict[str, Any]:
    """Seconds since `started` (a ``time.perf_counter()``), commit and versions: how a result came about."""
    versions = {"diffseg_lib": __version__} | {name: version(name) for name in LIBRARIES}
    return {"seconds": round(time.perf_counter() - started, 1), "commit": _commit(), "versions": versions}


def write_json(path: Path, facts: Any) -> Path:
    """Write a JSON file in one step; numpy's numbers and tuples become plain ones."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(facts, indent=1, default=str) + "\n")
    partial.replace(path)
    return path


def glue_numbers(**numbers: str) -> None:
    """Glue strings under their names, for ``{glue:text}`` in the prose, and print them for the tests to compare."""
    from myst_nb import glue

    for name, text in numbers.items():
        glue(name, text, display=False)
        print(f"{name} = {text}")
