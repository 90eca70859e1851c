"""Files of frozen labels: both forms, every spelling that circulates, and every fault told before an image is computed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffseg_lib.cli.main import main
from diffseg_lib.data import CONTEXT, CONTEXT_ORIGINAL, VOC, prompt_words
from diffseg_lib.data.names import SPELLINGS
from diffseg_lib.evaluation.evaluator import requested_labels
from diffseg_lib.evaluation.jobs import Job, run_job
from diffseg_lib.evaluation.labels import check_coverage, class_places, dictionaries_of, frozen_labels, read_labels, word_key
from diffseg_lib.evaluation.run_store import open_run
from diffseg_lib.support.words import lemma, plural

COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, "
    "sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, "
    "baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
    "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, "
    "oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
).split(", ")
SETS = {"voc": VOC, "context": CONTEXT, "original": CONTEXT_ORIGINAL, "coco": COCO}
# Words that differ from the class's name in the lists of classes of the released code, by data set.
RELEASED = {
    "voc": {"plane": "aeroplane", "buses": "bus", "table": "diningtable", "people": "person", "plant": "pottedplant", "monitor": "tvmonitor"},
    "context": {"airplane": "aeroplane", "plant": "pottedplant", "monitor": "tvmonitor"},
    "coco": {
        "motorbike": "motorcycle",
        "aeroplane": "airplane",
        "sofa": "couch",
        "pottedplant": "potted plant",
        "diningtable": "dining table",
        "tvmonitor": "tv",
        "toothbrus": "toothbrush",
    },
}


def released(data) -> dict[str, dict[str, list[str]]]:
    """A file as the released code has them: paths of images, words in the plural; the true labels are the union of the first two."""
    truths = {f"/data/VOCdevkit/VOC2012/JPEGImages/{name}.jpg": [plural(one) for one in data.load(name).classes] for name in data.ids}
    return {
        "synonym_matching": {path: [] for path in truths},
        "image_similarity": {path: words[1:] for path, words in truths.items()},
        "text_similarity": {path: words[:1] for path, words in truths.items()},
    }


def written(path: Path, content: object) -> str:
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    return str(path)


# -- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_name_its_prompt_and_their_plurals_are_one_class(name):
    names = ("background", *SETS[name])
    places = class_places(names, prompt_words(names))
    assert len({word_key(one) for one in names}) == len(names)
    for place, (one, word) in enumerate(zip(names[1:], prompt_words(names), strict=True), start=1):
        assert places[word_key(one)] == places[word_key(word)] == places[word_key(one.upper())] == place
        assert one != lemma(one) or places[word_key(plural(word))] == place  # some are in the plural: skis, shelves


@pytest.mark.parametrize(("name", "word", "meant"), [(name, word, meant) for name, words in RELEASED.items() for word, meant in words.items()])
def test_the_released_codes_words_are_understood(name, word, meant):
    names = ("background", *SETS[name])
    assert names[class_places(names, prompt_words(names))[word_key(word)]] == meant


def test_other_spellings_are_of_one_class_and_no_class_of_a_set_has_two():
    assert len({word_key(one) for spellings in SPELLINGS for one in spellings}) == sum(map(len, SPELLINGS))
    for keys in ({word_key(name) for name in names} for names in SETS.values()):
        assert all(sum(word_key(one) in keys for one in spellings) <= 1 for spellings in SPELLINGS)


# -- files ---------------------------------------------------------------------------------------


def test_the_released_files_are_read_as_they_are(data, tmp_path):
    content = released(data)
    path = written(tmp_path / "released.json", content)
    assert check_coverage(data, path) == len(data) and dictionaries_of(path) == ("image_similarity", "text_similarity")
    for sample in data:
        true = requested_labels(data, sample, "image")[0]
        assert requested_labels(data, sample, path)[0] == true == frozen_labels(data, sample.id, path, ("text_similarity", "image_similarity"))
        assert {data.names[i] for i in frozen_labels(data, sample.id, path, ("text_similarity",))} == set(sample.classes[:1])
        assert frozen_labels(data, sample.id, path, ("synonym_matching",)) == ()


def test_the_plain_form_goes_on(data, tmp_path):
    path = written(tmp_path / "plain.json", {name: list(data.load(name).classes) for name in data.ids})
    assert check_coverage(data, path) == len(data) and dictionaries_of(path) == ()
    assert all(requested_labels(data, sample, path) == requested_labels(data, sample, "image") for sample in data)


def test_cocos_names_of_2014_are_those_of_2017(data, tmp_path):
    path = written(tmp_path / "coco.json", {"COCO_val2014_000000000042.jpg": ["house"]})
    assert read_labels(path) == {"000000000042": ("house",)}
    for name in ("COCO_val2014_000000000042", "000000000042"):
        assert check_coverage(replace(data, ids=(name,)), path) == 1


FIRST, SECOND = "image_similarity", "text_similarity"


@pytest.mark.parametrize(
    ("change", "labels_from", "said"),
    [
        (lambda c, ids: c, ("clip",), "no dictionary 'clip', it has synonym_matching, image_similarity, text_similarity: choose among these by --labels-from"),
        (lambda c, ids: {"mine": c[FIRST]}, (), "no dictionary 'image_similarity', it has mine"),
        (lambda c, ids: c[FIRST], (FIRST,), "maps images to names directly, .*leave --labels-from out"),
        (lambda c, ids: c | {FIRST: {}}, (), r"no entry for 4 of the 4 images of \S*voc val \(val5_000000, .*\), it has 0: give a file of this split"),
        (lambda c, ids: {k: {p: w for p, w in v.items() if ids[2] not in p} for k, v in c.items()}, (), "no entry for 1 of the 4 images .*val5_000002"),
        (lambda c, ids: c | {FIRST: c[FIRST] | {f"{ids[1]}.png": []}}, (), "two entries of image val5_000001"),
        (lambda c, ids: c | {FIRST: c[FIRST] | {"more": "house"}}, (), "'more' has 'house'.*expected a JSON object"),
        (
            lambda c, ids: c | {SECOND: {p: ["hosue", "fish"] for p in c[SECOND]}},
            (),
            r"1 words that are no class of \S*voc: 'hosue' of image .*did you mean house",
        ),
        (lambda c, ids: [c], (), "it is a list"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_was_found(data, tmp_path, change, labels_from, said):
    path = written(tmp_path / "wrong.json", change(released(data), data.ids))
    with pytest.raises(ValueError, match=said):
        check_coverage(data, path, labels_from)


def test_numbers_are_labels_of_classes(data, tmp_path):
    places = {name: [data.names.index(one) for one in data.load(name).classes] for name in data.ids}
    path = written(tmp_path / "numbers.json", {name: [numbers[0], *map(str, numbers[1:])] if numbers else [] for name, numbers in places.items()})
    assert check_coverage(data, path) == len(data)
    assert all(frozen_labels(data, name, path) == tuple(sorted(numbers)) for name, numbers in places.items())


@pytest.mark.parametrize("number", [0, 17, -1])
def test_a_number_that_is_no_class_is_told_with_its_likely_cause(data, tmp_path, number):
    path = written(tmp_path / "numbers.json", {name: [number] for name in data.ids})
    said = f"'{number}'.*expected a name, or a number from 1 to 16, since 0 is the background: raise numbers that count classes from 0 by one"
    with pytest.raises(ValueError, match=said):
        check_coverage(data, path)
    with pytest.raises(ValueError, match=said):
        frozen_labels(data, data.ids[0], path)


@pytest.mark.parametrize("wrong", [1.5, True, None, ["house"]])
def test_what_is_neither_a_name_nor_a_number_is_refused(data, tmp_path, wrong):
    path = written(tmp_path / "wrong.json", {name: [wrong] for name in data.ids})
    with pytest.raises(ValueError, match="lists of class names or numbers"):
        check_coverage(data, path)


def test_only_a_file_has_dictionaries(data):
    assert check_coverage(data, "filter") == 0
    with pytest.raises(ValueError, match="labels 'filter' are from no file.*leave --labels-from out"):
        check_coverage(data, "filter", ["image_similarity"])


# -- from the command line -----------------------------------------------------------------------


def test_evaluate_reads_them_and_knows_a_run_by_what_was_chosen(tree, data, tmp_path):
    path = written(tmp_path / "released.json", released(data))
    common = ["evaluate", "--dataset", "voc", "--root", str(tree), "--threshold", ".3", "--threads", "1"]
    found = {}
    for name, more in {
        "image": ["--labels", "image"],
        "default": ["--labels", path],
        "both": ["--labels", path, "--labels-from", "text_similarity", "image_similarity"],
        "one": ["--labels", path, "--labels-from", "text_similarity"],
    }.items():
        assert main([*common, *more, "--out", str(tmp_path / name)]) == 0
        found[name] = json.loads((tmp_path / name / "summary.json").read_text())
    assert found["image"]["confusion"] == found["default"]["confusion"] == found["both"]["confusion"] != found["one"]["confusion"]
    assert found["default"]["run"] == found["both"]["run"] and len({one["run"] for one in found.values()}) == 3
    assert found["default"]["labels_from"] == ["image_similarity", "text_similarity"] and found["one"]["labels_from"] == ["text_similarity"]


@pytest.mark.parametrize("more", [["--threshold", ".3"], ["--threshold", "train"], ["--threshold", ".3", "--limit", "2"]])
def test_a_file_that_lacks_images_stops_before_any_is_computed(tree, data, tmp_path, capsys, more):
    content = {key: dict(list(one.items())[: 1 if "--limit" in more else 3 if ".3" in more else 4]) for key, one in released(data).items()}
    path = written(tmp_path / "short.json", content)
    common = ["--dataset", "voc", "--labels", path]
    assert main(["evaluate", *common, "--root", str(tree), "--threads", "1", "--out", str(tmp_path / "out"), *more]) == 2
    said = "no entry for 3 of the 3 images" if "train" in more else f"no entry for 1 of the {2 if '--limit' in more else 4} images"
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="no entry for"):
        run_job(Job("voc", str(tree), split="train", labels=path), open_run(tmp_path / "runs", {}))
    split = ["--split", "train"] if "train" in more else []
    assert main(["check", "--data-root", str(tree), *common, *split]) == 1
    assert f"voc, labels of {'train' if split else 'val'}" in (told := capsys.readouterr().out) and "no entry for" in told


def test_check_says_that_a_file_fits(tree, data, tmp_path, capsys):
    path = written(tmp_path / "released.json", released(data))
    assert main(["check", "--data-root", str(tree), "--labels", path]) == 0
    assert f"4 images have labels in {path}" in capsys.readouterr().out
    assert main(["check", "--data-root", str(tree), "--labels", path, "--labels-from", "clip"]) == 1
    assert "no dictionary 'clip'" in capsys.readouterr().out
    assert main(["check", "--labels", path]) == 1
    assert "--data-root" in capsys.readouterr().out
