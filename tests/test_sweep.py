"""Sweeps: points of a grid, a folder and a row each, nothing done twice."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from diffseg_lib.book import run as runner
from diffseg_lib.book.sweep import metrics_of, points, sweep
from diffseg_lib.cli.main import main

CODE = """
import json, pathlib
if seed == 3:
    raise RuntimeError("three is no number")
folder = pathlib.Path(out)
folder.mkdir(parents=True, exist_ok=True)
(folder / "tiny.json").write_text(json.dumps({"metrics": {"square": seed ** 2, "found": {"value": seed + scale, "ci95": [0, 1]}, "word": "no"}}))
"""


@pytest.fixture
def notebook(tmp_path) -> Path:
    cells = [
        new_code_cell('seed: int = 0  # of it\nscale: float = 1.0  # of it\nout: str = ""  # folder', metadata={"tags": ["parameters"]}),
        new_code_cell(CODE),
    ]
    path = tmp_path / "tiny.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}), path)
    return path


def test_a_grid_is_all_combinations_or_a_list():
    assert points({"a": [1, 2], "b": ["x", "y"]}) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert points([{"a": 1}, {"a": 2, "b": 3}]) == [{"a": 1}, {"a": 2, "b": 3}]
    for wrong, said in (("a", "got str"), ({}, "no point"), ({"a": []}, "no point"), ([1], "got list"), ({"a": [1, 1]}, "twice")):
        with pytest.raises(ValueError, match=said):
            points(wrong)


def test_metrics_are_the_numbers(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"metrics": {"a": 1, "b": {"value": 2.5}, "c": "text", "d": True, "e": None}}))
    assert metrics_of(path) == {"a": 1, "b": 2.5} and metrics_of(tmp_path / "none.json") == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sweep_runs_every_point_once_and_tells_what_failed(notebook, tmp_path, workers):
    out = tmp_path / "out"
    rows = sweep(notebook, {"seed": [0, 2, 3], "scale": 0.5}, out, workers=workers)
    assert [row["state"] for row in rows] == ["passed", "passed", "failed"] and "three is no number" in rows[2]["message"]
    assert [row.get("square") for row in rows] == [0, 4, None] and rows[1]["found"] == 2.5
    assert all((out / row["folder"] / "logs" / "tiny.log").exists() for row in rows)
    kept = pd.read_csv(out / "sweep.csv")
    assert list(kept["seed"]) == [0, 2, 3] and list(kept["state"]) == ["passed", "passed", "failed"]
    again = sweep(notebook, [{"seed": 0, "scale": 0.5}, {"seed": 5}], out)
    assert [row["state"] for row in again] == ["skipped", "passed"] and again[0]["square"] == 0


def test_a_sweep_is_checked_before_anything_runs(notebook, tmp_path):
    for grid, said in (({"sed": [1]}, "did you mean seed"), ({"seed": ["one"]}, "expects int"), ({"out": ["x"]}, "folder of its own")):
        with pytest.raises(ValueError, match=said):
            sweep(notebook, grid, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_sweeps(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "notebooks_dir", lambda: notebook.parent)
    grid = tmp_path / "grid.yaml"
    grid.write_text("seed: [1, 2]\n")
    assert main(["book", "sweep", "tiny", str(grid), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "2 passed, 0 failed, 0 current" in told and "square" in told
    assert main(["book", "sweep", "tiny", str(tmp_path / "none.yaml")]) == 2
    assert "no grid" in capsys.readouterr().err
