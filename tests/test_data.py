"""Readers: pocket trees come back exactly, real layouts are read as they are, and every fault says what it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from diffseg_lib.data import CONTEXT, CONTEXT_ORIGINAL, VOC, DataError, LabelError, decode_colours, read_mask, read_picture
from diffseg_lib.data.names import SPLIT_SIZES
from diffseg_lib.evaluation.sources import open_dataset, open_splits
from diffseg_lib.pocket.layouts import ensure_layout, write_layout
from diffseg_lib.pocket.scenes import voc_truth
from diffseg_lib.pocket.world import GROUND_OFFSET, compose, paint, trace
from diffseg_lib.support.images import save_labels, voc_colours

TRUTHS = {"voc": voc_truth, "context": trace, "object": lambda scene: np.where(trace(scene) >= GROUND_OFFSET, 0, trace(scene))}
PIXELS = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)


# -- pocket trees --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", TRUTHS)
def test_pocket_trees_round_trip(layout, tmp_path):
    write_layout(layout, "val", 4, 3, tmp_path / "tree")
    data = open_dataset(layout, tmp_path / "tree", "val")
    assert len(data) == data.expected == 4 and data.names[:2] == ("background", "house") and data.prompts == data.names[1:]
    for index, sample in enumerate(data):
        scene = compose("val", index, 3)
        assert np.array_equal(sample.truth, TRUTHS[layout](scene))
        assert np.abs(sample.image.astype(int) - paint(scene)).mean() < 4
        assert set(scene.classes) <= set(sample.classes) <= {*scene.classes, *scene.grounds}


def test_without_a_root_the_pocket_tree_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    first = open_dataset("voc", "", "train", 3)
    stamp = (ensure_layout("voc", "train", 3) / "pocket.json").stat().st_mtime_ns
    again = open_dataset("voc", "", "train", 3)
    assert first.ids == again.ids and (ensure_layout("voc", "train", 3) / "pocket.json").stat().st_mtime_ns == stamp
    assert first.fingerprint() == again.fingerprint() != open_dataset("voc", "", "train", 2).fingerprint()


def test_a_fingerprint_tells_splits_names_and_ids_apart(tmp_path):
    for split, seed in (("val", 0), ("test", 0)):
        write_layout("voc", split, 3, seed, tmp_path / "tree")
    val = open_dataset("voc", tmp_path / "tree")
    seen = [val.fingerprint(), open_dataset("voc", tmp_path / "tree", "test").fingerprint(), open_dataset("voc", tmp_path / "tree", limit=2).fingerprint()]
    classes = tmp_path / "tree" / "classes.txt"
    classes.write_text(classes.read_text().replace("house", "barn"))
    assert len({*seen, open_dataset("voc", tmp_path / "tree").fingerprint()}) == 4
    classes.write_text(classes.read_text().replace("barn", "house"))
    moved = (tmp_path / "tree").rename(tmp_path / "elsewhere")
    assert open_dataset("voc", moved).fingerprint() == seen[0]


def test_the_pocket_worlds_trees_say_whose_they_are(tmp_path):
    for name in TRUTHS:
        assert open_dataset(name, "", "train", 1).name == open_dataset(f"pocket-{name}", "pocket", "train", 1).name == f"pocket-{name}"
    write_layout("voc", "val", 1, 0, tmp_path / "tree")
    assert open_dataset("voc", tmp_path / "tree" / "VOCdevkit" / "VOC2012").name == "pocket-voc"
    (tmp_path / "tree" / "pocket.json").unlink()
    assert open_dataset("voc", tmp_path / "tree").name == "voc"  # a tree of somebody's own
    with pytest.raises(ValueError, match="lies in no folder"):
        open_dataset("pocket-voc", tmp_path / "tree")


def test_no_image_is_tuned_on_and_measured(tmp_path):
    tuning, measured = open_splits("voc", "", "train", 2, 3)
    assert len(tuning) == 2 and len(measured) == 3 and set(tuning.ids).isdisjoint(measured.ids)
    assert measured.ids == open_dataset("voc", "", "train", 5).ids[2:]
    assert [one.ids for one in open_splits("voc", "", "val", 2, 3)] == [open_dataset("voc", "", "train", 2).ids, open_dataset("voc", "", "val", 3).ids]
    write_layout("voc", "train", 4, 0, tmp_path)
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    names = (lists / "train.txt").read_text().split()
    (lists / "more.txt").write_text("\n".join(reversed(names)) + "\n")  # another split of the same images
    tuning, measured = open_splits("voc", tmp_path, "more", 1, 0)
    assert tuning.ids == (names[0],) and measured.ids == tuple(reversed(names[1:]))
    with pytest.raises(ValueError, match="'train' has 1 images beside the 3 of 'train' that are tuned on, 2 are to be measured: ask for fewer"):
        open_splits("voc", tmp_path, "train", 3, 2)
    with pytest.raises(ValueError, match="0 images beside the 4"):
        open_splits("voc", tmp_path, "train", 0, 0)


def test_a_root_may_be_relative(tmp_path, monkeypatch):
    write_layout("voc", "val", 1, 0, tmp_path / "tree")
    monkeypatch.chdir(tmp_path / "tree" / "VOCdevkit")
    for root in ("VOC2012", "."):
        assert open_dataset("voc", root).names[1] == "house"  # classes.txt is two folders up


def test_limits_and_words(tmp_path):
    write_layout("voc", "val", 4, 0, tmp_path / "tree")
    data = open_dataset("voc", tmp_path / "tree", "val", 2)
    assert len(data) == 2 and data.expected == 4
    assert data.words(["house"]) == ["house"]
    with pytest.raises(ValueError, match="did you mean house"):
        data.words(["hose"])
    with pytest.raises(ValueError, match="limit -1"):
        open_dataset("voc", tmp_path / "tree", "val", -1)
    with pytest.raises(ValueError, match="unknown data set 'vox'"):
        open_dataset("vox")


# -- real layouts --------------------------------------------------------------------------------


def voc_tree(root, masks, year="VOC2012", folder="SegmentationClass", lists="Segmentation", split="val", text=None):
    place = root / "VOCdevkit" / year
    for name in ("JPEGImages", folder, f"ImageSets/{lists}"):
        (place / name).mkdir(parents=True, exist_ok=True)
    for name, labels in masks.items():
        Image.fromarray(np.resize(PIXELS, (*np.shape(labels), 3))).save(place / "JPEGImages" / f"{name}.jpg")
        save_labels(np.array(labels), place / folder / f"{name}.png")
    (place / "ImageSets" / lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in masks) if text is None else text)
    return place


MASK = np.full((6, 9), 0, np.uint8)
MASK[1:3, 2:5], MASK[4, :] = 15, 255


@pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_read_from_any_of_its_folders(tmp_path, inside):
    voc_tree(tmp_path, {"2007_000032": MASK})
    data = open_dataset("voc", tmp_path / inside, "val")
    sample = data.load("2007_000032")
    assert np.array_equal(sample.truth, MASK) and sample.classes == ("person",) and len(data.names) == 21
    assert data.words(["aeroplane", "tvmonitor", "pottedplant", "diningtable"]) == ["plane", "monitor", "potted plant", "table"]
    assert data.expected == 1449 and "val.txt lists 1 images, the published split 1449: restore" in data.notes[0]


def test_a_whole_list_needs_no_note(tmp_path):
    ids = [f"2007_{i:06d}" for i in range(1449)]
    voc_tree(tmp_path, {"2007_000000": MASK}, text="\n".join(ids))
    data = open_dataset("voc", tmp_path, limit=5)
    assert data.ids == tuple(ids[:5]) and data.expected == 1449 and data.notes == ()


@pytest.mark.parametrize("split", ["trainaug", "train_aug"])
def test_trainaug_reads_the_augmented_masks(tmp_path, split):
    voc_tree(tmp_path, {"a": MASK}, folder="SegmentationClassAug", split=split)
    data = open_dataset("voc", tmp_path, split)
    assert data.load("a").classes == ("person",) and data.expected == 10582


@pytest.mark.parametrize(
    "split, count, whole", [("train", 4998, 1), ("train", 4996, 1), ("val", 5105, 1), ("val", 5104, 1), ("val", 5103, 0), ("val", 5106, 0)]
)
def test_both_published_lengths_of_context_are_whole(tmp_path, split, count, whole):
    place = context_tree(tmp_path, CONTEXT)
    (place / "ImageSets/SegmentationContext" / f"{split}.txt").write_text("".join(f"{name}\n" for name in ["a", *range(1, count)]))
    data = open_dataset("context", tmp_path, split)
    if whole:
        assert data.expected == len(data) == count and not any("published" in note for note in data.notes)
    else:
        assert data.expected == 5105 and f"lists {count} images, the published split 5105 or 5104: restore" in data.notes[1]


def test_the_indices_of_a_palette_mask_count_not_its_colours(tmp_path):
    place = voc_tree(tmp_path, {"a": MASK})
    image = Image.fromarray(MASK)
    image.putpalette([7] * 768)
    image.save(place / "SegmentationClass" / "a.png")
    assert np.array_equal(open_dataset("voc", tmp_path).load("a").truth, MASK)


def test_a_mask_saved_as_colours_is_decoded_exactly(tmp_path):
    place = voc_tree(tmp_path, {"a": MASK})
    Image.fromarray(voc_colours()[MASK]).save(place / "SegmentationClass" / "a.png")
    assert np.array_equal(open_dataset("voc", tmp_path).load("a").truth, MASK)
    with pytest.raises(DataError, match="#010203"):
        decode_colours(np.array([[[1, 2, 3]]], np.uint8))


def test_a_grey_mask_and_a_16_bit_one_are_labels_too(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "grey.png")
    Image.fromarray(MASK.astype(np.uint16)).save(tmp_path / "deep.png")
    assert np.array_equal(read_mask(tmp_path / "grey.png"), MASK) and np.array_equal(read_mask(tmp_path / "deep.png"), MASK)
    Image.fromarray(MASK.astype(np.uint16) * 100).save(tmp_path / "wrong.png")
    with pytest.raises(DataError, match="expected labels"):
        read_mask(tmp_path / "wrong.png")


def test_both_orders_of_context_hold_the_same_59_names():
    assert len(CONTEXT) == len(CONTEXT_ORIGINAL) == 59 and sorted(CONTEXT) == CONTEXT == sorted(CONTEXT_ORIGINAL)
    assert (CONTEXT[0], CONTEXT_ORIGINAL[0], CONTEXT[1], CONTEXT_ORIGINAL[1]) == ("aeroplane", "aeroplane", "bag", "bicycle")


def context_tree(root, names, told=True):
    ours, theirs = np.zeros((6, 9), np.uint8), np.zeros((6, 9), np.uint8)
    ours[1:3], theirs[1:3] = names.index("person") + 1, VOC.index("person") + 1
    ours[4:], theirs[4:] = names.index("table") + 1, VOC.index("diningtable") + 1
    place = voc_tree(root, {"a": ours}, "VOC2010", "SegmentationClassContext", "SegmentationContext")
    if told:
        (place / "SegmentationClass").mkdir()
        save_labels(theirs, place / "SegmentationClass" / "a.png")
    return place


@pytest.mark.parametrize(("order", "names"), [("alphabetical", CONTEXT), ("original", CONTEXT_ORIGINAL)])
def test_the_order_of_context_is_found_named_and_held_to(tmp_path, order, names):
    context_tree(tmp_path, names)
    data = open_dataset("context", tmp_path)
    assert data.names == ("background", *names) and order in data.notes[0]
    assert set(data.load("a").classes) == {"person", "table"}
    other = {"alphabetical": "original", "original": "alphabetical"}[order]
    with pytest.raises(DataError, match=f"masks are in the {order} order"):
        open_dataset("context", tmp_path, order=other)


@pytest.mark.parametrize(("order", "names"), [("alphabetical", CONTEXT), ("original", CONTEXT_ORIGINAL)])
def test_a_labels_file_tells_the_order_and_masks_outweigh_it(tmp_path, order, names):
    context_tree(tmp_path, names, told=False)
    labels = tmp_path / "VOCdevkit" / "VOC2010" / "59_labels.txt"
    spelt = {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}
    labels.write_text("".join(f"{i}: {spelt.get(name, name)}\n" for i, name in enumerate(names, start=1)))
    data = open_dataset("context", tmp_path)
    assert data.names == ("background", *names) and data.notes[0] == f"label order: {order} (assumed, by 59_labels.txt: no masks to compare with)"
    other = {"alphabetical": CONTEXT_ORIGINAL, "original": CONTEXT}[order]
    context_tree(tmp_path, other)
    with pytest.raises(DataError, match="59_labels.txt says .*give order="):
        open_dataset("context", tmp_path)
    asked = {"alphabetical": "original", "original": "alphabetical"}[order]
    assert open_dataset("context", tmp_path, order=asked).names == ("background", *other)
    labels.write_text("1: sky\n2: tree\n")
    with pytest.raises(DataError, match="neither the alphabetical nor the original"):
        open_dataset("context", tmp_path)
    assert open_dataset("context", tmp_path, order=asked).names == ("background", *other)  # the file is not asked then


def test_classes_of_a_tree_state_their_order_and_are_held_to_it(tmp_path):
    context_tree(tmp_path, CONTEXT)
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(["background", *CONTEXT]))
    assert open_dataset("context", tmp_path, order="alphabetical").names[1:] == tuple(CONTEXT)
    classes.write_text("\n".join(["background", *CONTEXT_ORIGINAL]))
    with pytest.raises(DataError, match="classes.txt says original, .*alphabetical order"):
        open_dataset("context", tmp_path)
    classes.write_text("background\nfish\n")
    with pytest.raises(DataError, match="classes.txt states another order"):
        open_dataset("context", tmp_path, order="original")
    assert open_dataset("context", tmp_path).notes[0] == "label order: classes.txt"


def test_masks_that_cannot_be_compared_do_not_stop_the_comparison(tmp_path):
    context_tree(tmp_path, CONTEXT)
    place = tmp_path / "VOCdevkit" / "VOC2010"
    (place / "ImageSets" / "SegmentationContext" / "val.txt").write_text("broken\nsmall\na\n")
    for folder, height in (("SegmentationClass", 3), ("SegmentationClassContext", 6)):
        (place / folder / "broken.png").write_bytes(b"")
        save_labels(np.zeros((height, 9), np.uint8), place / folder / "small.png")
    assert "alphabetical (found by comparing 1 masks" in open_dataset("context", tmp_path).notes[0]


@pytest.mark.parametrize("name", ["voc", "object"])
def test_only_context_has_orders(tmp_path, name):
    with pytest.raises(DataError, match="only Context"):
        open_dataset(name, tmp_path, order="original")


def test_an_order_that_nothing_tells_is_asked_for(tmp_path):
    context_tree(tmp_path, CONTEXT_ORIGINAL, told=False)
    with pytest.raises(DataError, match="give order="):
        open_dataset("context", tmp_path)
    data = open_dataset("context", tmp_path, order="original")
    assert set(data.load("a").classes) == {"person", "table"} and "assumed, by order='original'" in data.notes[0]
    with pytest.raises(DataError, match="alphabetical or original"):
        open_dataset("context", tmp_path, order="random")


def coco_tree(root, year="2017", **changes):
    def annotation(number, category, box, crowd=0):
        inside = np.zeros((6, 9), np.uint8, order="F")
        inside[box[0] : box[1], box[2] : box[3]] = 1
        code = rle.encode(inside)
        shape = {"size": [6, 9], "counts": code["counts"].decode()}
        return {
            "id": number,
            "image_id": 7,
            "category_id": category,
            "segmentation": shape,
            "area": float(inside.sum()),
            "bbox": [0, 0, 1, 1],
            "iscrowd": crowd,
        }

    (root / "annotations").mkdir(parents=True)
    (root / f"val{year}").mkdir()
    Image.fromarray(PIXELS).save(root / f"val{year}" / "000000000007.jpg")
    facts = {
        "images": [{"id": 7, "file_name": "000000000007.jpg", "height": 6, "width": 9}],
        "annotations": [annotation(1, 90, (1, 3, 1, 3)), annotation(2, 18, (0, 5, 0, 6)), annotation(3, 18, (3, 6, 4, 9), crowd=1)],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}],
    }
    (root / "annotations" / f"instances_val{year}.json").write_text(json.dumps(facts | changes))


@pytest.mark.parametrize("year", ["2017", "2014"])
def test_coco_draws_small_over_large_and_crowds_as_void(tmp_path, year):
    coco_tree(tmp_path, year)
    data = open_dataset("object", tmp_path)
    [sample] = data
    expected = np.zeros((6, 9), np.uint8)
    expected[3:6, 4:9] = 255
    expected[0:5, 0:6] = 1  # dog: category 18, the first in order of ids
    expected[1:3, 1:3] = 2  # toothbrush, smaller, on top
    assert np.array_equal(sample.truth, expected) and data.names == ("background", "dog", "toothbrush")
    assert sample.id == "000000000007" and any("smaller instances over larger" in note for note in data.notes)
    assert (data.expected,) == SPLIT_SIZES["object", f"val{year}"] and f"the published split {data.expected}" in data.notes[0]


def test_coco_draws_polygons_and_order_in_the_file_does_not_matter(tmp_path):
    square = {"image_id": 7, "iscrowd": 0, "area": 1.0, "bbox": [0, 0, 1, 1]}
    large = square | {"id": 1, "category_id": 90, "segmentation": [[0, 0, 8, 0, 8, 6, 0, 6]]}
    small = square | {"id": 2, "category_id": 18, "segmentation": [[2, 2, 4, 2, 4, 4, 2, 4]]}
    expected = np.zeros((6, 9), np.uint8)
    expected[:, :8], expected[2:4, 2:4] = 2, 1
    for i, drawn in enumerate(([large, small], [small, large])):
        coco_tree(tmp_path / str(i), annotations=drawn)
        assert np.array_equal(open_dataset("object", tmp_path / str(i)).load("000000000007").truth, expected)


def test_coco_2017_is_read_where_both_years_are(tmp_path):
    coco_tree(tmp_path, "2017")
    (tmp_path / "annotations" / "instances_val2014.json").write_text("{}")
    assert len(open_dataset("object", tmp_path)) == 1


def test_coco_draws_uncompressed_runs_polygons_of_several_parts_and_ids_with_gaps(tmp_path):
    common = {"image_id": 901, "iscrowd": 0, "area": 1.0, "bbox": [0, 0, 1, 1]}
    runs = common | {"id": 70, "category_id": 90, "segmentation": {"size": [6, 9], "counts": [7, 2, 4, 2, 39]}}
    parts = common | {"id": 12, "category_id": 18, "segmentation": [[4, 3, 8, 3, 8, 6, 4, 6], [0, 0, 8, 8]]}  # the second part has two points: no area
    crowd = common | {"id": 1000, "category_id": 18, "iscrowd": 1, "segmentation": {"size": [6, 9], "counts": [48, 6]}}
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "height": 6, "width": 9} for number in (901, 7)]
    coco_tree(tmp_path, images=images, annotations=[runs, parts, crowd])
    Image.fromarray(PIXELS).save(tmp_path / "val2017" / "000000000901.jpg")
    data = open_dataset("object", tmp_path)
    expected = np.zeros((6, 9), np.uint8)
    expected[:, 8], expected[3:, 4:8], expected[1:3, 1:3] = 255, 1, 2
    assert data.ids == ("000000000007", "000000000901") and not data.load("000000000007").truth.any()
    assert np.array_equal(data.load("000000000901").truth, expected)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"segmentation": [[1, 1, 4, 4]]}, "annotation 4 cannot be drawn"),  # two points
        ({"segmentation": []}, "annotation 4 cannot be drawn"),  # a box alone
        ({"segmentation": None}, "annotation 4 cannot be drawn"),
        ({"category_id": 5}, r"annotation 4 cannot be drawn \(KeyError\(5\)"),
        ({"segmentation": 3}, "annotation 4 cannot"),
        ({"segmentation": {"size": [9, 6], "counts": [54]}}, "annotation 4"),
    ],
)
def test_a_broken_annotation_is_named_and_others_load(tmp_path, wrong, said):
    images = [{"id": i, "file_name": f"00000000000{i}.jpg", "height": 6, "width": 9} for i in (7, 8)]
    good = {"id": 4, "image_id": 8, "category_id": 18, "iscrowd": 0, "area": 1.0, "bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 8, 0, 8, 6]]}
    coco_tree(tmp_path, images=images, annotations=[good | wrong])
    data = open_dataset("object", tmp_path)
    assert not data.load("000000000007").truth.any()
    with pytest.raises(DataError, match=said):
        data.load("000000000008")
    with pytest.raises(DataError, match="lists no image 'x'"):
        data.load("x")


def test_coco_classes_of_another_number_are_refused(tmp_path):
    coco_tree(tmp_path)
    (tmp_path / "classes.txt").write_text("background\nhound\nbrush\n")
    assert open_dataset("object", tmp_path).names == ("background", "hound", "brush")
    (tmp_path / "classes.txt").write_text("background\nhound\n")
    with pytest.raises(DataError, match="names 1 classes, .* has 2"):
        open_dataset("object", tmp_path)


# -- faults --------------------------------------------------------------------------------------


def test_split_files_tolerate_blanks_and_crlf_and_refuse_repeats(tmp_path):
    voc_tree(tmp_path, {"a": MASK, "b": MASK}, text="a\r\n\r\n b \r\n")
    assert open_dataset("voc", tmp_path).ids == ("a", "b")
    voc_tree(tmp_path, {"a": MASK, "b": MASK}, text="a\nb\na\n")
    with pytest.raises(DataError, match="3 lines, 2 different, expected 1449 ids; remove"):
        open_dataset("voc", tmp_path)
    voc_tree(tmp_path, {"a": MASK}, text="\n")
    with pytest.raises(DataError, match="lists no image: expected 1449 ids"):
        open_dataset("voc", tmp_path)
    with pytest.raises(DataError, match="expected a text file of 1464 ids; here are: val"):
        open_dataset("voc", tmp_path, "train")


def test_a_list_saved_by_another_editor(tmp_path):
    place = voc_tree(tmp_path, {"a": MASK})
    path = place / "ImageSets" / "Segmentation" / "val.txt"
    path.write_text("a\n", encoding="utf-8-sig")
    assert open_dataset("voc", tmp_path).ids == ("a",)
    path.write_text("a\n", encoding="utf-16")
    with pytest.raises(DataError, match="val.txt is not UTF-8"):
        open_dataset("voc", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "JPEGImages/2007_000033.jpg SegmentationClass/2007_000033.png\nJPEGImages/a.JPG SegmentationClass/a.png\n",
        "/JPEGImages/2007_000033.jpg /SegmentationClassAug/2007_000033.png\n/JPEGImages/a.jpg /SegmentationClassAug/a.png",
        "JPEGImages\\2007_000033.jpg\tSegmentationClass\\2007_000033.png\r\nJPEGImages\\a.jpg\tSegmentationClass\\a.png\r\n",
        "2007_000033  1\na -1\n",  # VOC's lists of a class: present or not, the image is of the split
        "2007_000033 0 14\na\n",
        "2007_000033.jpg\na.jpeg\n",
        "\ufeff# the whole split\r\n\r\n2007_000033 # an aeroplane\r\na\r\n",
    ],
)
def test_lists_are_read_in_the_shapes_that_circulate(tmp_path, text):
    place = voc_tree(tmp_path, {"2007_000033": MASK, "a": MASK})
    (place / "ImageSets/Segmentation/val.txt").write_bytes(text.encode())
    data = open_dataset("voc", tmp_path)
    assert data.ids == ("2007_000033", "a") and [sample.classes for sample in data] == [("person",)] * 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("JPEGImages/a.jpg SegmentationClass/b.png", "line 3, is 'JPEGImages/a.jpg SegmentationClass/b.png': expected an id, or the path"),
        ("a b", "line 3, is 'a b': expected an id"),
        ("a 2007", "line 3, is 'a 2007'"),
        ("a,b", "line 3, is 'a,b'"),
        ("JPEGImages/", "line 3, is 'JPEGImages/'"),
        ('{"images": [' + "1, " * 99, r"line 3, is '{\"images\": \[1, 1, .* \.\.\.': expected"),
    ],
)
def test_a_line_of_another_shape_is_refused_by_its_number(tmp_path, line, said):
    voc_tree(tmp_path, {"a": MASK}, text=f"a\n\n{line}\n")
    with pytest.raises(DataError, match=f"val.txt, {said}"):
        open_dataset("voc", tmp_path)


def test_contexts_annotations_are_no_list(tmp_path):
    place = context_tree(tmp_path, CONTEXT)
    (place / "ImageSets/SegmentationContext/val.txt").unlink()
    (place / "trainval_merged.json").write_text("{}")
    with pytest.raises(DataError, match="no split file .*VOC2010/trainval_merged.json is no list: write the names of its images of phase 'val', a line each"):
        open_dataset("context", tmp_path)


@pytest.mark.parametrize(("name", "said"), [("voc", "VOCdevkit/VOC2012"), ("context", "VOCdevkit/VOC2010"), ("object", "instances_val2017")])
def test_an_empty_folder_says_what_was_expected(tmp_path, name, said):
    with pytest.raises(DataError, match=said):
        open_dataset(name, tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        open_dataset(name, tmp_path / "nowhere")


def test_sizes_labels_and_missing_files(tmp_path):
    place = voc_tree(tmp_path, {"a": MASK, "b": np.where(MASK == 15, 21, MASK), "c": MASK, "d": MASK})
    Image.fromarray(PIXELS[:4]).save(place / "JPEGImages" / "a.jpg")
    (place / "JPEGImages" / "c.jpg").unlink()
    (place / "SegmentationClass" / "d.png").unlink()
    data = open_dataset("voc", tmp_path)
    for name, said in {"a": "9 x 4 px, its mask 9 x 6", "b": r"labels \[21\], expected 0..20", "c": "no picture at", "d": "no mask at"}.items():
        with pytest.raises(DataError, match=said) as caught:
            data.load(name)
        assert isinstance(caught.value, LabelError) == (name == "b")  # a wrong set, not a broken file


def test_a_truncated_picture_names_its_file(tmp_path):
    place = voc_tree(tmp_path, {"a": MASK})
    path = place / "JPEGImages" / "a.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="a.jpg cannot be read"):
        open_dataset("voc", tmp_path).load("a")


def test_pictures_are_read_by_content_as_raw_pixels(tmp_path):
    path = tmp_path / "odd.jpg"
    Image.fromarray(PIXELS).save(path, "PNG")
    assert np.array_equal(read_picture(path).pixels, PIXELS) and read_picture(path).notes == ()
    grey = Image.fromarray(PIXELS[..., 0])
    grey.save(path, "PNG")
    assert np.array_equal(read_picture(path).pixels, np.repeat(PIXELS[..., :1], 3, axis=2))
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(path, "PNG")
    assert np.abs(read_picture(path).pixels[..., 0].astype(int) - PIXELS[..., 0]).max() <= 1
    assert "mode I;16" in read_picture(path).notes[0]
    turned = Image.fromarray(PIXELS)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(path, "PNG", exif=exif)
    assert np.array_equal(read_picture(path).pixels, PIXELS) and "EXIF orientation is not applied" in read_picture(path).notes[0]


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "L"])
def test_a_conversion_is_noted_with_the_sample(tmp_path, mode):
    place = voc_tree(tmp_path, {"a": MASK, "b": MASK})
    Image.fromarray(PIXELS).convert(mode).save(place / "JPEGImages" / "a.jpg", "JPEG" if mode == "CMYK" else "PNG")
    data = open_dataset("voc", tmp_path)
    sample = data.load("a")
    assert sample.notes == (f"converted from mode {mode}",) and sample.image.shape == PIXELS.shape and sample.image.dtype == np.uint8
    assert data.load("b").notes == ()


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_what_is_no_picture_names_its_file(tmp_path, content):
    place = voc_tree(tmp_path, {"a": MASK, "b": MASK})
    (place / "JPEGImages" / "a.jpg").write_bytes(content)
    (place / "SegmentationClass" / "b.png").write_bytes(content)
    data = open_dataset("voc", tmp_path)
    for name, said in {"a": "a.jpg cannot be read as a picture", "b": "b.png cannot be read as a mask"}.items():
        with pytest.raises(DataError, match=said):
            data.load(name)


@pytest.mark.parametrize("text", ["house\nfish\n", "background\n", "background\nfish\nfish\n"])
def test_a_malformed_list_of_classes_is_refused(tmp_path, text):
    voc_tree(tmp_path, {"a": MASK})
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match="expected 'background'"):
        open_dataset("voc", tmp_path)


def test_a_json_that_is_not_cocos_is_refused(tmp_path):
    coco_tree(tmp_path, images=[{"name": "x"}])
    with pytest.raises(DataError, match="no COCO instances file"):
        open_dataset("object", tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"categories": []}, "1 images and 0 categories"),
        ({"images": []}, "0 images and 2 categories"),
        ({"images": [{"id": 7, "file_name": "a.jpg"}]}, "KeyError"),
        ({"images": [{"id": i, "file_name": f"{i}/a.jpg", "height": 6, "width": 9} for i in (7, 8)]}, "2 images under 1 file names"),
    ],
)
def test_annotations_that_lack_something_are_refused(tmp_path, changes, said):
    coco_tree(tmp_path, **changes)
    with pytest.raises(DataError, match=said):
        open_dataset("object", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_annotations_that_are_no_instances_are_refused(tmp_path, text):
    coco_tree(tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").write_text(text)
    with pytest.raises(DataError, match="instances_val2017.json is no COCO instances file"):
        open_dataset("object", tmp_path)
