"""Many parameter sets of one notebook: the points of a grid, and a table of what each left behind."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..support.executors import finished, open_executor
from ..support.files import write_text
from ..support.identity import fingerprint
from .run import Outcome, parameters_for, run_notebook


def points(grid: Any) -> list[dict[str, Any]]:
    """Every parameter set of a grid.

    Args:
        grid: A mapping from a parameter to the list of its values, of which all combinations are taken (a value that is
            no list is the same for all); or a list of parameter sets.

    Raises:
        ValueError: If it is neither, has no point, or has a point twice.

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


def sweep(
    path: Path,
    grid: Any,
    out: Path,
    *,
    workers: int = 0,
    scheduler: str = "",
    force: bool = False,
    timeout: float = 1800,
    tick: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """Execute a notebook with every parameter set of a grid; what is current is not done again.

    Each set has a folder of its own, named by its hash: the executed notebook, its log and its JSON. The table of all sets
    is written to ``sweep.csv``, after every one that is done.

    Args:
        path: The notebook.
        grid: The grid, as :func:`~diffseg_lib.book.sweep.points` takes it.
        out: The folder of the sweep.
        workers: The number of workers, as :func:`~diffseg_lib.support.executors.open_executor` takes it.
        scheduler: Address of a scheduler, as :func:`~diffseg_lib.support.executors.open_executor` takes it.
        force: Whether to execute what is current too.
        timeout: Time for each notebook, seconds.
        tick: Called after every set.

    Returns:
        A row a set: its parameters, ``state``, ``seconds``, ``message``, the numbers it measured, and its ``folder``.

    Raises:
        ValueError: On a parameter that the notebook does not have, or of another type; before anything runs.
    """
    jobs = []
    for given in points(grid):
        if "out" in given:
            raise ValueError("the grid may not set 'out': each set gets a folder of its own")
        parameters = parameters_for(path, {}, given, {})
        name = fingerprint(given)
        jobs.append((given, parameters | {"out": str((out / name).absolute())}, (out / name).absolute()))
    rows: dict[int, dict[str, Any]] = {}
    out.mkdir(parents=True, exist_ok=True)
    with open_executor(workers, scheduler) as (executor, at_once):
        calls = ((path.absolute(), parameters, folder, force, timeout, i) for i, (_, parameters, folder) in enumerate(jobs))
        for (*_, i), future in finished(executor, _one_of_a_sweep, calls, at_once):
            error = future.exception()
            outcome = future.result() if error is None else Outcome(path.stem, "failed", 0.0, f"{type(error).__name__}: {error}")
            given, _, folder = jobs[i]
            told = {"state": outcome.state, "seconds": round(outcome.seconds, 1), "message": outcome.message}
            rows[i] = given | told | metrics_of(folder / f"{path.stem}.json") | {"folder": folder.name}
            write_text(out / "sweep.csv", table([rows[j] for j in sorted(rows)]).to_csv(index=False))
            tick()
    return [rows[i] for i in sorted(rows)]


def _one_of_a_sweep(path: Path, parameters: Mapping[str, Any], folder: Path, force: bool, timeout: float, number: int) -> Outcome:
    return run_notebook(path, parameters, folder, force=force, timeout=timeout)
