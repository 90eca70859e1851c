"""The book's machinery: ``python -m diffseg_lib.book run | build | refresh | check``.

``run`` executes notebooks with papermill into ``build/notebooks``; ``build`` makes the site from them;
``refresh`` puts quick, normalised outputs into ``notebooks/`` itself; ``check`` tells if those are stale.
What is current, by a hash of notebook, library, parameters and weights, is not done again.
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
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from .locations import models_dir, repository_root
from .prompts import nearest
from .results import build_dir, weights_hash

PAGES = ("_config.yml", "_toc.yml", "references.bib")
UNREAD = ("book.py", "__main__.py", "pocket/train.py", "pocket/fitting.py", "pocket/__main__.py")  # by no notebook


def notebooks_dir() -> Path:
    """The chapters."""
    return repository_root() / "notebooks"


def all_notebooks() -> list[Path]:
    """Every chapter, in reading order."""
    return sorted(notebooks_dir().glob("*.ipynb"))


# -- what a chapter depends on -------------------------------------------------------------------


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def library_hash(root: Path | None = None) -> str:
    """A hash of what the library does: its code without comments and docstrings."""
    root = root or Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name not in UNREAD:
            digest.update(name.encode())
            digest.update(_without_docstrings(path.read_text()).encode())
    return digest.hexdigest()


def source_hash(notebook: nbformat.NotebookNode) -> str:
    """A hash of a notebook's cells, outputs left out."""
    cells = [[c.cell_type, c.source, sorted(c.metadata.get("tags", [])), c.metadata.get("mystnb")] for c in notebook.cells]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


def freshness(path: Path, parameters: Mapping[str, Any] | None = None) -> str:
    """A hash of all that a notebook's outputs depend on."""
    parts = [source_hash(nbformat.read(path, 4)), library_hash(), weights_hash(models_dir()), json.dumps(parameters or {}, sort_keys=True)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


# -- parameters ----------------------------------------------------------------------------------


def load_profile_file(name: str) -> dict[str, dict[str, Any]]:
    """Parameters by notebook (``all`` for every one) from ``notebooks/profiles/NAME.yaml`` or a path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else notebooks_dir() / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in (notebooks_dir() / "profiles").glob("*.yaml"))
        raise ValueError(f"no profile file {path}: expected a YAML file or one of {', '.join(known)}; {nearest(name, known)}")
    content = yaml.safe_load(path.read_text()) or {}
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise ValueError(f"{path}: expected a mapping from 'all' or a notebook's name to its parameters")
    return content


def parameters_for(path: Path, profile: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one notebook, names and types checked before anything runs.

    Raises:
        ValueError: on a parameter that the notebook does not have (the nearest names are given) or
            whose type is not its default's.
    """
    from papermill import inspect_notebook

    known = inspect_notebook(str(path))
    wanted = {k: v for k, v in profile.get("all", {}).items() if k in known} | dict(profile.get(path.stem, {})) | dict(given)
    for name, value in wanted.items():
        if name not in known:
            raise ValueError(f"{path.name} has no parameter {name!r}: {nearest(name, list(known))}")
        expected = known[name]["inferred_type_name"]
        kind = type(value).__name__
        if expected not in ("None", kind) and not expected.startswith(f"{kind}[") and (expected, kind) != ("float", "int"):
            raise ValueError(f"{path.name}: parameter {name!r} expects {expected} (default {known[name]['default']}), got {kind} {value!r}")
    return wanted


# -- run -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a notebook: state is "passed", "failed" or "current"."""

    name: str
    state: str
    seconds: float
    message: str = ""


def run_notebook(path: Path, parameters: Mapping[str, Any], out: Path, *, force: bool = False, timeout: int = 1800) -> Outcome:
    """Execute one notebook into `out`, unless what is there is current.

    The result is renamed into place only after success: a timeout or a dead kernel leaves
    ``….partial.ipynb`` and a log, never something that looks finished.
    """
    import papermill

    target, key = out / path.name, out / f"{path.stem}.key"
    fresh = freshness(path, parameters)
    if not force and target.exists() and key.exists() and key.read_text() == fresh:
        return Outcome(path.stem, "current", 0.0)
    out.mkdir(parents=True, exist_ok=True)
    key.unlink(missing_ok=True)
    partial, start = out / f"{path.stem}.partial.ipynb", time.perf_counter()
    try:
        papermill.execute_notebook(
            str(path), str(partial), parameters=dict(parameters), cwd=str(path.parent), kernel_name="python3", progress_bar=False, execution_timeout=timeout
        )
    except Exception as error:  # whatever it was, it is told, logged and counted
        logs = build_dir() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        (logs / f"{path.stem}.log").write_text(text)
        last = next((line for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)
        return Outcome(path.stem, "failed", time.perf_counter() - start, f"{last} (whole log: {logs / path.stem}.log)")
    partial.replace(target)
    key.write_text(fresh)
    return Outcome(path.stem, "passed", time.perf_counter() - start)


def run(paths: Sequence[Path], profile: str, given: Mapping[str, Any], out: Path, *, force: bool, timeout: int) -> list[Outcome]:
    """Execute notebooks one after the other; parameters of all are checked first."""
    from tqdm import tqdm

    content = load_profile_file(profile)
    strangers = sorted(set(content) - {"all"} - {p.stem for p in all_notebooks()})
    if strangers:
        raise ValueError(f"profile {profile} speaks of {', '.join(strangers)}: expected 'all' or notebooks' names")
    jobs = [(path, parameters_for(path, content, given)) for path in paths]
    known = {name for _, parameters in jobs for name in parameters}
    unused = sorted(set(content.get("all", {})) - known)
    if unused and len(paths) == len(all_notebooks()):
        raise ValueError(f"profile {profile}: no notebook has a parameter {', '.join(unused)}")
    outcomes = []
    with tqdm(jobs, desc="notebooks", unit="notebook", file=sys.stderr, disable=None) as bar:
        for path, parameters in bar:
            bar.set_postfix_str(path.stem)
            outcomes.append(run_notebook(path, parameters, out, force=force, timeout=timeout))
    return outcomes


def report(outcomes: Sequence[Outcome]) -> int:
    """Print a table; the number of failures."""
    for one in outcomes:
        print(f"{one.name:28} {one.state:8} {one.seconds:7.1f} s  {one.message}".rstrip())
    failed = sum(one.state == "failed" for one in outcomes)
    if outcomes and all(one.state == "current" for one in outcomes):
        print("nothing to do: every notebook is current")
    else:
        print(f"{sum(o.state == 'passed' for o in outcomes)} passed, {failed} failed, {sum(o.state == 'current' for o in outcomes)} current")
    return failed


# -- build ---------------------------------------------------------------------------------------


def stage(notebooks: Path, target: Path) -> None:
    """Lay out what the site is built from: pages, pictures, executed notebooks, MathJax."""
    root = repository_root()
    shutil.rmtree(target, ignore_errors=True)
    (target / "notebooks").mkdir(parents=True)
    for name in (*PAGES, *(p.name for p in root.glob("*.md") if p.name not in ("README.md", "CHANGELOG.md"))):
        shutil.copy2(root / name, target / name)
    shutil.copytree(root / "images", target / "images")
    for path in all_notebooks():
        done = notebooks / path.name
        if not done.exists():
            raise FileNotFoundError(f"{done} is missing: run the notebooks first (python -m diffseg_lib.book run)")
        shutil.copy2(done, target / "notebooks" / path.name)
    _stage_mathjax(target / "_static" / "mathjax")


def _stage_mathjax(target: Path) -> None:
    """Copy MathJax and its fonts out of the installed package, so that no page asks a network for it."""
    from importlib.metadata import files

    for file in files("sphinx-mathjax-offline") or []:
        parts = file.parts
        if "mathjax" in parts and (file.name == "tex-mml-chtml.js" or "woff-v2" in parts):
            inside = target / Path(*parts[parts.index("mathjax") + 1 :])
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file.locate(), inside)


def _tree_hash(root: Path) -> str:
    digest = hashlib.sha256(library_hash().encode())
    for path in sorted(p for p in root.rglob("*") if p.is_file() and "_build" not in p.parts):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    for path in sorted(Path(__file__).parent.rglob("*.py")):  # the API page shows docstrings
        digest.update(path.read_bytes())
    return digest.hexdigest()


def build(notebooks: Path, *, force: bool = False) -> Path:
    """Build the site, every warning an error; returns its first page.

    Raises:
        RuntimeError: if jupyter-book fails; its last lines are in the message.
    """
    staged, site = build_dir() / "stage", build_dir() / "site"
    stage(notebooks, staged)
    key, fresh, page = build_dir() / "site.key", _tree_hash(staged), site / "index.html"
    if not force and page.exists() and key.exists() and key.read_text() == fresh:
        print("nothing to do: the site is current")
        return page
    key.unlink(missing_ok=True)
    command = [sys.executable, "-m", "jupyter_book", "build", str(staged), "-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True)
    (build_dir() / "site.log").write_text(done.stdout + done.stderr)
    html = staged / "_build" / "html"
    if done.returncode or not (html / "index.html").exists():
        warnings = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" in line or "ERROR" in line or "rror:" in line]
        raise RuntimeError("the site did not build:\n" + "\n".join(warnings[-30:] or done.stderr.splitlines()[-30:]))
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(html, site)
    key.write_text(fresh)
    return page


# -- outputs in git ------------------------------------------------------------------------------


def normalise(notebook: nbformat.NotebookNode, fresh: str) -> nbformat.NotebookNode:
    """An executed notebook as git keeps it: counts and outputs, no timings, no papermill, no widgets."""
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        for name in ("papermill", "execution", "collapsed"):
            cell.metadata.pop(name, None)
    notebook.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
        diffseg={"fresh": fresh},
    )
    return notebook


def refresh(paths: Sequence[Path], timeout: int) -> list[Outcome]:
    """Execute notebooks with their defaults and keep the normalised outputs in ``notebooks/``."""
    outcomes = []
    for path in paths:
        outcomes.append(run_notebook(path, {}, build_dir() / "notebooks", timeout=timeout))
        if outcomes[-1].state != "failed":
            done = normalise(nbformat.read(build_dir() / "notebooks" / path.name, 4), freshness(path))
            nbformat.write(done, path)
    return outcomes


def stale(paths: Sequence[Path]) -> list[str]:
    """Notebooks whose committed outputs are not those of today's sources, library and weights."""
    return [p.name for p in paths if nbformat.read(p, 4).metadata.get("diffseg", {}).get("fresh") != freshness(p)]


# -- command line --------------------------------------------------------------------------------


def _find(names: Sequence[str]) -> list[Path]:
    known = {p.stem: p for p in all_notebooks()}
    stems = [Path(name).stem for name in names]
    for stem in stems:
        if stem not in known:
            raise ValueError(f"no notebook {stem!r}: {nearest(stem, list(known))}")
    return [known[stem] for stem in stems] or list(known.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 1 if a notebook failed or is stale, 2 if the input was wrong."""
    parser = argparse.ArgumentParser(prog="python -m diffseg_lib.book", description="Run and build the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "build", "refresh", "check"):
        one = commands.add_parser(name)
        if name != "build":
            one.add_argument("notebooks", nargs="*")
        one.add_argument("--force", action="store_true", help="even what is current")
        one.add_argument("--timeout", type=int, default=1800, help="seconds a cell")
        one.add_argument("--out", type=Path, default=build_dir() / "notebooks")
        if name == "run":
            one.add_argument("--profile", default="pocket", help="a YAML file of parameters, or its name in notebooks/profiles")
            one.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, its value as YAML")
            one.add_argument("--online", action="store_true", help="let models be downloaded")
    o = parser.parse_args(arguments)
    if not getattr(o, "online", False):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        if o.command == "build":
            page = build(o.out, force=o.force)
            print(f"open {page}")
            return 0
        paths = _find(o.notebooks)
        if o.command == "check":
            old = stale(paths)
            print(f"stale: {', '.join(old)}; run: make refresh" if old else f"{len(paths)} notebooks hold current outputs")
            return int(bool(old))
        if o.command == "refresh":
            return int(report(refresh(paths, o.timeout)) > 0)
        given = {name: yaml.safe_load(value) for name, value in o.p}
        return int(report(run(paths, o.profile, given, o.out, force=o.force, timeout=o.timeout)) > 0)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
