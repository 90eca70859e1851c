"""The rules of the house, read off the source: who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import diffseg_lib
from diffseg_lib.support.imports import METHOD, RULES, broken_rules, circles, imports_of, wing_of
from diffseg_lib.support.source_code import module_files

ROOT = Path(diffseg_lib.__file__).parent
HEAVY = {"diffusers", "transformers", "torch", "numpy", "scipy", "matplotlib", "pandas"}
FILES = module_files(ROOT)
IMPORTS = imports_of(ROOT)
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
LINES_OF_THE_METHOD = 2900  # with UNets and transformers as backbones


def test_no_circle_and_no_import_against_the_rules():
    assert not circles(IMPORTS)
    assert not broken_rules(IMPORTS)


@pytest.mark.parametrize(
    ("where", "line", "said"),
    [
        ("scoremaps.py", "from .data import VOID", "scoremaps (the method) imports data (data)"),
        ("data/voc.py", "from ..pocket.layouts import ensure_layout", "data.voc (data) imports pocket.layouts (pocket)"),
        ("experiments/claims.py", "def f():\n    from ..book import plots", "experiments.claims (experiments) imports book.plots (book)"),
        ("support/files.py", "import diffseg_lib.prompts", "support.files (support) imports prompts (the method)"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, where, line, said):
    shutil.copytree(ROOT, tmp_path / "diffseg_lib", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "diffseg_lib" / where
    path.write_text(f"{path.read_text()}\n\n{line}\n")
    assert broken_rules(imports_of(tmp_path / "diffseg_lib")) == [said]


def test_a_planted_circle_is_found(tmp_path):
    shutil.copytree(ROOT, tmp_path / "diffseg_lib", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "diffseg_lib" / "backbone.py"
    path.write_text(f"{path.read_text()}\n\nfrom . import sdxl\n")
    assert circles(imports_of(tmp_path / "diffseg_lib")) == [("backbone", "sdxl")]


def test_the_rules_name_every_wing_and_have_no_circle_themselves():
    assert {wing_of(name) for name in FILES if name} == set(RULES)
    assert not circles({wing: set(allowed) for wing, allowed in RULES.items()})
    folders = {path.name for path in ROOT.iterdir() if any(path.glob("*.py"))}
    assert folders == {wing for wing in RULES if wing != METHOD and "." not in wing}


def test_the_root_holds_the_method_alone():
    lines = sum(len(path.read_text().splitlines()) for path in ROOT.glob("*.py"))
    assert lines <= LINES_OF_THE_METHOD
    assert 12 <= len(diffseg_lib.__all__) <= 18


def reached(name: str) -> set[str]:
    """Every module that a module imports, directly or through the library."""
    seen, todo = set(), [name]
    while todo:
        for target in IMPORTS[todo.pop()] - seen:
            seen.add(target)
            todo.append(target)
    return seen


def packages(name: str, *, top_level: bool = False) -> set[str]:
    """Packages outside the library that a module imports. top_level: at import time only."""
    tree, found = TREES[name], set()
    skip = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) for n in ast.walk(f)} if top_level else set()
    skip |= {id(n) for i in ast.walk(tree) if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test) for n in ast.walk(i)} if top_level else set()
    for node in ast.walk(tree):
        if id(node) not in skip:
            found |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            found |= {str(node.module)} if isinstance(node, ast.ImportFrom) and not node.level else set()
    return {one.split(".")[0] for one in found}


PURE = [n for n in TREES if n in ("scoremaps", "evaluation.metrics") or wing_of(n) == "data"]


@pytest.mark.parametrize("name", PURE)
def test_tensors_in_tensors_out(name):
    assert not set().union(*(packages(one) for one in {name, *reached(name)})) & {"diffusers", "transformers"}
    assert not reached(name) & {"backbone", "loading", "attention", "segmenter"}


@pytest.mark.parametrize("name", [n for n in PURE if wing_of(n) == "data"])
def test_reading_data_sets_costs_no_torch(name):
    assert not set().union(*(packages(one, top_level=True) for one in {name, *reached(name)})) & {"torch", "diffusers", "transformers"}


LOADERS = ("backbone", "sdxl", "loading", "attention", "optimizations", "dit.attention", "dit.calls", "dit.concepts", "weights.single_file")


@pytest.mark.parametrize("name", [n for n in TREES if n not in LOADERS and wing_of(n) != "pocket.training"])
def test_only_backbones_and_attention_touch_the_unet(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("diffusers"):
            assert not any(part in alias.name for alias in node.names for part in ("UNet", "Pipeline", "models"))
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert called not in ("unet", "set_processor", "set_attn_processor", "register_forward_hook", "register_forward_pre_hook")


@pytest.mark.parametrize("name", [n for n in TREES if wing_of(n) != "pocket.training"])
def test_transformers_and_diffusers_load_lazily(name):
    assert not packages(name, top_level=True) & {"diffusers", "transformers"}


@pytest.mark.parametrize("name", list(TREES))
def test_nothing_that_is_loaded_can_run_code(name):
    assert not packages(name) & {"pickle", "dill", "joblib", "marshal", "shelve"}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("pd.read_pickle", "eval", "exec"), called
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            assert called != "torch.load" or getattr(options.get("weights_only"), "value", False) is True  # tensors alone
            assert "trust_remote_code" not in options and not getattr(options.get("allow_pickle"), "value", False)


@pytest.mark.parametrize("name", list(TREES))
def test_no_star_imports_and_no_grab_bag_names(name):
    assert not any(alias.name == "*" for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) for alias in node.names)
    assert name.split(".")[-1] not in ("utils", "helpers", "common", "misc")


def test_importing_the_library_loads_nothing_heavy_and_every_export_is_there():
    code = f"""
import sys
import diffseg_lib
loaded = sorted({HEAVY!r} & set(sys.modules))
assert not loaded, loaded
for name in diffseg_lib.__all__:
    assert getattr(diffseg_lib, name) is not None
late = sorted({{"diffusers", "transformers", "matplotlib"}} & set(sys.modules))
assert not late, late
try:
    diffseg_lib.segmnter
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    assert "has no attribute 'segmnter'" in done.stdout
