"""The pocket world on disk: each layout read back by readers that know nothing of this library."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from diffseg_lib.cli.main import main
from diffseg_lib.pocket.layouts import MOST, write_layout
from diffseg_lib.pocket.scenes import CONTEXT_NAMES, VOC_NAMES, voc_samples, voc_truth
from diffseg_lib.pocket.world import CLASS_NAMES, GROUND_NAMES, GROUND_OFFSET, compose, describe, paint, trace, trace_instances

N, SEED = 12, 20261122
LAYOUTS = ["voc", "context", "object"]


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """One tree a layout: N scenes of val, then three of test."""
    top = tmp_path_factory.mktemp("with a space")
    for layout in LAYOUTS:
        write_layout(layout, "val", N, SEED, top / layout, captions=True)
        write_layout(layout, "test", 3, SEED, top / layout)
    return {layout: top / layout for layout in LAYOUTS}


def digests(tree: Path) -> dict[str, str]:
    return {str(p.relative_to(tree)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(tree.rglob("*")) if p.is_file()}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def difference(path: Path, picture: np.ndarray) -> float:
    """Mean absolute difference of a written picture, grey levels; other scenes differ by 20 and more."""
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert get_sampling(image) == 0  # 4:4:4
        return float(np.abs(np.asarray(image).astype(int) - picture).mean())


def indices(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        return np.array(image)


# -- Pocket-VOC ----------------------------------------------------------------------------------


def test_voc_holds_what_it_lists(trees):
    root = trees["voc"] / "VOCdevkit" / "VOC2012"
    val, test = (lines(root / "ImageSets" / "Segmentation" / f"{split}.txt") for split in ("val", "test"))
    assert len(val) == N and len(test) == 3 and len({*val, *test}) == N + 3
    assert {p.stem for p in (root / "JPEGImages").iterdir()} == {p.stem for p in (root / "SegmentationClass").iterdir()} == {*val, *test}
    assert lines(trees["voc"] / "classes.txt") == ["background", *CLASS_NAMES] == list(VOC_NAMES)


def test_voc_pictures_and_labels_are_the_scenes(trees):
    root = trees["voc"] / "VOCdevkit" / "VOC2012"
    for i, name in enumerate(lines(root / "ImageSets" / "Segmentation" / "val.txt")):
        scene = compose("val", i, SEED)
        assert difference(root / "JPEGImages" / f"{name}.jpg", paint(scene)) < 4
        labels, exact = indices(root / "SegmentationClass" / f"{name}.png"), trace(scene)
        seen = labels != 255
        assert (labels[seen] == np.where(exact < GROUND_OFFSET, exact, 0)[seen]).all()
        assert {*np.unique(labels)} == {0, 255, *(CLASS_NAMES.index(c) + 1 for c in scene.classes)}


def test_void_rims_are_one_pixel_to_each_side_of_an_edge():
    for i in range(4):
        scene = compose("val", i)
        exact, truth = trace(scene), voc_truth(scene)
        exact[exact >= GROUND_OFFSET] = 0
        for y in range(scene.size):
            for x in range(scene.size):
                around = exact[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                assert truth[y, x] == (255 if (around != exact[y, x]).any() else exact[y, x])


def test_the_palette_is_voc_s(trees):
    root = trees["voc"] / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    with Image.open(next(root.iterdir())) as image:
        palette = np.array(image.getpalette()).reshape(-1, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {i: tuple(palette[i].tolist()) for i in known} == known


def test_samples_in_memory_are_those_on_disk(trees):
    root = trees["voc"] / "VOCdevkit" / "VOC2012"
    samples = list(voc_samples("val", N, SEED))
    assert [s.id for s in samples] == lines(root / "ImageSets" / "Segmentation" / "val.txt")
    for sample in samples:
        assert (sample.truth == indices(root / "SegmentationClass" / f"{sample.id}.png")).all()
        assert difference(root / "JPEGImages" / f"{sample.id}.jpg", sample.image) < 4
        assert {VOC_NAMES[i] for i in np.unique(sample.truth) if 0 < i < 255} == set(sample.classes)


# -- Pocket-Context ------------------------------------------------------------------------------


def test_context_labels_are_exact_and_without_void(trees):
    root = trees["context"] / "VOCdevkit" / "VOC2010"
    assert lines(trees["context"] / "classes.txt") == ["background", *CLASS_NAMES, *GROUND_NAMES] == list(CONTEXT_NAMES)
    names = lines(root / "ImageSets" / "SegmentationContext" / "val.txt")
    assert len(names) == N and {p.stem for p in (root / "JPEGImages").iterdir()} > set(names)
    for i, name in enumerate(names):
        scene = compose("val", i, SEED)
        labels = indices(root / "SegmentationClassContext" / f"{name}.png")
        assert (labels == trace(scene)).all() and not np.isin(labels, (0, 255)).any()
        assert {CONTEXT_NAMES[k] for k in np.unique(labels)} >= set(scene.classes)
        assert difference(root / "JPEGImages" / f"{name}.jpg", paint(scene)) < 4


# -- Pocket-Object -------------------------------------------------------------------------------


def load_coco(tree: Path, split: str):
    coco = pytest.importorskip("pycocotools.coco")
    return coco.COCO(str(tree / "annotations" / f"instances_{split}2017.json"))


def test_object_instances_are_what_is_visible(trees):
    coco = load_coco(trees["object"], "val")
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == dict(enumerate(CLASS_NAMES, start=1))
    assert len(coco.getImgIds()) == N
    for i, number in enumerate(sorted(coco.getImgIds())):
        scene, (image,) = compose("val", i, SEED), coco.loadImgs(number)
        assert (image["height"], image["width"]) == (128, 128)
        assert difference(trees["object"] / "val2017" / image["file_name"], paint(scene)) < 4
        instances, annotations = trace_instances(scene), coco.loadAnns(coco.getAnnIds(number))
        assert len(annotations) == len(scene.objects)
        for k, annotation in enumerate(sorted(annotations, key=lambda a: a["id"]), start=1):
            mask = coco.annToMask(annotation).astype(bool)
            rows, columns = np.nonzero(mask)
            assert (mask == (instances == k)).all()
            assert annotation["category_id"] == scene.objects[k - 1].kind + 1 and annotation["iscrowd"] == 0
            assert annotation["area"] == mask.sum()
            box = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
            assert annotation["bbox"] == box


def test_object_ids_are_unique_over_splits(trees):
    val, test = load_coco(trees["object"], "val"), load_coco(trees["object"], "test")
    assert not {*val.getImgIds()} & {*test.getImgIds()} and not {*val.getAnnIds()} & {*test.getAnnIds()}
    assert len(set(val.getAnnIds())) == sum(len(compose("val", i, SEED).objects) for i in range(N))
    assert min(test.getImgIds()) == 2 * MOST + 1


def test_an_image_of_object_and_voc_show_the_same_labels(trees):
    """The category map that readers of COCO make of instances is Pocket-VOC's, rims aside."""
    coco, root = load_coco(trees["object"], "val"), trees["voc"] / "VOCdevkit" / "VOC2012"
    for number, name in zip(sorted(coco.getImgIds()), lines(root / "ImageSets" / "Segmentation" / "val.txt"), strict=True):
        labels = np.zeros((128, 128), int)
        for annotation in coco.loadAnns(coco.getAnnIds(number)):
            labels[coco.annToMask(annotation) > 0] = annotation["category_id"]
        truth = indices(root / "SegmentationClass" / f"{name}.png")
        assert (labels == truth)[truth != 255].all()


# -- captions, repeats, refusals -----------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_go_with_their_pictures(trees, layout):
    rows = list(csv.DictReader((trees[layout] / "captions_val.csv").open(newline="")))
    assert not (trees[layout] / "captions_test.csv").exists()
    pictures = {p.stem for p in trees[layout].rglob("*.jpg")}
    assert len(rows) == N and {row["id"] for row in rows} < pictures
    for i, row in enumerate(rows):
        scene = compose("val", i, SEED)
        assert (row["caption"], row["variant"]) == (describe(scene), describe(scene, 0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_arguments_write_the_same_bytes(trees, layout, tmp_path):
    for _ in range(2):  # into a new folder, then over itself; splits in the other order
        write_layout(layout, "test", 3, SEED, tmp_path / "again")
        write_layout(layout, "val", N, SEED, tmp_path / "again", captions=True)
        assert digests(tmp_path / "again") == digests(trees[layout])


def test_many_scenes_are_written_by_several_processes_alike(tmp_path):
    write_layout("voc", "val", 501, 5, tmp_path / "many")
    write_layout("voc", "val", 4, 5, tmp_path / "few")
    many, few = digests(tmp_path / "many"), digests(tmp_path / "few")
    pictures = [name for name in few if "JPEGImages" in name or "SegmentationClass" in name]
    assert len(pictures) == 8 and all(many[name] == few[name] for name in pictures)
    assert len(lines(tmp_path / "many/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt")) == 501


def test_a_run_cut_short_leaves_no_list_and_is_finished_by_the_same_command(tmp_path, monkeypatch):
    from diffseg_lib.pocket import layouts

    def fails_at_the_third(scene, path, draw=layouts._save_picture):
        if path.stem.endswith("2"):
            raise KeyboardInterrupt
        draw(scene, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(layouts, "_save_picture", fails_at_the_third)
        write_layout("voc", "val", 4, SEED, tmp_path / "tree")
    assert len(list(tmp_path.rglob("*.jpg"))) == 2 and not list(tmp_path.rglob("val.txt"))
    with pytest.raises(ValueError, match="already holds"):
        write_layout("voc", "val", 5, SEED, tmp_path / "tree")
    write_layout("voc", "val", 4, SEED, tmp_path / "tree")
    write_layout("voc", "val", 4, SEED, tmp_path / "whole")
    assert digests(tmp_path / "tree") == digests(tmp_path / "whole")


@pytest.mark.parametrize(
    ("layout", "split", "n", "seed"),
    [("context", "val", N, SEED), ("voc", "val", N + 1, SEED), ("voc", "val", N, SEED + 1), ("object", "test", 3, SEED)],
)
def test_trees_are_never_mixed(trees, layout, split, n, seed):
    before = digests(trees["voc"])
    with pytest.raises(ValueError, match=r"already holds layout voc, .*val \(12 scenes, seed 20261122\).*another folder"):
        write_layout(layout, split, n, seed, trees["voc"])
    assert digests(trees["voc"]) == before


@pytest.mark.parametrize("content", ["notes.txt", "pocket.json"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / content).write_text("[1, 2]")
    with pytest.raises(ValueError, match="not written by this command.*new folder"):
        write_layout("voc", "val", 1, 0, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [content]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("coco", "val", 1, 0), "unknown layout 'coco': expected voc, context, object"),
        (("voc", "trainaug", 1, 0), "unknown split 'trainaug': expected train, val, test"),
        (("voc", "val", 0, 0), "n 0 .*expected 1 to"),
        (("voc", "val", -3, 0), "n -3"),
        (("voc", "val", 1, -1), "seed -1"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_layout(*arguments, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        write_layout("voc", "val", 1, 0, tmp_path / "out")


# -- the cache -----------------------------------------------------------------------------------


def test_a_tree_of_the_cache_is_written_once_and_whole(tmp_path, monkeypatch):
    from diffseg_lib.pocket import layouts

    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    root = layouts.ensure_layout("context", "val", 2, SEED)
    write_layout("context", "val", 2, SEED, tmp_path / "direct")
    assert tmp_path in root.parents and digests(root) == digests(tmp_path / "direct")
    assert list(root.parent.iterdir()) == [root]
    with monkeypatch.context() as patch:
        patch.setattr(layouts, "write_layout", lambda *_: pytest.fail("written again"))
        assert layouts.ensure_layout("context", "val", 2, SEED) == root
    others = {layouts.ensure_layout(*a) for a in [("voc", "val", 2, SEED), ("context", "test", 2, SEED), ("context", "val", 3, SEED), ("context", "val", 2)]}
    assert len(others | {root}) == 5


def test_a_tree_of_the_cache_cut_short_is_not_taken_for_one(tmp_path, monkeypatch):
    from diffseg_lib.pocket import layouts

    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(layouts, "_list", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        layouts.ensure_layout("voc", "val", 1, SEED)
    assert not list((tmp_path / "layouts").iterdir())
    assert len(list(layouts.ensure_layout("voc", "val", 1, SEED).rglob("*.jpg"))) == 1


def test_of_two_that_write_a_tree_of_the_cache_the_first_wins(tmp_path, monkeypatch):
    from diffseg_lib.pocket import layouts

    def and_another_is_quicker(layout, split, n, seed, out):
        write_layout(layout, split, n, seed, out)
        write_layout(layout, split, n, seed, out.parent / f"{layout}-{split}-seed{seed}-{n}-{layouts.renderer()}")

    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    monkeypatch.setattr(layouts, "write_layout", and_another_is_quicker)
    root = layouts.ensure_layout("voc", "val", 1, SEED)
    assert list(root.parent.iterdir()) == [root] and len(list(root.rglob("*.jpg"))) == 1


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    from diffseg_lib.pocket import layouts

    (tmp_path / "layouts").write_text("")
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="layouts"):
        layouts.ensure_layout("voc", "val", 1, SEED)


# -- the command ---------------------------------------------------------------------------------


def test_the_command_writes_a_tree(trees, tmp_path):
    out = tmp_path / "a tree"
    command = [sys.executable, "-m", "diffseg_lib.pocket", "write", "--layout", "voc", "--split", "val", "--n", str(N), "--seed", str(SEED)]
    ran = subprocess.run([*command, "--out", str(out), "--captions"], capture_output=True, text=True, check=True)
    assert f"{N} scenes" in ran.stdout and ran.stderr == ""
    written, expected = digests(out), digests(trees["voc"])
    assert json.loads((out / "pocket.json").read_text()) == {"layout": "voc", "splits": {"val": [N, SEED]}}
    assert {name: expected[name] for name in written if name != "pocket.json"} == {k: v for k, v in written.items() if k != "pocket.json"}


@pytest.mark.parametrize("wrong", [["--n", "0"], ["--seed", "-1"]])
def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys, wrong):
    assert main(["pocket", "write", "--layout", "voc", "--out", str(tmp_path / "out"), *wrong]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_the_command_reports_a_place_it_cannot_write_to(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["pocket", "write", "--layout", "voc", "--n", "1", "--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("wrong", [["--layout", "cityscapes"], ["--layout", "voc", "--split", "minival"], ["--layout", "voc", "--n", "many"]])
def test_the_command_refuses_unknown_choices(tmp_path, capsys, wrong):
    with pytest.raises(SystemExit) as ended:
        main(["pocket", "write", "--out", str(tmp_path / "out"), *wrong])
    assert ended.value.code == 2 and wrong[-1] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
