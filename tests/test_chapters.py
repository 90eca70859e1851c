"""Chapters run end to end by papermill on tiny random pipelines of every family, saved to disk as real ones are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import nbformat
import pytest

from diffseg_lib.book.run import notebooks_dir

QUICK = {
    "01_quickstart": {},
    "11_benchmark": {"datasets": ["voc"], "train_images": 1, "images": 2},
    "10_ablation": {"train_images": 1, "images": 2},
}


@pytest.fixture(scope="module")
def folders(family_folders, tmp_path_factory):
    """The pipelines, each with the shipped BLIP and CLIP beside it."""
    root = tmp_path_factory.mktemp("own")
    for name, folder in family_folders.items():
        shutil.copytree(folder, root / name)
        (root / name / "profile.json").write_text(json.dumps({"captioner": "pocket", "clip": "pocket"}))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("chapter", QUICK)
def test_a_chapter_runs_on_a_pipeline_of_each_family(folders, family, chapter, tmp_path):
    parameters = QUICK[chapter] | {"profile": str(folders / family), "out": str(tmp_path)} | ({} if chapter == "01_quickstart" else {"data_root": "pocket"})
    given = [part for name, value in parameters.items() for part in ("-y", json.dumps({name: value}))]
    source, target = notebooks_dir() / f"{chapter}.ipynb", tmp_path / "done.ipynb"
    done = subprocess.run([sys.executable, "-m", "papermill", str(source), str(target), "--no-progress-bar", *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads((tmp_path / f"{chapter}.json").read_text())
    assert written["chapter"] == chapter and written["metrics"]
    assert str(folders / family) == written["parameters"]["profile"]
    assert any(kind.startswith("image/") for cell in nbformat.read(target, 4).cells for output in cell.get("outputs", []) for kind in output.get("data", {}))
