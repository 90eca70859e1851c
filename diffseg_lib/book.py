"""The book's machinery: ``python -m diffseg_lib.book run | build | refresh | check | sweep``.

``run`` executes notebooks with papermill into ``build/notebooks``; ``build`` makes the site from what was
executed, and never executes a second time; ``refresh`` keeps quick, normalised outputs in ``notebooks/``;
``check`` tells if those are stale or break the contract of the chapters; ``sweep`` executes one with many parameter sets. What is current, by a hash of
notebook, library, parameters and weights, is not done again.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from .executors import finished, open_executor
from .locations import data_dir, models_dir, repository_root
from .notebooks import LIBRARY, breaches, code_cells, inputs_hash, normalise, with_prose
from .prompts import nearest
from .results import build_dir, weights_hash
from .sweeps import metrics_of, points, table

NOT_PAGES = ("README.md", "CHANGELOG.md")  # of the pages at the top: not of the site


def notebooks_dir() -> Path:
    """The chapters."""
    return repository_root() / "notebooks"


def all_notebooks() -> list[Path]:
    """Every chapter, in reading order."""
    return sorted(notebooks_dir().glob("*.ipynb"))


def inputs_of(path: Path) -> str:
    """A hash of what a notebook's outputs depend on; see :func:`~diffseg_lib.notebooks.inputs_hash`.

    A notebook that shows the larger runs depends on their JSON as well.
    """
    notebook = nbformat.read(path, 4)
    given = weights_hash(models_dir())
    if any(name in cell.source for cell in code_cells(notebook) for name in ("committed(", "ledger(")):
        given += "".join(hashlib.sha256(kept.read_bytes()).hexdigest() for kept in sorted((data_dir() / "results").glob("*/*.json")))
    return inputs_hash(notebook, Path(__file__).parent.parent, given)


# -- parameters ----------------------------------------------------------------------------------


def load_profile_file(name: str) -> dict[str, dict[str, Any]]:
    """Parameters by notebook from ``notebooks/profiles/NAME.yaml`` or a path; under ``all`` those for every one that has them.

    In the file an entry named as a notebook holds that one's parameters, ``settings`` the model's
    (:class:`~diffseg_lib.profiles.Profile`), and any other entry is a parameter, as papermill's ``-f`` takes it too.

    Raises:
        ValueError: if there is no such file, or it is no such mapping.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else notebooks_dir() / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in (notebooks_dir() / "profiles").glob("*.yaml"))
        raise ValueError(f"no profile file {path}: expected a YAML file or one of {', '.join(known)}; {nearest(name, known)}")
    content = yaml.safe_load(path.read_text()) or {}
    chapters = {key: value for key, value in content.items() if re.match(r"\d\d_", key)} if isinstance(content, dict) else {}
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in chapters.values()):
        raise ValueError(f"{path}: expected parameters, and under the name of a notebook a mapping with those of that one")
    strangers = sorted(set(chapters) - {p.stem for p in all_notebooks()})
    if strangers:
        raise ValueError(f"profile {name} speaks of {', '.join(strangers)}: there are no such notebooks")
    shared = {key: value for key, value in content.items() if key not in chapters and key != "settings"}
    return chapters | {"all": ({"profile": str(path)} if "settings" in content else {}) | shared}


def declared(path: Path) -> dict[str, dict[str, str]]:
    """The parameters that a notebook declares, by name, as papermill's inspection tells them."""
    from papermill import inspect_notebook

    return inspect_notebook(str(path))


def type_wanted(entry: Mapping[str, str]) -> str:
    """The type of a parameter as papermill's inspection tells it: its annotation, else its default's type."""
    if entry["inferred_type_name"] != "None":
        return entry["inferred_type_name"].replace(" ", "")
    default = _default(entry)
    return "Any" if default in (None, ...) else type(default).__name__


def fits(value: Any, wanted: str) -> bool:
    """Whether a value has the type that an annotation names.

    >>> fits(["house"], "list[str]"), fits("house", "list[str]"), fits(1, "float"), fits(True, "int")
    (True, False, True, False)
    """
    outer, _, inner = wanted.rstrip("]").partition("[")
    if outer not in ("str", "int", "float", "bool", "list", "dict", "tuple"):
        return True
    if outer == "list" and isinstance(value, list) and inner:
        return all(fits(one, inner) for one in value)
    return type(value).__name__ == outer or (outer == "float" and type(value) is int)


def parameters_for(path: Path, profile: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], typed: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of one notebook that differ from its defaults, names and types checked before anything runs.

    Args:
        path: the notebook.
        profile: parameters by notebook; names under ``all`` go to the notebooks that have them.
        given: name to value.
        typed: name to text from the command line, read as the parameter's type asks.

    Raises:
        ValueError: on a parameter that the notebook does not have (the nearest name is given) or
            whose type is not the one it declares.
    """
    known = declared(path)
    wanted = {k: v for k, v in profile.get("all", {}).items() if k in known} | dict(profile.get(path.stem, {})) | dict(given)
    for name in [*wanted, *typed]:
        if name not in known:
            raise ValueError(f"{path.name} has no parameter {name!r}: {nearest(name, list(known))}")
    wanted |= {name: text if type_wanted(known[name]) == "str" else yaml.safe_load(text) for name, text in typed.items()}
    for name, value in wanted.items():
        expected = type_wanted(known[name])
        if not fits(value, expected):
            got = f"{type(value).__name__} {value!r}"
            raise ValueError(f"{path.name}: parameter {name!r} expects {expected} (default {known[name]['default']}), got {got}")
    return {name: value for name, value in wanted.items() if value != _default(known[name])}


def _default(entry: Mapping[str, str]) -> Any:
    try:
        return ast.literal_eval(entry["default"])
    except (ValueError, SyntaxError):
        return ...  # equal to no value


# -- run -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a notebook: state is "passed", "failed" or "skipped"."""

    name: str
    state: str
    seconds: float = 0.0
    message: str = ""


def run_key(path: Path, parameters: Mapping[str, Any]) -> str:
    """A hash of all that an execution depends on: the inputs, the parameters and the locked packages."""
    lock = repository_root() / "requirements.lock"
    parts = [inputs_of(path), json.dumps(parameters, sort_keys=True), lock.read_text() if lock.exists() else ""]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _execute(path: Path, partial: Path, parameters: Mapping[str, Any], log: Path, timeout: float, tick: Callable[[], Any]) -> str:
    """Run papermill in a process of its own; what went wrong, or "" if nothing did."""
    command = [sys.executable, "-m", "papermill", str(path), str(partial), "--kernel", "python3", "--cwd", os.getcwd()]
    command += ["--log-output", "--no-progress-bar"] + (["-y", yaml.safe_dump(dict(parameters))] if parameters else [])
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONUNBUFFERED": "1"}
    late = threading.Event()

    def stop() -> None:  # the kernel follows its parent
        late.set()
        process.kill()

    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process,
    ):
        clock = threading.Timer(timeout, stop)
        clock.start()
        lines = process.stdout or ()
        for line in lines:
            out.write(line)
            if "Ending Cell" in line:
                tick()
        process.wait()
        clock.cancel()
    if late.is_set():
        return f"not done after {timeout:g} s"
    if process.returncode == 0:
        return ""
    told = [line.strip() for line in log.read_text().splitlines() if line.strip()]
    return told[-1] if told else f"papermill ended with {process.returncode}"


def run_notebook(
    path: Path,
    parameters: Mapping[str, Any],
    out: Path,
    *,
    force: bool = False,
    timeout: float = 1800,
    tick: Callable[[], Any] = lambda: None,
) -> Outcome:
    """Execute one notebook into `out`, unless what is there is current; a change of prose alone executes nothing.

    The result is renamed into place only after success: a timeout or a dead kernel leaves
    ``….ipynb.partial`` and a log, never something that looks finished.

    Args:
        path: the notebook.
        parameters: checked by :func:`parameters_for`.
        out: folder of the result; its log goes to ``logs`` inside.
        force: execute what is current too.
        timeout: seconds for the whole notebook.
        tick: called after every cell.
    """
    target, partial, log = out / path.name, out / f"{path.name}.partial", out / "logs" / f"{path.stem}.log"
    key = run_key(path, parameters)
    if not force and target.exists():
        done = nbformat.read(target, 4)
        if done.metadata.get(LIBRARY, {}).get("run") == key:
            _write(_stamped(with_prose(done, nbformat.read(path, 4)), key), target)
            return Outcome(path.stem, "skipped")
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    message = _execute(path, partial, parameters, log, timeout, tick)
    seconds = time.perf_counter() - start
    if message:
        return Outcome(path.stem, "failed", seconds, f"{message} (log: {log})")
    _write(_stamped(nbformat.read(partial, 4), key), partial)
    partial.replace(target)
    return Outcome(path.stem, "passed", seconds)


def _stamped(notebook: nbformat.NotebookNode, key: str) -> nbformat.NotebookNode:
    notebook.metadata[LIBRARY] = {"run": key}
    return notebook


def _write(notebook: nbformat.NotebookNode, path: Path) -> None:
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def run(jobs: Sequence[tuple[Path, Mapping[str, Any]]], out: Path, *, force: bool = False, timeout: float = 1800) -> list[Outcome]:
    """Execute notebooks one after the other, under one bar of progress that counts cells.

    Args:
        jobs: notebooks with their parameters.
        out: folder of the results.
        force: execute what is current too.
        timeout: seconds a notebook.
    """
    from tqdm import tqdm

    cells = {path: len(nbformat.read(path, 4).cells) for path, _ in jobs}
    outcomes = []
    with tqdm(total=sum(cells.values()), unit="cell", file=sys.stderr, disable=None) as bar:
        for path, parameters in jobs:
            bar.set_description(path.stem)
            before = bar.n
            outcomes.append(run_notebook(path, parameters, out, force=force, timeout=timeout, tick=bar.update))
            bar.update(before + cells[path] - bar.n)
    return outcomes


def report(outcomes: Sequence[Outcome]) -> int:
    """Print a table; the number of failures."""
    for one in outcomes:
        print(f"{one.name:28} {one.state:8} {one.seconds:7.1f} s  {one.message}".rstrip())
    count = {state: sum(one.state == state for one in outcomes) for state in ("passed", "failed", "skipped")}
    if outcomes and count["skipped"] == len(outcomes):
        print("nothing to do: every notebook is current")
    else:
        print(", ".join(f"{number} {state}" for state, number in count.items()))
    return count["failed"]


# -- build ---------------------------------------------------------------------------------------


def stage(notebooks: Path, target: Path) -> None:
    """Lay out what the site is built from: pages, pictures, executed notebooks, MathJax.

    Raises:
        FileNotFoundError: if a notebook of the table of contents has not been run.
    """
    root = repository_root()
    shutil.rmtree(target, ignore_errors=True)
    (target / "notebooks").mkdir(parents=True)
    for path in [*root.glob("*.md"), *root.glob("*.bib"), root / "_config.yml", root / "_toc.yml"]:
        if path.name not in NOT_PAGES:
            shutil.copy2(path, target / path.name)
    for folder in ("images", "_static"):
        if (root / folder).is_dir():
            shutil.copytree(root / folder, target / folder)
    for path in all_notebooks():
        done = notebooks / path.name
        if not done.exists():
            raise FileNotFoundError(f"{done} is missing: run the notebooks first (python -m diffseg_lib.book run)")
        book = nbformat.read(done, 4)
        book.metadata.pop("papermill", None)
        nbformat.write(book, target / "notebooks" / path.name)
    _stage_mathjax(target / "_static" / "mathjax")


def _stage_mathjax(target: Path) -> None:
    """Copy MathJax out of the installed package, so that no page asks a network for it: one file, which needs no fonts."""
    from importlib.metadata import files

    found = [file for file in files("sphinx-mathjax-offline") or [] if file.name == "tex-svg.js"]
    if not found:
        raise FileNotFoundError("tex-svg.js of the package sphinx-mathjax-offline is missing: install requirements.lock")
    target.mkdir(parents=True)
    shutil.copy2(str(found[0].locate()), target / "tex-svg.js")


def _tree_hash(staged: Path) -> str:
    """Of all that the site shows: the staged files, and the library's sources, docstrings included."""
    digest = hashlib.sha256()
    for root, paths in ((staged, staged.rglob("*")), (Path(__file__).parent, Path(__file__).parent.rglob("*.py"))):
        for path in sorted(p for p in paths if p.is_file()):
            digest.update(path.relative_to(root).as_posix().encode() + b"\n")
            digest.update(path.read_bytes())
    return digest.hexdigest()


def build(notebooks: Path, site: Path, *, force: bool = False) -> Path:
    """Build the site, every warning an error; returns its first page.

    Args:
        notebooks: folder of executed notebooks.
        site: where the pages go; what they are made from is staged beside it.
        force: build what is current too.

    Raises:
        RuntimeError: if jupyter-book fails; its warnings are in the message.
    """
    staged, key, page = site.with_name(f"{site.name}-stage"), site.with_name(f"{site.name}.key"), site / "index.html"
    stage(notebooks, staged)
    fresh = _tree_hash(staged)
    if not force and page.exists() and key.exists() and key.read_text() == fresh:
        print("nothing to do: the site is current")
        return page
    key.unlink(missing_ok=True)
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", start, "build", str(staged), "-W", "-n", "--keep-going"], capture_output=True, text=True)
    log = site.with_name(f"{site.name}.log")
    log.write_text(done.stdout + done.stderr)
    html = staged / "_build" / "html"
    if done.returncode or not (html / "index.html").exists():
        lines = log.read_text().splitlines()
        told = [line for line in lines if "WARNING" in line or "ERROR" in line or "rror:" in line]
        raise RuntimeError("the site did not build:\n" + "\n".join((told or lines)[-30:]) + f"\nwhole log: {log}")
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(html, site)
    key.write_text(fresh)
    return page


# -- sweep ---------------------------------------------------------------------------------------


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
        path: the notebook.
        grid: as of :func:`~diffseg_lib.sweeps.points`.
        out: folder of the sweep.
        workers, scheduler: as of :func:`~diffseg_lib.executors.open_executor`.
        force: execute what is current too.
        timeout: seconds a notebook.
        tick: called after every set.

    Returns:
        A row a set: its parameters, ``state``, ``seconds``, ``message``, the numbers it measured, and its ``folder``.

    Raises:
        ValueError: on a parameter that the notebook does not have, or of another type; before anything runs.
    """
    jobs = []
    for given in points(grid):
        if "out" in given:
            raise ValueError("the grid may not set 'out': each set gets a folder of its own")
        parameters = parameters_for(path, {}, given, {})
        name = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]
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
            partial = out / "sweep.csv.partial"
            table([rows[j] for j in sorted(rows)]).to_csv(partial, index=False)
            partial.replace(out / "sweep.csv")
            tick()
    return [rows[i] for i in sorted(rows)]


def _one_of_a_sweep(path: Path, parameters: Mapping[str, Any], folder: Path, force: bool, timeout: float, number: int) -> Outcome:
    return run_notebook(path, parameters, folder, force=force, timeout=timeout)


# -- outputs in git ------------------------------------------------------------------------------


def refresh(paths: Sequence[Path], *, force: bool = False, timeout: float = 1800) -> list[Outcome]:
    """Execute notebooks with their defaults and keep the normalised outputs in ``notebooks/``."""
    out = build_dir() / "notebooks"
    outcomes = run([(path, {}) for path in paths], out, force=force, timeout=timeout)
    for path, outcome in zip(paths, outcomes, strict=True):
        if outcome.state != "failed":
            _write(normalise(nbformat.read(out / path.name, 4), inputs_of(path)), path)
    return outcomes


def faults(path: Path) -> list[str]:
    """What is wrong with a committed notebook: breaches of the contract, stale outputs, outputs not normalised."""
    notebook = nbformat.read(path, 4)
    found = breaches(notebook, path.stat().st_size)
    if notebook.metadata.get(LIBRARY, {}).get("inputs") != inputs_of(path):
        found.append("its outputs are stale: code, library or weights changed since; run make refresh")
    elif normalise(notebook) != notebook:
        found.append("its outputs are not normalised; run make refresh")
    if not code_cells(notebook):
        found.append("it has no code")
    return [f"{path.name}: {one}" for one in found]


# -- command line --------------------------------------------------------------------------------


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
    strangers = [name for name in (*given, *typed) if name not in shared]
    if strangers and len(paths) > 1:
        raise ValueError(f"no notebook has a parameter {strangers[0]!r}: {nearest(strangers[0], sorted(shared))}")
    jobs = []
    for path in paths:  # of several notebooks each takes those of the given parameters that it has
        own = [{key: value for key, value in some.items() if key in known[path] or key not in shared} for some in (given, typed)]
        jobs.append((path, parameters_for(path, profile, *own)))
    return int(report(run(jobs, o.out, force=o.force, timeout=o.timeout)) > 0)


def _build(o: argparse.Namespace) -> int:
    page = build(notebooks_dir() if o.committed else o.notebooks, o.out, force=o.force)
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


if __name__ == "__main__":
    sys.exit(main())
