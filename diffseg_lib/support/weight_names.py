"""Which file holds the weights of a part of a model, by the names that diffusers and transformers give them; nothing is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PRECISIONS = ("", "fp16", "bf16", "fp32")  # of names that are read, the plain one first; others, such as "ema" or "non_ema", hold other weights
STEMS = {".safetensors": ("diffusion_pytorch_model", "model"), ".bin": ("diffusion_pytorch_model", "pytorch_model")}  # endings in the order of preference
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")  # folders of a pipeline whose weights are read


@dataclass(frozen=True)
class Chosen:
    """The file that holds a part's weights.

    Args:
        path: Path of the file, or of the index of its shards.
        precision: Precision that its name says, "" where it says none.
        sharded: Whether it is an index.
        pickled: Whether it is a file of ``torch.save`` rather than safetensors.
    """

    path: Path
    precision: str
    sharded: bool
    pickled: bool


def _indexes(stem: str, ending: str, precision: str) -> tuple[str, ...]:
    """The names of an index: as diffusers and transformers write it, as earlier versions of theirs did, and as other tools do."""
    if not precision:
        return (f"{stem}{ending}.index.json",)
    return (f"{stem}{ending}.index.{precision}.json", f"{stem}{ending}.{precision}.index.json", f"{stem}.{precision}{ending}.index.json")


def choose(folder: Path, library: str = "") -> Chosen | None:
    """The file that holds the weights in a part's folder: safetensors before pickled files, the plain name before those of a precision; None if there is none.

    Args:
        folder: Folder of the part.
        library: Library whose names count, "diffusers" or "transformers"; "" is either.
    """
    for ending, stems in STEMS.items():
        for precision in PRECISIONS:
            for stem in {"diffusers": stems[:1], "transformers": stems[1:]}.get(library, stems):
                whole = f"{stem}.{precision}{ending}" if precision else f"{stem}{ending}"
                for name in (whole, *_indexes(stem, ending, precision)):
                    if (folder / name).is_file() or (folder / name).is_symlink():  # a link may lead nowhere, which is said later
                        return Chosen(folder / name, precision, name != whole, ending == ".bin")
    return None


def unusual(folder: Path, parts: Sequence[str] = PARTS) -> str:
    """What is worth telling of the files that hold a model's weights: those that are pickled or named by a precision; "" if there are none.

    Args:
        folder: Folder of the model.
        parts: Folders in it that are looked at, where they are there; else the folder itself is.
    """
    there = [folder / part for part in parts if (folder / part).is_dir()] or [folder]
    found = [chosen for one in there if (chosen := choose(one)) and (chosen.pickled or chosen.precision)]
    return ", ".join(one.path.relative_to(folder).as_posix() + (" (pickled)" if one.pickled else "") for one in found)
