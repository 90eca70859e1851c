"""Where things live: the repository, its data, the cache of generated files."""

from __future__ import annotations

import os
from pathlib import Path


def repository_root() -> Path:
    """The folder that holds ``diffseg_lib``."""
    return Path(__file__).resolve().parent.parent.parent


def data_dir() -> Path:
    """``$DIFFSEG_DATA``, else ``data`` at the top of the repository."""
    return Path(os.environ.get("DIFFSEG_DATA", repository_root() / "data"))


def profiles_dir() -> Path:
    """The profiles that come with the repository, YAML files."""
    return repository_root() / "notebooks" / "profiles"


def models_dir() -> Path:
    """The shipped pocket models."""
    return data_dir() / "pocket" / "models"


def cache_dir() -> Path:
    """Generated files: ``$DIFFSEG_CACHE``, else ``~/.cache/diffseg``."""
    return Path(os.environ.get("DIFFSEG_CACHE", Path.home() / ".cache" / "diffseg"))


def build_dir() -> Path:
    """Where everything generated goes; git does not look there."""
    return repository_root() / "build"
