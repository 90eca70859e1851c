"""The store of a run: whatever happens to it, it holds whole rows, and the same command ends with the same figures."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from diffseg_lib.evaluation.metrics import ScoreHistogram
from diffseg_lib.evaluation.run_store import Row, open_run, pending_ids
from diffseg_lib.support.files import RunError, atomic_write, claim
from diffseg_lib.support.identity import fingerprint

FACTS = {"method": "test", "seed": 0}


def row(i: int, **changes) -> Row:
    counts = np.array([[0, 0, 0, 100 + i], [1, 1, 200, 7]], np.int64)
    facts = {"present": ("house", "fish"), "asked": ("house",), "why": {"house": "caption: a “house”"}, "notes": ("converted from mode L",)}
    return replace(Row(f"image-{i}", "ok", "", "", 3, 4, 12, **facts, unet_calls=2, seconds=0.5, counted=ScoreHistogram(counts)), **changes)


FAILED = Row("image-1", "error", "DataError", "image-1.jpg cannot be read", seconds=0.1)


def test_rows_come_back_as_they_went(tmp_path):
    run = open_run(tmp_path, FACTS)
    empty = row(2, asked=(), why={}, notes=(), counted=ScoreHistogram(np.zeros((0, 4), np.int64)))
    run.add([row(0), FAILED, empty])
    found = open_run(tmp_path, FACTS).rows()
    assert list(found) == ["image-0", "image-1", "image-2"]
    for one in (row(0), FAILED, empty):
        assert found[one.id].agrees(one) and found[one.id].seconds == one.seconds
    assert found["image-0"].counted.counts.dtype == np.int64 and found["image-2"].counted.counts.shape == (0, 4)
    assert json.loads((run.folder / "manifest.json").read_text())["method"] == "test"


def test_another_configuration_is_another_run(tmp_path):
    assert open_run(tmp_path, FACTS).folder != open_run(tmp_path, FACTS | {"seed": 1}).folder
    assert open_run(tmp_path, {"seed": 0, "method": "test"}).folder == open_run(tmp_path, FACTS).folder
    assert fingerprint({"a": (1, 2)}) == fingerprint({"a": [1, 2]})


def test_what_is_missing_is_what_has_no_good_row(tmp_path):
    run = open_run(tmp_path, FACTS)
    run.add([row(0), FAILED])
    assert pending_ids(["image-0", "image-1", "image-2"], run.rows()) == ["image-1", "image-2"]
    run.add([row(1)])  # repaired and done again
    assert run.rows()["image-1"].status == "ok" and pending_ids(["image-0", "image-1"], run.rows()) == []
    run.add([replace(FAILED)])  # a late error of another process takes nothing back
    assert run.rows()["image-1"].status == "ok"


def test_repeated_rows_may_not_disagree(tmp_path):
    run = open_run(tmp_path, FACTS)
    run.add([row(0)])
    run.add([row(0, seconds=9.0)])
    assert len(run.rows()) == 1
    run.add([row(0, counted=ScoreHistogram(np.array([[0, 0, 0, 99]], np.int64)))])
    with pytest.raises(RunError, match="image-0 disagree"):
        run.rows()


def test_a_damaged_part_is_named(tmp_path):
    run = open_run(tmp_path, FACTS)
    run.add([row(0)])
    [part] = run.parts()
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(RunError, match=f"{part.name} is damaged.*delete this file"):
        run.rows()


def test_a_manifest_of_another_run_or_none_is_refused(tmp_path):
    run = open_run(tmp_path, FACTS)
    manifest = run.folder / "manifest.json"
    manifest.write_text(json.dumps({"method": "other"}))
    with pytest.raises(RunError, match="another run"):
        open_run(tmp_path, FACTS)
    manifest.write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        open_run(tmp_path, FACTS)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written.*choose another --out"):
        open_run(tmp_path / "file", FACTS)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_full_or_read_only_disk_leaves_what_was_kept_whole(tmp_path, monkeypatch, step, code):
    run = open_run(tmp_path, FACTS)
    run.add([row(0)])

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        if step == "fsync":
            patched.setattr(os, "fsync", fail)
        else:
            patched.setattr(f"pathlib.Path.{step}", fail)
        with pytest.raises(RunError, match="cannot be written.*what was kept is whole"):
            run.add([row(1)])
    assert list(run.rows()) == ["image-0"] and not list(run.folder.glob(".*"))
    run.add([row(1)])
    assert sorted(run.rows()) == ["image-0", "image-1"]


def test_a_disk_that_is_really_full(tmp_path):
    """The file system's own refusal: a process that may write no file of more than some bytes."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_run_store import FACTS, row
from diffseg_lib.support.identity import fingerprint
from diffseg_lib.evaluation.run_store import RunError, open_run
run = open_run({str(tmp_path)!r}, FACTS)
run.add([row(0)])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    run.add([row(i, error="x" * 100) for i in range(1, 400)])
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot be written" in done.stdout, done.stdout + done.stderr
    run = open_run(tmp_path, FACTS)
    assert list(run.rows()) == ["image-0"] and not list(run.folder.glob(".*"))


WORKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_run_store import FACTS, row
from diffseg_lib.support.identity import fingerprint
from diffseg_lib.evaluation.run_store import open_run, pending_ids
run = open_run(sys.argv[2], FACTS)
print("ready", flush=True)
while left := pending_ids([f"image-{i}" for i in range(60)], run.rows()):
    time.sleep(0.001)
    run.add([row(int(name.split("-")[1])) for name in left[:2]])
"""


def start(tmp_path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WORKER, os.path.dirname(__file__), str(tmp_path)], stdout=subprocess.PIPE, text=True)


def test_killed_at_many_moments_it_ends_as_if_never_stopped(tmp_path):
    """kill -9 at random moments of the work, then the same again; every state between must be readable."""
    drawn, kills = random.Random(0), 0
    for _ in range(40):
        process = start(tmp_path)
        process.stdout.readline()
        time.sleep(drawn.uniform(0, 0.03))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
        assert all(found.agrees(row(int(name.split("-")[1]))) for name, found in open_run(tmp_path, FACTS).rows().items())
        if len(open_run(tmp_path, FACTS).rows()) == 60:
            break
    with start(tmp_path) as process:
        assert process.wait() == 0
    found = open_run(tmp_path, FACTS).rows()
    assert kills >= 5 and len(found) == 60
    assert all(found[f"image-{i}"].agrees(row(i)) for i in range(60))


@pytest.mark.parametrize("at", range(12))
def test_stopped_at_every_step_of_writing_it_ends_the_same(tmp_path, monkeypatch, at):
    """Every write, sync and rename in turn is the last thing that the process does."""

    class Killed(BaseException):
        """Not an error that anything handles."""

    steps = iter(range(1000))

    def dying(inner):
        def call(*args, **kwargs):
            if next(steps) == at:
                raise Killed
            return inner(*args, **kwargs)

        return call

    def work():
        run = open_run(tmp_path, FACTS)
        for name in pending_ids([f"image-{i}" for i in range(4)], run.rows()):
            run.add([row(int(name.split("-")[1]))])
        return run.rows()

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", dying(os.fsync))
        patched.setattr("pathlib.Path.replace", dying(type(tmp_path).replace))
        with pytest.raises(Killed):
            work()
    found = work()
    assert all(found[f"image-{i}"].agrees(row(i)) for i in range(4))


def test_two_processes_on_one_run_do_no_harm(tmp_path):
    with start(tmp_path) as first, start(tmp_path) as second:
        assert first.wait() == second.wait() == 0
    found = open_run(tmp_path, FACTS).rows()
    assert len(found) == 60 and all(found[f"image-{i}"].agrees(row(i)) for i in range(60))


# -- several processes that come at the same moment


CLAIMS = """
import sys, time
from pathlib import Path
from diffseg_lib.evaluation.run_store import open_run
from diffseg_lib.support.files import RunError, claim
top, me, start = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
for i in range(15):
    time.sleep(max(0, start + i * 0.15 - time.time()))
    open_run(top / "runs", {"number": i})
    claim(top / f"same-{i}", {"number": i})
    try:
        claim(top / f"other-{i}", {"process": me, "long": "x" * 50_000})
    except RunError as error:
        assert "another process" in str(error)
        continue
    print(i)
"""


def test_of_processes_that_claim_a_folder_at_the_same_moment_one_has_it(tmp_path):
    start = str(time.time() + 3)
    workers = [
        subprocess.Popen([sys.executable, "-c", CLAIMS, str(tmp_path), str(me), start], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for me in range(8)
    ]
    had: dict[int, list[int]] = {}
    for me, worker in enumerate(workers):
        told, error = worker.communicate(timeout=120)
        assert worker.returncode == 0, error
        for i in map(int, told.split()):
            had.setdefault(i, []).append(me)
    assert sorted(had) == list(range(15)) and all(len(one) == 1 for one in had.values())
    for i, [me] in had.items():
        assert json.loads((tmp_path / f"other-{i}" / "manifest.json").read_text())["process"] == me
    assert len(list((tmp_path / "runs").iterdir())) == 15 and not list(tmp_path.rglob(".*"))


def test_a_file_that_is_written_once_stays_also_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def no_links(*names):
        raise OSError(errno.EPERM, "not permitted")

    for given in (os.link, no_links):
        monkeypatch.setattr(os, "link", given)
        path = tmp_path / given.__name__
        for text in ("first", "second"):
            with atomic_write(path, "w", once=True) as file:
                file.write(text)
        assert path.read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_manifest_is_told(tmp_path):
    (tmp_path / "manifest.json").write_text('{"half')
    with pytest.raises(RunError, match="manifest.json cannot be read.*delete the folder"):
        claim(tmp_path, {"seed": 0})
