"""The pocket world on disk, in the three layouts that real data sets have.

- ``voc``: ``VOCdevkit/VOC2012`` with palette PNG (0 background, 1..16 objects, 255 void rims);
- ``context``: ``VOCdevkit/VOC2010`` with ``SegmentationClassContext`` (1..16 objects, 17..23 grounds; every
  pixel is one of them, so 0, the background of the real set's label order, never occurs, and no rim is void);
- ``object``: COCO's ``annotations/instances_<split>2017.json`` and ``<split>2017/*.jpg`` (categories 1..16,
  one run-length mask of visible pixels an object; ids of images and annotations are unique over splits).

The same arguments write the same bytes. ``classes.txt`` at the top names the labels, background first.
``pocket.json`` beside it says what the tree holds: it is written first and each split's list last, so a
run that was cut short leaves no list, and the same command finishes it. Several splits may share a tree.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..support.files import write_json, write_text
from ..support.identity import code_hash
from ..support.images import save_labels
from ..support.paths import cache_dir
from .scenes import CONTEXT_NAMES, VOC_NAMES, scene_id, voc_truth
from .world import CLASS_NAMES, SPLITS, WORLD_SEED, Scene, compose, describe, paint, trace, trace_instances

LAYOUTS: dict[str, tuple[str, ...]] = {"voc": VOC_NAMES, "context": CONTEXT_NAMES, "object": VOC_NAMES}
Writer = Callable[[Path, str, int, int], dict[str, Any]]
MOST = 10_000_000  # scenes of a split: numbers of COCO images are split * MOST + 1, 2, ...


def _save_picture(scene: Scene, path: Path) -> None:
    Image.fromarray(paint(scene)).save(path, quality=95, subsampling=0)


def _captioned(name: str, scene: Scene) -> dict[str, Any]:
    return {"id": name, "caption": describe(scene), "variant": describe(scene, 0)}


def _voc(root: Path, split: str, seed: int, index: int) -> dict[str, Any]:
    scene, name = compose(split, index, seed), scene_id(split, index, seed)
    _save_picture(scene, root / "JPEGImages" / f"{name}.jpg")
    save_labels(voc_truth(scene), root / "SegmentationClass" / f"{name}.png")
    return _captioned(name, scene)


def _context(root: Path, split: str, seed: int, index: int) -> dict[str, Any]:
    scene, name = compose(split, index, seed), scene_id(split, index, seed)
    _save_picture(scene, root / "JPEGImages" / f"{name}.jpg")
    save_labels(trace(scene), root / "SegmentationClassContext" / f"{name}.png")
    return _captioned(name, scene)


def _object(root: Path, split: str, seed: int, index: int) -> dict[str, Any]:
    from pycocotools import mask

    scene, number = compose(split, index, seed), SPLITS[split] * MOST + index + 1
    file = f"{number:012d}.jpg"
    _save_picture(scene, root / f"{split}2017" / file)
    instances, annotations = trace_instances(scene), []
    for i, placed in enumerate(scene.objects, start=1):
        visible = np.asfortranarray(instances == i, dtype=np.uint8)
        if not visible.any():
            continue
        code = mask.encode(visible)
        annotations.append(
            {
                "id": number * 10 + i,
                "image_id": number,
                "category_id": placed.kind + 1,
                "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
                "area": float(mask.area(code)),
                "bbox": [float(v) for v in mask.toBbox(code)],
                "iscrowd": 0,
            }
        )
    image = {"id": number, "file_name": file, "height": scene.size, "width": scene.size}
    return _captioned(file.removesuffix(".jpg"), scene) | {"image": image, "annotations": annotations}


def _run(writer: Writer, root: Path, split: str, seed: int, n: int) -> Iterator[dict[str, Any]]:
    job = partial(writer, root, split, seed)
    if n <= 500:
        yield from map(job, range(n))
        return
    with get_context("spawn").Pool() as pool:
        yield from pool.imap(job, range(n), chunksize=32)


def _claim(out: Path, layout: str, split: str, n: int, seed: int) -> None:
    """Say in ``pocket.json`` what is about to be written; refuse a folder that holds something else."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: expected a folder to write the tree into")
    stamp, splits = out / "pocket.json", {}
    if stamp.exists():
        try:
            known = json.loads(stamp.read_text(encoding="utf-8"))
            held, splits = known["layout"], dict(known["splits"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{stamp} was not written by this command ({error!r}): give an empty or a new folder") from error
        if held != layout or splits.get(split, [n, seed]) != [n, seed]:
            listed = ", ".join(f"{name} ({count} scenes, seed {s})" for name, (count, s) in splits.items())
            raise ValueError(f"{out} already holds layout {held}, {listed}: give another folder, or the same arguments")
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and was not written by this command: give an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(stamp, {"layout": layout, "splits": dict(sorted((splits | {split: [n, seed]}).items()))})


def _list(layout: str, root: Path, split: str, rows: list[dict[str, Any]]) -> None:
    """Write what readers start from: the split file, or COCO's annotations."""
    if layout == "object":
        categories = [{"id": i, "name": name, "supercategory": "thing"} for i, name in enumerate(CLASS_NAMES, start=1)]
        images, annotations = [r["image"] for r in rows], [a for r in rows for a in r["annotations"]]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_text(root / "annotations" / f"instances_{split}2017.json", json.dumps(content))
    else:
        folder = "Segmentation" if layout == "voc" else "SegmentationContext"
        write_text(root / "ImageSets" / folder / f"{split}.txt", "".join(f"{r['id']}\n" for r in rows))


def _list_captions(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    sheet = csv.DictWriter(text, ["id", "caption", "variant"], extrasaction="ignore", lineterminator="\n")
    sheet.writeheader()
    sheet.writerows(rows)
    write_text(path, text.getvalue())


def write_layout(layout: str, split: str, n: int, seed: int, out: Path, captions: bool = False) -> None:
    """Write `n` scenes of a split as a data set.

    Args:
        layout: Whose layout: "voc", "context" or "object".
        split: The split, "train", "val" or "test"; no two of them share a scene.
        n: Scenes, 1 or more.
        seed: Seed of the world; 0 is the world that the shipped models were trained on.
        out: A new or empty folder, or one that this command wrote.
        captions: Also write ``captions_<split>.csv``: id, plain caption, a varied one.

    Raises:
        ValueError: On an unknown layout or split, n < 1, a negative seed, or a folder of other content.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: expected {', '.join(LAYOUTS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected {', '.join(SPLITS)}")
    if not 1 <= n <= MOST or seed < 0:
        raise ValueError(f"n {n} and seed {seed}: expected 1 to {MOST:,} scenes and a seed of 0 or more")
    tree = {
        "voc": (_voc, out / "VOCdevkit" / "VOC2012", ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")),
        "context": (_context, out / "VOCdevkit" / "VOC2010", ("JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext")),
        "object": (_object, out, ("annotations", f"{split}2017")),
    }
    writer, root, folders = tree[layout]
    _claim(out, layout, split, n, seed)
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    write_text(out / "classes.txt", "\n".join(LAYOUTS[layout]) + "\n")
    rows = list(_run(writer, root, split, seed, n))
    if captions:
        _list_captions(out / f"captions_{split}.csv", rows)
    _list(layout, root, split, rows)


def renderer() -> str:
    """A hash of the code that composes, paints and writes scenes: another renderer, other trees."""
    return code_hash("pocket.world", "pocket.scenes", "pocket.layouts")


def ensure_layout(layout: str, split: str, n: int, seed: int = WORLD_SEED) -> Path:
    """A tree of the first `n` scenes of a split in the cache, written when first asked for: its root.

    Its name holds the renderer's hash, so that a cache never serves what an older renderer drew. It is written aside and renamed, so
    that it is there whole or not at all, also where several processes ask at once.

    Raises:
        ValueError: As :func:`write_layout` does.
    """
    root = cache_dir() / "layouts" / f"{layout}-{split}-seed{seed}-{n}-{renderer()}"
    if not root.is_dir():
        part = root.with_name(f".{root.name}.{uuid.uuid4().hex}")
        try:
            write_layout(layout, split, n, seed, part)
            part.rename(root)
        except OSError:
            if not root.is_dir():  # else another process was first, with the same bytes
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return root
