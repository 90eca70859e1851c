"""What a chapter leaves behind: one JSON of results, numbers for its prose, a line of provenance."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from .files import write_json
from .identity import weights_hash
from .paths import build_dir, data_dir, repository_root

LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


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
    return write_json(folder / f"{chapter}.json", facts | run_metadata(started))


def run_metadata(started: float) -> dict[str, Any]:
    """Seconds since `started` (a ``time.perf_counter()``), commit and versions: how a result came about."""
    versions = {"diffseg_lib": __version__} | {name: version(name) for name in LIBRARIES}
    return {"seconds": round(time.perf_counter() - started, 1), "commit": _commit(), "versions": versions}


def committed_json(study: str, profile: str = "pocket") -> dict[str, Any] | None:
    """The kept larger run of a study, with its command, commit, seconds and versions; None where there is none.

    Args:
        study: Its name: the file's stem.
        profile: Whose results; of a path, its last part.
    """
    path = data_dir() / "results" / Path(profile).name / f"{study}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
