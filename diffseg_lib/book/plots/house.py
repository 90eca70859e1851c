"""The house: the wings of the library and who imports whom, drawn from the imports themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as MplPath

from ...support.imports import METHOD, imports_of, module_files, wing_of
from .axes import INK, grid

FLOORS = (
    ("support",),
    ("weights", "propagation", "dit"),
    (METHOD, "data"),
    ("baselines", "pocket"),
    ("refinements",),
    ("evaluation", "fetching"),
    ("applications", "pocket.training"),
    ("experiments", "book"),
    ("cli",),
)  # from the ground
FILLS = {METHOD: "#ffe9c9"}
HALF = (0.125, 0.29)  # width and height of half a box; the picture is 1 wide, and a floor 1 high

Point = tuple[float, float]


def house_facts(package: Path) -> dict[str, Any]:
    """Modules and lines of every wing, and the number of imports between wings.

    Args:
        package: The library's folder.
    """
    wings: dict[str, dict[str, int]] = {wing: {"modules": 0, "lines": 0} for floor in FLOORS for wing in floor}
    for name, path in module_files(package).items():
        wing = wings[wing_of(name)]
        wing["modules"] += 1
        wing["lines"] += len(path.read_text(encoding="utf-8").splitlines())
    pairs = ((wing_of(name), wing_of(target)) for name, targets in imports_of(package).items() for target in targets if name and target)
    arrows = Counter(pair for pair in pairs if pair[0] != pair[1])
    return {"wings": wings, "imports": [[*pair, count] for pair, count in sorted(arrows.items())]}


def way(start: Point, end: Point, others: Sequence[Point]) -> list[Point]:
    """Start, control point and end of a quadratic curve that passes behind the fewest boxes: straight where that passes behind none.

    Args:
        start: Where it starts, (x, y).
        end: Where it ends.
        others: Centres of the boxes that it should not touch.
    """

    def hidden(line: list[Point]) -> int:
        (x0, y0), (x1, y1), (x2, y2) = line
        t = np.linspace(0, 1, 60)
        x, y = (1 - t) ** 2 * x0 + 2 * t * (1 - t) * x1 + t**2 * x2, (1 - t) ** 2 * y0 + 2 * t * (1 - t) * y1 + t**2 * y2
        return sum(int((abs(x - cx) < HALF[0] + 0.01) @ (abs(y - cy) < HALF[1] + 0.05)) for cx, cy in others)

    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    shifts = sorted(((across, up) for across in np.linspace(-0.5, 0.5, 21) for up in np.linspace(-1, 1, 9)), key=lambda one: abs(one[0]) + abs(one[1]) / 4)
    return min(([start, (middle[0] + across, middle[1] + up), end] for across, up in shifts), key=hidden)


def house(facts: Mapping[str, Any]) -> Figure:
    """Wings as boxes, a floor above what it imports, and an arrow from each wing to those that it imports.

    Arrows that follow from others are left out: of two ways to a wing only the longer one is drawn.

    Args:
        facts: What is drawn, as :func:`house_facts` tells it.
    """
    import networkx

    figure, [[ax]] = grid(1, 1, (7.4, 9.0), layout=None)
    centres: dict[str, tuple[float, float]] = {}
    for height, floor in enumerate(FLOORS):
        for i, wing in enumerate(floor):
            x, y = (i + 0.5) / len(floor), float(height)
            centres[wing] = (x, y)
            ax.add_patch(
                FancyBboxPatch(
                    (x - HALF[0], y - HALF[1]), 2 * HALF[0], 2 * HALF[1], "round,pad=0,rounding_size=0.03", fc=FILLS.get(wing, "#e8eef4"), ec=INK, lw=0.8
                )
            )
            ax.text(x, y + 0.1, wing, ha="center", va="center", fontsize=11, weight="bold")
            known = facts["wings"][wing]
            ax.text(x, y - 0.13, f"{known['modules']} modules, {known['lines']:,} lines", ha="center", va="center", fontsize=8)
    graph = networkx.DiGraph([(a, b) for a, b, _ in facts["imports"]])
    for a, b in networkx.transitive_reduction(graph).edges:
        others = [place for wing, place in centres.items() if wing not in (a, b)]
        line = way((centres[a][0], centres[a][1] - HALF[1]), (centres[b][0], centres[b][1] + HALF[1]), others)
        ax.add_patch(FancyArrowPatch(path=MplPath(line, [1, 3, 3]), arrowstyle="-|>", mutation_scale=11, lw=1.1, color="#5a6b7b", zorder=0))
    ax.set(xlim=(0, 1), ylim=(-0.4, len(FLOORS) - 0.6))
    ax.axis("off")
    return figure


def draw_house(target: Path, package: Path) -> Path:
    """Draw the house as an SVG whose description holds the facts that were drawn; returns the path."""
    import matplotlib.pyplot as plt

    facts = house_facts(package)
    with plt.rc_context({"svg.hashsalt": "house", "svg.fonttype": "none"}):
        figure = house(facts)
        figure.savefig(target, metadata={"Date": None, "Description": json.dumps(facts["imports"])}, bbox_inches="tight")
    plt.close(figure)
    return target
