"""The lock, the list it is made from, conda's file and the project's own metadata tell one story."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13")


def read_pins(name: str) -> list[Requirement]:
    """The requirements of a file."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


LOCK = {canonicalize_name(r.name): r for r in read_pins("requirements.lock")}


def pin(name: str) -> str:
    return str(LOCK[canonicalize_name(name)].specifier).removeprefix("==")


def test_the_lock_pins_exactly_and_once():
    assert len(read_pins("requirements.lock")) == len(LOCK)
    assert [str(r) for r in LOCK.values() if not re.fullmatch(r"==[\w.]+", str(r.specifier))] == []


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_holds_all_that_its_packages_ask_for(python, system):
    """Followed through the installed packages' own metadata, for each Python and system."""
    where = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system, "extra": ""}
    where |= {"platform_system": system.capitalize(), "os_name": "posix", "implementation_name": "cpython"}
    missing = []
    for name, locked in LOCK.items():
        if locked.marker is not None and not locked.marker.evaluate(where):
            continue
        try:
            asked = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            assert locked.marker is not None, f"{name} is not installed"
            continue
        for one in asked:
            if one.marker is None or one.marker.evaluate(where):
                found = LOCK.get(canonicalize_name(one.name))
                if found is None or not (found.marker is None or found.marker.evaluate(where)):
                    cuda = name == "torch" and one.name.startswith(("nvidia", "cuda", "triton"))  # torch pins these itself
                    missing += [] if cuda else [f"{name} asks for {one}"]
                elif not one.specifier.contains(pin(one.name), prereleases=True):
                    missing.append(f"{name} asks for {one}, the lock has {found}")
    assert missing == []


def test_what_is_installed_is_what_is_locked():
    installed = {name: version(name).split("+")[0] for name, locked in LOCK.items() if locked.marker is None}
    assert installed == {name: pin(name) for name in installed}


def test_conda_says_the_same_versions_as_the_lock():
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    by_pip = next(entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    assert "--constraint requirements.lock" in by_pip
    pins = [Requirement(line) for line in by_pip if not line.startswith("-")]
    assert {canonicalize_name(r.name): str(r.specifier) for r in pins} == {canonicalize_name(r.name): f"=={pin(r.name)}" for r in read_pins("requirements.in")}
    python = next(entry for entry in content["dependencies"] if str(entry).startswith("python="))
    assert python.removeprefix("python=") in PYTHONS


def test_the_list_and_the_metadata_ask_for_nothing_that_the_lock_lacks():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for one in [*read_pins("requirements.in"), *map(Requirement, project["dependencies"])]:
        assert one.specifier.contains(pin(one.name), prereleases=True), one
    assert all(python in Requirement(f"python{project['requires-python']}").specifier for python in PYTHONS)


def imported(folder: Path) -> dict[str, str]:
    """The packages from elsewhere that a folder's modules import, late imports included, each with a module that does."""
    found = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            found |= {name.split(".")[0]: path.name for name in names}
    return {name: where for name, where in found.items() if name not in sys.stdlib_module_names and name not in ("diffseg_lib", "benchmarks")}


def test_the_metadata_asks_for_all_that_the_library_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(one).name) for one in project["dependencies"]}
    extras = {canonicalize_name(Requirement(one).name) for group in project["optional-dependencies"].values() for one in group}
    for one in extras - {canonicalize_name(project["name"])}:
        assert one in LOCK, one
    where = packages_distributions()
    for name, module in imported(ROOT / "diffseg_lib").items():
        sources = {canonicalize_name(one) for one in where[name]}
        comes_along = name in ("myst_nb", "matplotlib_inline")  # with jupyter-book, with ipykernel
        assert sources & (needed | extras) or comes_along, f"{module} imports {name}, which pyproject.toml does not name"
    for name, module in imported(ROOT / "diffseg_lib").items():  # a photo is segmented without any extra
        folder = {path.name for path in (ROOT / "diffseg_lib" / "book").rglob("*.py")} | {"crf.py", "executors.py"}
        looked_for = name == "pillow_heif"  # images.py asks whether it is installed first
        assert {canonicalize_name(one) for one in where[name]} & needed or module in folder or looked_for, f"{module} imports {name} from an extra"


def test_a_wheel_holds_what_the_library_reads_and_runs_elsewhere(tmp_path):
    source, place = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "diffseg_lib", "benchmarks", "data", "notebooks/profiles"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (source / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "."]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=300)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place)
    assert "diffseg = diffseg_lib.cli.main:program" in next(place.glob("*.dist-info/entry_points.txt")).read_text()
    photo = place / "diffseg_lib/shipped/data/pocket/samples/house-car.jpg"
    command = [sys.executable, "-m", "diffseg_lib", "segment", str(photo), "--classes", "house", "car", "--out", "found"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DIFFSEG_")} | {
        "PYTHONPATH": f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and (tmp_path / "found" / "labels.png").is_file(), done.stderr
    where = subprocess.run(
        [sys.executable, "-c", "import diffseg_lib; print(diffseg_lib.__file__)"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert Path(where.stdout.strip()).is_relative_to(place)
