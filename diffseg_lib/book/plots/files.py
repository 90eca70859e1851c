"""Pictures that are kept as files: the welcome picture, and one beside the JSON of every study."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...support.images import to_numpy
from ...support.paths import repository_root
from .axes import forest, rows, stack, use_style
from .house import draw_house
from .panels import Panels, heat, labels, picture
from .thread import draw_thread

if TYPE_CHECKING:
    from ...segmenter import DiffSegmenter

OPENING = 40  # test scenes that the welcome picture takes its three from


def quality(segmenter: DiffSegmenter, index: int) -> float:
    """Mean IoU of one test scene, its true words given, percent: over the labels that are there, the background's included."""
    from ...evaluation.metrics import confusion, miou
    from ...pocket.scenes import photo_or_scene

    sample = photo_or_scene("", (), index)
    return float(miou(confusion(sample.truth, segmenter.segment(sample.image, sample.classes).labels, len(sample.classes) + 1)))


def welcome(count: int = OPENING) -> Panels:
    """The welcome picture: of the first test scenes of two words the best, the one in the middle and the worst by mean IoU.

    A row a scene: itself, its first word's fused and completed maps, all labels; below each label map the mean IoU and its largest mistake.

    Args:
        count: The number of scenes looked at.
    """
    from ...evaluation.metrics import confusion
    from ...pocket.scenes import photo_or_scene
    from ...segmenter import DiffSegmenter

    segmenter = DiffSegmenter.from_profile("pocket")
    scores = {index: quality(segmenter, index) for index in range(count) if len(photo_or_scene("", (), index).classes) == 2}
    order = sorted(scores, key=lambda index: -scores[index])
    rows = []
    for index in (order[0], order[len(order) // 2], order[-1]):
        sample = photo_or_scene("", (), index)
        found = segmenter.segment(sample.image, sample.classes, return_intermediates=True)
        fused = to_numpy(found.intermediates.fused[0]) if found.intermediates is not None else found.scores[0]
        counts = confusion(sample.truth, found.labels, len(sample.classes) + 1)
        title = "; ".join(part for part in (f"mean IoU {scores[index]:.0f} %", largest_mistake(counts, sample.classes)) if part)
        inside, word = sample.truth == 1, sample.classes[0]
        maps = [heat(fused, f"“{word}”, cross-attention", inside), heat(found.scores[0], f"“{word}”, completed", inside)]
        rows.append([picture(sample.image, "the scene"), *maps, labels(found.labels, sample.classes, title)])
    heads = (f"The best of {len(order)} scenes", "The one in the middle", "The worst")
    return Panels(rows, heads)


def largest_mistake(counts: np.ndarray, names: Sequence[str]) -> str:
    """The largest share of a true class's pixels that got another label, as words; "" if it is below a twentieth.

    Args:
        counts: Pixels by true label and label given, the background first, k+1 k+1.
        names: The k words.

    >>> largest_mistake(np.array([[90, 10, 0], [0, 8, 2], [6, 0, 4]]), ["house", "fish"])
    '60 % of the fish is called background'
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    there, given = np.unravel_index(int(shares.argmax()), shares.shape)
    named = ["background", *names]
    if shares[there, given] < 0.05:
        return ""
    return f"{100 * shares[there, given]:.0f} % of the {named[there]} is called {named[given]}"


def study(path: Path) -> Path:
    """Draw a study's JSON, rows beside effects, as a PNG of its name; returns the PNG's path."""
    import matplotlib.pyplot as plt

    run = json.loads(path.read_text())
    result = run["result"]
    found, effects = ({name: SimpleNamespace(**{"label": ""} | one) for name, one in result[part].items()} for part in ("rows", "effects"))
    fig, axes = stack([[one.label or name for name, one in part.items()] for part in (found, effects)], 7.2)
    unit = result.get("unit", "mean IoU, %")
    rows(axes[:1], {f"{run['profile']}: {path.stem}, {result['images']} images, {unit.split(',')[0]}": found}, xlabel=unit)
    forest(axes[1], {"paired differences": effects}, list(effects), "points")
    fig.savefig(path.with_suffix(".png"), dpi=100, bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)
    return path.with_suffix(".png")


def draw(target: Path) -> list[Path]:
    """Draw a picture beside the JSON of every study in a folder, or one picture into a file; returns what was drawn.

    Args:
        target: A folder of studies' JSON, or a picture's path: house.svg is the library's house, any other the welcome picture. A folder named thread
            gets the drawings of the method, one for each place in it.
    """
    use_style()
    if target.stem == "house":
        return [draw_house(target, repository_root() / "diffseg_lib")]
    if target.name == "thread":
        return draw_thread(target)
    if target.is_dir():
        return [study(path) for path in sorted(target.glob("*.json"))]
    drawn = Image.open(io.BytesIO(welcome().png(dpi=200, size=12)))
    drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    return [target]
