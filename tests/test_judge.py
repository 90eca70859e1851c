"""The judge of drawings: what it is told, how large it is, and that it learns."""

from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffseg_lib.pocket import world
from diffseg_lib.pocket.training import judge as judging
from diffseg_lib.pocket.training import pictures
from diffseg_lib.pocket.training.fitting import Schedule, load_average
from diffseg_lib.pocket.training.judge import COLOUR_NAMES, COUNTS, Judge, Truth, load_judge, save_judge, see, train_judge, truth_of, worsen
from diffseg_lib.pocket.training.measure import _agreement, measure_judge
from diffseg_lib.pocket.world import CLASS_NAMES, compose, paint


@pytest.fixture
def threads(monkeypatch, tmp_path):
    """Pictures are rendered by threads into a cache of their own, and label maps cannot be drawn."""

    def refuse(*_, **__):
        raise AssertionError("a label map was drawn")

    monkeypatch.setattr(world, "trace", refuse)
    monkeypatch.setattr(world, "trace_instances", refuse)
    monkeypatch.setattr(pictures, "get_context", lambda _: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path / "cache"))


def test_the_truth_is_what_the_scene_was_composed_of():
    for i in range(60):
        scene, truth = compose("val", i), truth_of(compose("val", i))
        assert tuple(np.array(CLASS_NAMES)[truth.present[0]]) == scene.classes
        assert truth.count.tolist() == [len(scene.objects)] and len(scene.objects) < COUNTS
        said = {(CLASS_NAMES[c], COLOUR_NAMES[k]) for _, c, k in zip(*truth.colours.nonzero(), strict=True)}
        assert said == {(CLASS_NAMES[o.kind], o.colour) for o in scene.objects}


def test_the_judge_is_small_and_comes_back_from_disk(tmp_path):
    model = Judge().eval()
    folder = save_judge(model, tmp_path)
    assert (folder / "model.safetensors").stat().st_size < 1e6
    images = np.stack([paint(compose("val", i)) for i in range(3)])
    with torch.no_grad():
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        for mine, theirs in zip(model(inputs), load_judge(tmp_path)(inputs), strict=True):
            torch.testing.assert_close(mine, theirs, atol=0.02, rtol=0.02)


def test_a_missing_judge_is_missed_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="train judge"):
        load_judge(tmp_path)


def test_what_is_seen_is_one_colour_at_least_of_each_class_seen_and_none_of_the_rest():
    seen = see(Judge().eval(), np.stack([paint(compose("val", i)) for i in range(4)]))
    assert seen.present.shape == (4, len(CLASS_NAMES)) and seen.colours.shape == (4, len(CLASS_NAMES), len(COLOUR_NAMES))
    assert (seen.colours.any(-1) == seen.present).all()
    assert seen.count.shape == (4,) and (seen.count < COUNTS).all()


def test_worse_pictures_keep_their_shape_and_are_a_function_of_the_generator():
    images = torch.rand(6, 3, 16, 16)
    first, again = (worsen(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == images.shape and not torch.equal(first, images)


def test_a_tiny_run_learns_without_a_label_map_and_is_measured(threads, tmp_path, monkeypatch):
    schedule = Schedule(steps=30, lr=3e-3, ema=0.5)
    values = []

    def watched(model, loss, *args, **kwargs):
        def told(generator, progress):
            values.append(loss(generator, progress))
            return values[-1]

        return fit(model, told, *args, **kwargs)

    fit = judging.fit
    monkeypatch.setattr(judging, "fit", watched)
    train_judge(tmp_path / "judge", schedule, "cpu", pictures=24, batch=8)
    losses = [value.item() for value in values]
    assert len(losses) == 30 and np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
    model = Judge()
    load_average(tmp_path / "judge", model)
    save_judge(model, tmp_path)
    figures = measure_judge(tmp_path, 6)
    assert figures["images"] == 6
    assert all(0 <= figures[key] <= 1 for key in ("recall", "precision", "colours_right", "count_right", "all_classes_there"))


def test_agreement_counts_what_was_asked_for():
    asked = Truth.stack([truth_of(compose("val", i)) for i in range(20)])
    whole = _agreement(asked, asked)
    assert [whole[key] for key in ("recall", "precision", "colours_right", "count_right", "all_classes_there")] == [1.0] * 5
    blind = Truth(np.zeros_like(asked.present), np.zeros_like(asked.colours), asked.count + 1)
    none = _agreement(blind, asked)
    assert [none[key] for key in ("recall", "precision", "colours_right", "count_right", "all_classes_there")] == [0.0] * 5
    grey = _agreement(Truth(asked.present, np.roll(asked.colours, 1, axis=-1), asked.count), asked)
    assert grey["recall"] == 1 and grey["colours_right"] < 0.1
