"""Ctrl-C on every command that takes long: it ends soon, what is done is whole, and the command to go on is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from test_cli import alive, interrupted

from diffseg_lib.pocket.layouts import write_layout

SOON = 10.0  # seconds; two on a machine that does nothing else
END = "\nif __name__ == '__main__':\n    from diffseg_lib.cli.main import program\n\n    sys.exit(program())\n"  # processes that it starts import it


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    write_layout("voc", "train", 60, 3, root)
    write_layout("voc", "val", 20, 3, root)
    return root


def stopped(tmp_path: Path, arguments: list[str], ready, before: str = "") -> str:
    """Start a command, interrupt it once it is ready; what it said. `before` is run before the program is loaded."""
    script = tmp_path / "program.py"
    script.write_text(f"import os, sys\nos.environ['DIFFSEG_CACHE'] = {str(tmp_path / 'cache')!r}\n{before}{END}")
    code, told, seconds = interrupted([sys.executable, str(script), *arguments], ready)
    assert code == 130 and seconds < SOON, f"{seconds:.1f} s\n{told}"
    started = Path(sys.executable)
    started = started.relative_to(Path.cwd()) if started.is_relative_to(Path.cwd()) else started
    assert "interrupted: " in told and f"the command to go on is\n  {started}" in told and " ".join(arguments[:2]) in told and "Traceback" not in told
    assert not list(tmp_path.rglob(".*.tmp")) or seconds > 1  # only an end by force leaves one, under another name
    return told


def test_segment(tmp_path, pipeline_folder, picture):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i in range(300):
        Image.fromarray(picture).save(folder / f"{i}.png")
    arguments = ["segment", str(folder), "--classes", "house", "fish", "--profile", str(pipeline_folder), "--out", str(out)]
    assert "photos that are done are kept" in stopped(tmp_path, arguments, lambda: len(list(out.glob("*/result.json"))) > 2)
    done = [path.parent for path in out.glob("*/result.json")]
    assert 2 < len(done) < 300
    for one in done:
        assert json.loads((one / "result.json").read_text())["classes"] == ["house", "fish"] and np.load(one / "scores.npz")["scores"].shape == (2, 16, 24)


def test_pseudo(tmp_path, pipeline_folder, tree):
    out = tmp_path / "masks"
    arguments = ["pseudo", "--root", str(tree), "--profile", str(pipeline_folder), "--out", str(out)]
    assert "masks that are done are kept" in stopped(tmp_path, arguments, lambda: len(list(out.rglob("*.png"))) > 1)
    found = list(out.rglob("*.png"))
    assert 1 < len(found) < 60 and all(np.asarray(Image.open(one)).shape == (128, 128) for one in found)


def test_edit(tmp_path, pipeline_folder, picture):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    arguments = ["edit", str(tmp_path / "photo.png"), "--source", "a red house", "--target", "a red fish", "--word", "house", "--steps", "900"]
    arguments += ["--profile", str(pipeline_folder), "--out", str(tmp_path / "out")]
    before = f"""
import diffseg_lib.applications.prompt_to_prompt as module
inner = module.ddim_step
def step(*given):
    open({str(tmp_path / "ready")!r}, "w").close()
    return inner(*given)
module.ddim_step = step
"""
    assert "nothing was written" in stopped(tmp_path, arguments, (tmp_path / "ready").exists, before)
    assert not (tmp_path / "out").exists()


def test_study(tmp_path, pipeline_folder, tree):
    arguments = ["study", "ablation", "--voc", str(tree), "--images", "20", "--train-images", "2", "--profile", str(pipeline_folder), "--captioner", "pocket"]
    before = f"import diffseg_lib.cli.study as module\nfrom pathlib import Path\nmodule.build_dir = lambda: Path({str(tmp_path / 'build')!r})"
    told = stopped(tmp_path, [*arguments, "--out", str(tmp_path / "results")], lambda: list((tmp_path / "build").rglob("*.npz")), before)
    assert "parts that are done are kept" in told and not list((tmp_path / "results").rglob("*.json"))
    for part in (tmp_path / "build").rglob("[!.]*.npz"):
        assert np.load(part).files


def test_network(tmp_path, tree):
    arguments = ["network", "train", "--root", str(tree), "--batch", "1", "--crop", "32", "--every", "2", "--device", "cpu", "--out", str(tmp_path / "net")]
    assert "the last checkpoint are kept" in stopped(tmp_path, arguments, lambda: list((tmp_path / "net").glob("checkpoint-*")))
    found = sorted((tmp_path / "net").glob("checkpoint-*"))
    assert found and load_file(found[-1] / "state.safetensors") and len(json.loads((found[-1] / "losses.json").read_text())) % 2 == 0
    assert not (tmp_path / "net" / "model.json").exists()


def test_pocket(tmp_path):
    before = "import diffseg_lib.pocket.training.fitting as module\nmodule.fit.__kwdefaults__['save_seconds'] = 0.0"
    arguments = ["pocket", "train", "judge", "--pictures", "16", "--device", "cpu", "--runs", str(tmp_path / "runs")]
    state = tmp_path / "runs" / "judge" / "state.safetensors"
    assert "the training up to its last checkpoint is kept" in stopped(tmp_path, arguments, state.exists, before)
    assert load_file(state)


def test_book(tmp_path):
    site, child = tmp_path / "site", tmp_path / "child"
    site.mkdir()
    (site / "index.html").write_text("the site that was there")
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ > {child}\nexec sleep 1000\n")
    slow.chmod(0o755)
    before = f"""
import types
import diffseg_lib.book.build as module
module.stage = lambda notebooks, target: target.mkdir(parents=True)
module.sys = types.SimpleNamespace(executable={str(slow)!r})
"""
    told = stopped(tmp_path, ["book", "build", "--committed", "--out", str(site)], lambda: child.exists() and child.read_text(), before)
    assert "the site that was there stays" in told and (site / "index.html").read_text() == "the site that was there"
    assert not Path("/proc").exists() or not alive(int(child.read_text()))
