"""The lock, the list it is made from, conda's file and the project's own metadata tell one story."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
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
