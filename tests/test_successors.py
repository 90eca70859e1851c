"""What came after the paper, measured: shared recordings are each method's own, a run that was cut off goes on, and the best has a name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffseg_lib.cli.main import main
from diffseg_lib.config import RECIPES, Config
from diffseg_lib.data import Dataset
from diffseg_lib.evaluation.sources import open_dataset, with_masks
from diffseg_lib.experiments import successors
from diffseg_lib.experiments.measure import Store, committed_result, format_effect
from diffseg_lib.experiments.successors import METHODS, OURS, SuccessorResult, numbers, rows_of, search_table, successor_study, successor_table
from diffseg_lib.refinements.combined import PAIRS, SINGLES, Combination
from diffseg_lib.refinements.heads import choose_heads, read_heads
from diffseg_lib.refinements.registry import REFINEMENTS, make_refined
from diffseg_lib.scoremaps import upsample
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.support.images import to_numpy
from diffseg_lib.support.memory import tensor_peak


@pytest.fixture(scope="module")
def scene() -> Dataset:
    return open_dataset("voc", "", "val", 1)


@pytest.fixture(scope="module")
def bench(scene):
    segmenter = DiffSegmenter.from_profile("pocket")
    return successors.open_bench(segmenter, choose_heads(segmenter, with_masks(scene)))


def test_maps_from_shared_recordings_are_those_of_each_method_alone(bench, scene):
    sample = scene.load(scene.ids[0])
    words = scene.words(sample.classes)
    tried = {key: PAIRS[key] for key in ("product_return", "goca_product", "heads_product_elbo")}
    shared = dict(bench.maps(sample.image, words, tried))
    assert set(shared) == {*METHODS, *tried} and set(METHODS) == {"ours", "fused", *REFINEMENTS}
    for name, maps in shared.items():
        alone = bench.method(name)(sample.image, words).scores
        np.testing.assert_allclose(to_numpy(upsample(maps, sample.truth.shape)), alone, atol=1e-5, err_msg=name)


def test_a_combination_that_lacks_something_says_what(bench):
    maps = torch.rand(1, 4, 4)
    for one, said in (
        (Combination("a", ("mean",), calibrated=True), "exponents of the losses"),
        (Combination("b", ("mean",), "goca"), "projections and content"),
    ):
        with pytest.raises(ValueError, match=said):
            one.refine(None, maps)


def test_the_study_goes_on_where_it_was_cut_off(bench, tmp_path, monkeypatch):
    pairs = {"product_return": PAIRS["product_return"]}
    monkeypatch.setattr(successors, "PAIRS", pairs)
    monkeypatch.setattr(successors, "COMBINATIONS", {**SINGLES, **pairs})
    monkeypatch.setattr(successors, "PART", 1)
    count, seen = successors._count, []

    def cut_off(bench, dataset, combinations):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(dataset.ids)
        return count(bench, dataset, combinations)

    given = {"roots": {"voc": ""}, "train_images": 1, "images": 2, "costed": 1, "store": Store(tmp_path)}
    monkeypatch.setattr(successors, "_count", cut_off)
    with pytest.raises(KeyboardInterrupt):
        successor_study(bench.segmenter, **given)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    monkeypatch.setattr(successors, "_count", lambda *one: seen.append(one[1].ids) or count(*one))
    found = successor_study(bench.segmenter, **given)
    assert len(seen) == len(set(seen)) == 3  # an image a part, none of them counted twice
    assert list(rows_of(found, "voc")) == sorted(rows_of(found, "voc"), key=lambda name: -found.rows[f"voc/{name}"].value)
    assert {key.partition("/")[2] for key in found.rows} == {*METHODS, "single", "pair"} and all(row.images == 2 for row in found.rows.values())
    assert found.pair == "product_return" and found.single in SINGLES and found.best in (found.single, found.pair)
    assert all(one.ci95 is None and one.images == 1 for one in found.search.values()) and found.datasets == ("voc",)
    elbo, ours, cut = (found.rows[f"voc/{name}"] for name in ("elbo-t2i", OURS, "diffcut"))
    assert elbo.unet_rows == 4 * ours.unet_rows and cut.unet_rows == 1 and ours.costed == 1
    assert elbo.seconds > ours.seconds > 0 and found.rows["voc/goca"].mib > ours.mib > 0
    assert found.effects["voc/iseg_minus_ours"].value == pytest.approx(found.rows["voc/iseg"].value - ours.value)
    assert found.dataset == "pocket-voc" and found.protocol().line.startswith("pocket-voc")
    shown = successor_table(found, "voc")
    assert list(shown.loc[METHODS["iseg"], ["UNet rows", "images"]]) == [f"{ours.unet_rows:.1f}", 2] and len(search_table(found)) == len(found.search)
    texts = numbers(found)
    assert texts["successors_together"] == format_effect(found.effects["voc/pair_minus_single"]) and all(texts.values())
    labels = successors.label_scenes(bench.segmenter, found, open_dataset("voc", "", "val", 1))
    assert [set(one) for one in labels] == [{row.label for row in found.rows.values()}]


def test_the_recipe_best_is_what_the_committed_study_chose():
    run = committed_result("successors", "pocket", SuccessorResult).result
    assert run.dataset == ", ".join(f"pocket-{name}" for name in run.datasets)
    chosen = {**SINGLES, **PAIRS}[run.best]
    floors = {"product": 0.1, "product2": 0.2, "product3": 0.3}
    assert chosen.maps == "fused" and not chosen.calibrated and len(chosen.completions) == 1
    assert RECIPES["best"] == Config(product=floors[chosen.completions[0]], fused_share=1 - chosen.share)


def test_the_recipe_best_segments_as_its_parts_put_together_do(scene, picture, family_folders):
    sample = scene.load(scene.ids[0])
    best = DiffSegmenter.from_profile("pocket", "best")
    expected = DiffSegmenter.from_profile("pocket")
    words = scene.words(sample.classes)
    scores = best.segment(sample.image, words).scores
    alone = successors.Refined(expected, successors._alone(PAIRS["product2_return"], ()))
    np.testing.assert_allclose(scores, alone(sample.image, words).scores, atol=1e-5)
    published = DiffSegmenter.from_profile("pocket", product=0.1).segment(sample.image, words).scores
    np.testing.assert_allclose(published, make_refined("cliper", expected)(sample.image, words).scores, atol=1e-5)
    one, two = (
        DiffSegmenter.from_profile(str(family_folders["sd15"]), "best", optimized=on).segment(picture, ("house", "fish")).scores for on in (True, False)
    )
    np.testing.assert_allclose(one, two, atol=2e-3)
    shared = DiffSegmenter.from_profile("pocket", "best", share_self_attention=True).segment(sample.image, words)
    np.testing.assert_allclose(shared.scores[0], scores[0], atol=1e-5)


def test_segment_and_evaluate_take_the_recipe_best_and_say_where_it_is_from(family_folders, picture, tree, tmp_path, capsys):
    folder, photo = str(family_folders["sd15"]), tmp_path / "photo.png"
    Image.fromarray(picture).save(photo)
    assert main(["segment", str(photo), "--classes", "house", "--recipe", "best", "--profile", folder, "--out", str(tmp_path / "own")]) == 0
    assert "chosen on train images of the pocket world" in capsys.readouterr().err
    assert any("pocket world" in note for note in json.loads((tmp_path / "own" / "result.json").read_text())["notes"])
    given = ["--dataset", "voc", "--root", str(tree), "--limit", "1", "--labels", "image", "--threshold", "0.5", "--recipe", "best"]
    assert main(["evaluate", *given, "--out", str(tmp_path / "pocket")]) == 0
    told = json.loads((tmp_path / "pocket" / "summary.json").read_text())
    assert told["recipe"] == "best" and told["miou"] is not None and not any("recipe best" in note for note in told["notes"])


def test_the_command_that_chooses_heads_writes_what_the_method_reads(tmp_path, capsys):
    path = tmp_path / "heads.json"
    assert main(["heads", "--dataset", "pocket-voc", "--limit", "1", "--share", "0.1", "--out", str(path)]) == 0
    heads = read_heads(path)
    assert heads == choose_heads(DiffSegmenter.from_profile("pocket"), with_masks(open_dataset("voc", "", "train", 1)), 0.1)
    printed = capsys.readouterr().out
    assert "1 images of pocket-voc train, profile pocket, seed 0" in path.read_text() and all(f"{name}, head {number}\n" in printed for name, number in heads)
    assert make_refined("heads", DiffSegmenter.from_profile("pocket"), str(path)).refinement.heads
    assert main(["heads", "--dataset", "pocket-voc", "--limit", "1", "--share", "0", "--out", str(path)]) == 2


def test_memory_is_that_of_the_largest_moment():
    def run():
        first = torch.ones(256, 1024)  # 1 MiB
        second = first + 1
        del first
        return second * 2

    assert tensor_peak(run) == pytest.approx(2, abs=0.01) and tensor_peak(lambda: None) == 0
