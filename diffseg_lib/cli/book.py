"""The commands of the book: run, check, build, refresh, sweep."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..book.build import build
from ..book.check import faults
from ..book.refresh import refresh
from ..book.run import all_notebooks, declared, load_profile_file, notebooks_dir, parameters_for, report, run
from ..book.sweep import points, sweep, table
from ..support.errors import nearest
from ..support.paths import build_dir


def _find(names: Sequence[str]) -> list[Path]:
    known = {p.stem: p for p in all_notebooks()}
    stems = [Path(name).stem if name.endswith(".ipynb") else name for name in names]
    for stem in stems:
        if stem not in known:
            raise ValueError(f"no notebook {stem!r}: {nearest(stem, list(known))}")
    return [known[stem] for stem in stems] or list(known.values())


def _run(o: argparse.Namespace) -> int:
    profile = load_profile_file(o.profile)
    given = yaml.safe_load(o.y) if o.y else {}
    if not isinstance(given, dict):
        raise ValueError(f"-y expects a YAML mapping such as 'classes: [house, fish]', got {o.y!r}")
    paths, typed = _find(o.notebooks), dict(o.p)
    known = {path: set(declared(path)) for path in paths}
    shared = set().union(*known.values())
    unused = sorted(set(profile["all"]) - shared)
    if unused and paths and not o.notebooks:
        raise ValueError(f"profile {o.profile}: no notebook has a parameter {', '.join(unused)}")
    unknown_keys = [name for name in (*given, *typed) if name not in shared]
    if unknown_keys and len(paths) > 1:
        raise ValueError(f"no notebook has a parameter {unknown_keys[0]!r}: {nearest(unknown_keys[0], sorted(shared))}")
    jobs = []
    for path in paths:  # of several notebooks each takes those of the given parameters that it has
        own = [{key: value for key, value in some.items() if key in known[path] or key not in shared} for some in (given, typed)]
        jobs.append((path, parameters_for(path, profile, *own)))
    return int(report(run(jobs, o.out, force=o.force, timeout=o.timeout)) > 0)


def _build(o: argparse.Namespace) -> int:
    page = build(notebooks_dir() if o.committed_result else o.notebooks, o.out, force=o.force)
    print(f"open {page}")
    return 0


def _sweep(o: argparse.Namespace) -> int:
    from tqdm import tqdm

    [path] = _find([o.notebook])
    grid_file = Path(o.grid)
    if not grid_file.is_file():
        raise ValueError(f"no grid {o.grid}: expected a YAML file such as 'seed: [0, 1, 2]'")
    grid, out = yaml.safe_load(grid_file.read_text()), o.out or build_dir() / "sweeps" / f"{path.stem}-{grid_file.stem}"
    with tqdm(total=len(points(grid)), unit="set", file=sys.stderr, disable=None) as bar:
        rows = sweep(path, grid, out, workers=o.workers, scheduler=o.scheduler, force=o.force, timeout=o.timeout, tick=bar.update)
    print(table(rows).drop(columns=["message"]).to_string(index=False))
    failed = [row for row in rows if row["state"] == "failed"]
    for row in failed:
        print(f"{row['folder']}: {row['message']}", file=sys.stderr)
    skipped = sum(row["state"] == "skipped" for row in rows)
    print(f"{len(rows) - len(failed) - skipped} passed, {len(failed)} failed, {skipped} current; {out / 'sweep.csv'}")
    return int(bool(failed))


def _refresh(o: argparse.Namespace) -> int:
    return int(report(refresh(_find(o.notebooks), force=o.force, timeout=o.timeout)) > 0)


def _check(o: argparse.Namespace) -> int:
    paths = _find(o.notebooks)
    found = [fault for path in paths for fault in faults(path)]
    print("\n".join(found) or f"{len(paths)} notebooks keep the contract and hold current outputs")
    return int(bool(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m diffseg_lib.book", description="Run and build the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = {name: commands.add_parser(name) for name in ("run", "build", "refresh", "check")}
    for name in ("run", "refresh", "check"):
        one[name].add_argument("notebooks", nargs="*", help="names or paths; all of them by default")
    for name in ("run", "refresh"):
        one[name].add_argument("--timeout", type=float, default=1800, help="seconds a notebook (default: 1800)")
    for name in ("run", "build", "refresh"):
        one[name].add_argument("--force", action="store_true", help="even what is current")
    one["run"].add_argument("--profile", default="pocket", help="a YAML file of parameters, or its name in notebooks/profiles")
    one["run"].add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    one["run"].add_argument("-y", metavar="YAML", help="parameters as YAML: 'classes: [house, fish]'")
    one["run"].add_argument("--online", action="store_true", help="let models be downloaded")
    one["run"].add_argument("--out", type=Path, default=build_dir() / "notebooks", metavar="DIR")
    one["build"].add_argument("--notebooks", type=Path, default=build_dir() / "notebooks", metavar="DIR", help="of executed notebooks")
    one["build"].add_argument("--committed", action="store_true", help="show the outputs kept in git")
    one["build"].add_argument("--out", type=Path, default=build_dir() / "site", metavar="DIR")
    swept = commands.add_parser("sweep", help="one notebook with many parameter sets")
    swept.add_argument("notebook", help="its name or path")
    swept.add_argument("grid", help="a YAML file: parameters and the lists of their values, or a list of parameter sets")
    swept.add_argument("--workers", type=int, default=0, metavar="N", help="processes of a local Dask cluster (default: none, this process)")
    swept.add_argument("--scheduler", default="", metavar="ADDRESS", help="of a running Dask scheduler")
    swept.add_argument("--timeout", type=float, default=1800, help="seconds a notebook (default: 1800)")
    swept.add_argument("--force", action="store_true", help="even what is current")
    swept.add_argument("--out", type=Path, metavar="DIR", help="(default: build/sweeps/NOTEBOOK-GRID)")
    one["sweep"] = swept
    for name, command in (("sweep", _sweep), ("run", _run), ("build", _build), ("refresh", _refresh), ("check", _check)):
        one[name].set_defaults(do=command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 1 if a notebook failed or breaks its contract, 2 if the input was wrong."""
    o = _parser().parse_args(arguments)
    if not getattr(o, "online", False):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return o.do(o)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
