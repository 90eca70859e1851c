"""Writing files: in one step, so that a process killed at any moment leaves whole files only."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np


class RunError(OSError):
    """A run that cannot be kept or read: a full disk, a folder that cannot be written, a damaged part, rows that disagree."""


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", once: bool = False) -> Iterator[IO[Any]]:
    """Open a file that appears whole or not at all, and is on the disk when the block ends.

    It is written under a name of its own beside its place, flushed and renamed, so that several processes may write the same file. After an error nothing is
    left, and what was there before is untouched.

    Args:
        path: Place of the file; its folder must exist.
        mode: Mode in which it is opened: "wb", or "w" for text in UTF-8 with plain line ends.
        once: Whether a file that is there stays: of several processes that write it at the same moment the first one's is kept, by each of them.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with temporary.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _put_once(temporary, path) if once else temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _put_once(temporary: Path, path: Path) -> None:
    """Give a whole file a second name, unless another has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.replace(path)


def _sync(folder: Path) -> None:
    """The folder's list of names to the disk, where the system has that."""
    if hasattr(os, "O_DIRECTORY"):
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file by :func:`atomic_write`; returns its path."""
    with atomic_write(path, "w") as file:
        file.write(text)
    return Path(path)


def to_plain(value: Any, where: str = "") -> Any:
    """A value as JSON can hold it.

    NumPy's numbers and arrays become plain numbers and lists, dataclasses and mappings objects with string keys, sequences and sets lists (sets sorted), paths
    strings.

    Args:
        value: Value that is to be kept.
        where: Path of keys that leads to the value; it is named in errors.

    Raises:
        ValueError: On NaN or infinity; the path of keys is named.
        TypeError: On a value that JSON cannot hold; the path of keys is named.

    >>> to_plain({"miou": np.float32(0.5), "ids": ("a", "b"), 2: np.arange(2)})
    {'miou': 0.5, 'ids': ['a', 'b'], '2': [0, 1]}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return to_plain(value.tolist(), where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where or 'the value'} is {value}: expected a finite number, or None where there is none")
        return value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value), where)
    if isinstance(value, Mapping):
        return {str(key): to_plain(one, f"{where}.{key}" if where else str(key)) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return to_plain(sorted(value), where)
    if isinstance(value, list | tuple):
        return [to_plain(one, f"{where}[{i}]") for i, one in enumerate(value)]
    raise TypeError(f"{where or 'the value'} is a {type(value).__name__}: expected what JSON can hold")


def write_json(path: str | Path, facts: Any, once: bool = False) -> Path:
    """Write a JSON file in one step; returns its path.

    Args:
        path: Place of the file.
        facts: What it holds, as :func:`to_plain` takes it.
        once: Whether a file that is there stays, as of :func:`atomic_write`.

    Raises:
        ValueError, TypeError: As of :func:`to_plain`; nothing is written then.
    """
    text = json.dumps(to_plain(facts), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path, "w", once) as file:
        file.write(text)
    return Path(path)


def claim(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write a folder's ``manifest.json``, or find that it was made by the same facts; of several processes that come at the same moment one writes it.

    Raises:
        RunError: If it holds what was made by others; they are named. So it is where the manifest cannot be read.
    """
    manifest, given = folder / "manifest.json", to_plain(facts)
    if not manifest.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(manifest, given, once=True)
    known = read_manifest(manifest)
    other = sorted(key for key in {*known, *given} if known.get(key) != given.get(key))
    if other:
        raise RunError(f"{folder} was made with another {', '.join(other)}: name another folder, or delete this one")


def read_manifest(path: Path) -> dict[str, Any]:
    """The facts of a ``manifest.json``.

    Raises:
        RunError: If it cannot be read, or is no object of JSON.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): delete the folder and run again") from error
    return held
