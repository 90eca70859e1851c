"""Masks spoilt in one way each: strength 0 changes nothing, the mean IoU asked for is met, void is never counted; and the labels that a study keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from diffseg_lib.applications.deeplab import POCKET, load, predict
from diffseg_lib.data.samples import VOID
from diffseg_lib.evaluation.metrics import confusion, miou
from diffseg_lib.evaluation.sources import open_dataset
from diffseg_lib.experiments import degradation
from diffseg_lib.experiments.degradation import (
    WAYS,
    Spoilt,
    degradation_table,
    described,
    fill_void,
    find_strength,
    labels_for_people,
    masks_of_one,
    numbers,
    objects,
    pictured,
    quality,
    spoil_to,
    spoilt,
    write_spoilt,
)
from diffseg_lib.experiments.kept_labels import beside_truth, keep_labels
from diffseg_lib.experiments.measure import Effect
from diffseg_lib.experiments.network import LABELS
from diffseg_lib.pocket.layouts import write_layout
from diffseg_lib.support.files import RunError

CLASSES = 5
TINY = replace(POCKET, iterations=4, batch=2, crop=48)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for split in ("train", "val"):
        write_layout("voc", split, 4, 4, root)
    return root


@pytest.fixture
def truth():
    """Two things that touch, one alone, and void around the last."""
    labels = np.zeros((48, 48), np.uint8)
    labels[8:24, 6:18], labels[8:24, 18:30] = 1, 2
    labels[29:45, 29:45] = VOID
    labels[30:44, 30:44] = 3
    return labels


@pytest.mark.parametrize("name", WAYS)
def test_strength_zero_changes_nothing(name, truth):
    np.testing.assert_array_equal(spoilt(truth, WAYS[name], 0, CLASSES, 0, "a"), truth)


@pytest.mark.parametrize("name", WAYS)
def test_what_is_drawn_follows_from_seed_and_name(name, truth):
    way = WAYS[name]
    one = spoilt(truth, way, way.shown, CLASSES, 0, "a")
    assert one.dtype == np.uint8 and one.shape == truth.shape and not np.array_equal(spoilt(truth, way, 0.9 * way.most, CLASSES, 0, "a"), truth)
    np.testing.assert_array_equal(one, spoilt(truth, way, way.shown, CLASSES, 0, "a"))
    drawn = {spoilt(truth, way, way.shown, CLASSES, seed, name).tobytes() for seed in range(4) for name in "abc"}
    assert (len(drawn) == 1) == (name in ("coarse", "void", "cut"))  # nothing is drawn in these


@pytest.mark.parametrize("name", WAYS)
def test_labels_are_classes_and_void_stays_void(name, truth):
    for strength in np.linspace(0, WAYS[name].most, 5):
        made = spoilt(truth, WAYS[name], strength, CLASSES, 1, "a")
        assert (made[truth == VOID] == VOID).all() and set(np.unique(made)) <= {*range(CLASSES), VOID}
        assert name == "void" or not (made[truth != VOID] == VOID).any()


@pytest.mark.parametrize("name", WAYS)
def test_an_empty_mask_can_be_spoilt(name):
    for truth in (np.zeros((16, 16), np.uint8), np.full((16, 16), VOID, np.uint8)):
        assert spoilt(truth, WAYS[name], WAYS[name].most / 2, CLASSES, 0, "a").shape == truth.shape


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_that_cannot_be_is_refused(truth, strength):
    with pytest.raises(ValueError, match=r"things called another class: strength .*: expected 0 to 1 \(of the things\)"):
        spoilt(truth, WAYS["renamed"], strength, CLASSES, 0, "a")


def test_void_takes_the_nearest_label(truth):
    filled = fill_void(truth)
    assert not (filled == VOID).any() and (filled[truth != VOID] == truth[truth != VOID]).all() and filled[30, 29] in (0, 3)
    assert [(one, int(mask.sum())) for one, mask in objects(filled)][:2] == [(1, 192), (2, 192)]


def test_ways_do_what_their_names_say(truth):
    made = {name: spoilt(truth, way, way.most if name == "renamed" else way.shown, CLASSES, 0, "a") for name, way in WAYS.items()}
    things = (truth > 0) & (truth != VOID)
    assert (made["renamed"][things] != truth[things]).all() and (made["renamed"][things] > 0).all() and (made["renamed"][truth == 0] == 0).all()
    lost = (made["cut"] == 0) & (truth == 1)
    assert lost.sum() == int(0.15 * 192) and np.flatnonzero(lost.any(1)).min() > np.flatnonzero((made["cut"] == 1).any(1)).max() - 2
    edge = made["void"] == VOID
    assert edge[8, 10] and edge[12, 17] and not edge[15, 12] and (made["void"][~edge] == truth[~edge]).all()
    assert 0.05 < (made["blobs"] != truth).mean() <= 0.1


def test_a_pixel_that_is_void_is_missed_and_void_in_the_truth_is_not_counted():
    truth = np.array([[0, 0, 1, 1, VOID, VOID]])
    mask = np.array([[0, VOID, 1, 1, 0, 1]])
    assert quality([(truth, mask)], 2) == pytest.approx(75.0)
    assert quality([(truth, np.where(truth == VOID, mask, truth))], 2) == 100
    wrong = np.array([[0, 1, 1, 1, 0, 1]])
    assert quality([(truth, wrong)], 2) == pytest.approx(miou(confusion(truth, wrong, 2)))


def test_bisection_meets_its_target_or_says_how_near_it_came():
    assert find_strength(lambda one: 100 - one, 86, 30) == pytest.approx(14, abs=0.2)
    assert 3 <= find_strength(lambda one: 100 - 5 * int(one), 86, 30) < 4  # in steps
    with pytest.raises(ValueError, match="no strength up to 4 gives 86.0 within 0.1: the nearest that was found is 96.0"):
        find_strength(lambda one: 100 - one, 86, 4, 0.1)


@pytest.mark.parametrize("name", [name for name in WAYS if name not in ("renamed", "blobs")])  # too few objects here, and classes that are nowhere else
def test_the_mean_iou_asked_for_is_met(name, tree):
    drawn = open_dataset("voc", tree, "train")
    strength = spoil_to(drawn, WAYS[name], 85, 0, 2.0)
    pairs = [(one.truth, spoilt(one.truth, WAYS[name], strength, len(drawn.names), 0, one.id)) for one in drawn]
    assert quality(pairs, len(drawn.names)) == pytest.approx(85, abs=2)


def test_spoilt_masks_are_written_once_and_are_of_one_strength(tree, tmp_path):
    drawn = open_dataset("voc", tree, "train")
    made = write_spoilt(drawn, "cut", 0.2, 0, tmp_path)
    assert made.ids == drawn.ids and made.fingerprint() != drawn.fingerprint()
    np.testing.assert_array_equal(made.load(made.ids[0]).truth, spoilt(drawn.load(made.ids[0]).truth, WAYS["cut"], 0.2, len(drawn.names), 0, made.ids[0]))
    assert described(drawn, drawn) == Spoilt(strength=None, miou=100.0, kept=1.0) and described(drawn, made, 0.2).miou < 100
    with pytest.raises(RunError, match="another strength"):
        write_spoilt(drawn, "cut", 0.3, 0, tmp_path)


def test_labels_are_kept_and_read_again(tree):
    rng = np.random.default_rng(0)
    found = {key: {"a": rng.integers(0, 21, (5, 7)), "b": rng.integers(0, 21, (4, 3))} for key in ("drawn", "ours")}
    kept = keep_labels(found)
    for network, maps in found.items():
        for name, labels in maps.items():
            np.testing.assert_array_equal(kept.labels(network)[name], labels)
    with pytest.raises(ValueError, match="labels of 'ours' are of other images"):
        keep_labels({"drawn": found["drawn"], "ours": {"a": found["ours"]["a"]}})
    sample = next(iter(open_dataset("voc", tree, "val")))
    one = keep_labels({"drawn": {sample.id: sample.truth}})
    assert list(beside_truth(one, {"drawn": "drawn masks"}, [sample])[0]) == ["truth", "drawn masks"]


def test_the_study_trains_one_network_a_way(tree, tmp_path, monkeypatch):
    from diffseg_lib import DiffSegmenter
    from diffseg_lib.applications.crf import Crf

    few = {name: WAYS[name] for name in ("uneven", "void", "cut")}
    monkeypatch.setattr(degradation, "WAYS", few)
    asked = {"train_images": 4, "images": 3, "tuning_images": 1, "recipe": TINY, "candidates": [Crf(1)], "tolerance": 3.0}
    found = degradation.degradation_study(DiffSegmenter.from_profile("pocket"), tmp_path, "voc", str(tree), **asked)
    assert list(found.rows) == list(found.masks) == ["drawn", "ours", *few] and (found.images, found.train_images) == (3, 4)
    assert found.masks["drawn"].miou == 100 and found.masks["ours"].miou == found.target
    assert all(abs(found.masks[name].miou - found.target) <= 3 for name in few)
    assert found.masks["cut"].kept == 1 and found.masks["cut"].strength > 0
    assert set(found.effects) == {f"{name}_minus_drawn" for name in ("ours", *few)} | {f"{name}_minus_ours" for name in few}
    test = open_dataset("voc", tree, "val").first(3)
    np.testing.assert_array_equal(
        found.shown.labels("cut")[test.ids[0]], predict(load(tmp_path / "cut")[0], test.load(test.ids[0]).image, (found.scale,), True).argmax(0)
    )
    again = degradation.degradation_study(DiffSegmenter.from_profile("pocket"), tmp_path, "voc", str(tree), **asked)
    assert again == found
    assert len(degradation_table(found)) == 5 and "too few images" in numbers(found)["degradation_sentence"]
    titles = list(masks_of_one(test.load(test.ids[0]).truth, None, 17, test.ids[0], found))
    assert titles == ["drawn masks", *(way.label for way in few.values())]


def test_labels_that_are_shown_come_from_the_first_run_that_kept_them_of_these_images(tree):
    kept = keep_labels({name: {"a": np.zeros((4, 4))} for name in LABELS})

    def run(iterations, shown=kept):
        return SimpleNamespace(shown=shown, recipe=replace(TINY, iterations=iterations), train_images=8)

    live, large, study = run(1), run(2), run(3)
    assert pictured(live, large, study, ["a", "b"]).told == "2 updates on 8 images, the larger run"
    assert pictured(live, large, study, ["a"]).titles == LABELS and pictured(live, large, study, ["b"]) is None
    found = pictured(live, run(2, None), study, ["a"])
    assert found.told.startswith("3 updates on 8 images, the smaller study") and list(found.titles) == ["drawn", "ours"]
    assert pictured(live, None, None, ["a"]).told.startswith("1 updates on 8 images, this page")


def told(**sides):
    """A result whose effects lie where they are put: above zero 1, below it -1, around it 0."""
    at = {1: (1.0, 3.0), 0: (-1.0, 1.0), -1: (-3.0, -1.0)}
    effects = {key: Effect(value=sum(at[side]) / 2, ci95=at[side], images=300) for key, side in sides.items()}
    return type("Result", (), {"effects": effects})()


def test_the_sentence_says_what_the_intervals_say():
    ways = {f"{name}_minus_ours": side for name, side in zip(WAYS, [1, 1, 0, -1, 0, 0], strict=True)}
    said = degradation.sentence(told(ours_minus_drawn=-1, **ways))
    assert said.startswith(
        "our masks cost the network -2.0 (-3.0 to -1.0) points; of the same mean IoU, these teach more than ours: edges moved at random, edges made coarse"
    )
    assert said.endswith("these teach less: things called another class")
    drawn = {f"{name}_minus_drawn": -1 if name == "cut" else 0 for name in WAYS}
    said = degradation.sentence(told(**drawn, ours_minus_drawn=0, **ways))
    assert said.startswith("inconclusive") and said.endswith("teach less than drawn ones: things all cut below")
    assert degradation.sentence(told(**dict.fromkeys(drawn, 0), ours_minus_drawn=1, **ways)).endswith("than drawn ones: none")
    assert "teach less" not in degradation.sentence(told(ours_minus_drawn=-1, **dict.fromkeys(ways, 0)))


def test_nothing_measured_is_said():
    assert set(numbers(None).values()) == {"not run"} and "not run" in degradation_table(None).index[0]
    assert set(labels_for_people()) == {"drawn", "ours", *WAYS} and json.dumps(labels_for_people())
