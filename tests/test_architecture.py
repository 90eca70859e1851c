"""The rules of the house, read off the source: who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffseg_lib

ROOT = Path(diffseg_lib.__file__).parent
HEAVY = {"diffusers", "transformers", "torch", "numpy", "scipy", "matplotlib", "pandas"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] in ("__init__", "__main__") and len(parts) > 2 else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports(name: str, *, top_level: bool = False) -> set[str]:
    """Dotted names that a module imports; relative ones resolved. top_level: at import time only."""
    tree, found = TREES[name], set()
    package = name.split(".") if FILES[name].name in ("__init__.py",) else name.split(".")[:-1]
    if FILES[name].name == "__main__.py":
        package = list(FILES[name].relative_to(ROOT.parent).parent.parts)
    skip = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) for n in ast.walk(f)}
    skip |= {id(n) for i in ast.walk(tree) if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test) for n in ast.walk(i)}
    for node in ast.walk(tree):
        if top_level and id(node) in skip:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def reached(name: str, *, top_level: bool = False) -> set[str]:
    """Everything that a module imports, directly or through the library. top_level: at import time only."""
    seen, todo = set(), [name]
    while todo:
        for target in imports(todo.pop(), top_level=top_level):
            if target not in seen:
                seen.add(target)
                todo += [target] if target in TREES and target != "diffseg_lib" else []
    return seen


def packages(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


PURE = [n for n in TREES if n in ("diffseg_lib.scoremaps", "diffseg_lib.evaluation.metrics") or n.startswith("diffseg_lib.data")]


@pytest.mark.parametrize("name", PURE)
def test_tensors_in_tensors_out(name):
    assert not packages(reached(name)) & {"diffusers", "transformers"}
    assert not reached(name) & {"diffseg_lib.backbone", "diffseg_lib.attention", "diffseg_lib.segmenter"}


@pytest.mark.parametrize("name", [n for n in PURE if n.startswith("diffseg_lib.data")])
def test_reading_data_sets_costs_no_torch(name):
    assert "numpy" in packages(reached("diffseg_lib.data", top_level=True))
    assert not packages(reached(name, top_level=True)) & {"torch", "diffusers", "transformers"}


def test_the_pure_modules_exist():
    assert {"diffseg_lib.scoremaps", "diffseg_lib.evaluation.metrics", "diffseg_lib.data"} <= set(PURE)


CORE = [n for n in TREES if not n.startswith("diffseg_lib.pocket")]


@pytest.mark.parametrize("name", [n for n in CORE if n not in ("diffseg_lib.backbone", "diffseg_lib.sdxl", "diffseg_lib.attention")])
def test_only_backbones_and_capture_touch_the_unet(name):
    assert not any(i.startswith("diffusers") and any(part in i for part in ("UNet", "Pipeline", "models")) for i in imports(name))
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert called not in ("unet", "set_processor", "set_attn_processor", "register_forward_hook", "register_forward_pre_hook")


@pytest.mark.parametrize("name", list(TREES))
def test_nothing_imports_plots_or_book(name):
    for module in ("diffseg_lib.book.plots", "diffseg_lib.book.run"):
        if name != module:
            assert not any(i == module or i.startswith(f"{module}.") for i in imports(name))


@pytest.mark.parametrize("name", CORE)
def test_transformers_and_diffusers_load_lazily(name):
    assert not packages(imports(name, top_level=True)) & {"diffusers", "transformers"}


@pytest.mark.parametrize("name", list(TREES))
def test_nothing_that_is_loaded_can_run_code(name):
    assert not packages(imports(name)) & {"pickle", "dill", "joblib", "marshal", "shelve"}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "pd.read_pickle", "eval", "exec"), called
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            assert "trust_remote_code" not in options and not getattr(options.get("allow_pickle"), "value", False)


@pytest.mark.parametrize("name", list(TREES))
def test_no_star_imports_and_no_grab_bag_names(name):
    assert not any(i.endswith(".*") for i in imports(name))
    assert name.split(".")[-1] not in ("utils", "helpers", "common", "misc")


def test_importing_the_library_loads_nothing_heavy_and_every_export_is_there():
    code = f"""
import sys, time
start = time.perf_counter()
import diffseg_lib
seconds = time.perf_counter() - start
loaded = sorted({HEAVY!r} & set(sys.modules))
assert not loaded, loaded
assert seconds < 2, seconds
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
