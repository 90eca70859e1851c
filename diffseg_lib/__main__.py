"""The command line: ``python -m diffseg_lib segment PHOTO ... --classes WORD ... --out DIR``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from .images import Photo
    from .segmenter import DiffSegmenter, Segmentation


def _segment(o: argparse.Namespace) -> int:
    from .images import ImageError, load_photo
    from .segmenter import DiffSegmenter

    stems = [photo.stem for photo in o.photos]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(f"photos of the same name would overwrite each other: {', '.join(twice)}; segment them into folders of their own")
    segmenter = DiffSegmenter.from_profile(o.profile, o.recipe, device=o.device, seed=o.seed, threshold=o.threshold)
    segmenter.prompts(o.classes)  # refuse the classes before any photo is read
    failed = 0
    for path in o.photos:
        started = time.perf_counter()
        try:
            photo = load_photo(path)
            found = segmenter.segment(photo.pixels, o.classes, keep=o.save_intermediates)
        except ImageError as error:  # the other photos go on
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        folder = o.out / path.stem if len(o.photos) > 1 else o.out
        save(found, photo, folder)
        facts = {"photo": path.name} | describe(segmenter, found) | {"recipe": o.recipe or "default", "versions": versions()}
        facts["notes"] = [*photo.notes, *found.notes]
        facts["seconds"] = round(time.perf_counter() - started, 3)
        (folder / "result.json").write_text(json.dumps(facts, indent=1) + "\n")
        shares = ", ".join(f"{name} {share:.1%}" for name, share in found.areas.items())
        print(f"{folder}: {shares}" + "".join(f"\n  note: {note}" for note in facts["notes"]))
    return 2 if failed else 0


def describe(segmenter: DiffSegmenter, found: Segmentation) -> dict[str, Any]:
    """What was asked, by which settings, and what was found: the facts of a ``result.json``."""
    return {
        "size": list(found.labels.shape),
        "classes": list(found.classes),
        "areas": found.areas,
        "threshold": found.threshold,
        "seed": segmenter.config.seed,
        "profile": segmenter.backbone.profile.name,
        "chosen_on": segmenter.backbone.profile.chosen_on,
        "config": asdict(replace(segmenter.config, timesteps=segmenter.timesteps, weights=dict(segmenter.weights), threshold=found.threshold)),
        "prompts": [{"text": p.text, "span": p.span} for p in segmenter.prompts(found.classes)],
    }


def save(found: Segmentation, photo: Photo, folder: Path) -> None:
    """Write labels.png, overlay.png, scores.npz and, if they were kept, intermediates.npz.

    ``scores``: k H W in [0, 1]. Of the intermediates ``latents`` and ``noise`` are 1 c h w; ``timestep``
    holds one or several; ``tokens`` is k l, each prompt token's weight in its class's map (span mean);
    ``cross_<side>`` is k s_h s_w, the mean over that side's layers and heads, named by its height s_h;
    ``fused`` and ``completed`` are k h w. With several timesteps all maps are means over them.
    """
    from .images import overlay, save_labels

    folder.mkdir(parents=True, exist_ok=True)
    save_labels(found.labels, folder / "labels.png")
    Image.fromarray(overlay(photo.pixels, found.labels)).save(folder / "overlay.png")
    np.savez_compressed(folder / "scores.npz", scores=found.scores)
    if found.intermediates is not None:
        kept = found.intermediates
        maps: dict[str, Any] = {f"cross_{m.shape[-2]}": m.cpu().numpy() for m in kept.cross.values()}
        rest: dict[str, Any] = {name: getattr(kept, name).cpu().numpy() for name in ("latents", "noise", "tokens", "fused", "completed")}
        np.savez_compressed(folder / "intermediates.npz", timestep=np.array(kept.timesteps), **maps, **rest)


def versions() -> dict[str, str]:
    """Versions of this library and of what the result depends on."""
    from importlib.metadata import version

    from . import __version__

    names = ("torch", "diffusers", "transformers", "numpy", "pillow")
    return {"diffseg_lib": __version__, "python": sys.version.split()[0]} | {name: version(name) for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m diffseg_lib", description="Training-free open-vocabulary segmentation.")
    commands = parser.add_subparsers(dest="command", required=True)
    segment = commands.add_parser("segment", help="segment photos by words")
    segment.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    segment.add_argument("--classes", nargs="+", required=True, metavar="WORD", help="what to look for; quote names of several words")
    segment.add_argument("--profile", default="pocket", help="pocket, sd15 or the folder of a StableDiffusionPipeline")
    segment.add_argument("--recipe", choices=["paper", "released"], help="switches as the paper or the released code has them (default: ours)")
    segment.add_argument("--seed", type=int, default=0, help="of the noise")
    segment.add_argument("--threshold", type=float, help="background score in [0, 1] (default: the profile's)")
    segment.add_argument("--device", default="cpu")
    segment.add_argument("--save-intermediates", action="store_true", help="also write intermediates.npz, to redo the arithmetic")
    segment.add_argument("--out", type=Path, required=True, metavar="DIR")
    segment.set_defaults(run=_segment)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it went well, 2 with one line on standard error if the input was wrong."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
