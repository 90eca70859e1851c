"""Is everything there? Models and data looked at before anything is loaded, every finding at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .backbone import Profile, check_folder, is_hub_id
from .datasets import READERS, open_dataset
from .locations import models_dir

SPLITS = ("train", "val")
SHOWN = 5  # broken images named


@dataclass(frozen=True)
class Finding:
    """what was looked at; state: "ready", "missing" or "wrong"; detail: what was found, and what to do."""

    what: str
    state: str
    detail: str


def _absent(source: str) -> str:
    return f"{source} is not on this machine: fetch it once, online, by huggingface_hub.snapshot_download({source!r}), or name a folder it is in"


def _downloaded(source: str, file: str, revision: str = "") -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source, file, revision=revision or None), str)


def check_models(profile: Profile) -> list[Finding]:
    """The diffusion model, BLIP and CLIP of a profile, by their files; no weight is read."""
    found = [_diffusion(profile)]
    for what, source, pocket in (("captioner (BLIP)", profile.captioner, "blip"), ("CLIP", profile.clip, "clip")):
        folder = models_dir() / pocket if source == "pocket" else Path(source)
        if folder.is_dir():
            lacking = [name for name in ("config.json", "model.safetensors") if not any(folder.glob(f"{name}*"))]
            missing = f"{folder} lacks {', '.join(lacking)}: expected what save_pretrained writes, in safetensors"
            found.append(Finding(what, "missing" if lacking else "ready", missing if lacking else str(folder.name)))
        elif is_hub_id(source) and _downloaded(source, "config.json"):
            found.append(Finding(what, "ready", source))
        else:
            found.append(Finding(what, "missing", _absent(source)))
    return found


def _diffusion(profile: Profile) -> Finding:
    what, folder = "diffusion model", Path(profile.source)
    if is_hub_id(profile.source) and not folder.is_dir():
        here = _downloaded(profile.source, "unet/config.json", profile.revision)
        return Finding(what, "ready" if here else "missing", profile.source if here else _absent(profile.source))
    try:
        check_folder(folder)
        return Finding(what, "ready", folder.name)
    except FileNotFoundError as error:
        return Finding(what, "missing", str(error))
    except (ValueError, json.JSONDecodeError) as error:
        return Finding(what, "wrong", str(error))


def place_of(name: str, root: Path) -> Path:
    """Where a data set lies under a folder of several: the folder itself, or ``coco`` in it for "object"."""
    inside = [root / one for one in ("coco", "COCO", "coco2017") if (root / one / "annotations").is_dir()]
    return inside[0] if name == "object" and inside and not (root / "annotations").is_dir() else root


def check_data(name: str, root: Path, splits: Sequence[str] = SPLITS, images: int = 50) -> Iterator[Finding]:
    """A data set's splits: list and counts, order of labels, and so many images and masks of each, spread over the split.

    Args:
        name: of ``diffseg_lib.datasets.READERS``.
        root: of the tree.
        splits: to look at.
        images: of each split that are read; 0 is all.
    """
    for split in splits:
        what = f"{name}, {split}"
        try:
            dataset = open_dataset(name, root, split)
        except (ValueError, OSError) as error:
            missing = "no split file" in str(error) or "no annotations" in str(error) or "holds no" in str(error) or "is no folder" in str(error)
            yield Finding(what, "missing" if missing else "wrong", str(error))
            continue
        if len(dataset) != dataset.expected:
            yield Finding(what, "wrong", f"the list has {len(dataset)} images, the published split {dataset.expected}: restore the list")
        step = max(1, len(dataset) // images) if images else 1
        looked, broken = dataset.ids[::step], []
        for one in looked:
            try:
                dataset.load(one)
            except (ValueError, OSError) as error:
                broken.append(str(error))
        for text in broken[:SHOWN]:
            yield Finding(what, "wrong", text)
        if len(broken) > SHOWN:
            yield Finding(what, "wrong", f"and {len(broken) - SHOWN} more of the {len(looked)} images looked at")
        if not broken and len(dataset) == dataset.expected:
            notes = f" ({'; '.join(dataset.notes)})" if dataset.notes else ""
            yield Finding(what, "ready", f"{len(dataset)} images, {len(dataset.names) - 1} classes, {len(looked)} read{notes}")


def check(profile: Profile, root: str | Path = "", names: Sequence[str] = (), images: int = 50) -> list[Finding]:
    """Models of a profile, and data sets under a folder.

    Args:
        profile: whose models.
        root: a folder with ``VOCdevkit``, ``annotations`` or ``coco`` in it; "" looks at no data.
        names: of the data sets; none: those whose folders are there.
        images: as of :func:`check_data`.
    """
    found = check_models(profile)
    if str(root):
        top = Path(root)
        there = {"voc": "VOCdevkit/VOC2012", "context": "VOCdevkit/VOC2010", "object": "annotations"}
        wanted = names or [name for name in READERS if (place_of(name, top) / there[name]).is_dir()]
        if not wanted:
            found.append(Finding("data", "missing", f"{top} holds none of {', '.join(there.values())} (or coco/annotations): expected a data set's root"))
        for name in wanted:
            found += check_data(name, place_of(name, top), images=images)
    return found
