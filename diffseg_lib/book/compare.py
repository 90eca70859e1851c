"""Whether chapters that were executed say what their kept outputs say: one execution serves the comparison and the book."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..support.paths import repository_root
from .notebooks import code_cells

COMPARED = "nbval-check-output"  # the tag of cells whose texts must be the same, which nbval knows too


def sanitizers(path: Path | None = None) -> list[tuple[re.Pattern[str], str]]:
    """What may differ between two good executions, as patterns and what they are replaced by, from a file of nbval's form.

    Args:
        path: The file; None takes the tests' own.
    """
    rules = configparser.RawConfigParser()
    rules.read(path or repository_root() / "tests" / "nbval_sanitize.cfg")
    return [(re.compile(rules[name]["regex"]), rules[name]["replace"]) for name in rules.sections()]


def texts_of(cell: NotebookNode, rules: list[tuple[re.Pattern[str], str]]) -> list[str]:
    """The texts that a cell left, what may differ replaced; pictures do not count, and neighbouring pieces of one stream are one text."""
    found: list[str] = []
    for output in cell.outputs:
        text = output.get("text", output.get("data", {}).get("text/plain", ""))
        if output.output_type == "stream" and found:
            found[-1] += text
        elif not any(kind.startswith("image/") for kind in output.get("data", {})):
            found.append(text)
    for pattern, replacement in rules:
        found = [pattern.sub(replacement, text) for text in found]
    return found


def differences(kept: NotebookNode, executed: NotebookNode, rules: list[tuple[re.Pattern[str], str]]) -> list[str]:
    """What two executions of a chapter say differently in the cells that are tagged for it, a sentence each; errors too.

    Args:
        kept: The chapter as git keeps it.
        executed: The chapter as it was just executed.
        rules: What may differ, as :func:`sanitizers` gives it.
    """
    found = []
    for number, (before, now) in enumerate(zip(code_cells(kept), code_cells(executed), strict=True), start=1):
        if any(output.output_type == "error" for output in now.outputs):
            found.append(f"code cell {number} ended in an error")
        elif COMPARED in before.metadata.get("tags", []):
            lines = [[line for text in texts_of(cell, rules) for line in text.splitlines()] for cell in (before, now)]
            found += [f"code cell {number} said {a!r} and now says {b!r}" for a, b in zip(*lines, strict=False) if a != b]
            if len(lines[0]) != len(lines[1]):
                found.append(f"code cell {number} left {len(lines[1])} lines, and {len(lines[0])} are kept")
    return found


def compare(paths: list[Path], executed: Path) -> list[str]:
    """What executed chapters say differently from their kept outputs, a sentence each.

    Args:
        paths: The chapters as git keeps them.
        executed: The folder of the executed ones.

    Raises:
        FileNotFoundError: If one was not executed.
    """
    rules, found = sanitizers(), []
    for path in paths:
        done = executed / path.name
        if not done.is_file():
            raise FileNotFoundError(f"{done} is missing: run the chapters first (diffseg book run)")
        kept, now = (nbformat.read(one, 4) for one in (path, done))
        found += [f"{path.name}: {one}" for one in differences(kept, now, rules)]
    return found
