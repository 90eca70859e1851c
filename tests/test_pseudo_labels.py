"""CRF and pseudo-labels: a hand-made field, presets, masks as VOC writes them, and a run that was stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from diffseg_lib.applications.crf import LEAST, PRESETS, Crf, preset, probabilities, refine
from diffseg_lib.applications.pseudo_labels import MASKS, Pseudo, with_masks, write_masks
from diffseg_lib.baselines.base import Prediction
from diffseg_lib.cli.main import main
from diffseg_lib.evaluation.sources import open_dataset
from diffseg_lib.pocket.layouts import write_layout
from diffseg_lib.scoremaps import label
from diffseg_lib.support.files import RunError


def by_hand(image: np.ndarray, given: np.ndarray, crf: Crf) -> np.ndarray:
    """Mean-field inference by its definition, all pairs of pixels, kernels normalised on both sides as pydensecrf's are by default."""
    labels, h, w = given.shape
    places = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 2).astype(float)
    colours = image.reshape(-1, 3).astype(float)

    def kernel(*features: np.ndarray) -> np.ndarray:
        k = np.exp(-0.5 * sum(((f[:, None] - f[None]) ** 2).sum(-1) for f in features))
        np.fill_diagonal(k, 1)
        root = 1 / np.sqrt(k.sum(1) + 1e-20)
        return root[:, None] * k * root[None]

    kernels = [(crf.smooth_weight, kernel(places / crf.smooth_xy)), (crf.colour_weight, kernel(places / crf.colour_xy, colours / crf.colour_rgb))]
    unary = -np.log(given.clip(LEAST, 1)).reshape(labels, -1).T
    q = np.exp(-unary)
    q /= q.sum(1, keepdims=True)
    for _ in range(crf.iterations):
        q = np.exp(-unary + sum(weight * (k @ q) for weight, k in kernels))
        q /= q.sum(1, keepdims=True)
    return q.T.reshape(labels, h, w)


def two_halves(size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A picture of two colours, and scores whose border lies two px beside that of the colours."""
    image = np.full((size, size, 3), 40, np.uint8)
    image[:, size // 2 :] = 200
    scores = np.full((1, size, size), 0.2, np.float32)
    scores[:, :, size // 2 - 2 :] = 0.6
    return image, scores


def test_the_field_is_that_of_its_definition():
    image, scores = two_halves()
    given = probabilities(scores, 0.4)
    for crf in (Crf(5, 2, 1.5, 4, 20, 2), Crf(1, 1, 0, 4, 20, 2), Crf(3, 2, 2, 4, 20, 0)):
        np.testing.assert_allclose(refine(image, given, crf), by_hand(image, given, crf), atol=0.05)  # its filtering is approximate


@pytest.mark.parametrize("name", PRESETS)
def test_presets_move_a_border_to_the_edge_of_the_colours(name):
    image, scores = two_halves(24)
    before = label_of(probabilities(scores, 0.4))
    after = label_of(refine(image, probabilities(scores, 0.4), preset(name)))
    truth = (image[..., 0] > 100).astype(int)
    assert (before != truth).sum() == 48 and (after != truth).sum() == 0


def label_of(found: np.ndarray) -> np.ndarray:
    return found.argmax(0)


def test_presets_are_the_published_ones():
    numbers = {name: (c.iterations, c.smooth_xy, c.smooth_weight, c.colour_xy, c.colour_rgb, c.colour_weight) for name, c in PRESETS.items()}
    assert numbers == {"clip-es": (10, 1, 3, 67, 3, 4), "irn": (10, 3, 3, 50, 5, 10), "psa": (10, 3, 3, 80, 13, 10)}
    with pytest.raises(ValueError, match="unknown CRF 'isr': expected clip-es, irn, psa"):
        preset("isr")


def test_without_kernels_the_field_is_the_threshold():
    import torch

    rng = np.random.default_rng(0)
    image, scores = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8), rng.random((3, 9, 7)).astype(np.float32)
    given = probabilities(scores, 0.45)
    np.testing.assert_allclose(refine(image, given, Crf(3, 1, 0, 1, 1, 0)), given, atol=1e-5)
    assert (label_of(given) == label(torch.from_numpy(scores), 0.45).numpy()).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"colour_rgb": 0}, "colour_rgb 0: expected a number above 0"),
        ({"iterations": -1}, "iterations -1: expected an integer of at least 0"),
        ({"smooth_weight": -2}, "smooth_weight -2: expected a number of at least 0"),
    ],
)
def test_settings_that_make_no_field_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        Crf(**changes)


def test_what_does_not_fit_is_refused():
    image, scores = two_halves()
    with pytest.raises(ValueError, match="expected one size"):
        refine(image[:-1], probabilities(scores, 0.4), PRESETS["irn"])
    with pytest.raises(ValueError, match="expected probabilities"):
        refine(image, scores, PRESETS["irn"])
    with pytest.raises(ValueError, match="above 0"):
        probabilities(scores, 0.0)
    with pytest.raises(ValueError, match="min_confidence 2"):
        Pseudo(0.5, min_confidence=2)


# -- masks on disk


@pytest.fixture
def tree(tmp_path):
    write_layout("voc", "train", 4, 3, tmp_path / "tree")
    return tmp_path / "tree"


def scorer(image, classes):
    """Each class on a stripe of its own, sure in the upper half."""
    scores = np.zeros((len(classes), *image.shape[:2]), np.float32)
    for k, part in enumerate(np.array_split(np.arange(image.shape[1]), len(classes))):
        scores[k][:, part] = 0.6
        scores[k][: image.shape[0] // 2, part] = 1.0
    return Prediction(scores)


def test_masks_are_written_as_voc_writes_them(tree, tmp_path):
    dataset, out = open_dataset("voc", tree, "train"), tmp_path / "masks"
    assert write_masks(dataset, scorer, Pseudo(0.4, min_confidence=0.65), out, {"seed": 0}) == {}
    for sample in dataset:
        with Image.open(out / MASKS / f"{sample.id}.png") as image:
            assert image.mode == "P"
            mask = np.asarray(image)
        labels = [dataset.names.index(name) for name in sample.classes]
        assert set(np.unique(mask)) == {*labels, 255}
        assert (mask[: len(mask) // 2] != 255).all() and (mask[len(mask) // 2 :] == 255).all()
    assert (out / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").read_text().split() == list(dataset.ids)
    again = with_masks(dataset, out)
    assert again.ids == dataset.ids and (again.load(dataset.ids[0]).image == dataset.load(dataset.ids[0]).image).all()
    assert (again.load(dataset.ids[0]).truth == np.asarray(Image.open(out / MASKS / f"{dataset.ids[0]}.png"))).all()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["pseudo"] == {"threshold": 0.4, "crf": None, "min_confidence": 0.65} and manifest["data"] == dataset.fingerprint()


def test_a_run_that_was_stopped_goes_on_and_other_settings_are_refused(tree, tmp_path):
    dataset, out, calls = open_dataset("voc", tree, "train"), tmp_path / "masks", []

    def stopped(image, classes):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scorer(image, classes)

    with pytest.raises(KeyboardInterrupt):
        write_masks(dataset, stopped, Pseudo(0.4), out, {})
    assert len(list((out / MASKS).glob("*.png"))) == 2
    assert write_masks(dataset, stopped, Pseudo(0.4), out, {}) == {} and len(calls) == 5
    whole = tmp_path / "whole"
    write_masks(dataset, scorer, Pseudo(0.4), whole, {})
    for path in (whole / MASKS).iterdir():
        assert path.read_bytes() == (out / MASKS / path.name).read_bytes()
    with pytest.raises(RunError, match="was made with another pseudo"):
        write_masks(dataset, scorer, Pseudo(0.5), out, {})


def test_an_image_that_fails_has_no_mask_and_is_told(tree, tmp_path):
    dataset = open_dataset("voc", tree, "train")
    (tree / "VOCdevkit/VOC2012/JPEGImages" / f"{dataset.ids[1]}.jpg").write_bytes(b"no picture")
    errors = write_masks(dataset, scorer, Pseudo(0.4), tmp_path / "masks", {})
    assert list(errors) == [dataset.ids[1]]
    assert with_masks(dataset, tmp_path / "masks").ids == tuple(name for name in dataset.ids if name != dataset.ids[1])
    with pytest.raises(FileNotFoundError, match="holds no mask of the 4 images"):
        with_masks(dataset, tmp_path / "nothing")


def test_the_command_writes_goes_on_and_refuses(tree, tmp_path, capsys):
    arguments = ["pseudo", "--root", str(tree), "--timesteps", "100", "--crf", "irn", "--out", str(tmp_path / "masks")]
    assert main([*arguments, "--limit", "2"]) == 0
    assert "2 masks of 2 images" in capsys.readouterr().out
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "masks" / MASKS).iterdir()}
    assert main([*arguments, "--limit", "2"]) == 0
    assert first == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "masks" / MASKS).iterdir()}
    assert main([*arguments, "--limit", "2", "--sure", "0.7"]) == 3
    assert "was made with another pseudo" in capsys.readouterr().err
    assert main([*arguments, "--threshold", "0"]) == 2


def test_the_study_measures_every_row_on_images_it_did_not_tune_on(tree):
    from diffseg_lib import DiffSegmenter
    from diffseg_lib.experiments.pseudo import CHOSEN, FOUR, ONE, pseudo_study

    tried = [Crf(2, 3, 3, 10, 5, 4), Crf(2, 3, 3, 25, 13, 10)]
    found = pseudo_study(DiffSegmenter.from_profile("pocket"), "voc", str(tree), "train", 2, 2, tried)
    assert set(found.rows) == {ONE, FOUR, CHOSEN, *(f"crf_{name}" for name in PRESETS)}
    assert found.images == 2 == found.tuning_images and sorted(found.changed) == sorted(open_dataset("voc", tree, "train").ids[2:])
    assert found.crf.colour_xy in (10, 25) and found.effects[f"{CHOSEN}_minus_{FOUR}"].images == 2
    for row in found.sure.values():
        assert row[0].kept == 1 and [one.kept for one in row] == sorted((one.kept for one in row), reverse=True)
