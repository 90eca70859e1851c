"""The evaluator: rows, thresholds, coverage, files; and the command line that drives it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffseg_lib import DiffSegmenter
from diffseg_lib.baselines.attention import Attention, attention_scores
from diffseg_lib.baselines.base import Prediction
from diffseg_lib.baselines.registry import METHODS
from diffseg_lib.category_filter import CategoryFilter
from diffseg_lib.cli.main import main
from diffseg_lib.data import DataError
from diffseg_lib.evaluation.evaluator import choose_threshold, evaluate_images, image_miou, requested_labels, save, summarise
from diffseg_lib.evaluation.jobs import Job
from diffseg_lib.evaluation.methods import make_method
from diffseg_lib.evaluation.metrics import confusion, miou
from diffseg_lib.evaluation.sources import open_dataset
from diffseg_lib.evaluation.thresholds import fixed_threshold


class Truth:
    """Scores each class by the ground truth itself, so that the right threshold scores 100."""

    def __init__(self, dataset):
        self.truth = {sample.image.tobytes(): sample.truth for sample in dataset}
        self.names = dataset.names

    def __call__(self, image, classes):
        truth = self.truth[image.tobytes()]
        return Prediction(np.stack([(truth == self.names.index(name)).astype(np.float32) for name in classes]), len(classes))


def test_the_ground_truth_scores_a_hundred(data):
    rows = list(evaluate_images(data, Truth(data), "image"))
    found = summarise(rows, data.names, 0.5, len(data))
    assert found["miou"] == found["miou_oracle"] == 100.0 and found["coverage"] == "full" and found["errors"] == {}
    assert found["unet_calls"] == sum(len(row.present) for row in rows) and found["label_precision"] == found["label_recall"] == 1.0
    assert np.trace(np.array(found["confusion"])) == np.sum(found["confusion"]) == sum(row.valid_pixels for row in rows)
    assert all(isinstance(n, int) for line in found["confusion"] for n in line)


def test_the_figures_are_those_of_a_segmentation_done_by_hand(data):
    segmenter = DiffSegmenter.from_profile("pocket")
    total = np.zeros((17, 17), np.int64)
    for sample in data:
        found = segmenter.segment(sample.image, sample.classes)
        names = np.array([0, *(data.names.index(name) for name in sample.classes)])
        total += confusion(sample.truth, names[found.labels], 17)
    found = summarise(list(evaluate_images(data, Attention(segmenter), "image")), data.names, segmenter.threshold, len(data))
    assert found["confusion"] == total.tolist() and found["miou"] == pytest.approx(float(miou(total)))


def test_mean_iou_is_that_of_torchmetrics(data):
    """Where every class occurs, both define it alike: macro average over classes, void ignored."""
    from torchmetrics.functional.classification import multiclass_jaccard_index

    segmenter = DiffSegmenter.from_profile("pocket")
    samples = list(data)
    present = sorted({0, *(data.names.index(name) for sample in samples for name in sample.classes)})
    truths, guesses = [], []
    for sample in samples:
        labels = segmenter.segment(sample.image, sample.classes).labels
        names = np.array([0, *(data.names.index(name) for name in sample.classes)])
        place = np.full(256, -1)
        place[present] = range(len(present))
        truths.append(torch.from_numpy(np.where(sample.truth == 255, -1, place[sample.truth])).flatten())
        guesses.append(torch.from_numpy(place[names[labels]]).flatten())
    theirs = multiclass_jaccard_index(torch.cat(guesses), torch.cat(truths), len(present), ignore_index=-1)
    ours = summarise(list(evaluate_images(data, Attention(segmenter), "image")), data.names, segmenter.threshold, len(data))["miou"]
    assert ours == pytest.approx(100 * float(theirs), abs=1e-3)


def test_a_broken_image_is_an_error_row_and_there_is_no_headline(data):
    def load(self, name):
        if name == data.ids[1]:
            raise DataError(f"{name} is broken")
        return data.load(name)

    broken = type("Broken", (), {"ids": data.ids, "names": data.names, "prompts": data.prompts, "load": load})()
    rows = list(evaluate_images(broken, Truth(data), "image"))
    assert [row.status for row in rows] == ["ok", "error", "ok", "ok"] and "is broken" in rows[1].error
    found = summarise(rows, data.names, 0.5, len(data))
    assert found["miou"] is None and found["confusion"] is None and found["coverage"] == "PARTIAL 3/4" and list(found["errors"]) == [data.ids[1]]


def test_more_images_than_a_run_should_have_give_no_headline_either(data):
    rows = list(evaluate_images(data, Truth(data), "image"))
    found = summarise(rows, data.names, 0.5, len(data) - 1)
    assert found["miou"] is None and found["iou"] is None and found["coverage"] == "PARTIAL 4/3"


def test_labels_that_are_no_classes_stop_the_run(tree, data, tmp_path):
    import shutil

    from diffseg_lib.data import LabelError
    from diffseg_lib.support.images import save_labels

    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    save_labels(np.full((128, 128), 99, np.uint8), copy / "VOCdevkit/VOC2012/SegmentationClass" / f"{data.ids[2]}.png")
    with pytest.raises(LabelError, match="another label order"):
        list(evaluate_images(open_dataset("voc", copy, "val"), Truth(data), "image"))


def test_an_empty_filter_is_all_background_and_counted(data):
    class Nothing:
        def filter(self, image):
            return type("Found", (), {"kept": ()})()

    rows = list(evaluate_images(data, Truth(data), "filter", Nothing()))
    found = summarise(rows, data.names, 0.5, len(data))
    assert found["empty_labels"] == 4 and found["unet_calls"] == 0
    assert np.array(found["confusion"])[:, 1:].sum() == 0 and found["miou"] is not None


def test_labels_image_all_and_wrong(data):
    sample = data.load(data.ids[0])
    assert [data.names[i] for i in requested_labels(data, sample, "image")[0]] == list(sample.classes)
    assert requested_labels(data, sample, "all")[0] == tuple(range(1, 17))
    with pytest.raises(ValueError, match="need a category filter"):
        requested_labels(data, sample, "filter")
    with pytest.raises(ValueError, match="or an existing JSON file"):
        requested_labels(data, sample, "some")


def test_frozen_labels_are_read_from_a_file(data, tree, tmp_path):
    frozen = tmp_path / "labels.json"
    frozen.write_text(json.dumps({f"{name}.jpg": list(data.load(name).classes) for name in data.ids}))
    for sample in data:  # ids or names of files, true labels here
        assert requested_labels(data, sample, str(frozen))[0] == tuple(sorted(requested_labels(data, sample, "image")[0]))
    common = ["evaluate", "--dataset", "voc", "--root", str(tree), "--threshold", ".3", "--threads", "1"]
    summaries = []
    for labels in (str(frozen), "image"):
        assert main([*common, "--labels", labels, "--out", str(tmp_path / Path(labels).stem)]) == 0
        summaries.append(json.loads((tmp_path / Path(labels).stem / "summary.json").read_text()))
    assert summaries[0]["confusion"] == summaries[1]["confusion"] and summaries[0]["run"] != summaries[1]["run"]


def test_frozen_labels_that_do_not_fit_are_told(data, tmp_path):
    sample = data.load(data.ids[0])
    for content, said in (
        ({}, f"no entry for image {sample.id}"),
        ({sample.id: ["hous"]}, "did you mean house"),
        ([1], "expected a JSON object"),
        ({"a": "house"}, "expected a JSON object"),
    ):
        path = _written(tmp_path / f"{abs(hash(str(content)))}.json", content)
        with pytest.raises(ValueError, match=said):
            requested_labels(data, sample, str(path))
    assert requested_labels(data, sample, str(_written(tmp_path / "empty.json", {sample.id: []})))[0] == ()


def _written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_filtered_labels_say_why(data):
    category_filter = CategoryFilter.load(data.prompts)
    for sample in data:
        labels, why = requested_labels(data, sample, "filter", category_filter)
        assert {data.names[i] for i in labels} == set(why) and all("caption says" in text or "CLIP scores" in text for text in why.values())


def test_the_threshold_is_the_train_splits_best(data):
    class Half(Truth):
        def __call__(self, image, classes):
            return Prediction(super().__call__(image, classes).scores * 0.4 + 0.3)

    rows = list(evaluate_images(data, Half(data), "image"))
    assert 0.3 <= choose_threshold(rows, 17) < 0.7
    assert image_miou(rows[0], 0.5, 17) == 100.0 and np.isnan(image_miou(replace(rows[0], counted=None), 0.5, 17))


def test_files_hold_a_row_an_image(data, tmp_path):
    rows = list(evaluate_images(data, Truth(data), "image"))
    save(rows, summarise(rows, data.names, 0.5, len(data)), data.names, tmp_path)
    with (tmp_path / "images.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == list(data.ids) and {line["miou"] for line in lines} == {"100.0"}
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 257
    assert json.loads((tmp_path / "summary.json").read_text())["miou"] == 100.0 and not list(tmp_path.glob("*.part"))


def test_one_pass_gives_three_methods(data):
    segmenter, sample = DiffSegmenter.from_profile("pocket"), data.load(data.ids[0])
    found = attention_scores(segmenter, sample.image, sample.classes)
    assert set(found) == {"diffsegmenter", "cross", "daam"}
    np.testing.assert_allclose(found["cross"].scores, segmenter.with_config(iterations=0).segment(sample.image, sample.classes).scores, atol=1e-5)
    np.testing.assert_allclose(found["diffsegmenter"].scores, segmenter.segment(sample.image, sample.classes).scores, atol=1e-6)
    assert all(one.scores.min() >= 0 and one.scores.max() == 1 and one.calls == len(sample.classes) for one in found.values())


def test_daam_is_the_plain_sum_over_layers_and_heads(data):
    """Against every head's own map, recorded one by one, upsampled and added up."""
    from diffseg_lib.attention import record_attention
    from diffseg_lib.scoremaps import resize, upsample

    segmenter, sample = DiffSegmenter.from_profile("pocket"), data.load(data.ids[0])
    latents = segmenter.encode(sample.image)
    noisy = segmenter.backbone.add_noise(latents, segmenter.noise(sample.image, latents), segmenter.timesteps[0])
    embeddings, token_weights = segmenter.embed(segmenter.prompts(sample.classes))
    with record_attention(segmenter.backbone.unet, token_weights, heads=True) as recording:
        segmenter.backbone.predict_noise(noisy, segmenter.timesteps[0], embeddings)
    total = sum(resize(maps[:, e], recording.size) / maps.shape[1] for maps in recording.cross.values() for e in range(maps.shape[1]))
    ours = attention_scores(segmenter, sample.image, sample.classes)["daam"].scores
    np.testing.assert_allclose(ours, upsample(total, sample.truth.shape).numpy(), atol=1e-4)


def test_every_method_by_name_gives_maps_of_the_images_size(data):
    segmenter, sample = DiffSegmenter.from_profile("pocket"), data.load(data.ids[0])
    for name in set(METHODS) - {"groupvit"}:
        found = make_method(name, segmenter)(sample.image, sample.classes)
        assert found.scores.shape == (len(sample.classes), *sample.truth.shape) and found.scores.min() >= 0 and found.scores.max() <= 1
        assert (found.calls == 0) == (name == "denseclip")
    with pytest.raises(ValueError, match="did you mean daam"):
        make_method("damm", segmenter)


# -- the command line ----------------------------------------------------------------------------


def evaluate(tree, out, *more):
    return main(["evaluate", "--dataset", "voc", "--root", str(tree), "--split", "val", "--out", str(out), *more])


def test_evaluate_writes_its_summary(tree, tmp_path, capsys):
    assert evaluate(tree, tmp_path, "--labels", "image", "--limit", "3") == 0
    found = json.loads((tmp_path / "summary.json").read_text())
    wanted = {"miou", "miou_ci95", "miou_oracle", "miou_oracle_ci95", "iou", "threshold", "confusion", "images", "expected_images", "unet_calls", "seconds"}
    assert wanted <= set(found)
    assert (found["images"], found["expected_images"], found["split_images"]) == (3, 3, 4) and found["miou"] <= found["miou_oracle"]
    assert found["miou_ci95"] is None and found["dataset"] == "pocket-voc"
    assert "95 % interval over 3 images: small sample: a sketch" in capsys.readouterr().out


def test_evaluate_chooses_on_train_what_was_not_chosen_before(tree, tmp_path):
    assert evaluate(tree, tmp_path, "--labels", "image", "--method", "daam", "--limit", "2", "--threshold", "train", "--train-limit", "2") == 0
    assert json.loads((tmp_path / "summary.json").read_text())["threshold_chosen_on"] == "2 train images"


def test_what_is_tuned_on_is_not_measured(tree, tmp_path, capsys):
    asked = ["--labels", "image", "--split", "train", "--threshold", "train", "--train-limit"]
    assert evaluate(tree, tmp_path / "all", *asked, "2") == 0
    found = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert (found["images"], found["expected_images"], found["coverage"]) == (1, 1, "full")
    assert found["threshold_chosen_on"] == "2 train images, none of them measured"
    ids = [line.split(",")[0] for line in (tmp_path / "all" / "images.csv").read_text().splitlines()[1:]]
    assert ids == list(open_dataset("voc", tree, "train").ids[2:])
    assert evaluate(tree, tmp_path / "few", *asked, "1", "--limit", "1") == 0
    assert json.loads((tmp_path / "few" / "summary.json").read_text())["images"] == 1
    assert evaluate(tree, tmp_path / "none", *asked, "3") == 2
    assert "has 0 images beside the 3 of 'train' that are tuned on" in capsys.readouterr().err


def test_thresholds_are_looked_up_given_or_refused(tree):
    job = Job("voc", str(tree), labels="filter", method="cross")
    value, said = fixed_threshold("", job)
    assert 0 < value < 1 and "train split" in said
    assert fixed_threshold("0.25", job) == (0.25, "given")
    with pytest.raises(ValueError, match="none was chosen for groupvit with labels all.*--threshold train"):
        fixed_threshold("", replace(job, labels="all", method="groupvit"))
    with pytest.raises(ValueError, match="0 to 1"):
        fixed_threshold("1.5", job)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": "paper"}, r"caption 'complete', chosen for 'none'; .*final_norm 'before', chosen for 'after'"),
        ({"recipe": "released"}, "template 'a photograph of {class}', chosen for '.*'; span 'last', chosen for 'all'"),
        ({"captioner": "somewhere"}, "captioner 'somewhere', chosen for 'pocket'"),
        ({"clip": "somewhere"}, "clip 'somewhere', chosen for 'pocket'"),
        ({"labels": "own.json"}, "none was chosen for diffsegmenter with labels own.json"),
        ({"method": "denseclip", "model": "other"}, "model 'other', chosen for ''"),
        ({"split": "train"}, "chosen on train images, and split 'train' is measured"),
    ],
)
def test_a_threshold_is_not_taken_for_a_setting_that_it_was_not_chosen_for(tree, change, said):
    job = Job("voc", str(tree), labels="filter")
    fixed_threshold("", job)
    with pytest.raises(ValueError, match=said) as error:
        fixed_threshold("", replace(job, **change))
    assert "give --threshold train, or a number" in str(error.value)


def test_a_threshold_of_the_pocket_world_is_not_taken_for_somebodys_data(tree, tmp_path):
    import shutil

    shutil.copytree(tree, tmp_path / "own")
    (tmp_path / "own" / "pocket.json").unlink()
    with pytest.raises(ValueError, match="data set 'voc', chosen for 'pocket-voc'"):
        fixed_threshold("", Job("voc", str(tmp_path / "own"), labels="filter"))


def test_a_profile_without_a_run_has_its_own_threshold_for_its_own_switches(tree, pipeline_folder):
    job = Job("voc", str(tree), labels="image", profile=str(pipeline_folder))
    assert fixed_threshold("", job) == (0.5, "the paper's values")
    for change in ({"recipe": "paper"}, {"method": "cross"}):
        with pytest.raises(ValueError, match="no threshold is known for .* --threshold train"):
            fixed_threshold("", replace(job, **change))


def test_a_broken_image_ends_in_one_and_says_partial(tree, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    victim = sorted((copy / "VOCdevkit/VOC2012/JPEGImages").glob("val*.jpg"))[1]
    victim.write_bytes(victim.read_bytes()[:500])
    assert evaluate(copy, tmp_path / "out", "--labels", "image") == 1
    said = capsys.readouterr().err
    assert "PARTIAL 3/4" in said and victim.name in said
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["miou"] is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "damm"], "did you mean"),
        (["--split", "test"], "here are: train, val"),
        (["--threshold", "7"], "from 0 to 1"),
        (["--profile", "nowhere"], "unknown"),
    ],
)
def test_wrong_arguments_end_in_two_with_one_line(tree, tmp_path, capsys, more, said):
    assert evaluate(tree, tmp_path, *more) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0]


def test_one_pass_costs_a_row_an_image_and_is_a_run_of_its_own(tree, tmp_path):
    args = ("--labels", "image", "--threshold", "0.3", "--limit", "2")
    assert evaluate(tree, tmp_path / "own", *args) == 0 and evaluate(tree, tmp_path / "one", *args, "--one-pass", "side") == 0
    own, one = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("own", "one"))
    assert one["unet_calls"] == one["images"] < own["unet_calls"] and (own["one_pass"], one["one_pass"]) == ("none", "side") and one["run"] != own["run"]
    with pytest.raises(ValueError, match="no threshold is known"):
        fixed_threshold("", Job("voc", str(tree), labels="image", one_pass="joint"))
