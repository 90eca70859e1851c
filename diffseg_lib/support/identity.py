"""Identity: short hashes of what a result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from .files import to_plain


def fingerprint(facts: Mapping[str, Any]) -> str:
    """A short hash of facts: the same whatever their order, another if any of them differs.

    Raises:
        ValueError, TypeError: As of :func:`~diffseg_lib.support.files.to_plain`.

    >>> fingerprint({"seed": 0, "method": "cross"}) == fingerprint({"method": "cross", "seed": 0}) != fingerprint({"method": "cross", "seed": 1})
    True
    """
    return hashlib.sha256(json.dumps(to_plain(facts), sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


@cache
def weights_hash(folder: str | Path, kinds: tuple[str, ...] = (".safetensors", ".json")) -> str:
    """A short hash of the weights and settings in a folder, by content; what is no folder, such as a hub id, is returned as it is.

    Args:
        folder: Folder of a model, or a hub id.
        kinds: Endings of the files that are hashed.
    """
    root = Path(folder)
    if not root.is_dir():
        return str(folder)
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.suffix in kinds and p.is_file()):
        digest.update(path.relative_to(root).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


@lru_cache(maxsize=1)
def source_hash() -> str:
    """A short hash of the library's own source, so that rows of two versions of it never count as one run."""
    digest, here = hashlib.sha256(), Path(__file__).parent.parent
    for path in sorted(here.rglob("*.py")):
        digest.update(path.relative_to(here).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
