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
        assert states(found) == {f"{name}, train": "ready", f"{name}, val": "ready"} | ({"voc, trainaug": "missing"} if name == "voc" else {})
        assert all("4 images" in one.detail and "4 read" in one.detail for one in found if one.state == "ready")
    assert "2 read" in next(iter(check_data("voc", clean / "voc", images=2))).detail


def test_a_folder_is_looked_through_for_data_sets(clean):
    profile = load_profile("pocket")
    assert [one.what for one in check(profile, clean / "own")][3:] == ["object, train", "object, val"]
    assert [one.what for one in check(profile, clean / "voc")][3:] == ["voc, train", "voc, val", "voc, trainaug"]
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


def test_every_split_that_a_command_can_name_is_looked_at(trees, capsys):
    place = trees / "voc" / "VOCdevkit" / "VOC2012"
    lists, check = place / "ImageSets" / "Segmentation", ["check", "--data-root", str(trees / "voc")]
    assert main(check) == 0 and "voc, trainaug" in capsys.readouterr().out  # told as missing, and nothing needs doing
    (lists / "trainaug.txt").write_text((lists / "train.txt").read_text() + "a b\n")
    found = {one.what: one for one in check_data("voc", trees / "voc")}
    assert found["voc, trainaug"].state == "wrong" and "line 5, is 'a b'" in found["voc, trainaug"].detail and main(check) == 1
    (lists / "trainaug.txt").write_text((lists / "train.txt").read_text())
    assert states(check_data("voc", trees / "voc"))["voc, trainaug"] == "wrong"  # no augmented masks
    shutil.copytree(place / "SegmentationClass", place / "SegmentationClassAug")
    assert states(check_data("voc", trees / "voc"))["voc, trainaug"] == "ready"
    (lists / "train.txt").unlink()
    assert states(check_data("voc", trees / "voc"))["voc, train"] == "missing" and main(check) == 1
    assert next(check_data("voc", trees / "voc", ["trainaug"])).pending is False


def test_a_list_of_either_published_length_is_whole(trees, monkeypatch):
    (trees / "voc" / "classes.txt").unlink()
    monkeypatch.setattr("diffseg_lib.data.voc.SPLIT_SIZES", {("voc", "val"): (5, 4), ("voc", "train"): (6, 5)})
    train, val, _ = check_data("voc", trees / "voc")
    assert val.state == "ready" and train.state == "wrong" and "4 images, the published split 6 or 5: restore" in train.detail


def test_an_order_of_labels_reaches_every_command(trees, tmp_path, monkeypatch, capsys):
    """A tree of Context that does not tell its order: every command asks for it, and reads the labels in the order given."""
    from diffseg_lib.applications import deeplab, pseudo_labels
    from diffseg_lib.data import CONTEXT, CONTEXT_ORIGINAL
    from diffseg_lib.evaluation import sources
    from diffseg_lib.experiments import benchmark

    root, out = trees / "context", str(tmp_path / "out")
    (root / "classes.txt").unlink()
    opened, orders = [], {"alphabetical": CONTEXT, "original": CONTEXT_ORIGINAL}

    def spy(*args, inner=sources.open_dataset, **options):
        opened.append(inner(*args, **options))
        return opened[-1]

    def stop(*args, **options):
        raise ValueError("far enough")

    for module in ("evaluation.sources", "evaluation.preflight", "evaluation.jobs"):
        monkeypatch.setattr(f"diffseg_lib.{module}.open_dataset", spy)
    for module, name in ((pseudo_labels, "write_masks"), (deeplab, "train"), (deeplab, "confusions"), (benchmark, "count_attention")):
        monkeypatch.setattr(module, name, stop)
    monkeypatch.setattr("diffseg_lib.evaluation.jobs.run_job", stop)
    data = ["--dataset", "context", "--root", str(root)]
    commands = {
        "check": ["check", "--data-root", str(root), "--dataset", "context"],
        "evaluate": ["evaluate", *data, "--labels", "image", "--threshold", ".3", "--threads", "1", "--out", out],
        "pseudo": ["pseudo", *data, "--out", out],
        "train": ["network", "train", *data, "--out", out],
        "test": ["network", "test", *data, "--model", out],
        "study": ["study", "benchmark_context", "--context", str(root), "--images", "2", "--train-images", "2", "--rivals", "--out", out],
    }
    for order, names in orders.items():
        monkeypatch.setattr(deeplab, "load", lambda *args, names=names: (None, {"names": ["background", *names]}))
        for name, command in commands.items():
            opened.clear()
            assert main(command) == (1 if name == "check" else 2)
            told = capsys.readouterr()
            assert not opened and "two label orders share this layout" in told.out + told.err, name
            main([*command, "--order", order])
            told = capsys.readouterr()
            assert opened and {one.names[1:] for one in opened} == {tuple(names)} and "two label orders" not in told.out + told.err, name
            assert name == "check" or "far enough" in told.err, (name, told.err)


def test_an_order_of_labels_reaches_a_chapter(trees, capsys):
    from diffseg_lib.book.chapter import open_chapter
    from diffseg_lib.data import CONTEXT_ORIGINAL

    (trees / "context" / "classes.txt").unlink()
    parameters = {"profile": "pocket", "data_root": str(trees / "context")}
    with pytest.raises(FileNotFoundError, match="two label orders"):
        open_chapter("some", parameters, datasets=["context"])
    chapter = open_chapter("some", parameters | {"order": "original"}, datasets=["context"])
    assert chapter.data("context", "train").names[1:] == tuple(CONTEXT_ORIGINAL)


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
