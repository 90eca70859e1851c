"""Executed chapters against their kept outputs: what differs is told, what may differ is not."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from diffseg_lib.book.compare import COMPARED, compare, differences, sanitizers


def chapter(text: str, *, tagged: bool = True, kind: str = "stream") -> nbformat.NotebookNode:
    """A chapter of one executed cell that printed a text."""
    output = new_output("stream", name="stdout", text=text) if kind == "stream" else new_output("error", ename="ValueError", evalue=text)
    return new_notebook(cells=[new_code_cell("1", outputs=[output], execution_count=1, metadata={"tags": [COMPARED] if tagged else []})])


def test_a_changed_number_is_told():
    [told] = differences(chapter("gain = +3\n"), chapter("gain = +4\n"), sanitizers())
    assert told == "code cell 1 said 'gain = +3' and now says 'gain = +4'"
    assert not differences(chapter("gain = +3\n"), chapter("gain = +3\n"), sanitizers())


def test_cells_that_are_not_tagged_and_seconds_may_differ():
    assert not differences(chapter("a\n", tagged=False), chapter("b\n", tagged=False), sanitizers())
    assert not differences(chapter("done in 1.5 s\n"), chapter("done in 27.1 s\n"), sanitizers())


def test_a_missing_line_and_an_error_are_told():
    assert differences(chapter("a\nb\n"), chapter("a\n"), sanitizers()) == ["code cell 1 left 1 lines, and 2 are kept"]
    assert differences(chapter("a\n", tagged=False), chapter("no", tagged=False, kind="error"), sanitizers()) == ["code cell 1 ended in an error"]


def test_a_chapter_that_was_not_run_is_an_error(tmp_path):
    kept = tmp_path / "00_a.ipynb"
    nbformat.write(chapter("a\n"), kept)
    with pytest.raises(FileNotFoundError, match="diffseg book run"):
        compare([kept], Path(tmp_path / "none"))
    nbformat.write(chapter("b\n"), tmp_path / "00_a.ipynb")
    (tmp_path / "done").mkdir()
    nbformat.write(chapter("c\n"), tmp_path / "done" / "00_a.ipynb")
    assert compare([kept], tmp_path / "done") == ["00_a.ipynb: code cell 1 said 'b' and now says 'c'"]
