"""Identity: what a result depends on, described for people and hashed for keys.

One function makes a key of facts (:func:`fingerprint`); one describes a model (:func:`describe_model`), one the code that computed
(:func:`describe_code`); a data set describes itself by the digests of its files (:func:`digest_files`). Runs, parts of studies, masks,
sweeps, chapters and caches all take their keys from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from .files import to_plain
from .paths import models_dir
from .source_code import PACKAGE, code_only, code_used, module_files
from .weight_names import unusual

MODEL_FILES = (".safetensors", ".bin", ".json")  # weights and settings, by their endings
NOT_OF_A_MODEL = ("profile.json",)  # numbers chosen for it, which stand in a key as settings
SHIPPED = {"diffusion": "diffusion", "captioner": "blip", "clip": "clip"}  # folders of the pocket models, by what they are


def fingerprint(facts: Mapping[str, Any]) -> str:
    """A short hash of facts: the same whatever their order, another if any of them differs.

    Raises:
        ValueError, TypeError: As of :func:`~diffseg_lib.support.files.to_plain`.

    >>> fingerprint({"seed": 0, "method": "cross"}) == fingerprint({"method": "cross", "seed": 0}) != fingerprint({"method": "cross", "seed": 1})
    True
    """
    return hashlib.sha256(json.dumps(to_plain(facts), sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


# -- files


def digest_files(paths: Iterable[Path], *, strict: bool = True) -> str:
    """A short hash of files in their order: of their content, or of size and time of change alone.

    Args:
        paths: Paths of the files; one that is missing counts as such.
        strict: Whether their content is read; else a file counts by its size (bytes) and its time of change (nanoseconds).
    """
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            digest.update(b"missing;")
        elif strict:
            digest.update(_read(path))
        else:
            digest.update(f"{_stamp(path)};".encode())
    return digest.hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def _read(path: Path) -> bytes:
    """The hash of a file's content, which is never whole in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@lru_cache(maxsize=4096)
def _content(path: Path, stamp: tuple[int, int]) -> bytes:
    """The hash of a file of a model, which may be large: read again only when size or date differ."""
    return _read(path)


def digest_tree(root: Path) -> str:
    """A short hash of all files below a folder: their names, sizes and times of change."""
    found = sorted(path for path in root.rglob("*") if path.is_file())
    names = "\n".join(path.relative_to(root).as_posix() for path in found)
    return hashlib.sha256(f"{names}\n{digest_files(found, strict=False)}".encode()).hexdigest()[:16]


# -- models


def model_source(source: str | Path, kind: str = "") -> str:
    """The folder or hub id of a model: "pocket" stands for the shipped one of its kind, "diffusion", "captioner" or "clip"."""
    return str(models_dir() / SHIPPED.get(kind, "clip")) if str(source) == "pocket" else str(source)


def weights_hash(folder: str | Path) -> str:
    """A short hash of the weights and settings in a folder or a file, by content; what is neither, such as a hub id, is returned as it is.

    Args:
        folder: Folder or file of a model, or a hub id.
    """
    root = Path(folder)
    if root.is_file():
        return _content(root, _stamp(root)).hex()[:12]
    if not root.is_dir():
        return str(folder)
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.suffix in MODEL_FILES and p.is_file() and p.name not in NOT_OF_A_MODEL):
        digest.update(path.relative_to(root).as_posix().encode() + _content(path, _stamp(path)))
    return digest.hexdigest()[:12]


def describe_model(source: str | Path, kind: str = "") -> dict[str, str]:
    """What a model is, by the same facts on any machine.

    Args:
        source: Folder or file of a model, a hub id, ``@revision`` behind it or not, or "pocket".
        kind: What "pocket" stands for: "diffusion", "captioner" or "clip".

    Returns:
        ``source``: The hub id, or the folder's name. ``revision``: Of a hub id, the commit that its revision stands for in the cache on this machine; "" where
        it is not there. ``content``: Hash of the weights and settings. ``weights``: The weight files that are pickled or named by a precision; left out where
        there are none.
    """
    place = model_source(source, kind)
    if Path(place).is_file():  # a model, or a LoRA, in one file
        return {"source": Path(place).name, "revision": "", "content": weights_hash(place)}
    if Path(place).is_dir():
        return {"source": Path(place).resolve().name, "revision": "", "content": weights_hash(place)} | _unusual(Path(place))
    name, _, revision = place.partition("@")
    folder = snapshot(name, revision)
    if folder is None:
        return {"source": name, "revision": "", "content": ""}
    return {"source": name, "revision": folder.name, "content": _linked_content(folder)} | _unusual(folder)


def _unusual(folder: Path) -> dict[str, str]:
    return {"weights": found} if (found := unusual(folder)) else {}


def snapshot(name: str, revision: str) -> Path | None:
    """The folder of a model in the hub's cache, whose name is the commit; None if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _linked_content(folder: Path) -> str:
    """A hash of a snapshot's weights and settings; a file of the cache is a link to one that is named by its content's hash."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in MODEL_FILES and p.is_file()):
        known = path.resolve().name.encode() if path.is_symlink() else _content(path, _stamp(path))
        digest.update(path.relative_to(folder).as_posix().encode() + known)
    return digest.hexdigest()[:12]


def model_key(source: str | Path, kind: str = "") -> str:
    """What a model counts by in keys: its content, so that a folder may move; of a model that is not on this machine, its hub id."""
    found = describe_model(source, kind)
    return found["content"] or found["source"]


def describe_models(profile: Any) -> dict[str, dict[str, str]]:
    """What the models of a :class:`~diffseg_lib.profiles.Profile` are, the diffusion model, the captioner and the CLIP (:func:`describe_model`)."""
    sources = {"diffusion": profile.source, "captioner": profile.captioner, "clip": profile.clip}
    return {kind: describe_model(source, kind) for kind, source in sources.items()} | describe_additions(profile)


def describe_additions(profile: Any) -> dict[str, dict[str, str]]:
    """What a profile adds to its model, where it does: the settings that a single file is read by, and a LoRA with its scale."""
    found = {"config": describe_model(profile.config)} if profile.config else {}
    return found | ({"lora": describe_model(profile.lora[0]) | {"scale": str(profile.lora[1])}} if profile.lora else {})


def model_keys(profile: Any) -> dict[str, str]:
    """What the same models count by in keys, by content where it is known, so that a folder may move (:func:`model_key`)."""
    return {kind: f"{facts['content'] or facts['source']} {facts.get('scale', '')}".strip() for kind, facts in describe_models(profile).items()}


# -- code


@cache
def code_hash(*modules: str) -> str:
    """A short hash of what modules do by themselves, without what they import: for what only they decide, such as how a scene is drawn.

    Args:
        modules: Names of modules below the package, as in "pocket.world".
    """
    here = Path(__file__).resolve().parent.parent
    texts = [here.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8") for module in modules]
    return hashlib.sha256("\n".join(map(code_only, texts)).encode()).hexdigest()[:12]


@cache
def describe_code(*modules: str) -> dict[str, str]:
    """The code that computes, ``modules``: a hash of modules and of all of the library that they import.

    Comments, docstrings and modules that are not imported do not count.

    Args:
        modules: Names of modules below the package, as in "experiments.ablation"; without any, all of them.
    """
    modules = modules or tuple(name for name in module_files(Path(__file__).resolve().parent.parent) if name)
    source = "\n".join(f"import {PACKAGE}.{module}" for module in modules)
    root = Path(__file__).resolve().parent.parent.parent
    return {"modules": hashlib.sha256(code_used(source, root).encode()).hexdigest()[:12]}
