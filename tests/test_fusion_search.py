"""Maps collected once give what the segmenter gives; weights and thresholds are chosen as they say."""

import numpy as np
import pytest
import torch

from diffseg_lib import DiffSegmenter
from diffseg_lib.evaluation.fusion_search import (
    ResolutionMaps,
    choose_weights,
    collect,
    combine,
    gain,
    layer_separation,
    score,
    score_histograms,
    separation,
    short_name,
    weight_grid,
)
from diffseg_lib.evaluation.metrics import confusion, confusions_at
from diffseg_lib.experiments import completion, fusion
from diffseg_lib.pocket.scenes import VOC_NAMES, voc_samples
from diffseg_lib.pocket.training.measure import against_targets


@pytest.fixture(scope="module")
def segmenter():
    return DiffSegmenter.from_profile("pocket")


@pytest.fixture(scope="module")
def samples():
    return list(voc_samples("test", 3))


def test_collected_maps_count_as_the_segmenter_labels(segmenter, samples):
    found = collect(segmenter, samples, VOC_NAMES, segmenter.timesteps[0])
    threshold = round(segmenter.threshold * 256) / 256
    matrices = confusions_at(score_histograms(found, segmenter.weights, len(VOC_NAMES)), threshold, len(VOC_NAMES))
    for sample, matrix in zip(samples, matrices, strict=True):
        labels = segmenter.segment(sample.image, sample.classes).labels
        numbers = np.array([0, *(VOC_NAMES.index(name) for name in sample.classes)])
        direct = confusion(sample.truth, numbers[labels], len(VOC_NAMES))
        assert np.abs(direct - matrix).sum() <= 0.002 * direct.sum()  # sums in another order move a few pixels


def test_completing_sides_and_adding_is_adding_and_completing(segmenter, samples):
    [one] = collect(segmenter, samples[:1], VOC_NAMES, 200, rounds=2)
    assert len(one.rounds) == 3
    constant = torch.ones_like(one.rounds[0][1])
    weights = {8: 0.25, 4: 0.25, 2: 0.25, 1: 0.25}
    assert combine(one.rounds[1], weights).shape == constant.shape
    torch.testing.assert_close(combine(one.rounds[0], {2: 1.0}), one.rounds[0][2])


def _synthetic(good: int) -> list[ResolutionMaps]:
    truth = np.zeros((8, 8), np.uint8)
    truth[2:6, 2:6] = 1
    right = torch.tensor((truth == 1).astype(np.float32))[None]
    wrong = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = {d: right if d == good else wrong for d in (2, 1)}
    return [ResolutionMaps(truth, (1,), (maps, maps))]


@pytest.mark.parametrize("good", [1, 2])
def test_the_side_that_knows_gets_the_weight(good):
    weights, threshold, value = choose_weights(_synthetic(good), 2, parts=4)
    assert max(weights, key=weights.get) == good
    assert value == pytest.approx(100)
    scored = score(score_histograms(_synthetic(good), weights, 2), threshold, 2)
    assert scored.miou == pytest.approx(100)
    assert gain(scored, scored) == (0.0, None)  # one image has no interval


@pytest.mark.parametrize(("good", "least"), [(0, 1), (5, 1), (17, 3)])
def test_the_block_that_knows_gets_the_weight_among_many(good, least):
    [one] = _synthetic(1)
    right, wrong = one.rounds[0][1], one.rounds[0][2]
    maps = {block: right if block == good else wrong.roll(block, -1) for block in range(24)}
    weights, threshold, value = choose_weights([ResolutionMaps(one.truth, one.labels, (maps, maps))], 2, least=least)
    assert max(weights, key=weights.get) == good and value == pytest.approx(100) and 0 <= threshold <= 1
    assert sum(weights.values()) == pytest.approx(1) and sum(weight > 0 for weight in weights.values()) >= least
    with pytest.raises(ValueError, match="no weights to choose from"):
        choose_weights([ResolutionMaps(one.truth, one.labels, (maps, maps))], 2, parts=2, least=3)


@pytest.mark.parametrize("good", [1, 2])
def test_several_resolutions_are_chosen_beside_the_best_one(good):
    found = _synthetic(good)
    choices, single = fusion.weight_choices(found, 2), fusion.single_resolutions(found)
    assert sum(weight > 0 for weight in choices["several"].values()) == 2
    assert fusion.best_on_train(found, single, 2) == f"stride_{good}"


def test_the_studies_of_fusion_and_completion_agree_where_they_measure_the_same(segmenter):
    source = {"split": "train", "train_images": 2, "images": 2}
    one = fusion.fusion_study(segmenter, **source)
    assert set(one.rows) == {f"{kind}_{name}" for kind in ("fused", "completed") for name in one.weights} and one.single in one.weights
    alone = {1: 1.0}
    rounds = completion.completion_study(segmenter.with_config(weights=alone), **source)
    assert [rounds.rows[f"rounds_{i}"].value for i in (0, 1)] == [one.rows[f"{kind}_stride_1"].value for kind in ("fused", "completed")]
    told = fusion.numbers(one)
    assert told["fusion_single"] == fusion.named(one.single) and told["fusion_verdict"] == told["fusion_single_verdict"] == "undecided: 2 images"
    assert completion.numbers(rounds)["completion_images"] == "2"
    assert len(fusion.fusion_table(one)) == len(one.weights) and not fusion.weights_table(one).isna().any(axis=None)


def test_every_share_is_tried_and_sums_to_one():
    grid = weight_grid([8, 4, 2, 1], 4)
    assert len(grid) == len({tuple(g.values()) for g in grid}) == 35
    assert all(sum(g.values()) == pytest.approx(1) for g in grid)


def test_separation_names_every_layer(segmenter, samples):
    found = layer_separation(segmenter, samples, VOC_NAMES, 200)
    assert len(found) == 10
    assert all(len(values) == sum(len(s.classes) for s in samples) for values in found.values())
    assert all(0 <= v <= 1 for values in found.values() for v in values)
    both = separation(segmenter, samples, VOC_NAMES, 200)
    assert both.layers == found and sorted(both.strides) == [1, 2, 4, 8]
    alone = [layer for layer in found if layer.startswith("mid")]
    assert len(alone) == 1 and both.strides[8] == found[alone[0]], "the middle is the only layer at its side"
    assert short_name("mid_block.attentions.0.transformer_blocks.0.attn2") == "mid"


def test_verdicts_follow_the_figures():
    rows = {row["key"]: row["verdict"] for row in against_targets({"vae": {"psnr_db": 30.0}, "clip": {"mean_average_precision": 0.5}})}
    assert rows["psnr_db"] == "met"
    assert rows["mean_average_precision"] == "missed"
    assert rows["miou"] == "not measured"
