"""Where things live: the repository, its data, the cache of generated files."""

from __future__ import annotations

import os
from pathlib import Path


def repository_root() -> Path:
    """The folder that holds ``diffseg_lib``."""
    return Path(__file__).resolve().parent.parent.parent


def in_repository() -> bool:
    """Whether this library is used from its repository; an installed one has ``data`` and ``profiles`` inside the package, in ``shipped``."""
    return (repository_root() / "pyproject.toml").is_file()


def _shipped() -> Path:
    return Path(__file__).resolve().parent.parent / "shipped"


def data_dir() -> Path:
    """``$DIFFSEG_DATA``, else ``data`` at the top of the repository, else what was installed with the library."""
    return Path(os.environ.get("DIFFSEG_DATA", (repository_root() if in_repository() else _shipped()) / "data"))


def results_file(study: str, profile: str) -> Path:
    """The file of a study's larger run.

    Args:
        study: Name of the study.
        profile: Profile that it ran on: a name, or a path whose last part counts.
    """
    return data_dir() / "results" / Path(profile).name / f"{study}.json"


def profiles_dir() -> Path:
    """The profiles that come with the library, YAML files."""
    return repository_root() / "notebooks" / "profiles" if in_repository() else _shipped() / "profiles"


def models_dir() -> Path:
    """The shipped pocket models."""
    return data_dir() / "pocket" / "models"


def cache_dir() -> Path:
    """Generated files: ``$DIFFSEG_CACHE``, else ``~/.cache/diffseg``."""
    return Path(os.environ.get("DIFFSEG_CACHE", Path.home() / ".cache" / "diffseg"))


def build_dir() -> Path:
    """Where everything generated goes: ``build`` in the repository, where git does not look; of an installed library in the current folder."""
    return (repository_root() if in_repository() else Path.cwd()) / "build"
