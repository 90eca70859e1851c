"""Source code as facts: what a Python source does, not what it says, and the modules of ours that it imports."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "diffseg_lib"
PACKAGES = (PACKAGE, "benchmarks")  # the repository's own


def code_only(source: str) -> str:
    """Python source without comments, docstrings and blank lines: what it does, not what it says.

    >>> print(code_only('def f(x):\\n    \"\"\"Add one.\"\"\"\\n\\n    return x + 1  # really\\n'))
    def f(x):
        return x + 1
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            last = first.end_lineno or first.lineno
            if not lines[first.lineno - 1][: first.col_offset].strip():
                lines[first.lineno - 1 : last] = [""] * (last - first.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def module_files(package: Path) -> dict[str, Path]:
    """Every module of a package by its name below it ("" is the package itself)."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source: str, package: str = "") -> Iterator[tuple[str, str]]:
    """Pairs (module, name or "") for every import in a source, those inside functions included.

    Args:
        source: Python source.
        package: Package that it lies in, by which relative imports are resolved.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def _file(root: Path, module: str) -> Path | None:
    place = root.joinpath(*module.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


def _exported_late(root: Path) -> dict[str, str]:
    """The table of names that the package imports on first use: name to module."""
    for node in ast.walk(ast.parse((root / PACKAGE / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict) and all(isinstance(v, ast.Constant) for v in [*node.keys, *node.values]):
            return {k: f"{PACKAGE}.{v}" for k, v in ast.literal_eval(node).items()}
    return {}


def modules_used(source: str, root: Path) -> dict[str, Path]:
    """The repository's modules that a source imports, and those that they import, by name.

    Args:
        source: Python source.
        root: Folder that holds the library.
    """
    late, found, waiting = _exported_late(root), {}, [(source, "")]
    while waiting:
        text, package = waiting.pop()
        for module, name in imported(text, package):
            if module.split(".")[0] not in PACKAGES:
                continue
            parents = [".".join(module.split(".")[: i + 1]) for i in range(module.count(".") + 1)]
            inner = [f"{module}.{name}"] + ([late[name]] if module == PACKAGE and name in late else [])
            for one in [*parents, *inner]:
                path = _file(root, one)
                if path is not None and one not in found:
                    found[one] = path
                    waiting.append((path.read_text(encoding="utf-8"), one if path.name == "__init__.py" else one.rpartition(".")[0]))
    return found


def code_used(source: str, root: Path) -> str:
    """The code of :func:`modules_used` as one text, by name, as :func:`code_only` leaves it: the same on every version of Python."""
    return "".join(f"{name}\n{code_only(path.read_text(encoding='utf-8'))}\n" for name, path in sorted(modules_used(source, root).items()))
