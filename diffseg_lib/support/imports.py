"""Who imports whom: the library's imports, read off its source without running it, and the rules that they keep.

The rules are data (:data:`RULES`), so that a test can hold them, and the page on the architecture can draw them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from .source_code import PACKAGE, imported, module_files

METHOD = "the method"  # the modules at the root
COMMANDS = ("__main__", "studies", "deeplab", "book.__main__", "pocket.__main__")  # what ``python -m`` starts; they belong to the program

# A wing, and the wings that its modules may import; whoever imports a wing may not be imported by it.
_BELOW: dict[str, frozenset[str]] = {
    "support": frozenset(),
    "weights": frozenset({"support"}),
    "propagation": frozenset(),
    "dit": frozenset(),
    METHOD: frozenset({"support", "weights", "propagation", "dit"}),
    "data": frozenset({"support"}),
    "pocket": frozenset({"data", "support"}),
    "fetching": frozenset({METHOD, "support", "data"}),
    "baselines": frozenset({METHOD, "support", "weights"}),
    "refinements": frozenset({METHOD, "support", "weights", "propagation", "dit", "baselines"}),
    "evaluation": frozenset({METHOD, "support", "weights", "data", "pocket", "baselines", "refinements"}),
    "applications": frozenset({METHOD, "support", "weights", "data", "pocket", "baselines", "refinements", "evaluation"}),
    "pocket.training": frozenset({METHOD, "support", "weights", "data", "pocket", "baselines", "refinements", "evaluation"}),
    "experiments": frozenset({METHOD, "support", "weights", "data", "pocket", "baselines", "refinements", "evaluation", "applications"}),
    "book": frozenset({METHOD, "support", "weights", "data", "pocket", "baselines", "refinements", "evaluation", "applications"}),
}
RULES: Mapping[str, frozenset[str]] = _BELOW | {"cli": frozenset(_BELOW)}


def wing_of(module: str) -> str:
    """The wing of a module, by its name below the package.

    >>> wing_of("scoremaps"), wing_of("data.voc"), wing_of("pocket.training.train"), wing_of("book.__main__")
    ('the method', 'data', 'pocket.training', 'cli')
    """
    if module in COMMANDS:
        return "cli"
    if module == "pocket.training" or module.startswith("pocket.training."):
        return "pocket.training"
    first = module.split(".")[0]
    return first if first in RULES else METHOD


def _targets(source: str, package: str, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules that a source imports from its own package, those that a function imports included."""
    for module, name in imported(source, package):
        if module.split(".")[0] == PACKAGE:
            below = module.partition(".")[2]
            inner = f"{below}.{name}".strip(".")
            yield inner if inner in known else below


def imports_of(package: Path) -> dict[str, set[str]]:
    """For every module of a package, the modules of the package that it imports, by name.

    Args:
        package: Folder of the package.
    """
    known = module_files(package)
    return {
        name: {one for one in _targets(path.read_text(encoding="utf-8"), ".".join((PACKAGE, *path.relative_to(package).parent.parts)), known) if one != name}
        for name, path in known.items()
    }


def broken_rules(imports: Mapping[str, set[str]]) -> list[str]:
    """Imports against :data:`RULES`, as sentences; the package itself, whose names load late, may be imported by all."""
    return [
        f"{name} ({wing_of(name)}) imports {target} ({wing_of(target)})"
        for name, targets in imports.items()
        for target in sorted(targets)
        if name and target and wing_of(name) != wing_of(target) and wing_of(target) not in RULES[wing_of(name)]
    ]


def circles(imports: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of modules that import each other, directly or through others (Tarjan's strongly connected components)."""
    from scipy.sparse import lil_matrix
    from scipy.sparse.csgraph import connected_components

    names = [name for name in imports if name]
    place = {name: i for i, name in enumerate(names)}
    graph = lil_matrix((len(names), len(names)), dtype=bool)
    for name in names:
        for target in imports[name]:
            if target in place:
                graph[place[name], place[target]] = True
    count, of = connected_components(graph, connection="strong")
    groups = [tuple(sorted(name for name, group in zip(names, of, strict=True) if group == i)) for i in range(count)]
    return [group for group in groups if len(group) > 1]
