"""Running chapters: papermill into ``build/notebooks``, some at once, each unless what is there is current.

What is current is told by a hash of the notebook, the library's code below it, the files that it declares to read, its parameters, the
weights and the locked packages.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import yaml

from ..profiles import load_profile
from ..support.errors import nearest
from ..support.executors import cores
from ..support.files import write_text
from ..support.identity import digest_files, digest_tree, fingerprint, model_keys, weights_hash
from ..support.paths import models_dir, repository_root
from ..support.source_code import PACKAGE
from ..support.words import class_names
from .notebooks import RAN, inputs_hash, with_prose

STAMP = ("run", "inputs", *RAN)  # what an execution notes in the metadata of its notebook


def notebooks_dir() -> Path:
    """The folder of the chapters."""
    return repository_root() / "notebooks"


def all_notebooks() -> list[Path]:
    """Every chapter, in reading order."""
    return sorted(notebooks_dir().glob("*.ipynb"))


def inputs_of(path: Path) -> str:
    """A hash of what a notebook's outputs depend on; see :func:`~diffseg_lib.book.notebooks.inputs_hash`."""
    models = models_dir()
    return inputs_hash(nbformat.read(path, 4), repository_root(), weights_hash(models) + digest_files([models / "diffusion" / "profile.json"]))


# -- parameters ----------------------------------------------------------------------------------


def load_profile_file(name: str) -> dict[str, dict[str, Any]]:
    """Parameters by notebook from ``notebooks/profiles/NAME.yaml`` or a path; under ``all`` those for every one that has them.

    In the file an entry named as a notebook holds that one's parameters, ``settings`` the model's
    (:class:`~diffseg_lib.profiles.Profile`), and any other entry is a parameter, as papermill's ``-f`` takes it too.

    Raises:
        ValueError: If there is no such file, it is no such mapping, or it names a notebook that does not exist.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else notebooks_dir() / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in (notebooks_dir() / "profiles").glob("*.yaml"))
        raise ValueError(f"no profile file {path}: expected a YAML file or one of {', '.join(known)}; {nearest(name, known)}")
    content = yaml.safe_load(path.read_text()) or {}
    chapters = {key: value for key, value in content.items() if re.match(r"\d\d_", key)} if isinstance(content, dict) else {}
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in chapters.values()):
        raise ValueError(f"{path}: expected parameters, and under the name of a notebook a mapping with those of that one")
    unknown_keys = sorted(set(chapters) - {p.stem for p in all_notebooks()})
    if unknown_keys:
        raise ValueError(f"profile {name} speaks of {', '.join(unknown_keys)}: there are no such notebooks")
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
        path: The notebook.
        profile: Parameters by notebook; names under ``all`` go to the notebooks that have them.
        given: Values by parameter.
        typed: Texts by parameter from the command line, read as the parameter's type asks.

    Raises:
        ValueError: On a parameter that the notebook does not have (the nearest name is given) or
            whose type is not the one it declares.
    """
    known = declared(path)
    wanted = {k: v for k, v in profile.get("all", {}).items() if k in known} | dict(profile.get(path.stem, {})) | dict(given)
    for name in [*wanted, *typed]:
        if name not in known:
            raise ValueError(f"{path.name} has no parameter {name!r}: {nearest(name, list(known))}")
    wanted |= {name: text if type_wanted(known[name]) == "str" else yaml.safe_load(text) for name, text in typed.items()}
    for name, value in wanted.items():
        if name == "classes" and isinstance(value, str) and type_wanted(known[name]).startswith("list[str") | (known[name]["default"] == "[]"):
            wanted[name] = value = list(class_names(value)[0])
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
    """What became of a notebook.

    Args:
        name: The stem of its file.
        state: One of "passed", "failed" and "skipped".
        seconds: The time that it took, seconds.
        message: What went wrong; "" if nothing did.
    """

    name: str
    state: str
    seconds: float = 0.0
    message: str = ""


def run_key(path: Path, parameters: Mapping[str, Any]) -> str:
    """A hash of all that an execution depends on: the inputs, the parameters and what they name, and the locked packages."""
    lock = repository_root() / "requirements.lock"
    return fingerprint({"inputs": inputs_of(path), "parameters": parameters, "named": named_by(parameters), "lock": digest_files([lock])})


def named_by(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What parameters name outside the notebook, by its content: files, folders, and the profile with its models and data.

    Args:
        parameters: The parameters of one notebook. A file counts by its content, a folder, such as a data set's, by the names, sizes and times of change of its
            files, a profile by all of its numbers, the content of its models and the folders of its data.
    """
    named: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, str) and name not in ("out", "profile") and value and (place := Path(value).expanduser()).exists():
            named[name] = digest_files([place]) if place.is_file() else _digest_folder(place)
    if profile := parameters.get("profile", ""):
        known = load_profile(profile)
        roots = {name: Path(root) for name in known.roots if (root := os.path.expandvars(known.roots[name]))}
        named["profile"] = {"numbers": {**vars(known), "source": ""}, "models": model_keys(known)}
        named["roots"] = {name: _digest_folder(root) for name, root in roots.items() if root.is_dir()}
    return named


@cache
def _digest_folder(place: Path) -> str:
    """The digest of a folder, taken once a process, since every chapter asks for the same ones."""
    return digest_tree(place)


_running: set[subprocess.Popen[str]] = set()  # papermills of this process, which an interruption ends


def _execute(path: Path, partial: Path, parameters: Mapping[str, Any], log: Path, timeout: float, threads: int, tick: Callable[[], Any]) -> str:
    """Run papermill in a process of its own, which ends with this one; what went wrong, or "" if nothing did."""
    command = [sys.executable, "-m", f"{PACKAGE}.book.papermill", str(os.getpid()), str(path), str(partial), "--kernel", "python3", "--cwd", os.getcwd()]
    command += ["--log-output", "--no-progress-bar"] + (["-y", yaml.safe_dump(dict(parameters))] if parameters else [])
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONUNBUFFERED": "1"}
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True)
        _running.add(process)
        clock = threading.Timer(timeout, stop)
        clock.start()
        try:
            for line in process.stdout or ():
                out.write(line)
                if "Ending Cell" in line:
                    tick()
            process.wait()
        finally:  # an interruption, too, ends the process and the clock; the kernel follows its parent
            clock.cancel()
            process.kill()
            process.communicate()
            _running.discard(process)
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
    threads: int = 0,
    tick: Callable[[], Any] = lambda: None,
) -> Outcome:
    """Execute one notebook into `out`, unless what is there is current; a change of prose alone executes nothing.

    The result is renamed into place only after success: a timeout or a dead kernel leaves
    ``….ipynb.partial`` and a log, never something that looks finished.

    Args:
        path: The notebook.
        parameters: The parameters, checked by :func:`parameters_for`.
        out: The folder of the result; its log goes to ``logs`` inside.
        force: Whether to execute what is current too.
        timeout: Time for the whole notebook, seconds.
        threads: Threads of the notebook's arithmetic; 0 leaves them as they are.
        tick: Called after every cell.
    """
    target, partial, log = out / path.name, out / f"{path.name}.partial", out / "logs" / f"{path.stem}.log"
    key = run_key(path, parameters)
    if not force and target.exists():
        done = nbformat.read(target, 4)
        if done.metadata.get(PACKAGE, {}).get("run") == key:
            kept = {name: value for name, value in done.metadata[PACKAGE].items() if name in STAMP}
            write_notebook(_stamped(with_prose(done, nbformat.read(path, 4)), kept), target)
            return Outcome(path.stem, "skipped")
    log.parent.mkdir(parents=True, exist_ok=True)
    start, began = time.perf_counter(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    inputs = inputs_of(path)
    message = _execute(path, partial, parameters, log, timeout, threads, tick)
    seconds = time.perf_counter() - start
    if message:
        return Outcome(path.stem, "failed", seconds, f"{message} (log: {log})")
    stamp = {"run": key, "inputs": inputs, "ran": began, "seconds": round(seconds, 1), "models": model_keys(load_profile(parameters.get("profile", "pocket")))}
    write_notebook(_stamped(nbformat.read(partial, 4), stamp), partial)
    partial.replace(target)
    return Outcome(path.stem, "passed", seconds)


def _stamped(notebook: nbformat.NotebookNode, stamp: Mapping[str, Any]) -> nbformat.NotebookNode:
    notebook.metadata[PACKAGE] = notebook.metadata.get(PACKAGE, {}) | dict(stamp)
    return notebook


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook as a file, unless the file has that very text."""
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if not path.exists() or path.read_text() != text:
        write_text(path, text)


def run(jobs: Sequence[tuple[Path, Mapping[str, Any]]], out: Path, *, force: bool = False, timeout: float = 1800, workers: int = 0) -> list[Outcome]:
    """Execute notebooks, some at once, under one bar of progress that counts cells.

    Args:
        jobs: Notebooks with their parameters.
        out: The folder of the results.
        force: Whether to execute what is current too.
        timeout: Time for each notebook, seconds.
        workers: The number of notebooks at once, the cores shared among them; 0 is one a core.
    """
    from tqdm import tqdm

    workers = min(workers or cores(), len(jobs)) or 1
    cells = {path: len(nbformat.read(path, 4).cells) for path, _ in jobs}
    with tqdm(total=sum(cells.values()), unit="cell", file=sys.stderr, disable=None) as bar, ThreadPoolExecutor(workers) as pool:

        def one(path: Path, parameters: Mapping[str, Any]) -> Outcome:
            ticks = 0

            def tick() -> None:
                nonlocal ticks
                ticks += 1
                bar.update()

            outcome = run_notebook(path, parameters, out, force=force, timeout=timeout, threads=max(1, cores() // workers), tick=tick)
            bar.update(cells[path] - ticks)
            return outcome

        futures = [pool.submit(one, path, parameters) for path, parameters in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(_running):
                process.kill()
            raise


def report(outcomes: Sequence[Outcome]) -> int:
    """Print a table of outcomes; returns the number of failures."""
    for one in outcomes:
        print(f"{one.name:28} {one.state:8} {one.seconds:7.1f} s  {one.message}".rstrip())
    count = {state: sum(one.state == state for one in outcomes) for state in ("passed", "failed", "skipped")}
    if outcomes and count["skipped"] == len(outcomes):
        print("nothing to do: every notebook is current")
    else:
        print(", ".join(f"{number} {state}" for state, number in count.items()))
    return count["failed"]
