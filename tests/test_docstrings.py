"""Docstrings: sentences that stand alone, read off the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import diffseg_lib
from diffseg_lib.support.imports import module_files

ROOT = Path(diffseg_lib.__file__).parent.parent

FILES = module_files(Path(diffseg_lib.__file__).parent)
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
CLASSES = {node.name: node for tree in TREES.values() for node in tree.body if isinstance(node, ast.ClassDef)}
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# A capital letter, a digit, a code name in backquotes (with a role of Sphinx or not), or a formula: a symbol, or a variable before a sign of equality.
START = re.compile(r"[A-Z0-9]|(?::\w+:)?`|[^\x00-\x7f]|[$|]|[a-z]\w{0,2} ?(?:=|<-)")
ENTRY = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.+)")


def public(tree: ast.Module) -> Iterator[tuple[str, Documented]]:
    """Functions and classes of a module and methods of its classes, by name; those with a leading underscore are left out, special methods too."""
    for node in tree.body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                inner = (one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and not one.name.startswith("_"))
                yield from ((f"{node.name}.{one.name}", one) for one in inner)


def parameters(node: Documented) -> set[str]:
    """Parameters of a function; of a class its annotated fields and what its ``__init__`` takes, those of its bases in the library included."""
    if not isinstance(node, ast.ClassDef):
        given = node.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
        return {one.arg for one in every} - {"self", "cls"}
    found = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__":
            found |= parameters(one)
    return found.union(*(parameters(CLASSES[base.id]) for base in node.bases if isinstance(base, ast.Name) and base.id in CLASSES))


def arguments(text: str) -> list[str]:
    """The entries of a docstring's section on arguments, a line each."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?)+)", text, re.MULTILINE)
    return [] if section is None else [" ".join(one.split()) for one in re.split(r"^ {4}(?! )", section.group(1), flags=re.MULTILINE) if one.strip()]


def breaches(tree: ast.Module) -> list[str]:
    """What the docstrings of a module lack, as sentences."""
    found = []
    for name, node in public(tree):
        text = ast.get_docstring(node)
        if not text:
            found.append(f"{name} has no docstring")
            continue
        summary, _, rest = text.partition("\n\n")
        if not START.match(summary):
            found.append(f"{name}: its summary starts with {summary[:20]!r}")
        if not (summary.endswith(".") or (summary.endswith(":") and rest)):
            found.append(f"{name}: its summary ends with {summary[-20:]!r}")
        for entry in arguments(text):
            split = ENTRY.fullmatch(entry)
            if split is None:
                found.append(f"{name}: {entry!r} is not a name, a colon and a sentence")
                continue
            said = split.group(2)
            unknown = {one.lstrip("*") for one in split.group(1).split(", ")} - parameters(node)
            if unknown:
                found.append(f"{name} has no {', '.join(sorted(unknown))}")
            if not (said[0].isupper() and said.endswith(".")):
                found.append(f"{name}: {entry!r} is not a sentence")
    return found


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(): ...", "f has no docstring"),
        ("class C:\n    '''A class.'''\n    def f(self): ...", "C.f has no docstring"),
        ("def f():\n    '''of the noise.'''", "f: its summary starts with 'of the noise.'"),
        ("def f():\n    '''Seed of the noise'''", "f: its summary ends with 'Seed of the noise'"),
        ("def f():\n    '''The noise is:'''", "f: its summary ends with 'The noise is:'"),
        ("def f(seed):\n    '''Noise.\n\n    Args:\n        seed: of the noise.\n    '''", "f: 'seed: of the noise.' is not a sentence"),
        ("def f(seed):\n    '''Noise.\n\n    Args:\n        seed: Seed\n            of it\n    '''", "f: 'seed: Seed of it' is not a sentence"),
        ("def f(seed):\n    '''Noise.\n\n    Args:\n        sed: Seed of it.\n    '''", "f has no sed"),
        ("def f(seed):\n    '''Noise.\n\n    Args:\n        Seed of it.\n    '''", "f: 'Seed of it.' is not a name, a colon and a sentence"),
        ("class C:\n    '''Noise.\n\n    Args:\n        sed: Seed of it.\n    '''\n    seed: int", "C has no sed"),
    ],
)
def test_a_planted_breach_is_found(source, said):
    assert breaches(ast.parse(source)) == [said]


@pytest.mark.parametrize(
    "source",
    [
        "def f(a, *b, **c):\n    '''Noise.\n\n    Args:\n        a, b: Two.\n        **c: Names,\n            or none.\n\n    Raises:\n        E: x.\n    '''",
        "class C:\n    '''A class.'''\n    def __len__(self): ...\n    def _f(self): ...",
        "class C:\n    '''A class.\n\n    Args:\n        a: A number.\n        b: Another.\n    '''\n    a: int\n    def __init__(self, b): ...",
        "def f():\n    '''z_t = sqrt(abar_t) z.'''\n    def inner(): ...",
        "def f():\n    ''':func:`g` of all.'''",
        "def f():\n    '''The noise is:\n\n        z = x\n    '''",
        "def _f(): ...",
    ],
)
def test_what_is_in_order_is_left_alone(source):
    assert breaches(ast.parse(source)) == []


@pytest.mark.parametrize("name", list(FILES))
def test_docstrings_are_sentences(name):
    assert not breaches(TREES[name])


def test_every_form_that_the_page_on_real_models_lists_is_held_by_a_test():
    rows = re.findall(r"^\| .* \| .* \| (`test_\S+\.py::.*`) \|$", (ROOT / "real.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = [name.strip("`").split("::") for row in rows for name in row.split(", ")]
    lines = (ROOT / "real.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) == sum("`test_" in line for line in lines) > 70  # no row of another form
    assert not [name for file, name in named if f"\ndef {name}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")]
