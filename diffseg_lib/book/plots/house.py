"""The house: the wings of the library and who imports whom, drawn from the imports themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

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


def house(facts: Mapping[str, Any]) -> Figure:
    """Wings as boxes, a floor above what it imports, and an arrow from each wing to those that it imports.

    Arrows that follow from others are left out: of two ways to a wing only the longer one is drawn.

    Args:
        facts: What is drawn, as :func:`house_facts` tells it.
    """
    import networkx

    figure, [[ax]] = grid(1, 1, (7.4, 7.2), layout=None)
    centres: dict[str, tuple[float, float]] = {}
    for height, floor in enumerate(FLOORS):
        for i, wing in enumerate(floor):
            x, y = (i + 0.5) / len(floor), float(height)
            centres[wing] = (x, y)
            ax.add_patch(FancyBboxPatch((x - 0.125, y - 0.22), 0.25, 0.44, "round,pad=0,rounding_size=0.03", fc=FILLS.get(wing, "#e8eef4"), ec=INK, lw=0.8))
            ax.text(x, y + 0.075, wing, ha="center", va="center", fontsize=11, weight="bold")
            known = facts["wings"][wing]
            ax.text(x, y - 0.095, f"{known['modules']} modules, {known['lines']:,} lines", ha="center", va="center", fontsize=8)
    graph = networkx.DiGraph([(a, b) for a, b, _ in facts["imports"]])
    for a, b in networkx.transitive_reduction(graph).edges:
        start, end = (centres[a][0], centres[a][1] - 0.22), (centres[b][0], centres[b][1] + 0.22)
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, lw=1.1, color="#5a6b7b", shrinkA=0, shrinkB=0, zorder=0))
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
