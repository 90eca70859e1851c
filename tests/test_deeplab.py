"""DeepLabV2: its shape, its schedule, what an update sees, a training that was stopped, and the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffseg_lib.applications.crf import PRESETS
from diffseg_lib.applications.deeplab import (
    MEAN,
    NETS,
    POCKET,
    DeepLabV2,
    Recipe,
    augment,
    class_weights,
    confusions,
    load,
    normalise_image,
    predict,
    train,
)
from diffseg_lib.data.samples import Files
from diffseg_lib.evaluation.sources import open_dataset
from diffseg_lib.pocket.layouts import write_layout
from diffseg_lib.support.files import RunError

TINY = replace(POCKET, iterations=6, batch=2, crop=48)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for split in ("train", "val"):
        write_layout("voc", split, 3, 3, root)
    return root


@pytest.fixture
def dataset(tree):
    return open_dataset("voc", tree, "train")


def test_features_stay_at_an_eighth_and_far_stages_are_dilated():
    network = DeepLabV2(5, NETS["small"]).eval()
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 5, 8, 12)
    for stage, dilation in ((1, 1), (2, 2), (3, 4)):
        wide = [m for m in network.backbone.encoder.stages[stage].modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
        assert wide and {m.dilation for m in wide} == {(dilation, dilation)}
    assert [branch.dilation for branch in network.head] == [(6, 6), (12, 12), (18, 18), (24, 24)]


def test_the_large_net_is_resnet_101():
    with torch.device("meta"):
        network = DeepLabV2(21, NETS["101"])
    assert sum(p.numel() for p in network.backbone.parameters()) == 42_500_160  # 44,549,160 less the classifier of ImageNet
    assert sum(p.numel() for p in network.head.parameters()) == 4 * (2048 * 9 * 21 + 21)


def test_four_branches_are_summed():
    torch.manual_seed(0)
    network = DeepLabV2(3, NETS["small"]).eval()
    pixels = torch.randn(1, 3, 32, 32)
    features = network.backbone(pixels).last_hidden_state
    torch.testing.assert_close(network(pixels), sum(branch(features) for branch in network.head))


def test_the_learning_rate_falls_as_a_power():
    recipe = Recipe(iterations=100, lr=1.0)
    assert recipe.rate(0) == 1 and recipe.rate(50) == pytest.approx(0.5**0.9) and 0 < recipe.rate(99) < 0.02


@pytest.mark.parametrize("changes", [{"net": "50"}, {"batch": 0}, {"lr": 0.0}, {"scales": (2.0, 1.0)}])
def test_recipes_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match="expected"):
        Recipe(**changes)


def test_crops_keep_picture_and_mask_together_and_void_lies_outside():
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:40] = 7
    image = np.where(mask[..., None] == 7, 200, 50).astype(np.uint8).repeat(3, -1)
    for seed in range(20):
        pixels, labels = augment(image, mask, replace(TINY, crop=64, scales=(0.5, 2.0)), np.random.default_rng(seed))
        assert pixels.shape == (64, 64, 3) and labels.shape == (64, 64) and set(np.unique(labels)) <= {0, 7, 255}
        outside = labels == 255
        assert (pixels[outside] == np.round(255 * np.array(MEAN))).all()
        inside = pixels[labels == 7][:, 0].astype(int)
        assert not inside.size or np.median(inside) > 150


def test_rare_classes_weigh_more(dataset):
    weights = class_weights(dataset)
    counts = sum(np.bincount(sample.truth.ravel(), minlength=256)[: len(dataset.names)] for sample in dataset)
    present = np.flatnonzero(counts)
    assert weights[present].mean() == pytest.approx(1) and (weights[np.flatnonzero(counts == 0)] == 0).all()
    assert list(np.argsort(counts[present])) == list(np.argsort(-weights[present].numpy()))


def test_a_training_that_was_stopped_goes_on_bit_for_bit(dataset, tmp_path):
    whole = train(dataset, TINY, tmp_path / "whole", every=2)

    def stop(update, loss):
        if update == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, TINY, tmp_path / "cut", every=2, progress=stop)
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-0000004"]
    seen = []
    again = train(dataset, TINY, tmp_path / "cut", every=2, progress=lambda update, loss: seen.append(update))
    assert seen == [5, 6]
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, again))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert (whole / "curve.csv").read_text() == (again / "curve.csv").read_text()
    assert train(dataset, TINY, tmp_path / "cut", progress=lambda *_: pytest.fail("it was done")) == again
    with pytest.raises(RunError, match="was made with another recipe:"):
        train(dataset, replace(TINY, seed=1), tmp_path / "cut")
    masked = dataset.with_truth(dataset.ids, lambda name: dataset.load(name).truth, "masks from elsewhere", Files())
    with pytest.raises(RunError, match="was made with another data, notes:"):
        train(masked, TINY, tmp_path / "cut")


def test_it_learns_and_is_read_again(dataset, tmp_path):
    losses = []
    train(dataset, replace(TINY, iterations=60, lr=0.02, balanced=True), tmp_path, progress=lambda update, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    network, facts = load(tmp_path)
    assert facts["names"] == list(dataset.names)
    image = dataset.load(dataset.ids[0]).image
    plain, mirrored = predict(network, image), predict(network, image, flip=True)
    assert plain.shape == (len(dataset.names), *image.shape[:2])
    np.testing.assert_allclose(plain.sum(0), 1, atol=1e-4)
    np.testing.assert_allclose(predict(network, image[:, ::-1].copy(), flip=True), mirrored[:, :, ::-1], atol=1e-4)
    assert predict(network, image, (0.5, 1.0), True, PRESETS["irn"]).shape == plain.shape
    assert confusions(network, dataset).shape == (3, len(dataset.names), len(dataset.names))


def test_pixels_are_those_of_imagenets_statistics():
    values = normalise_image(np.full((2, 2, 3), 255, np.uint8))
    torch.testing.assert_close(values[:, 0, 0], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))


def test_the_command_line_trains_on_masks_and_tests(tree, tmp_path, capsys):
    from diffseg_lib.cli.main import main

    assert main(["pseudo", "--root", str(tree), "--timesteps", "100", "--sure", "0.5", "--out", str(tmp_path / "masks")]) == 0
    given = ["--root", str(tree), "--masks", str(tmp_path / "masks"), "--iterations", "3", "--batch", "2", "--crop", "48", "--out", str(tmp_path / "net")]
    assert main(["network", "test", "--root", str(tree), "--model", str(tmp_path / "net")]) == 2
    assert main(["network", "train", *given]) == 0
    assert main(["network", "test", "--root", str(tree), "--model", str(tmp_path / "net"), "--multiscale", "--out", str(tmp_path / "found.json")]) == 0
    assert "mIoU" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"] == 3 and found["multiscale"] and found["model"]["recipe"]["crop"] == 48
    assert main(["network", "train", *given[:-2], "--initial", "nobody/resnet", "--out", str(tmp_path / "other")]) == 2
    assert "no ResNet at 'nobody/resnet'" in capsys.readouterr().err


def test_the_study_trains_one_network_a_kind_of_mask(tree, tmp_path):
    from diffseg_lib import DiffSegmenter
    from diffseg_lib.applications.crf import Crf
    from diffseg_lib.experiments.network import DRAWN, OURS, RIVAL, network_study

    asked = {"train_images": 3, "images": 2, "tuning_images": 1, "recipe": TINY, "multiscale": False, "candidates": [Crf(1)]}
    found = network_study(DiffSegmenter.from_profile("pocket"), tmp_path, "voc", str(tree), **asked)
    assert list(found.rows) == [DRAWN, OURS, RIVAL] and found.images == 2 and found.train_images == 3
    assert all(curve[-1][0] == TINY.iterations for curve in found.curves.values())
    assert set(found.masks) == {OURS, RIVAL} and all(0 < one.kept <= 1 for one in found.masks.values())
    assert list(found.shown.maps) == [DRAWN, OURS, RIVAL] and len(found.shown.ids) == 2
    seen = predict(load(tmp_path / OURS)[0], open_dataset("voc", tree, "val").load(found.shown.ids[0]).image, flip=True).argmax(0)
    np.testing.assert_array_equal(found.shown.labels(OURS)[found.shown.ids[0]], seen)
    again = network_study(DiffSegmenter.from_profile("pocket"), tmp_path, "voc", str(tree), **asked)
    assert again.rows == found.rows
