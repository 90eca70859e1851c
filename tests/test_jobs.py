"""An evaluation carried out here, in pieces, interrupted, or by Dask's workers: always the same rows."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffseg_lib.baselines.attention import Attention
from diffseg_lib.cli.main import main
from diffseg_lib.data import LabelError
from diffseg_lib.evaluation.evaluator import evaluate_images
from diffseg_lib.evaluation.jobs import Job, evaluate_ids, make_segmenter, run_job
from diffseg_lib.evaluation.run_store import open_run
from diffseg_lib.pocket.layouts import write_layout
from diffseg_lib.support.executors import InProcess, finished, open_executor
from diffseg_lib.support.files import RunError
from diffseg_lib.support.images import save_labels

IMAGES = 6


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc") / "tree"
    write_layout("voc", "train", 3, 5, root)
    write_layout("voc", "val", IMAGES, 5, root)
    return root


@pytest.fixture(scope="module")
def job(tree):
    return Job("voc", str(tree), labels="image")


@pytest.fixture(scope="module")
def rows(job):
    return evaluate_ids(job, job.open().ids)


def same(first, second) -> bool:
    return [row.id for row in first] == [row.id for row in second] and all(a.agrees(b) for a, b in zip(first, second, strict=True))


def test_a_job_is_a_value_that_says_all_that_its_rows_depend_on(job, tree, tmp_path):
    assert pickle.loads(pickle.dumps(job)) == job
    facts = job.facts()
    assert facts == json.loads(json.dumps(facts, default=str)) | {"config": facts["config"], "models": facts["models"]}
    others = [
        replace(job, **change) for change in ({"seed": 1}, {"method": "cross"}, {"labels": "all"}, {"split": "train"}, {"threads": 2}, {"recipe": "released"})
    ]
    assert len({open_run(tmp_path, one.facts()).folder for one in [job, *others]}) == 7
    moved = tmp_path / "moved"
    shutil.copytree(tree, moved)
    assert replace(job, root=str(moved)).facts() == facts  # where the data lie does not matter


def test_the_rows_are_those_of_the_plain_evaluator(job, rows):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert same(rows, list(evaluate_images(job.open(), Attention(make_segmenter(job)), "image")))
    finally:
        torch.set_num_threads(before)
    assert evaluate_ids(job, []) == [] and torch.get_num_threads() == before


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_pieces_of_any_size_give_the_same_rows(job, rows, tmp_path, chunk):
    told = []
    run = open_run(tmp_path, job.facts())
    assert same(run_job(job, run, chunk=chunk, progress=told.extend), rows)
    assert sorted(row.id for row in told) == sorted(row.id for row in rows)
    told.clear()
    assert same(run_job(job, run, chunk=chunk, progress=told.extend), rows) and told == []


def test_an_interruption_keeps_what_is_done_and_the_next_start_goes_on(job, rows, tmp_path):
    run, seen = open_run(tmp_path, job.facts()), []

    def interrupt(new):
        seen.extend(new)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, run, progress=interrupt)
    assert set(run.rows()) == {row.id for row in seen} and len(seen) == 2
    seen.clear()
    assert same(run_job(job, run, progress=seen.extend), rows) and len(seen) == IMAGES - 2


def test_what_another_process_keeps_meanwhile_is_not_done_again(job, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("diffseg_lib.evaluation.jobs.PAUSE", 0.0)  # look, and keep, after every image
    run, seen = open_run(tmp_path, job.facts()), []

    def other(new):
        seen.extend(new)
        if len(seen) == 1:
            open_run(tmp_path, job.facts()).add([row for row in rows if row.id != seen[0].id][:3])

    assert same(run_job(job, run, progress=other), rows)
    assert len(seen) == IMAGES - 3


def test_a_broken_image_is_an_error_row_and_is_done_again_once_it_is_mended(job, rows, tree, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tree, broken)
    name = job.open().ids[3]
    picture = next((broken / "VOCdevkit/VOC2012/JPEGImages").glob(f"{name}.*"))
    whole = picture.read_bytes()
    picture.write_bytes(whole[:200])
    other = replace(job, root=str(broken))
    run = open_run(tmp_path / "runs", other.facts())
    found = run_job(other, run)
    assert [row.status for row in found].count("error") == 1
    assert found[3].error_type == "DataError" and picture.name in found[3].error and found[3].counted is None
    picture.write_bytes(whole)
    seen = []
    assert same(run_job(other, run, progress=seen.extend), rows) and [row.id for row in seen] == [name]


def test_labels_that_are_no_classes_stop_the_run_and_every_image_is_listed(job, tree, tmp_path):
    wrong = tmp_path / "wrong"
    shutil.copytree(tree, wrong)
    for name in job.open().ids[1:4:2]:
        save_labels(np.full((128, 128), 99, np.uint8), wrong / "VOCdevkit/VOC2012/SegmentationClass" / f"{name}.png")
    other = replace(job, root=str(wrong))
    with pytest.raises(LabelError, match=f"another label order.*2 of {IMAGES} images: {job.open().ids[1]}, {job.open().ids[3]}"):
        run_job(other, open_run(tmp_path / "runs", other.facts()))


def test_the_command_line_goes_on_after_an_interruption(tree, tmp_path, monkeypatch, capsys):
    import diffseg_lib.evaluation.jobs as jobs

    arguments = ["evaluate", "--dataset", "voc", "--root", str(tree), "--labels", "image", "--threshold", ".3", "--threads", "1"]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    inner, calls = jobs.evaluate_image, []

    def twice(dataset, method, labels, category_filter, name, *more):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(name)
        return inner(dataset, method, labels, category_filter, name, *more)

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "evaluate_image", twice)
        capsys.readouterr()
        assert main([*arguments, "--out", str(tmp_path / "cut")]) == 130
    assert f"2 of {IMAGES} images are kept; the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "cut" / "summary.json").exists()
    assert main([*arguments, "--out", str(tmp_path / "cut")]) == 0
    assert f"{IMAGES - 2} images done now" in (told := capsys.readouterr().err) and "2 kept from before, 0 failed" in told
    whole, cut = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "cut"))
    for one in (whole, cut):
        for key in ("seconds", "seconds_in_all"):
            one.pop(key)
    assert whole == cut


def test_the_command_line_says_that_a_run_cannot_be_kept(tree, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["evaluate", "--dataset", "voc", "--root", str(tree), "--labels", "image", "--threshold", ".3", "--limit", "1"]
    assert main([*arguments, "--out", str(tmp_path / "file")]) == 3
    assert "choose another --out" in capsys.readouterr().err


# -- executors


def test_work_in_process_is_done_in_order_and_errors_stay_with_their_call():
    done = list(finished(InProcess(), lambda a, b: a / b, [(4, 2), (1, 0), (9, 3)], lambda: 1))
    assert [chunk for chunk, _ in done] == [(4, 2), (1, 0), (9, 3)]
    assert done[0][1].result() == 2 and done[2][1].result() == 3
    with pytest.raises(ZeroDivisionError):
        done[1][1].result()


def test_no_more_calls_are_under_way_than_the_window_holds():
    class Slow(InProcess):
        waiting: list[Future] = []

        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            self.waiting.append(future)
            most.append(len(self.waiting))
            if len(self.waiting) == 3:
                self.waiting.pop(0).set_result(None)
            return future

    most: list[int] = []
    work = finished(Slow(), print, ((i,) for i in range(10)), lambda: 3)
    for _ in range(5):
        next(work)
    assert max(most) == 3


def test_an_executor_that_cannot_be_had_says_so():
    with pytest.raises(ValueError, match="or neither"), open_executor(2, "tcp://127.0.0.1:1"):
        pass
    with pytest.raises(ValueError, match="a number of workers"), open_executor(-1):
        pass


def test_dask_gives_the_same_rows_though_a_worker_is_killed_midway(job, rows, tmp_path):
    distributed = pytest.importorskip("distributed")
    run, told = open_run(tmp_path, job.facts()), []
    one_thread = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(**one_thread) as cluster, distributed.Client(cluster) as client:
        victims = client.run(os.getpid)

        def kill(new):
            told.extend(new)
            if victims and len(told) < IMAGES:
                os.kill(victims.popitem()[1], signal.SIGKILL)
                victims.clear()
                time.sleep(0.2)

        with open_executor(scheduler=cluster.scheduler_address) as (executor, at_once):
            assert at_once() == 2
            found = run_job(job, run, executor, at_once, chunk=1, progress=kill)
    assert not victims and same(found, rows)


def test_a_scheduler_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr("diffseg_lib.support.executors.CONNECT", 1)
    with pytest.raises(ValueError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"), open_executor(scheduler="tcp://127.0.0.1:9"):
        pass


@pytest.fixture
def threads_of_dask():
    """A scheduler whose one worker, in this process, was started with four threads."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=4, processes=False, dashboard_address=None, silence_logs=50) as cluster:
        yield cluster


def test_a_worker_of_several_threads_does_one_image_at_a_time(job, rows, tmp_path, monkeypatch, threads_of_dask):
    import diffseg_lib.evaluation.jobs as jobs

    inner, together, most = jobs.evaluate_image, [], []

    def watched(*arguments):
        together.append(0)
        most.append(len(together))
        time.sleep(0.05)
        try:
            return inner(*arguments)
        finally:
            together.pop()

    monkeypatch.setattr(jobs, "evaluate_image", watched)
    with open_executor(scheduler=threads_of_dask.scheduler_address) as (executor, _):
        found = run_job(job, open_run(tmp_path, job.facts()), executor, lambda: 4)
    assert max(most) == 1 and len(most) == IMAGES and same(found, rows)


def test_workers_that_join_later_are_given_work(threads_of_dask):
    with open_executor(scheduler=threads_of_dask.scheduler_address) as (executor, at_once):
        assert at_once() == 1
        taken = []
        work = finished(executor, divmod, ((taken.append(i) or i + 1, 1) for i in range(9)), at_once)
        next(work)
        assert len(taken) == 1
        threads_of_dask.scale(3)
        started = time.monotonic()
        while at_once() < 3:
            assert time.monotonic() - started < 30
            time.sleep(0.05)
        next(work)
        assert len(taken) == 4
        assert len(list(work)) == 7


def test_work_that_takes_long_does_not_keep_new_workers_waiting(monkeypatch):
    monkeypatch.setattr("diffseg_lib.support.executors.LOOK", 0.01)
    rooms, submitted = [1, 1, 3], []

    class Endless(InProcess):
        def submit(self, fn, /, *args, **kwargs):
            submitted.append(Future())
            if len(submitted) == 3:
                submitted[0].set_result(None)
            return submitted[-1]

    next(finished(Endless(), print, ((i,) for i in range(9)), lambda: rooms.pop(0) if len(rooms) > 1 else rooms[0]))
    assert len(submitted) == 3


def test_no_threads_named_are_the_cores_of_the_machine_that_does_the_work(job, monkeypatch):
    import diffseg_lib.evaluation.jobs as jobs

    told = []
    monkeypatch.setattr(jobs, "cores", lambda: 3)
    monkeypatch.setattr(jobs, "evaluate_image", lambda *_: told.append(torch.get_num_threads()))
    for threads in (0, 2):
        evaluate_ids(replace(job, threads=threads), job.open().ids[:1])
    assert told == [3, 2]


def test_the_command_line_leaves_the_threads_of_a_schedulers_workers_to_them(tree, tmp_path, threads_of_dask):
    arguments = ["evaluate", "--dataset", "voc", "--root", str(tree), "--labels", "image", "--threshold", ".3", "--out", str(tmp_path)]
    assert main([*arguments, "--limit", "2", "--scheduler", threads_of_dask.scheduler_address]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["threads"] == 0


@pytest.mark.parametrize("error", [RunError("no space left"), OSError("another"), TimeoutError("slow")])
def test_an_error_while_a_scheduler_is_used_is_told_as_what_it_is(threads_of_dask, error):
    with pytest.raises(type(error), match=str(error)), open_executor(scheduler=threads_of_dask.scheduler_address):
        raise error
