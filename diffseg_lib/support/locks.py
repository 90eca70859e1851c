"""Locks: what the names in a profile stood for when its models and data were fetched, in a file beside it, ``NAME.lock.yaml``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .paths import cache_dir

ENDING = ".lock.yaml"
PINNED = ("source", "captioner", "clip")  # settings of a profile that name models


def lock_places(profile: Path) -> tuple[Path, Path]:
    """Where the lock of a profile's file lies: beside it, and in the cache folder, for a profile whose own folder cannot be written."""
    return profile.with_name(f"{profile.stem}{ENDING}"), cache_dir() / "locks" / f"{profile.stem}{ENDING}"


def lock_to_write(profile: Path) -> Path:
    """The place that a lock is written to: the first of :func:`lock_places` whose folder can be written."""
    beside, own = lock_places(profile)
    return beside if os.access(beside.parent, os.W_OK) else own


def read_lock(path: Path) -> dict[str, Any]:
    """What a lock holds, ``models`` and ``data``; both are empty where there is no file.

    Raises:
        ValueError: If it is damaged.
    """
    empty: dict[str, Any] = {"models": {}, "data": {}}
    if not path.is_file():
        return empty
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and fetch again") from error
    if not isinstance(held, dict) or not all(isinstance(held.get(key, {}), dict) for key in empty):
        raise ValueError(f"{path} is no lock: expected the mappings models and data; delete it, and fetch again")
    return empty | held


def write_lock(path: Path, held: Mapping[str, Any]) -> Path:
    """Write a lock in one step; returns its path."""
    from .files import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    told = "# Written by diffseg fetch: the commits that the profile's names stood for, and every file with its size in bytes and its checksum.\n"
    return write_text(path, told + yaml.safe_dump(dict(held), sort_keys=False, allow_unicode=True, width=160))


def pinned(settings: Mapping[str, Any], profile: Path) -> dict[str, Any]:
    """A profile's settings with the commits of its lock in place of branches; a model that was never fetched stays as it is named.

    Args:
        settings: Settings as the file has them.
        profile: Path of the file.

    Raises:
        ValueError: If the lock is damaged.
    """
    models: dict[str, Any] = next((read_lock(path)["models"] for path in lock_places(profile) if path.is_file()), {})
    commits = {name: f"{name.partition('@')[0]}@{held['commit']}" for name, held in models.items() if isinstance(held, dict) and "commit" in held}
    return {key: commits.get(value, value) if key in PINNED and isinstance(value, str) else value for key, value in settings.items()}
