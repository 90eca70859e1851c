"""A chapter as a file: what its outputs depend on, what it promises, how git keeps it."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from ..support.source_code import PACKAGE, code_used

LARGEST = 1_000_000  # bytes of a notebook
LONGEST = 12  # lines of a code cell
LONGEST_OPENING = 6  # lines of the cell that opens the chapter
LONGEST_SHOWN = 10  # lines of code that stand open on the page
WIDEST = 100  # columns of a line of code
READERS = {"committed_result", "committed_speed", "ledger"}  # what reads kept results
RAN = ("ran", "seconds", "models")  # what git keeps of an execution: its time, how long it took, its models
CELL_METADATA = {"tags", "mystnb", "jupyter"}
PARAMETER = re.compile(r"^\w+\s*:\s*[\w\[\], ]+=\s*(?P<value>.+?)\s+#\s*\S")
OPENING = re.compile(r"^chapter = (?:open_chapter|Chapter)\(", re.MULTILINE)
FOLDED = {"hide-cell", "hide-input", "remove-cell", "remove-input"}
LIVE = {"remove-input", "hide-output"}  # the cell that shows the page's own small run, where a committed one is the result
NO_METHOD = re.compile(r"\bplots\.|\bglue|\bwrite_(?:results|ledger)\(|\babout\(|\bchapter\.close\(|" + OPENING.pattern, re.MULTILINE)
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|Users|private|var|opt|mnt|work)/")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")

# -- what its outputs depend on ------------------------------------------------------------------


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells of the author, without the one that papermill injects."""
    return [c for c in notebook.cells if c.cell_type == "code" and "injected-parameters" not in _tags(c)]


def python_of(notebook: NotebookNode) -> str:
    """The notebook's code as one Python source; lines for IPython are left out."""
    lines = "\n".join(c.source for c in code_cells(notebook)).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!", "?")))


def reads_of(notebook: NotebookNode) -> list[str]:
    """The files that a notebook declares to read, patterns below the repository, in its metadata under ``diffseg_lib.reads``."""
    return list(notebook.metadata.get(PACKAGE, {}).get("reads", []))


def inputs_hash(notebook: NotebookNode, root: Path, weights: str) -> str:
    """A hash of all that a notebook's outputs depend on: its code, the library's code below it, the files that it declares to read, the weights.

    Prose, comments and docstrings do not count, nor does a module that the notebook never imports.
    The hash is the same on every Python version.

    Args:
        notebook: The notebook.
        root: The folder that holds the library; what is declared is looked for below it.
        weights: A hash of the weights.

    Raises:
        ValueError: If nothing is there that a declared pattern names.
    """
    digest = hashlib.sha256(weights.encode())
    digest.update(json.dumps([[c.source, sorted(_tags(c)), c.metadata.get("mystnb", {})] for c in code_cells(notebook)], sort_keys=True).encode())
    digest.update(code_used(python_of(notebook), root).encode())
    for pattern in reads_of(notebook):
        found = sorted(root.glob(pattern))
        if not found:
            raise ValueError(f"no file {pattern} below the repository, though the notebook declares to read it: restore it, or mend {PACKAGE}.reads")
        for path in found:
            digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def with_prose(executed: NotebookNode, source: NotebookNode) -> NotebookNode:
    """The outputs of one notebook under the prose of another that has the same code."""
    merged = deepcopy(source)
    injected = [c for c in executed.cells if "injected-parameters" in _tags(c)]
    for cell, done in zip(code_cells(merged), code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    where = next((i + 1 for i, c in enumerate(merged.cells) if "parameters" in _tags(c)), 0)
    merged.cells[where:where] = injected
    return merged


# -- what it promises ----------------------------------------------------------------------------


def _tags(cell: NotebookNode) -> list[str]:
    return cell["metadata"].get("tags", [])


def breaches(notebook: NotebookNode, size: int) -> list[str]:
    """What a committed notebook breaks of the contract of the chapters; an empty list if nothing.

    Args:
        notebook: The notebook with its outputs.
        size: Size of its file, bytes.
    """
    found = [f"{size:,} bytes: fewer than {LARGEST:,} are expected; make its pictures smaller"] if size >= LARGEST else []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel must be named python3")
    for rule in (_heading, _parameters, _results, _reads, _shown, _cells, _figures):
        found += rule(notebook)
    return found


def _heading(notebook: NotebookNode) -> Iterator[str]:
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    prose = re.sub(r"^(```+|:::+).*?^\1", "", prose, flags=re.DOTALL | re.MULTILINE)
    count = len(re.findall(r"^# ", prose, re.MULTILINE))
    if count != 1:
        yield f"{count} headings of the first level: exactly one is expected"
    elif not re.search(r"^\([\w-]+\)=\n+# ", prose, re.MULTILINE):
        yield "the first heading needs a label on the line before it: (chapter-name)="


def _parameters(notebook: NotebookNode) -> Iterator[str]:
    cells = [c for c in code_cells(notebook) if "parameters" in _tags(c)]
    if len(cells) != 1:
        yield f"{len(cells)} cells tagged parameters: exactly one is expected"
    for line in [line for c in cells for line in c.source.splitlines() if line.strip() and not line.startswith("#")]:
        match = PARAMETER.match(line)
        try:
            ast.literal_eval(match["value"] if match else "")
        except (SyntaxError, ValueError):
            yield f"parameter line {line!r}: expected 'name: type = literal  # help'"


def _results(notebook: NotebookNode) -> Iterator[str]:
    code = code_cells(notebook)
    if not code or "chapter.close(" not in code[-1].source:
        yield "the last code cell must write the results: chapter.close(metrics, **numbers)"
    elif not {"nbval-check-output", "remove-cell"} <= set(_tags(code[-1])):
        yield "the last code cell is not tagged nbval-check-output and remove-cell: the numbers that the prose cites are compared there, and stand in the prose"
    opening = [c for c in code if OPENING.search(c.source) and "remove-cell" in _tags(c)]
    if len(opening) != 1:
        yield f"{len(opening)} set-up cells tagged remove-cell open the chapter (chapter = open_chapter(...)): exactly one is expected"
    for cell in opening:
        if (count := len(cell.source.splitlines())) > LONGEST_OPENING:
            yield f"the set-up cell has {count} lines, more than {LONGEST_OPENING}: import where a name is used"


def _reads(notebook: NotebookNode) -> Iterator[str]:
    names = {node.id for node in ast.walk(ast.parse(python_of(notebook))) if isinstance(node, ast.Name)}
    if (readers := sorted(names & READERS)) and not reads_of(notebook):
        yield f"it uses {', '.join(readers)} and declares no file that it reads: list them under {PACKAGE}.reads of its metadata"


def _shown(notebook: NotebookNode) -> Iterator[str]:
    """What stands open on the page is the method; a committed run is the result, and the page's own is folded."""
    code = code_cells(notebook)
    for number, cell in enumerate(code, start=1):
        if FOLDED & set(_tags(cell)):
            continue
        if "parameters" in _tags(cell):
            yield f"code cell {number} holds the parameters and is not tagged hide-input"
        elif found := NO_METHOD.search(cell.source):
            yield f"code cell {number} shows {found[0]!r}, which is no part of the method: split it off, and tag it hide-input or remove-cell"
        elif (count := len([line for line in cell.source.splitlines() if line.strip()])) > LONGEST_SHOWN:
            yield f"code cell {number} shows {count} lines, more than {LONGEST_SHOWN}: split off what is not the method, and tag it hide-input"
    if any("about(" in c.source for c in code) and not any(set(_tags(c)) >= LIVE for c in code):
        yield f"it shows a committed run and no cell tagged {' and '.join(sorted(LIVE))} for what the page's own run measured"


def _cells(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(code_cells(notebook), start=1):
        lines = cell.source.splitlines()
        if len(lines) > LONGEST:
            yield f"code cell {number} has {len(lines)} lines, more than {LONGEST}: move its logic to the library"
        if (widest := max(map(len, lines), default=0)) > WIDEST:
            yield f"code cell {number} has a line of {widest} columns, more than {WIDEST}: the page would cut it off"
        if cell.execution_count != number:
            yield f"code cell {number} carries execution count {cell.execution_count}: run make refresh"
        if "sys.path" in cell.source or "os.chdir" in cell.source:
            yield f"code cell {number} touches sys.path or the working directory"
        yield from (f"code cell {number} {problem}" for problem in _outputs(cell))
    if any(MACHINE_PATH.search(c.source) for c in notebook.cells):
        yield "a cell names a path of one machine"


def _outputs(cell: NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"ended in {output.ename}"
        if output.get("name") == "stderr":
            yield f"wrote to standard error: {output.text[:80]!r}"
        text = "".join(_texts(output))
        if MACHINE_PATH.search(text):
            yield "shows a path of one machine"
        if ADDRESS.search(text):
            yield "shows an object's address: end its last line with ;"


def _texts(output: NotebookNode) -> Iterator[str]:
    yield output.get("text", "")
    yield from (str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))


def _figures(notebook: NotebookNode) -> Iterator[str]:
    names: list[str] = []
    for number, cell in enumerate(code_cells(notebook), start=1):
        if not any(kind.startswith("image/") for o in cell.outputs for kind in o.get("data", {})):
            continue
        extra = cell.metadata.get("mystnb", {})
        figure, alt = extra.get("figure", {}), extra.get("image", {}).get("alt", "")
        missing = [f for f in ("name", "caption") if not figure.get(f)] + ([] if len(alt.split()) >= 4 else ["alt text that states its finding"])
        if missing:
            yield f"the figure of code cell {number} lacks {', '.join(missing)} in its mystnb metadata"
        names.append(figure.get("name", ""))
    yield from (f"{names.count(name)} figures are named {name!r}" for name in sorted(set(names)) if name and names.count(name) > 1)


# -- how git keeps it ----------------------------------------------------------------------------


def normalise(notebook: NotebookNode, inputs: str | None = None) -> NotebookNode:
    """An executed notebook as git keeps it: counts, outputs, and when it ran on what; no widgets or papermill's notes; pictures small.

    Normalising twice changes nothing.
    """
    cells = []
    for cell in notebook.cells:
        if "injected-parameters" in _tags(cell):
            continue
        cell = NotebookNode({**cell, "metadata": NotebookNode({k: v for k, v in cell.metadata.items() if k in CELL_METADATA})})
        if cell.cell_type == "code":
            cell["outputs"] = _kept(cell.outputs)
        cells.append(cell)
    kept = inputs or notebook.metadata.get(PACKAGE, {}).get("inputs")
    metadata: dict[str, Any] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    ours = ({"inputs": kept} if kept else {}) | ({"reads": reads_of(notebook)} if reads_of(notebook) else {})
    ours |= {name: notebook.metadata[PACKAGE][name] for name in RAN if name in notebook.metadata.get(PACKAGE, {})}
    metadata |= {PACKAGE: ours} if ours else {}
    return NotebookNode({**notebook, "cells": cells, "metadata": NotebookNode(metadata)})


def _kept(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Outputs without widgets; neighbouring pieces of one stream joined."""
    kept: list[NotebookNode] = []
    for output in outputs:
        data = output.get("data", {})
        if "application/vnd.jupyter.widget-view+json" in data:
            continue
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1] = NotebookNode({**kept[-1], "text": kept[-1].text + output.text})
        elif "image/png" in data:
            kept.append(NotebookNode({**output, "data": NotebookNode({**data, "image/png": smaller_png(data["image/png"])})}))
        else:
            kept.append(output)
    return kept


def smaller_png(encoded: str) -> str:
    """A PNG (base64) without its comments, in a palette of 256 colours if it is large; never larger than it was."""
    from PIL import Image

    raw = base64.b64decode(encoded)
    image: Image.Image = Image.open(io.BytesIO(raw))
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    if len(raw) > 120_000 and image.mode == "RGB":
        image = image.quantize(256, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return base64.b64encode(min(packed.getvalue(), raw, key=len)).decode()
