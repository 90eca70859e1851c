"""`check` says what is ready, and finds every planted fault in a small tree of each layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffseg_lib.cli.main import main
from diffseg_lib.evaluation.preflight import check, check_data, check_models
from diffseg_lib.pocket.layouts import write_layout
from diffseg_lib.profiles import load_profile
from diffseg_lib.support.images import save_labels

LAYOUTS = ("voc", "context", "object")
MASKS = {"voc": "VOCdevkit/VOC2012/SegmentationClass", "context": "VOCdevkit/VOC2010/SegmentationClassContext"}


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "all"
    for name in ("voc", "context"):
        for split in ("train", "val"):
            write_layout(name, split, 4, 5, root / name)
    for split in ("train", "val"):
        write_layout("object", split, 4, 5, root / "own" / "coco")
    return root


@pytest.fixture
def trees(clean, tmp_path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "all"))


def states(found) -> dict[str, str]:
    return {one.what: one.state for one in found}


def test_what_is_whole_is_ready(clean):
    for name, root in (("voc", clean / "voc"), ("context", clean / "context"), ("object", clean / "own" / "coco")):
        found = list(check_data(name, root))
        assert states(found) == {f"{name}, train": "ready", f"{name}, val": "ready"}
        assert all("4 images" in one.detail and "4 read" in one.detail for one in found)
    assert "2 read" in next(iter(check_data("voc", clean / "voc", images=2))).detail


def test_a_folder_is_looked_through_for_data_sets(clean):
    profile = load_profile("pocket")
    assert [one.what for one in check(profile, clean / "own")][3:] == ["object, train", "object, val"]
    assert [one.what for one in check(profile, clean / "voc")][3:] == ["voc, train", "voc, val"]
    [nothing] = check(profile, clean)[3:]
    assert nothing.state == "missing" and "VOCdevkit/VOC2012" in nothing.detail


def first_mask(trees: Path, name: str) -> Path:
    return sorted((trees / name / MASKS[name]).glob("val*"))[0]


def strange_colour(path):
    Image.new("RGB", (128, 128), (1, 2, 3)).save(path)


def another_size(path):
    save_labels(np.zeros((60, 60), np.uint8), path)


def label_too_large(path):
    save_labels(np.full((128, 128), 99, np.uint8), path)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("name", ["voc", "context"])
@pytest.mark.parametrize(
    "plant, said",
    [
        (strange_colour, "colours that are not VOC's"),
        (another_size, "60 x 60"),
        (label_too_large, "another label order"),
        (cut_off, "restore the file"),
        (Path.unlink, "no mask at"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_fault_of_a_mask_is_found(trees, name, plant, said):
    plant(first_mask(trees, name))
    found = {one.what: one for one in check_data(name, trees / name)}
    assert found[f"{name}, train"].state == "ready" and found[f"{name}, val"].state == "wrong" and said in found[f"{name}, val"].detail


def test_counts_that_are_not_the_published_ones_are_found(trees):
    (trees / "voc" / "classes.txt").unlink()
    found = list(check_data("voc", trees / "voc", ["val"]))
    assert found[0].state == "wrong" and "4 images, the published split 1449" in found[0].detail


def test_an_order_of_labels_that_nothing_tells_is_found(trees):
    (trees / "context" / "classes.txt").unlink()
    found = list(check_data("context", trees / "context"))
    assert {one.state for one in found} == {"wrong"} and all("order" in one.detail for one in found)


def instances(trees: Path) -> Path:
    return next((trees / "own" / "coco" / "annotations").glob("*val*.json"))


def test_faults_of_coco_are_found(trees):
    path, root = instances(trees), trees / "own" / "coco"
    content = json.loads(path.read_text())
    picture = next(root.glob(f"val*/{content['images'][0]['file_name']}"))
    picture.unlink()
    [found] = check_data("object", root, ["val"])
    assert found.state == "wrong" and picture.name in found.detail
    content["annotations"][0]["category_id"] = 12345
    path.write_text(json.dumps(content))
    assert "wrong" in {one.state for one in check_data("object", root, ["val"])}
    path.write_text("{")
    assert [one.state for one in check_data("object", root, ["val"])] == ["wrong"]
    path.unlink()
    assert [one.state for one in check_data("object", root, ["val"])] == ["missing"]


def test_many_faults_are_counted_and_some_named(trees, monkeypatch):
    for path in (trees / "voc" / MASKS["voc"]).glob("val*"):
        cut_off(path)
    assert [one.state for one in check_data("voc", trees / "voc", ["val"])] == ["wrong"] * 4
    monkeypatch.setattr("diffseg_lib.evaluation.preflight.SHOWN", 1)
    assert [one.detail for one in check_data("voc", trees / "voc", ["val"])][1:] == ["and 3 more of the 4 images looked at"]


def test_models_are_all_looked_at_in_one_go(family_folders, tmp_path):
    assert {one.state for one in check_models(load_profile("pocket"))} == {"ready"}
    assert [one.state for one in check_models(load_profile("sd15"))] == ["missing"] * 3
    assert all("fetch it once, online" in one.detail for one in check_models(load_profile("sdxl")))
    found = check_models(load_profile(family_folders["sdxl"]))
    assert [one.state for one in found] == ["ready", "missing", "missing"]
    broken = Path(shutil.copytree(family_folders["sd15"], tmp_path / "broken"))
    (broken / "vae" / "config.json").unlink()
    assert check_models(load_profile(broken))[0].state == "missing" and "vae/config.json is missing" in check_models(load_profile(broken))[0].detail


def test_the_command_line_tells_and_exits(clean, capsys):
    assert main(["check", "--data-root", str(clean / "voc")]) == 0
    assert "5 ready, 0 to be seen to" in capsys.readouterr().out
    assert main(["check", "--profile", "sd15", "--data-root", str(clean / "own")]) == 1
    told = capsys.readouterr().out
    assert "2 ready, 3 to be seen to" in told and "object, val" in told
