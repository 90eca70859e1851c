"""The files that hold a part's weights: every one's header opened and held against its size, before anything is loaded.

A header of safetensors tells how long its file is. A file of ``torch.save`` is opened by ``torch.load(weights_only=True)`` alone, which
makes tensors and runs no code.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..support.weight_names import STEMS, Chosen, choose

LFS = b"version https://git-lfs.github.com/spec/v1"
LONGEST_HEADER = 100_000_000  # bytes, of safetensors
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_UNFINISHED = (".aria2", ".part", ".crdownload", ".incomplete", ".download")  # beside or in place of a file that is being fetched


@dataclass(frozen=True)
class WeightFiles:
    """The files of a part's weights.

    Args:
        chosen: The file by which they were found.
        paths: Paths of all of them.
    """

    chosen: Chosen
    paths: tuple[Path, ...]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of settings.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it holds no object of JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing{_interrupted(path)}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no file of settings ({_strange(path) or error}): expected JSON; restore it") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no file of settings: expected an object of JSON, got {type(found).__name__}")
    return found


def find_weights(folder: Path, library: str, pickled: bool = True) -> WeightFiles:
    """The files of a part's weights, all of them there.

    Args:
        folder: Folder of the part.
        library: Library that wrote it, "diffusers" or "transformers".
        pickled: Whether a file of ``torch.save`` will do where there are no safetensors.

    Raises:
        FileNotFoundError: If there is none, or a shard is missing.
        ValueError: If there are only pickled ones and they will not do, or an index names no shards.
    """
    chosen = choose(folder, library)
    stem = STEMS[".safetensors"][library == "transformers"]
    if chosen is None:
        raise FileNotFoundError(f"{folder / f'{stem}.safetensors'} is missing{_instead(folder)}{_interrupted(folder / f'{stem}.safetensors')}")
    if chosen.pickled and not pickled:
        raise ValueError(f"the weight file {chosen.path} is pickled, which the profile forbids (pickled_weights: false): expected {stem}.safetensors beside it")
    if not chosen.sharded:
        return WeightFiles(chosen, (chosen.path,))
    shards = read_json(chosen.path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{chosen.path} names no shards: expected a weight_map from keys to files; restore it")
    names = sorted(set(map(str, shards.values())))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise FileNotFoundError(
            f"{folder / absent[0]}{more} is missing, of the {len(names)} shards that {chosen.path.name} names: fetch it{_interrupted(folder / absent[0])}"
        )
    return WeightFiles(chosen, tuple(folder / name for name in names))


def _instead(folder: Path) -> str:
    """What of weights a folder holds in place of what is read."""
    found = sorted(
        path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".pt", ".pth")
    )
    return f" ({folder.name} holds {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}, which are not read)" if found else ""


def _interrupted(path: Path) -> str:
    """A hint at a download that was interrupted, of this file or, in a hub's cache, of one of the same model."""
    beside = [path.with_name(path.name + ending) for ending in _UNFINISHED]
    tops = [top for parent in path.parents for top in (parent / ".cache" / "huggingface" / "download", parent / "blobs") if top.is_dir()][:1]
    found = [one for one in beside if one.is_file()] or [one for top in tops for one in sorted(top.rglob("*.incomplete"))]
    return f"; a download was interrupted: {found[0]}, {found[0].stat().st_size:,} bytes so far; fetch it again" if found else ""


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, their shapes and precisions alone (on torch's meta device).

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not there in whole, or holds something else; the message tells sizes found and expected.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing{' (a link that leads nowhere)' if path.is_symlink() else ''}{_interrupted(path)}")
    if (control := path.with_name(path.name + ".aria2")).is_file():
        raise ValueError(f"the weight file {path} is still being fetched ({path.stat().st_size:,} bytes found, {control.name} beside it): let the download end")
    if strange := _strange(path):
        raise ValueError(f"the weight file {path} {strange}")
    return _tensors(path, "meta") if path.suffix == ".bin" else _safetensors_header(path)


def _strange(path: Path) -> str:
    """What a file is in place of its content: empty, a pointer, a page; "" if none of these."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if size == 0:
        return "is empty: 0 bytes found; fetch it again"
    if start.startswith(LFS):
        told = re.search(rb"\nsize (\d+)", start)
        expected = f"{int(told[1]):,}" if told else "those of the weights"
        return f"is a git-lfs pointer: {size:,} bytes found, {expected} expected; run git lfs pull in its folder"
    if start.lstrip()[:1] == b"<":
        return f"is a page (HTML or XML) of {size:,} bytes that was saved in its place: fetch the file itself"
    return ""


def _safetensors_header(path: Path) -> dict[str, Tensor]:
    size, other = path.stat().st_size, f"the weight file {path} is no file of safetensors"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= LONGEST_HEADER:
            raise ValueError(f"{other} ({size:,} bytes found, whose first eight tell no length of a header): restore it")
        if 8 + length > size:
            raise ValueError(
                f"the weight file {path} is cut off: {size:,} bytes found, more than {8 + length:,} expected, which its header takes; fetch it again"
            )
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            expected = 8 + length + max((int(one["data_offsets"][1]) for one in header.values()), default=0)
            known = {name: (one["dtype"], tuple(map(int, one["shape"]))) for name, one in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{other} (its header is damaged: {error}): restore it") from error
    if size != expected:
        what = "is cut off" if size < expected else "is longer than it says"
        raise ValueError(f"the weight file {path} {what}: {size:,} bytes found, {expected:,} expected by its header; fetch it again")
    if other_types := sorted({dtype for dtype, _ in known.values()} - set(DTYPES)):
        raise ValueError(f"the weight file {path} holds numbers of type {', '.join(other_types)}: expected F32, F16 or BF16, weights that are not quantised")
    return {name: torch.empty(shape, dtype=DTYPES[dtype], device="meta") for name, (dtype, shape) in known.items()}


def _tensors(path: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a file of ``torch.save``."""
    size = path.stat().st_size
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    if archive and not zipfile.is_zipfile(path):
        raise ValueError(
            f"the weight file {path} is cut off: {size:,} bytes found, more expected, since the list of contents that ends it is missing; fetch it again"
        )
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # of whatever a file that anyone may have written holds
        if asked := re.search(r"GLOBAL (\S+)|(Unsupported (?:operand|class)[^\n]*)", str(error)):
            raise ValueError(
                f"the weight file {path} holds more than tensors ({asked[1] or asked[2]}), by which a pickled file can run code: refused; "
                "expected the weights alone, best as safetensors"
            ) from error
        raise ValueError(f"the weight file {path} cannot be opened ({size:,} bytes found; {str(error).splitlines()[0][:150]}): fetch it again") from error
    if not isinstance(found, dict) or not found or not all(isinstance(one, Tensor) for one in found.values()):
        held = ", ".join(map(str, list(found)[:3])) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"the weight file {path} holds {held or 'nothing'}: expected tensors by name, as save_pretrained writes them")
    return dict(found)


def read_headers(files: WeightFiles) -> dict[str, Tensor]:
    """The tensors of all files by name, as :func:`read_header` tells them."""
    return {name: tensor for path in files.paths for name, tensor in read_header(path).items()}


def read_tensors(files: WeightFiles) -> dict[str, Tensor]:
    """The tensors of all files by name, on the CPU, in the precision that they are stored in."""
    from safetensors.torch import load_file

    return {name: tensor for path in files.paths for name, tensor in (_tensors(path, "cpu") if path.suffix == ".bin" else load_file(path)).items()}
