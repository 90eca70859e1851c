"""Pictures that are kept as files: the welcome picture, and one beside the JSON of every study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ...support.images import to_numpy
from ...support.paths import repository_root
from .axes import forest, heat, labels, picture, rows, use_style
from .house import draw_house
from .thread import draw_thread


def welcome(axes: np.ndarray, scenes: Sequence[int]) -> np.ndarray:
    """The welcome picture, a column a test scene: the scene, one word's fused and completed maps, all labels (axes: 4 x scenes)."""
    from ...pocket.scenes import photo_or_scene
    from ...segmenter import DiffSegmenter

    segmenter = DiffSegmenter.from_profile("pocket")
    for column, index in zip(axes.T, scenes, strict=True):
        sample = photo_or_scene("", (), index)
        found = segmenter.segment(sample.image, sample.classes, return_intermediates=True)
        maps = to_numpy(found.intermediates.fused[0]) if found.intermediates is not None else found.scores[0]
        picture(column[0], sample.image)
        heat(column[1], maps, f"“{found.classes[0]}”")
        heat(column[2], found.scores[0])
        labels(column[3], sample.image, found.labels, found.classes, legend=False)
        column[3].set_xlabel(" and ".join(found.classes))
    for ax, text in zip(axes[:, 0], ("scene", "cross-attention", "completed", "labels"), strict=True):
        ax.set_ylabel(text)
    return axes


def study(path: Path) -> Path:
    """Draw a study's JSON, rows beside effects, as a PNG of its name; returns the PNG's path."""
    import matplotlib.pyplot as plt

    run = json.loads(path.read_text())
    result = run["result"]
    found, effects = ({name: SimpleNamespace(**{"label": ""} | one) for name, one in result[part].items()} for part in ("rows", "effects"))
    fig, axes = plt.subplots(1, 2, figsize=(13, 1.2 + 0.22 * max(len(found), len(effects))), gridspec_kw={"wspace": 0.9})
    unit = result.get("unit", "mean IoU, %")
    rows(axes[:1], {f"{run['profile']}: {path.stem}, {result['images']} images, {unit.split(',')[0]}": found}, xlabel=unit)
    forest(axes[1], {"paired differences": effects}, list(effects), "points")
    fig.savefig(path.with_suffix(".png"), dpi=70, metadata={"Software": None})
    plt.close(fig)
    return path.with_suffix(".png")


def draw(target: Path) -> list[Path]:
    """Draw a picture beside the JSON of every study in a folder, or one picture into a file; returns what was drawn.

    Args:
        target: A folder of studies' JSON, or a picture's path: house.svg is the library's house, any other the welcome picture. A folder named thread
            gets the drawings of the method, one for each place in it.
    """
    import matplotlib.pyplot as plt

    use_style()
    if target.stem == "house":
        return [draw_house(target, repository_root() / "diffseg_lib")]
    if target.name == "thread":
        return draw_thread(target)
    if target.is_dir():
        return [study(path) for path in sorted(target.glob("*.json"))]
    figure, panels = plt.subplots(4, 5, figsize=(10, 8.4))
    welcome(panels, (3, 14, 22, 23, 11))
    figure.savefig(target)
    plt.close(figure)
    return [target]
