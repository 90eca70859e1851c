"""Many parameter sets of one notebook: the points of a grid, and a table of what each left behind."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def points(grid: Any) -> list[dict[str, Any]]:
    """Every parameter set of a grid.

    Args:
        grid: a mapping from a parameter to the list of its values, of which all combinations are taken (a value that is
            no list is the same for all); or a list of parameter sets.

    Raises:
        ValueError: if it is neither, or has no point.

    >>> points({"seed": [0, 1], "timestep": 100})
    [{'seed': 0, 'timestep': 100}, {'seed': 1, 'timestep': 100}]
    """
    if isinstance(grid, Mapping):
        values = [value if isinstance(value, list) else [value] for value in grid.values()]
        found = [dict(zip(grid, one, strict=True)) for one in itertools.product(*values)] if grid else []
    elif isinstance(grid, list) and all(isinstance(one, Mapping) for one in grid):
        found = [dict(one) for one in grid]
    else:
        raise ValueError(f"a grid is a mapping from a parameter to its values, or a list of parameter sets; got {type(grid).__name__}")
    if not found:
        raise ValueError("the grid has no point: give each parameter at least one value")
    twice = [one for i, one in enumerate(found) if one in found[:i]]
    if twice:
        raise ValueError(f"the grid has a point twice: {twice[0]}")
    return found


def metrics_of(path: Path) -> dict[str, float]:
    """The numbers of a chapter's JSON, by name: a metric that is a mapping with ``value`` counts by that; none without the file."""
    if not path.is_file():
        return {}
    found = {}
    for name, value in json.loads(path.read_text()).get("metrics", {}).items():
        number = value.get("value") if isinstance(value, Mapping) else value
        if isinstance(number, int | float) and not isinstance(number, bool):
            found[name] = number
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as a table (pandas), a column for every name in any of them."""
    import pandas as pd

    return pd.DataFrame(list(rows))
