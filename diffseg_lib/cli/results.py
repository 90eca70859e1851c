"""What the commands write: one picture's results, and the versions that made them."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..support.files import atomic_write, to_plain, write_json
from ..support.images import Photo, coco_segments, overlay, save_labels, to_numpy

if TYPE_CHECKING:
    from ..segmenter import DiffSegmenter, Segmentation


def describe(segmenter: DiffSegmenter, found: Segmentation) -> dict[str, Any]:
    """What was asked, by which settings and prompts, and what was found: the facts of a ``result.json``.

    ``prompts`` holds, in the order of the classes, the texts that the model was really given, captions included, the positions of
    the class's tokens in each (``span``) and those of the words that describe it (``modifiers``); the start token is position 0.
    """
    return {
        "size": list(found.labels.shape),
        "classes": list(found.classes),
        "areas": found.areas,
        "threshold": found.threshold,
        "seed": segmenter.config.seed,
        "profile": segmenter.backbone.profile.name,
        "chosen_on": segmenter.backbone.profile.chosen_on,
        "config": asdict(segmenter.resolved),
        "prompts": [{"text": one.text, "span": one.span, "modifiers": one.modifiers} for one in found.prompts],
    }


def result_folders(photos: Sequence[Path]) -> list[Path]:
    """A folder for the results of each photo, relative to the folder of all.

    It is the photo's name without its ending; photos that would share it keep the ending, as in ``a.jpg`` and ``a.png``, and those that would share
    that, too, the folders in which they lie below the one that they have in common.

    Args:
        photos: The photos.

    Raises:
        ValueError: If a photo is given twice.

    >>> [str(one) for one in result_folders([Path("in/a.jpg"), Path("in/a.png"), Path("in/b.png")])]
    ['a.jpg', 'a.png', 'b']
    """
    whole = [Path(os.path.abspath(photo)) for photo in photos]
    if twice := sorted({str(photo) for photo, path in zip(photos, whole, strict=True) if whole.count(path) > 1}):
        raise ValueError(f"photos given twice, whose results would overwrite each other: {', '.join(twice)}")
    common = Path(os.path.commonpath([path.parent for path in whole])) if whole else Path()
    forms = [(Path(path.stem), Path(path.name), path.relative_to(common)) for path in whole]
    level = [0] * len(forms)
    while True:
        counts = Counter(names[at] for names, at in zip(forms, level, strict=True))
        shared = [i for i, at in enumerate(level) if at < 2 and counts[forms[i][at]] > 1]
        if not shared:
            return [names[at] for names, at in zip(forms, level, strict=True)]
        for i in shared:
            level[i] += 1


def save(found: Segmentation, photo: Photo, facts: dict[str, Any], folder: Path, scores: str = "model") -> None:
    """Write labels.png, overlay.png, segments.json (COCO's runs), scores.npz, intermediates.npz if they were kept, and result.json.

    In ``scores.npz`` ``scores`` are float16: k h w at the model's size, which bilinear interpolation (pixel centres aligned) brings to the photo's ``size``, or
    k H W in [0, 1]; ``result.json`` says which. In ``intermediates.npz`` ``latents`` and ``noise`` are 1 c h w; ``timestep``
    holds one or several; ``tokens`` is k l, the weight of each prompt token in its class's map; ``cross_HEIGHT`` is k HEIGHT WIDTH,
    the mean over the layers and heads of that resolution; ``fused`` and ``completed`` are k h w. Of several timesteps all maps are
    means. Whatever the model's precision, these arrays are float32.

    Args:
        found: The result.
        photo: Of what.
        facts: Of ``result.json``, which is written last: where it is, the others are whole. All is computed before anything is written.
        folder: Where to; it is made.
        scores: Size of the scores that are written: "model", "full" or "none".

    Raises:
        OSError: If a file cannot be written.
    """
    from PIL import Image

    drawn, segments = Image.fromarray(overlay(photo.pixels, found.labels)), coco_segments(found.labels, found.classes)
    arrays: dict[str, dict[str, Any]] = {}
    if scores != "none":
        values = (found.scores if scores == "full" else found.maps).astype(np.float16)
        arrays["scores"] = {"scores": values, "size": np.array(found.labels.shape)}
        facts = facts | {"scores": {"size_of": "photo" if scores == "full" else "model", "shape": list(values.shape), "dtype": "float16"}}
    about = to_plain(facts)
    if (kept := found.intermediates) is not None:
        maps = {name: to_numpy(getattr(kept, name)) for name in ("latents", "noise", "fused", "completed")}
        maps |= {f"cross_{one.shape[-2]}": to_numpy(one) for one in kept.cross.values()}
        arrays["intermediates"] = {"timestep": np.array(kept.timesteps), "tokens": to_numpy(kept.token_weights), **maps}
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in ("result.json", "scores.npz", "intermediates.npz"):  # they would be of other files
        (folder / earlier).unlink(missing_ok=True)
    with atomic_write(folder / "labels.png") as file:
        save_labels(found.labels, file)
    with atomic_write(folder / "overlay.png") as file:
        drawn.save(file, "PNG", compress_level=1)
    write_json(folder / "segments.json", segments)
    for name, given in arrays.items():
        with atomic_write(folder / f"{name}.npz") as file:
            np.savez_compressed(file, **given)
    write_json(folder / "result.json", about)


def versions() -> dict[str, str]:
    """Versions of this library and of what a result depends on."""
    from importlib.metadata import version

    from .. import __version__

    names = ("torch", "diffusers", "transformers", "numpy", "pillow")
    return {"diffseg_lib": __version__, "python": sys.version.split()[0]} | {name: version(name) for name in names}
