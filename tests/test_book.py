"""The book's machinery, on small notebooks made for the purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from diffseg_lib.book import run as runner
from diffseg_lib.book.check import faults
from diffseg_lib.book.notebooks import breaches, inputs_hash, normalise, reads_of, with_prose
from diffseg_lib.book.refresh import refresh
from diffseg_lib.cli.main import main
from diffseg_lib.support.source_code import code_only, modules_used

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = """profile: str = "pocket"  # the models
seed: int = 0  # of the noise
classes: list[str] = ["house", "fish"]  # what to look for
threshold: float = 0.5  # of the background"""
OPENING = """\
class open_chapter:
    def close(self, metrics): ...


chapter = open_chapter()"""
FIGURE = {"figure": {"name": "fig-sum", "caption": "A sum."}, "image": {"alt": "The sum is larger than its parts."}}


def chapter(*, code: str = "total = seed + 40 + 2", prose: str = "A sum.") -> nbformat.NotebookNode:
    """A small chapter that keeps the contract once it has been executed."""
    cells = [
        new_markdown_cell(f"(chapter-sum)=\n# Sums\n\n{prose}", id="head"),
        new_code_cell(PARAMETERS, id="parameters", metadata={"tags": ["hide-input", "parameters"]}),
        new_code_cell(OPENING, id="setup", metadata={"tags": ["remove-cell"]}),
        new_code_cell(f"{code}\nprint(total)", id="sum", metadata={"tags": ["nbval-check-output"]}),
        new_code_cell("chapter.close(total)", id="results", metadata={"tags": ["nbval-check-output", "remove-cell"]}),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def executed() -> nbformat.NotebookNode:
    """The small chapter with the outputs that it should have."""
    notebook = chapter()
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.execution_count = count
    notebook.cells[3].outputs = [new_output("stream", name="stdout", text="42\n")]
    return notebook


@pytest.fixture
def sums(tmp_path, monkeypatch) -> Path:
    """A folder of chapters with one in it, in a folder with a space in its name."""
    folder = tmp_path / "my book" / "notebooks"
    folder.mkdir(parents=True)
    nbformat.write(chapter(), folder / "00_sum.ipynb")
    monkeypatch.setattr(runner, "notebooks_dir", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder / "00_sum.ipynb"


# -- parameters


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-p", "sead", "1"], "did you mean seed"),
        (["-p", "seed", "one"], "expects int"),
        (["-y", "classes: [1, 2]"], "expects list[str]"),
        (["-y", "house"], "expects a YAML mapping"),
        (["--profile", "pokcet"], "no profile file"),
        (["00_some"], "no notebook"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(sums, capsys, arguments, told):
    (sums.parent / "profiles").mkdir()
    (sums.parent / "profiles" / "pocket.yaml").write_text("profile: pocket\n")
    assert main(["book", "run", *arguments, "--out", "out"]) == 2
    assert told in capsys.readouterr().err
    assert not Path("out").exists()


def test_parameters_are_read_as_their_types_and_defaults_fall_away(sums):
    given = runner.parameters_for(sums, {"all": {"profile": "pocket", "stranger": 1}}, {"classes": ["cat"]}, {"threshold": "1", "profile": "12"})
    assert given == {"classes": ["cat"], "threshold": 1, "profile": "12"}
    assert runner.parameters_for(sums, {"all": {"profile": "pocket"}}, {}, {}) == {}


def test_a_profile_that_speaks_of_strangers_is_refused(sums, tmp_path):
    (tmp_path / "p.yaml").write_text("09_nothing:\n  seed: 1\n")
    with pytest.raises(ValueError, match="09_nothing"):
        runner.load_profile_file(str(tmp_path / "p.yaml"))


# -- run


def test_a_run_is_done_once_and_a_change_of_prose_executes_nothing(sums, tmp_path):
    out = tmp_path / "out"
    first = runner.run_notebook(sums, {}, out)
    assert first.state == "passed", first.message
    assert "42" in (out / sums.name).read_text()
    assert not list(out.glob("*.partial"))
    assert (out / "logs" / "00_sum.log").exists()
    nbformat.write(chapter(prose="Other words."), sums)
    assert runner.run_notebook(sums, {}, out).state == "skipped"
    assert "Other words." in (out / sums.name).read_text()
    assert "42" in (out / sums.name).read_text()
    again = runner.run_notebook(sums, {"seed": 1}, out)
    assert again.state == "passed"
    assert "43" in (out / sums.name).read_text()


def test_a_failure_is_told_and_leaves_nothing_that_looks_finished(sums, tmp_path, capsys):
    nbformat.write(chapter(code="raise KeyError('lost')"), sums)
    out = tmp_path / "out"
    outcome = runner.run_notebook(sums, {}, out)
    assert outcome.state == "failed"
    assert "lost" in outcome.message
    assert not (out / sums.name).exists()
    assert (out / f"{sums.name}.partial").exists()
    assert runner.report([outcome]) == 1
    assert "1 failed" in capsys.readouterr().out


def test_a_notebook_that_never_ends_is_stopped(sums, tmp_path):
    nbformat.write(chapter(code="import time\ntime.sleep(300)"), sums)
    outcome = runner.run_notebook(sums, {}, tmp_path / "out", timeout=8)
    assert (outcome.state, outcome.message[:12]) == ("failed", "not done aft")
    assert outcome.seconds < 60
    assert not (tmp_path / "out" / sums.name).exists()


def test_refresh_keeps_outputs_that_check_finds_current(sums, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffseg_lib.book.refresh.build_dir", lambda: tmp_path / "build")
    assert faults(sums)
    assert [o.state for o in refresh([sums])] == ["passed"]
    assert faults(sums) == []
    assert main(["book", "check"]) == 0
    changed = nbformat.read(sums, 4)
    changed.cells[3].source = changed.cells[3].source.replace("40", "41")
    nbformat.write(changed, sums)
    assert any("stale" in fault for fault in faults(sums))
    assert main(["book", "check"]) == 1
    capsys.readouterr()


# -- what outputs depend on


def library(root: Path, **modules: str) -> Path:
    """A library of the book's name with modules of the given sources."""
    (root / "diffseg_lib").mkdir()
    (root / "diffseg_lib" / "__init__.py").write_text('_HOME = {"fuse": "maps"}\n')
    for name, source in modules.items():
        (root / "diffseg_lib" / f"{name}.py").write_text(source)
    return root


def test_only_modules_that_a_notebook_reaches_count(tmp_path):
    root = library(tmp_path, maps="from .words import say\n", words="def say(): pass\n", other="x = 1\n")
    assert sorted(modules_used("from diffseg_lib import fuse", root)) == ["diffseg_lib", "diffseg_lib.maps", "diffseg_lib.words"]
    notebook = chapter(code="from diffseg_lib import fuse\ntotal = 42")
    before = inputs_hash(notebook, root, "weights")
    (root / "diffseg_lib" / "other.py").write_text("x = 2\n")
    (root / "diffseg_lib" / "words.py").write_text('"""Words."""\n\ndef say(): pass  # loudly\n')
    assert inputs_hash(notebook, root, "weights") == before
    (root / "diffseg_lib" / "words.py").write_text("def say(): return 1\n")
    assert inputs_hash(notebook, root, "weights") != before
    assert inputs_hash(notebook, root, "other weights") != inputs_hash(notebook, root, "weights")


def test_the_real_library_is_followed_through_its_late_imports():
    found = modules_used("from diffseg_lib import DiffSegmenter", ROOT)
    assert {"diffseg_lib.segmenter", "diffseg_lib.scoremaps", "diffseg_lib.backbone"} <= set(found)
    assert "diffseg_lib.book.run" not in found


def test_comments_docstrings_and_blank_lines_do_not_count():
    plain = 'def f(x):\n    return "# no comment" + x\n'
    told = '"""Module."""\n\n# aside\ndef f(x):\n    """Say.\n\n    More.\n    """\n    return "# no comment" + x  # done\n'
    assert code_only(told) == code_only(plain)
    assert code_only(plain) != code_only(plain.replace("+ x", "- x"))


def test_prose_does_not_make_outputs_stale():
    assert inputs_hash(chapter(), ROOT, "w") == inputs_hash(chapter(prose="Other."), ROOT, "w")
    assert inputs_hash(chapter(), ROOT, "w") != inputs_hash(chapter(code="total = 43"), ROOT, "w")
    assert with_prose(executed(), chapter(prose="Other.")).cells[3].outputs[0].text == "42\n"


def test_files_that_a_chapter_declares_to_read_count_by_content(tmp_path):
    root = library(tmp_path)
    (root / "kept").mkdir()
    for name in ("a", "b"):
        (root / "kept" / f"{name}.json").write_text("1")
    notebook = chapter()
    bare = inputs_hash(notebook, root, "weights")
    notebook.metadata["diffseg_lib"] = {"reads": ["kept/*.json"]}
    before = inputs_hash(notebook, root, "weights")
    assert before != bare
    (root / "kept" / "b.json").write_text("2")
    assert inputs_hash(notebook, root, "weights") != before
    notebook.metadata["diffseg_lib"] = {"reads": ["kept/none.json"]}
    with pytest.raises(ValueError, match="kept/none.json"):
        inputs_hash(notebook, root, "weights")


def test_what_is_declared_stays_in_a_notebook_that_was_run_and_kept(sums, tmp_path):
    source = chapter()
    source.metadata["diffseg_lib"] = {"reads": ["data/results/speed.json"], "inputs": "old"}
    nbformat.write(source, sums)
    assert runner.run_notebook(sums, {}, tmp_path / "out").state == "passed"
    done = nbformat.read(tmp_path / "out" / sums.name, 4)
    assert reads_of(done) == reads_of(normalise(done, "new")) == ["data/results/speed.json"]
    assert runner.run_notebook(sums, {}, tmp_path / "out").state == "skipped"


def test_a_chapter_that_reads_results_must_declare_them():
    notebook = executed()
    notebook.cells[3].source = "large = committed_result('elbo', profile, object)\n" + notebook.cells[3].source
    assert any("committed_result" in one and "declares no file" in one for one in breaches(notebook, 1000))
    notebook.metadata["diffseg_lib"] = {"reads": ["data/results/*/elbo.json"]}
    assert breaches(notebook, 1000) == []


# -- the contract


def test_a_good_chapter_breaks_nothing():
    assert breaches(executed(), 1000) == []
    for count, said in ((12, []), (13, ["code cell 1 has 13 lines, more than 12: move its logic to the library"])):
        parameters = "\n".join(f"p{i}: int = {i}  # a parameter" for i in range(count))
        assert broken(lambda n, parameters=parameters: n.cells[1].update(source=parameters)) == said
    assert broken(lambda n: n.cells[3].update(source=f"x = {'1' * 96}")) == []


def broken(change) -> list[str]:
    notebook = executed()
    change(notebook)
    return breaches(notebook, 1000)


def _picture(notebook, **mystnb):
    notebook.cells[3].outputs = [new_output("display_data", data={"image/png": "iVBORw0KGgo="})]
    notebook.cells[3].metadata["mystnb"] = mystnb


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda n: n.cells[0].update(source="# Sums"), "label"),
        (lambda n: n.cells[0].update(source="(a)=\n# Sums\n\n# More"), "2 headings"),
        (lambda n: n.cells[1].update(source="seed = 0"), "name: type = literal"),
        (lambda n: n.cells[1].metadata.update(tags=[]), "0 cells tagged parameters"),
        (lambda n: n.cells[2].update(source="x = 1\n" * 13), "has 13 lines, more than 12"),
        (lambda n: n.cells[2].update(source="import math\n" * 6 + OPENING), "set-up cell has 11 lines, more than 6"),
        (lambda n: n.cells[3].update(source=f"x = {'1' * 97}"), "101 columns, more than 100"),
        (lambda n: n.cells[2].update(source="import sys; sys.path.append('x')"), "sys.path"),
        (lambda n: n.cells[1].metadata.update(tags=["parameters"]), "not tagged hide-input"),
        (lambda n: n.cells[2].metadata.update(tags=["hide-input"]), "0 set-up cells tagged remove-cell"),
        (lambda n: n.cells[2].metadata.update(tags=[]), "shows 'chapter = open_chapter('"),
        (lambda n: n.cells[3].update(source="x = 1\n\n" * 11), "shows 11 lines, more than 10"),
        (lambda n: n.cells[3].update(source="total = 1\nplots.bar(total);"), "shows 'plots.'"),
        (lambda n: n.cells[3].update(source="print(about(large))"), "shows 'about('"),
        (lambda n: n.cells[3].update(source="print(about(large))"), "no cell tagged hide-output and remove-input"),
        (lambda n: n.cells[4].metadata.update(tags=["nbval-check-output"]), "nbval-check-output and remove-cell"),
        (lambda n: n.cells[2].update(source="chapter = None"), "0 set-up cells"),
        (lambda n: n.cells[4].metadata.update(tags=[]), "nbval-check-output"),
        (lambda n: n.cells[3].update(execution_count=9), "execution count 9"),
        (lambda n: n.cells[3].update(outputs=[new_output("error", ename="KeyError", evalue="x", traceback=[])]), "KeyError"),
        (lambda n: n.cells[3].update(outputs=[new_output("stream", name="stderr", text="oh")]), "standard error"),
        (lambda n: n.cells[3].update(outputs=[new_output("stream", text="/home/me/x.png")]), "path of one machine"),
        (lambda n: n.cells[3].update(outputs=[new_output("stream", text="<Line2D at 0x7f00aa11>")]), "address"),
        (lambda n: n.cells[4].update(source="total"), "write the results"),
        (lambda n: n.metadata.kernelspec.update(name="mine"), "python3"),
        (lambda n: _picture(n), "name, caption, alt text"),
        (lambda n: _picture(n, **{**FIGURE, "image": {"alt": "x.png"}}), "alt text"),
    ],
)
def test_a_breach_of_the_contract_is_found(change, told):
    found = broken(change)
    assert any(told in one for one in found), found


def test_a_figure_with_all_its_words_and_a_large_file():
    assert broken(lambda n: _picture(n, **FIGURE)) == []
    assert any("bytes" in one for one in breaches(executed(), 2_000_000))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_the_chapters_keep_the_contract(path):
    assert breaches(nbformat.read(path, 4), path.stat().st_size) == []


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_the_chapters_in_order(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "notebooks"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# -- outputs in git


def test_normalising_drops_what_differs_between_runs_and_is_stable():
    notebook = executed()
    notebook.metadata["papermill"] = {"duration": 3.1}
    notebook.metadata["widgets"] = {"state": {}}
    notebook.cells[3].metadata["papermill"] = {"duration": 1.0}
    notebook.cells[3].metadata["execution"] = {"iopub.execute_input": "now"}
    notebook.cells[3].outputs += [
        new_output("stream", name="stdout", text="43\n"),
        new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}),
    ]
    notebook.cells.insert(2, new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]}))
    before = deepcopy(notebook)
    kept = normalise(notebook, "abc")
    assert notebook == before
    assert "duration" not in json.dumps(kept)
    assert [c.id for c in kept.cells] == [c.id for c in executed().cells]
    assert kept.cells[3].outputs == [new_output("stream", name="stdout", text="42\n43\n")]
    assert kept.cells[3].execution_count == 3
    assert normalise(kept) == kept
    nbformat.validate(kept)


def test_pictures_become_smaller_and_stay_the_same_picture():
    import base64
    import io

    import numpy as np
    from PIL import Image

    from diffseg_lib.book.notebooks import smaller_png

    pixels = np.zeros((60, 80, 4), np.uint8)
    pixels[..., 1], pixels[..., 3] = np.arange(80) * 3, 255
    raw = io.BytesIO()
    Image.fromarray(pixels).save(raw, "PNG", compress_level=0)
    small = base64.b64decode(smaller_png(base64.b64encode(raw.getvalue()).decode()))
    assert len(small) < len(raw.getvalue()) / 4
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(small)).convert("RGB")), pixels[..., :3])


# -- a test of the tests


def nbval(path: Path) -> subprocess.CompletedProcess:
    """nbval over one notebook, as ``make test`` calls it."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        str(ROOT / "tests/nbval_sanitize.cfg"),
    ]
    command += ["-p", "no:cacheprovider", "--rootdir", str(path.parent), "-c", os.devnull, path.name]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=300)


def test_nbval_fails_when_a_cited_number_is_edited(tmp_path):
    path = tmp_path / "sum.ipynb"
    nbformat.write(executed(), path)
    good = nbval(path)
    assert good.returncode == 0, good.stdout
    path.write_text(path.read_text().replace("42\\n", "43\\n"))
    bad = nbval(path)
    assert bad.returncode == 1, bad.stdout
    assert "43" in bad.stdout


def test_plain_papermill_takes_the_parameters_too(sums, tmp_path):
    command = [sys.executable, "-m", "papermill", str(sums), "mine.ipynb", "-p", "seed", "8", "-y", "classes: [cat]", "--no-progress-bar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "50" in (tmp_path / "mine.ipynb").read_text()
