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
from .identity import describe_code, describe_models, weights_hash
from .paths import build_dir, repository_root, results_file

LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


def provenance(profile: Any, seed: int, device: str = "cpu") -> str:
    """One line that says which model, which weights, where, which versions and which seed.

    Args:
        profile: A :class:`diffseg_lib.profiles.Profile`.
        seed: Seed of the chapter.
        device: Device that the chapter runs on.
    """
    libraries = ", ".join(f"{name} {version(name).split('+')[0]}" for name in LIBRARIES)
    return f"profile {profile.name} (weights {weights_hash(profile.source)}), {device}, seed {seed}; diffseg_lib {__version__}, {libraries}"


def _git(*arguments: str) -> str | None:
    """What git says of the repository; None outside one."""
    try:
        found = subprocess.run(["git", *arguments], cwd=repository_root(), capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def commit() -> dict[str, Any]:
    """The commit of the code, and whether tracked files of the library differed from it; None for both outside a repository."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "diffseg_lib")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def write_results(
    chapter: str, *, profile: Any, parameters: Mapping[str, Any], metrics: Mapping[str, Any], seed: int, started: float, out: str | Path = ""
) -> Path:
    """Write a chapter's JSON in one step; returns its path.

    Args:
        chapter: Stem of the chapter's file.
        profile: Profile of the chapter, whose models and device are told.
        parameters: Parameters that the chapter was run with.
        metrics: Names to numbers, or to mappings with ``value``, ``ci95`` and ``images``.
        seed: Seed of the chapter.
        started: Value of ``time.perf_counter()`` at the chapter's start, in seconds.
        out: Folder of the file; by default ``build/results/<profile>``.
    """
    folder = Path(out) if out else build_dir() / "results" / Path(str(parameters.get("profile", "pocket"))).name
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"chapter": chapter, "parameters": dict(parameters), "metrics": dict(metrics), "seed": seed, "device": profile.device}
    return write_json(folder / f"{chapter}.json", facts | {"models": describe_models(profile), "code": describe_code()} | run_metadata(started))


def run_metadata(started: float) -> dict[str, Any]:
    """Seconds since `started` (a ``time.perf_counter()``), commit, whether the code differed from it, and versions: how a result came about."""
    versions = {"diffseg_lib": __version__} | {name: version(name) for name in LIBRARIES}
    return {"seconds": round(time.perf_counter() - started, 1), **commit(), "versions": versions}


def committed_json(study: str, profile: str = "pocket") -> dict[str, Any] | None:
    """The kept larger run of a study, with its command, commit, seconds and versions; None where there is none.

    Args:
        study: Name of the study: the stem of its file.
        profile: Profile whose results are meant; of a path, its last part counts.
    """
    path = results_file(study, profile)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
