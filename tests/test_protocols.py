"""Protocols: each choice against figures reckoned by hand, the line that tells them, the commands that print it, and the study that measures their worth."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from diffseg_lib.cli.main import main
from diffseg_lib.evaluation.evaluator import choose_threshold, evaluate_image, image_miou, summarise
from diffseg_lib.evaluation.jobs import Job
from diffseg_lib.evaluation.metrics import (
    Mean,
    best_threshold,
    bootstrap_difference,
    bootstrap_miou,
    bootstrap_unpaired,
    confusion,
    confusions_at,
    count_scores,
    mask_by_truth,
    mean_iou,
    miou,
    void_small,
)
from diffseg_lib.evaluation.protocol import SWEPT, Protocol, protocol
from diffseg_lib.evaluation.run_store import Row
from diffseg_lib.evaluation.thresholds import fixed_threshold
from diffseg_lib.experiments import protocols
from diffseg_lib.experiments.measure import StudyResult, committed_result
from diffseg_lib.experiments.protocols import BASE, BEST, CHOICES, ProtocolResult, ToyScene, compare

# Two pictures of eight pixels; class 3 is in neither, the filter keeps it in the first and misses class 2.
TRUTHS = np.array([[[0, 0, 0, 0, 1, 1, 2, 2]], [[1, 1, 1, 1, 0, 0, 0, 0]]])
SCORES = np.array(
    [
        [[[0.3, 0, 0, 0, 0.9, 0.9, 0, 0]], [[0, 0, 0, 0, 0, 0, 0.9, 0.2]], [[0, 0.8, 0, 0, 0, 0, 0.6, 0]]],
        [[[0.9, 0.9, 0.9, 0.4, 0.4, 0, 0, 0]], [[0] * 8], [[0] * 8]],
    ],
    np.float32,
)
ASKED = {"filter": [(1, 3), (1,)], "true": [(1, 2), (1,)], "all": [(1, 2, 3)] * 2}
GIVEN = Protocol(dataset="tiny", split="val", threshold="given", value=0.5)
BY_HAND = {
    BASE: (7 / 10 + 5 / 6 + 0 + 0) / 4,
    "true_words": (8 / 10 + 5 / 6 + 1 / 2) / 3,
    "all_words": (7 / 10 + 5 / 6 + 1 / 2 + 0) / 4,
    "masked": (8 / 11 + 5 / 6 + 0) / 3,
    "swept": (8 / 11 + 5 / 6 + 0) / 3,  # above .8, where class 3 is not found
    "no_background": (5 / 6 + 0 + 0) / 3,
    "train_split": (7 / 10 + 5 / 6 + 0 + 0) / 4,
    "per_image": ((3 / 5 + 1 + 0 + 0) / 4 + (4 / 5 + 3 / 4) / 2) / 2,
    "void_small": (7 / 9 + 3 / 4 + 0) / 3,
}


def counted(small: float = 0.3) -> dict:
    """Counts of the two pictures by words; where objects below `small` of the picture are void, those of the first are."""
    found: dict = {}
    for words, asked in ASKED.items():
        for truth, scores, labels in zip(TRUTHS, SCORES, asked, strict=True):
            for key, seen in ((words, truth), (f"{words}/void", void_small(truth, small))):
                found.setdefault(key, []).append(count_scores(seen, scores[[one - 1 for one in labels]], labels, 4))
    return found


def test_every_choice_is_worth_what_it_is_by_hand():
    found = compare(GIVEN, dict.fromkeys(("tuning", "test", "train"), counted()), 4)
    assert set(found["rows"]) == {BASE, *CHOICES, BEST}
    for name, value in BY_HAND.items():
        assert found["rows"][name].value == pytest.approx(100 * value), name
        if name != BASE:
            assert found["effects"][f"{name}_minus_{BASE}"].value == pytest.approx(100 * (value - BY_HAND[BASE])), name
    assert found["favourable"] == ("true_words", "masked", "swept", "per_image", "void_small")
    best = found["rows"][BEST].protocol
    assert (best.words, best.masked, best.threshold, best.background, best.per_image, best.void_below) == ("true", True, "swept", True, True, protocols.SMALL)
    assert [one.paired for one in found["effects"].values()] == [name != protocols.TRAIN for name in (*CHOICES, BEST)]
    assert found["rows"]["swept"].protocol.value == pytest.approx(205 / 256) and found["rows"][BASE].protocol.value == 0.5


def test_a_threshold_from_train_is_not_read_off_what_is_measured():
    worse = counted()
    worse["filter"] = [count_scores(TRUTHS[1], SCORES[1][[0]] * 0.25, (1,), 4)] * 2  # asks for a low threshold
    found = compare(Protocol(), {"tuning": worse, "test": counted()}, 4)["rows"]
    assert found[BASE].protocol.value < 0.25 and found["swept"].protocol.value > 0.8
    assert found["true_words"].protocol.value == best_threshold(worse["true"], 4)[0]  # each row's own, from train under its own words


def test_masking_takes_predictions_and_no_truth():
    one = counted()["filter"][0]
    masked = mask_by_truth(one)
    assert confusions_at([masked], 0.5, 4)[0].tolist() == [[4, 0, 0, 0], [0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]
    assert np.array_equal(masked.counts[:, [0, 2, 3]], one.counts[:, [0, 2, 3]])


def test_small_objects_are_those_of_few_connected_pixels():
    truth = np.zeros((10, 10), int)
    truth[0, 0] = truth[1, 1] = truth[9, 9] = 1  # two that touch at a corner, and one
    truth[4:8, 4:8] = 2
    found = void_small(truth, 0.02)
    assert found[9, 9] == 255 and found[0, 0] == found[1, 1] == 1 and (found[4:8, 4:8] == 2).all() and (found == 255).sum() == 1
    assert np.array_equal(void_small(truth, 0.0), truth) and (void_small(truth, 1.0)[truth > 0] == 255).all() and truth[9, 9] == 1


# -- means and intervals


MEANS = [Mean(background, per_image) for background in (True, False) for per_image in (True, False)]


@pytest.mark.parametrize("mean", MEANS)
def test_each_mean_and_its_curve_are_those_of_a_plain_loop(mean):
    from diffseg_lib.evaluation.metrics import threshold_curve

    first = 0 if mean.background else 1
    counts = counted()["filter"]

    def figure(matrices: np.ndarray) -> float:
        def own(matrix: np.ndarray) -> float:
            hit, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
            return 100 * float(np.mean([hit[c] / union[c] for c in range(first, len(matrix)) if union[c]]))

        return float(np.mean([own(one) for one in matrices])) if mean.per_image else own(matrices.sum(0))

    thresholds, values = threshold_curve(counts, 4, mean)
    for i in (0, 64, 128, 200):
        matrices = confusions_at(counts, float(thresholds[i]), 4)
        assert mean_iou(matrices, mean) == pytest.approx(figure(matrices)) == pytest.approx(values[i])


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("images", [40, 140])
def test_intervals_of_each_mean_hold_its_figure(mean, images):
    rng = np.random.default_rng(0)
    matrices = np.stack([confusion(t, np.where(rng.random(64) < 0.8, t, 0), 3) for t in rng.integers(3, size=(images, 64))])
    low, high = bootstrap_miou(matrices, mean=mean)
    assert low < mean_iou(matrices, mean) < high
    assert bootstrap_difference(matrices, matrices, means=(mean, mean)) == pytest.approx((0, 0))
    low, high = bootstrap_difference(matrices, matrices, means=(mean, Mean()))
    assert low - 1e-9 <= mean_iou(matrices, mean) - mean_iou(matrices) <= high + 1e-9


def test_the_slope_of_a_mean_of_images_is_its_derivative():
    from diffseg_lib.evaluation import metrics

    rng = np.random.default_rng(1)
    matrices = np.stack([confusion(t, np.where(rng.random(16) < 0.7, t, 0), 3) for t in rng.integers(3, size=(5, 16))])
    for mean in MEANS:
        weights, step = rng.integers(1, 3, size=(1, 5)).astype(float), 1e-5
        here, *moved = (metrics._weighted_miou(matrices, weights + step * one, mean)[0] for one in (np.zeros(5), *np.eye(5)))
        np.testing.assert_allclose(metrics._slopes(matrices, weights, mean)[0], (np.array(moved) - here) / step, atol=1e-3)


def test_unpaired_images_are_drawn_apart():
    rng = np.random.default_rng(2)
    one, other = (np.stack([confusion(t, np.where(rng.random(32) < 0.7, t, 0), 2) for t in rng.integers(2, size=(n, 32))]) for n in (120, 150))
    low, high = bootstrap_unpaired(one, other)
    assert low < float(miou(one.sum(0)) - miou(other.sum(0))) < high
    assert bootstrap_unpaired(one, one)[0] < -0.5 and bootstrap_difference(one, one) == (0, 0)
    assert bootstrap_unpaired(one[:99], other) is None
    with pytest.raises(ValueError, match="at least one image"):
        bootstrap_unpaired(one[:0], other)


# -- the line


def test_the_line_of_several_runs():
    whole = replace(GIVEN, dataset="voc", images=1449, listed=1449, words="true", masked=True, background=False, per_image=True, void_below=0.05, value=0.25)
    assert whole.line == (
        "voc val, all 1449 images; words: the classes in each image; predictions outside the true classes dropped; threshold .250, given; "
        "mean IoU of each image, averaged; background left out; objects below 5 % of the picture void; "
        "uses the truth: the words, predictions outside the true classes dropped"
    )
    assert replace(whole, words="all", masked=False, threshold="swept").uses_truth == ("the threshold",)
    net = Protocol(dataset="voc", split="train", images=3, words="none", threshold="none", trained_on=True)
    assert net.line.endswith("; uses images it was trained on; uses the truth: nothing") and "threshold" not in net.line
    assert Protocol().line.startswith("data not known, 0 images; words: a filter's choice for each image; threshold fixed on train images")
    with pytest.raises(ValueError, match="words 'truth': expected true, filter"):
        Protocol(words="truth")


def test_the_protocol_of_summaries_new_and_old():
    old = {"dataset": "voc", "split": "val", "labels": "words.json", "images": 2, "split_images": 9, "threshold": 0.3, "threshold_chosen_on": "60 train images"}
    assert protocol(old) == Protocol(dataset="voc", split="val", images=2, listed=9, words="list", threshold="train", value=0.3)
    assert protocol(old, "miou_oracle").threshold == "swept" and protocol(old, "miou_oracle").value is None
    new = old | {"protocol": {"miou": replace(GIVEN, masked=True).facts(), "miou_oracle": replace(GIVEN, threshold="swept").facts()}}
    assert protocol(json.loads(json.dumps(new))) == replace(GIVEN, masked=True) and protocol(new, "miou_oracle").threshold == "swept"
    for wrong, figure in (({"images": 3}, ""), (old, "iou")):
        with pytest.raises(ValueError, match="expected miou or miou_oracle of a summary"):
            protocol(wrong, figure)
    with pytest.raises(ValueError, match="int has no protocol"):
        protocol(3)


def test_the_protocol_of_committed_experiments():
    from diffseg_lib.experiments.benchmark import BenchmarkResult
    from diffseg_lib.experiments.edits import EditResult
    from diffseg_lib.experiments.measure import about
    from diffseg_lib.experiments.network import NetworkResult
    from diffseg_lib.experiments.pseudo import PseudoResult

    run = committed_result("benchmark_voc", "pocket", BenchmarkResult)
    kinds = {row: protocol(run, f"diffsegmenter/{row}").words for row in ("image", "filter", "caption", "clip", "all", "missing", "wrong2")}
    assert kinds == {"image": "true", "filter": "filter", "caption": "filter", "clip": "filter", "all": "all", "missing": "altered", "wrong2": "altered"}
    assert protocol(run, "diffsegmenter/image").value == run.result.rows["diffsegmenter/image"].threshold and protocol(run).split == "val"
    assert protocol(committed_result("pseudo", "pocket", PseudoResult)).split == "train"
    network = committed_result("network", "pocket", NetworkResult)
    assert protocol(network).words == protocol(network).threshold == "none" and protocol(network).line in about(network)
    edits = committed_result("edits", "pocket", EditResult)
    assert "protocol" not in about(edits)
    with pytest.raises(ValueError, match="EditResult has no protocol"):
        protocol(edits)
    with pytest.raises(ValueError, match="no protocol of 'nothing'"):
        protocol(run, "nothing")


# -- evaluate


def test_the_evaluator_reads_kept_rows_in_every_way():
    rows = [Row(f"i{i}", "ok", counted=one) for i, one in enumerate(counted()["filter"])]
    names = ("background", "a", "b", "c")
    for name in ("masked", "no_background", "per_image"):
        turned = replace(GIVEN, **CHOICES[name].changes)
        found = summarise(rows, names, 0.5, 2, turned)
        assert found["miou"] == pytest.approx(100 * BY_HAND[name]) and found["miou_oracle"] >= found["miou"]
        best = choose_threshold(rows, 4, turned)
        assert best == found["threshold_oracle"] and summarise(rows, names, best, 2, turned)["miou"] == found["miou_oracle"]
    assert image_miou(rows[0], 0.5, 4) == pytest.approx(40) and image_miou(rows[0], 0.5, 4, replace(GIVEN, masked=True)) == pytest.approx(100 * (4 / 6 + 1) / 3)


def test_an_image_is_counted_without_its_small_objects(data):
    from diffseg_lib.baselines.base import Prediction

    def method(image, words):
        return Prediction(np.ones((len(words), *image.shape[:2]), np.float32))

    sample = next(one for one in data if one.classes)
    whole, nothing = (evaluate_image(data, method, "image", None, sample.id, void_below=share) for share in (0.0, 1.0))
    assert nothing.present == whole.present and nothing.asked == whole.asked
    assert set(nothing.counted.counts[:, 0]) == {0} and nothing.valid_pixels == int((sample.truth == 0).sum()) < whole.valid_pixels


def evaluated(tree, out, *more):
    return main(["evaluate", "--dataset", "voc", "--root", str(tree), "--limit", "2", "--labels", "image", "--threads", "1", "--out", str(out), *more])


def test_evaluate_prints_the_line_under_every_figure(tree, tmp_path, capsys):
    assert evaluated(tree, tmp_path, "--threshold", ".3") == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "summary.json").read_text())
    printed = [(line, after) for line, after in zip(lines, lines[1:], strict=False) if line.startswith("mIoU")]
    assert [after for _, after in printed] == [f"  protocol: {found['protocol'][key]['line']}" for key in ("miou", "miou_oracle")]
    assert protocol(found).line == found["protocol"]["miou"]["line"] and "2 of 4 images (partial list)" in printed[0][1]
    assert found["protocol"]["miou"]["uses_truth"] == ["the words"] and printed[1][1].endswith("uses the truth: the words, the threshold")
    turned = ["--mask-by-truth", "--mean", "image", "--no-background", "--void-below", "0.02", "--threshold", "oracle"]
    assert evaluated(tree, tmp_path / "turned", *turned) == 0
    out, other = capsys.readouterr().out, json.loads((tmp_path / "turned" / "summary.json").read_text())
    assert out.count("mIoU ") == out.count("protocol: ") == 1 and other["threshold_chosen_on"] == SWEPT and other["run"] != found["run"]
    told = protocol(other)
    assert (told.masked, told.per_image, told.background, told.void_below, told.threshold) == (True, True, False, 0.02, "swept")
    assert other["miou"] == other["miou_oracle"] and told.line in out


def test_a_known_threshold_is_of_the_known_protocol(tree, tmp_path, capsys):
    assert evaluated(tree, tmp_path, "--no-background") == 2
    assert "no threshold is known under --no-background: give --threshold train, or a number" in capsys.readouterr().err
    with pytest.raises(ValueError, match="objects void below 0.1, chosen for 0.0"):
        fixed_threshold("", Job(dataset="voc", root=str(tree), labels="image", void_below=0.1))


def test_a_network_says_that_it_is_measured_on_what_it_was_trained_on(tree, tmp_path, capsys):
    given = ["--root", str(tree), "--iterations", "1", "--batch", "2", "--crop", "48", "--out", str(tmp_path / "net")]
    assert main(["network", "train", *given]) == 0
    capsys.readouterr()
    for split, seen in (("train", 3), ("val", 0)):
        assert main(["network", "test", "--root", str(tree), "--split", split, "--model", str(tmp_path / "net"), "--out", str(tmp_path / "found.json")]) == 0
        out, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
        assert found["images_trained_on"] == seen and found["protocol"]["trained_on"] == bool(seen) and f"  protocol: {found['protocol']['line']}" in out
        assert ("uses images it was trained on: 3 of 3" in out) == bool(seen)
    facts = json.loads((tmp_path / "net" / "model.json").read_text())
    (tmp_path / "net" / "model.json").write_text(json.dumps({key: value for key, value in facts.items() if key != "ids"}))
    assert main(["network", "test", "--root", str(tree), "--model", str(tmp_path / "net")]) == 0
    assert "does not say which images it was trained on" in capsys.readouterr().out


# -- the study


def test_the_study_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    import diffseg_lib.cli.study as runner

    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runner, "build_dir", lambda: tmp_path / "build")
    monkeypatch.setattr(protocols, "PART", 1)
    command = ["study", "protocols", "--images", "2", "--train-images", "1", "--seeds", "0", "--out", str(tmp_path)]
    assert main(command) == 0
    path = tmp_path / "pocket" / "protocols.json"
    first, parts = json.loads(path.read_text()), {one: one.stat().st_mtime_ns for one in (tmp_path / "build").rglob("*.npz")}
    assert len(parts) == 5 and first["result"]["images"] == 2 and len(first["result"]["rows"]) == 2 + len(CHOICES)
    assert f"protocol: {Protocol(**first['result']['rows'][BASE]['protocol']).line}" in capsys.readouterr().out
    path.unlink()
    lost = next(iter(parts))
    lost.unlink()
    assert main(command) == 0
    again = {one: one.stat().st_mtime_ns for one in parts}
    assert json.loads(path.read_text())["result"] == first["result"] and {one for one in parts if parts[one] != again[one]} == {lost}
    run = protocols_of(path)
    assert protocol(run).value == run.result.rows[BASE].protocol.value and protocol(run, "masked").masked
    assert list(protocols.protocols_table(run.result)["mIoU, %"]) and protocols.ranked(run.result)[-1] == f"{BEST}_minus_{BASE}"


def protocols_of(path):
    from diffseg_lib.experiments.measure import read_run

    return read_run(path, ProtocolResult)


def test_the_committed_study_says_what_is_favourable():
    run = committed_result("protocols", "pocket", ProtocolResult)
    result = run.result
    assert result.images >= 100 and set(result.rows) == {BASE, *CHOICES, BEST}
    worth = {name: result.effects[f"{name}_minus_{BASE}"].value for name in CHOICES}
    assert all(worth[name] > 0 for name in result.favourable)
    assert asdict(result.rows[BASE].protocol) == asdict(
        replace(Protocol(), dataset="pocket-voc", split="val", images=result.images, value=result.rows[BASE].protocol.value)
    )
    numbers = protocols.numbers(result)
    named = "; ".join(numbers[f"protocols_{side}"] for side in ("raise", "lower", "neither", "undecided"))
    assert all(result.effects[f"{name}_minus_{BASE}"].label in named for name in CHOICES)
    assert isinstance(result, StudyResult) and list(protocols.protocols_table(result).index)[0] == "base protocol"


# -- the scenes made by hand


def test_the_scenes_pictures_are_those_that_are_counted():
    scenes = protocols.toy_scenes()
    panels = {one.title.split("\n")[0]: one for one in protocols.toy_panels()}
    base = panels["base protocol"]
    assert len(panels) == len(CHOICES) + 2  # the truth, the base, all that raise it; the split cannot be shown
    plain = Protocol(threshold="given", value=protocols.TOY_THRESHOLD)
    for name in (BASE, "true_words", "masked"):
        turned, title = replace(plain, **(CHOICES[name].changes if name != BASE else {})), protocols.LABELS[name]
        matrices = np.stack([confusion(one.truth, protocols.toy_labels(one, turned), len(protocols.TOY_NAMES)) for one in scenes])
        assert panels[title].value == pytest.approx(mean_iou(matrices)) and f"\n{mean_iou(matrices):.1f}" in panels[title].title
    assert all(one.value != pytest.approx(base.value) for title, one in panels.items() if title != "base protocol")
    assert isinstance(scenes[0], ToyScene) and base.labels.shape == (24, 74)
