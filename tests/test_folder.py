"""From a folder of photos to a data set: the COCO file, what is kept, the contact sheet, and files that come back from labelling tools."""

from __future__ import annotations

import hashlib
import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browser import browser, find_browser
from PIL import Image
from pycocotools import mask as runs
from pycocotools.coco import COCO
from scipy import ndimage

from diffseg_lib import DiffSegmenter
from diffseg_lib.applications.coco_file import Form, image_id
from diffseg_lib.applications.contact_sheet import Card, write_sheet
from diffseg_lib.applications.crf import Crf, sharpen
from diffseg_lib.applications.photo_folder import label_folder
from diffseg_lib.applications.regions import polygons
from diffseg_lib.cli.main import main
from diffseg_lib.data import DataError, open_photos
from diffseg_lib.experiments import folder as experiment
from diffseg_lib.pocket.world import compose, paint
from diffseg_lib.support.images import load_photo

CLASSES = ("house", "red fish")
FORMS = (Form(), Form(polygons=True, tolerance=0), Form(instances=True), Form(polygons=True, instances=True, tolerance=0))


@pytest.fixture(scope="module")
def segmenter():
    return DiffSegmenter.from_profile("pocket")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three photos, one of them not square and turned by EXIF, in a folder with a space in its name."""
    place = tmp_path / "my photos"
    place.mkdir()
    for i, name in enumerate(("a.jpg", "b <i>.png")):
        Image.fromarray(paint(compose("test", i))).save(place / name)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(paint(compose("test", 2))).crop((0, 0, 128, 96)).save(place / "c.jpg", exif=turned)
    return place


def run(segmenter, folder, **options):
    """Label the folder beside it, and which photos were computed."""
    computed = []

    class Watched(DiffSegmenter):
        def segment(self, image, classes, **more):
            computed.append(image.shape)
            return DiffSegmenter.segment(self, image, classes, **more)

    watched = Watched(segmenter.backbone, segmenter.config)
    given = {"classes": CLASSES, "out": folder.parent / "out", "file": folder.parent / "labels.json"} | options
    return label_folder(watched, sorted(folder.iterdir()), **given), len(computed)


def load(path):
    return COCO(str(path))


def random_masks():
    rng = np.random.default_rng(0)
    for blur in (0, 0.7, 2, 4):
        for _ in range(8):
            mask = ndimage.gaussian_filter(rng.normal(size=rng.integers(3, 60, 2)), blur) > 0
            yield mask if mask.any() else ~mask


# -- regions


@pytest.mark.parametrize("tolerance", [0, 1, 3])
def test_polygons_stay_within_their_tolerance_holes_and_all(tolerance):
    changed = 0
    for mask in random_masks():
        drawn = runs.decode(runs.merge(runs.frPyObjects(polygons(mask, tolerance), *mask.shape))).astype(bool)
        inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        outside = ndimage.distance_transform_edt(np.pad(~mask, 1, constant_values=True))[1:-1, 1:-1]
        away = (inside + outside)[drawn != mask]  # px to the border of the region, 1 beside it
        assert not away.size or (tolerance and away.max() <= tolerance + 1)
        changed += away.size
    assert bool(changed) == bool(tolerance)
    square = np.ones((20, 30), bool)
    square[5:9, 6:10] = False
    assert polygons(square, 1) == [polygons(square, 1)[0]] and len(polygons(square, 1)[0]) == 2 * 10


# -- the file


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{'polygons' if form.polygons else 'runs'}-{'instances' if form.instances else 'classes'}")
def test_pycocotools_draws_the_labels(segmenter, folder, form):
    found, _ = run(segmenter, folder, form=form)
    coco, file = load(found.file), json.loads(found.file.read_text())
    assert [one["file_name"] for one in file["images"]] == ["a.jpg", "b <i>.png", "c.jpg"] and found.base == folder
    assert [(one["id"], one["name"]) for one in file["categories"]] == [(1, "house"), (2, "red fish")]
    assert {"info", "licenses"} <= set(file) and file["info"]["year"] >= 2026
    assert all(0 < one["id"] < 2**53 for one in file["annotations"]) and len(coco.anns) == len(file["annotations"]) == sum(found.annotations.values())
    for image in file["images"]:
        labels = segmenter.segment(folder / image["file_name"], CLASSES).labels  # of the photo as it is turned
        assert (image["height"], image["width"]) == labels.shape
        given = coco.imgToAnns[image["id"]]
        masks = [coco.annToMask(one).astype(bool) for one in given]
        for category in (1, 2):
            mine = [mask for mask, one in zip(masks, given, strict=True) if one["category_id"] == category]
            assert np.array_equal(np.any(mine, axis=0) if mine else np.zeros(labels.shape, bool), labels == category)
            assert len(mine) == (ndimage.label(labels == category)[1] if form.instances else bool(mine))
        for mask, one in zip(masks, given, strict=True):
            (rows, columns), (x, y, w, h) = np.nonzero(mask), one["bbox"]
            assert one["area"] == mask.sum() and one["iscrowd"] == 0 and 0 < one["score"] <= 1
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_parts_that_are_too_small_are_left_out_and_no_id_changes(segmenter, folder):
    whole, few = (run(segmenter, folder, form=Form(instances=True, min_area=area), file=folder.parent / f"{area}.json")[0] for area in (0, 60))
    every, kept = ({one["id"]: one for one in json.loads(found.file.read_text())["annotations"]} for found in (whole, few))
    assert 0 < len(kept) < len(every) and kept == {number: one for number, one in every.items() if one["area"] >= 60}
    merged, _ = run(segmenter, folder, form=Form(min_area=60))
    assert sum(one["area"] for one in json.loads(merged.file.read_text())["annotations"]) == sum(one["area"] for one in kept.values())


def test_ids_stay_whatever_photos_come_or_go(segmenter, folder):
    first = run(segmenter, folder)[0].file.read_bytes()
    again, computed = run(segmenter, folder)
    assert computed == 0 and again.file.read_bytes() == first
    Image.fromarray(paint(compose("test", 5))).save(folder / "aa.jpg")
    (folder / "c.jpg").unlink()
    later, computed = run(segmenter, folder)
    before, after = json.loads(first), json.loads(later.file.read_text())
    lost, new = image_id("c.jpg"), image_id("aa.jpg")
    assert new == int(hashlib.sha256(b"aa.jpg").hexdigest()[:10], 16)  # made of the name alone, in any process
    assert computed == 1 and [one["file_name"] for one in after["images"]] == ["a.jpg", "aa.jpg", "b <i>.png"]
    for key, name in (("images", "id"), ("annotations", "image_id")):
        assert [one for one in before[key] if one[name] != lost] == [one for one in after[key] if one[name] != new]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit], ids=["interrupted", "killed"])
def test_a_run_that_was_stopped_goes_on(segmenter, folder, end):
    def stop(name, error):
        if name.startswith("b"):
            raise end

    with pytest.raises(end):
        run(segmenter, folder, progress=stop)
    file = folder.parent / "labels.json"
    assert file.exists() == (end is KeyboardInterrupt)  # who interrupts finds what is done
    if file.exists():
        assert [one["file_name"] for one in json.loads(file.read_text())["images"]] == ["a.jpg", "b <i>.png"]
    (folder.parent / "out" / "rows" / f"{image_id('a.jpg'):010x}.json").write_text('{"cut')
    found, computed = run(segmenter, folder)
    whole, _ = run(segmenter, folder, out=folder.parent / "whole", file=folder.parent / "whole.json")
    assert computed == 2 and found.file.read_bytes() == whole.file.read_bytes()


@pytest.mark.parametrize(
    ("what", "computed"), [("form", 0), ("photo", 1), ("words", 3), ("threshold", 3), ("crf", 3), ("model", 3)], ids=lambda value: str(value)
)
def test_what_a_photo_depends_on_is_computed_again(segmenter, folder, what, computed, pipeline_folder):
    before = run(segmenter, folder)[0].file.read_text()
    options: dict = {"form": {"form": Form(polygons=True)}, "words": {"classes": ("house",)}, "crf": {"crf": Crf(2)}}.get(what, {})
    if what == "photo":
        Image.fromarray(paint(compose("test", 7))).save(folder / "a.jpg")
    if what == "threshold":
        segmenter = segmenter.with_config(threshold=0.7)
    if what == "model":
        segmenter = DiffSegmenter.from_profile(str(pipeline_folder))
    found, again = run(segmenter, folder, **options)
    assert again == computed and found.file.read_text() != before


def test_a_filter_chooses_the_words_of_each_photo(segmenter, folder):
    seen = {load_photo(path).pixels.tobytes(): path.name for path in sorted(folder.iterdir())}
    chosen = {"a.jpg": ("red fish",), "b <i>.png": (), "c.jpg": CLASSES}
    some = SimpleNamespace(names=CLASSES, sources="union", text_similarity_threshold=0.8, relative_clip_threshold=0.9)
    some.filter = lambda pixels: SimpleNamespace(names=chosen[seen[pixels.tobytes()]])
    found, computed = run(segmenter, folder, chosen_by=some)
    file = json.loads(found.file.read_text())
    asked = {one["id"]: {note["category_id"] for note in file["annotations"] if note["image_id"] == one["id"]} for one in file["images"]}
    assert computed == 2 and [asked[image_id(name)] for name in chosen] == [{2}, set(), {1, 2}]
    some.relative_clip_threshold = 0.8
    assert run(segmenter, folder, chosen_by=some)[1] == 2 and run(segmenter, folder)[1] == 3


def test_a_large_photo_is_sharpened_at_a_size_that_the_field_can_take():
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, 40:] = 200
    scores = np.linspace(0, 1, 90, dtype=np.float32)[None, None].repeat(60, 1)
    small, whole = sharpen(image, scores, 0.5, Crf(5), longest=30), sharpen(image, scores, 0.5, Crf(5))
    assert small.shape == whole.shape == (60, 90) and small.dtype == np.uint8
    assert (whole == (image[..., 0] > 0)).all() and (small == whole).mean() > 0.95 and ((scores[0] > 0.5) != whole).mean() > 0.04


# -- the contact sheet


def test_the_sheet_has_every_photo_and_failure_and_no_network(segmenter, folder):
    (folder / "broken&.jpg").write_bytes(b"\xff\xd8\xff cut")
    found, _ = run(segmenter, folder)
    text = found.sheet.read_text()
    assert list(found.errors) == ["broken&.jpg"] and "<b>broken&amp;.jpg</b>" in text and "cannot be read as an image" in text
    assert [unescape(name) for name in re.findall(r"<figcaption><b>(.*?)</b>", text)] == ["a.jpg", "b <i>.png", "c.jpg"]
    assert text.count('loading="lazy"') == 3 and not re.search(r"https?:|//cdn|@[A-Z]+@", text)
    for name in re.findall(r'(?:src|data-large|data-photo)="([^"]+)"', text):
        assert (found.sheet.parent / unescape(name).replace("%20", " ").replace("%3C", "<").replace("%3E", ">")).is_file(), name
    with_house = sum("house" in row for row in re.findall(r"<figcaption>.*", text))
    assert f"house <b>{with_house}</b> <kbd>1</kbd>" in text


@pytest.mark.skipif(find_browser() is None, reason="no Chromium here")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_the_sheet_filters_and_turns_by_the_keyboard(tmp_path, width, dark):
    cards = []
    for i, shares in enumerate(({"house": 0.5}, {"fish": 0.1, "house": 0.2}, {})):
        Image.new("RGB", (320, 200), (80 * i, 90, 120)).save(tmp_path / f"{i}.jpg")
        cards.append(Card(f"{i}.jpg", tmp_path / f"{i}.jpg", f"{i}.jpg", f"{i}.jpg", (320, 200), shares))
    page = write_sheet(tmp_path / "index.html", "Scenes", cards, ("fish", "house"), {"lost.jpg": "is cut short"})
    with browser(find_browser(), tmp_path / "profile") as tab:
        tab.open(page.as_uri(), width=width, dark=dark)
        key = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
        shown = "[...document.querySelectorAll('figure')].map(f => f.offsetHeight > 0)"
        assert tab.script(shown) == [True, True, True] and tab.script("document.documentElement.scrollWidth") <= width
        tab.script(key % "2")
        assert tab.script(shown) == [True, True, False] and tab.script("document.getElementById('count').textContent") == "2 of 3 photos."
        tab.script(key % "ArrowRight")
        tab.script("document.activeElement.click()")
        tab.script(key % "ArrowRight")
        assert tab.script("document.querySelector('dialog').open && document.querySelector('dialog img').src").endswith("/1.jpg")
        light = tab.script("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert light != dark and not tab.complaints() and all(one.startswith("file:") for one in tab.requests())


# -- files that come back


def exported(found, folder, tool):
    """The file as a labelling tool exports it again, by its documented format, and where its photos lie then."""
    coco, own = load(found.file), json.loads(found.file.read_text())
    images, annotations, first = [], [], 1 if tool == "cvat" else 0
    for number, image in enumerate(own["images"], start=first):
        name = image["file_name"]
        if tool == "label-studio":
            name = f"images/0a1b2c3d-{re.sub(r'[^-._a-z0-9]', '', name.replace(' ', '_'))}"
        images.append({"id": number, "file_name": name, "width": image["width"], "height": image["height"]})
        for one in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(one)
            about = {
                "id": first + len(annotations),
                "image_id": number,
                "category_id": one["category_id"] - 1 + first,
                "bbox": one["bbox"],
                "area": one["area"],
            }
            if tool == "cvat":  # masks as uncompressed runs, and then as a crowd
                flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
                starts = np.flatnonzero(np.diff(flat))
                counts = np.diff(np.concatenate([[0], starts])).tolist()
                annotations.append(about | {"segmentation": {"counts": counts, "size": list(mask.shape)}, "iscrowd": 1, "attributes": {"occluded": False}})
            elif tool == "label-studio":  # an annotation a polygon, and a box that its import added
                annotations += [about | {"segmentation": [part], "iscrowd": 0, "ignore": 0} for part in polygons(mask.astype(bool), 0)]
                annotations.append(about | {"segmentation": [], "iscrowd": 0, "ignore": 0})
            else:
                annotations.append(about | {"segmentation": polygons(mask.astype(bool), 0), "supercategory": None})
    for number, one in enumerate(annotations, start=first):
        one["id"] = number * 3  # with gaps
    categories = [{"id": one["id"] - 1 + first, "name": one["name"]} for one in own["categories"]]
    path = folder.parent / f"{tool}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.mark.parametrize("tool", ["cvat", "label-studio", "fiftyone"])
def test_files_that_tools_export_are_read(segmenter, folder, tool):
    found, _ = run(segmenter, folder)
    dataset = open_photos(folder, exported(found, folder, tool))
    assert dataset.names == ("background", *CLASSES) and len(dataset) == 3
    truths = {sample.image.tobytes(): sample.truth for sample in dataset}
    for path in sorted(folder.iterdir()):
        photo = load_photo(path)
        assert np.array_equal(truths[photo.pixels.tobytes()], segmenter.segment(photo.pixels, CLASSES).labels)
    assert any("boxes without a mask left out" in note for note in dataset.notes) == (tool == "label-studio")


def edit(path: Path, change) -> Path:
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))
    return path


def _rename(facts):
    facts["images"][0]["file_name"] = "z.jpg"


def _twice(facts):
    facts["categories"][1]["name"] = "house"


def _boxes(facts):
    for one in facts["annotations"]:
        one["segmentation"] = []


def _size(facts):
    for image in facts["images"]:
        image["width"], image["height"] = image["width"] * 2, image["height"] * 2
    for one in facts["annotations"]:
        one["segmentation"] = [[0, 0, 9, 0, 9, 9]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_rename, "1 of the 3 photos of .* are not in .*: z.jpg; expected them by the file's names"),
        (_twice, "several categories of the name house"),
        (_boxes, r"has no mask, only \d+ boxes"),
        (_size, "expected one size"),
    ],
)
def test_files_that_cannot_be_learnt_from_say_why(segmenter, folder, change, told):
    path = edit(run(segmenter, folder)[0].file, change)
    with pytest.raises(DataError, match=told):
        [*open_photos(folder, path)]


def test_a_photo_with_a_box_alone_teaches_no_background(segmenter, folder):
    def box(facts):
        number = facts["images"][0]["id"]
        for one in facts["annotations"]:
            if one["image_id"] == number:
                one["segmentation"] = []

    path = edit(run(segmenter, folder)[0].file, box)
    dataset = open_photos(folder, path)
    assert len(dataset) == 2 and any(note.startswith("1 photos left out") for note in dataset.notes)


def test_a_part_that_is_drawn_anew_is_the_truth_again(segmenter, tmp_path):
    words = ("house", "fish")
    scenes = experiment.scenes_with(words, "val", 3)
    paths = experiment.write_photos(scenes, tmp_path / "photos")
    assert len(scenes) == 3 and all(set(words) & set(scene.classes) for scene in scenes.values())
    found = label_folder(segmenter, paths, words, tmp_path / "out", tmp_path / "draft.json")
    first, *rest = experiment.weakest(found.file, 3)
    scores = {name: [one["score"] for one in load(found.file).imgToAnns[image_id(name)]] for name in scenes}
    assert np.mean(scores[first]) <= min(np.mean(scores[name]) for name in rest)
    file = experiment.corrected(found.file, tmp_path / "new.json", {first: experiment.truth_of(scenes[first], words)})
    before, after = open_photos(tmp_path / "photos", found.file), open_photos(tmp_path / "photos", file)
    drawn = experiment.truth_of(scenes[first], words)
    assert np.array_equal(after.load(first).truth, np.where(drawn == 255, 0, drawn))
    assert all(np.array_equal(after.load(name).truth, before.load(name).truth) for name in rest)
    measured = experiment.measure_masks("all", file, tmp_path / "photos", {first: scenes[first]} | scenes, words)
    assert measured.images == 3 and measured.value > experiment.measure_masks("draft", found.file, tmp_path / "photos", scenes, words).value


# -- the program


def test_the_program_makes_a_data_set_and_a_network_learns_from_it(folder, tmp_path, capsys):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff cut")
    file = tmp_path / "labels.json"
    asked = ["segment", str(folder), "--classes", *CLASSES, "--polygons", "--crf", "irn", "--coco", str(file)]
    assert main(asked) == 1
    told = capsys.readouterr()
    assert "3 photos of" in told.out and str(tmp_path / "labels" / "index.html") in told.out
    assert "error: " in told.err and "broken.jpg cannot be read" in told.err and "1 of 4 photos failed" in told.err
    assert len(load(file).imgs) == 3
    (folder / "broken.jpg").unlink()
    assert main(asked) == 0
    given, net = ["--photos", str(folder), "--coco", str(file)], str(tmp_path / "net")
    assert main(["network", "train", *given, "--iterations", "2", "--batch", "2", "--crop", "32", "--out", net]) == 0
    assert "note: photos of my photos under labels.json, 3 of them" in capsys.readouterr().err
    assert json.loads(Path(net, "model.json").read_text())["names"] == ["background", *CLASSES]
    assert main(["network", "test", *given, "--model", net]) == 0
    assert "over 3 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["segment", "PHOTOS", "--classes", "house", "--polygons", "--out", "DIR"], "--polygons is for --coco FILE"),
        (["segment", "PHOTOS", "--classes", "house"], "expected --out DIR, or --coco FILE"),
        (["segment", "PHOTOS", "--classes", "house", "--coco", "PHOTOS"], "is a folder: expected a file"),
        (["segment", "PHOTOS", "--classes", "house", "--coco", "a.json", "--min-area", "-1"], "expected 0 or more"),
        (["network", "train", "--photos", "PHOTOS", "--out", "DIR"], "expected both --photos DIR and --coco FILE"),
        (["network", "train", "--photos", "PHOTOS", "--coco", "a.json", "--masks", "DIR", "--out", "DIR"], "--masks with --photos"),
        (["network", "train", "--photos", "PHOTOS", "--coco", "a.json", "--out", "DIR"], "a.json is not there: expected a COCO file"),
    ],
)
def test_requests_that_cannot_be_are_refused_at_once(folder, tmp_path, capsys, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffseg_lib.loading.load_backbone", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main([str(folder) if one == "PHOTOS" else one for one in arguments]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "DIR").exists()


def test_labels_of_single_photos_are_sharpened_too(folder, tmp_path):
    for crf in ([], ["--crf", "irn"]):
        assert main(["segment", str(folder / "a.jpg"), "--classes", *CLASSES, *crf, "--out", str(tmp_path / f"found{len(crf)}")]) == 0
    plain, sharp = (np.asarray(Image.open(tmp_path / name / "labels.png")) for name in ("found0", "found2"))
    assert 0 < (plain != sharp).mean() < 0.3
    assert json.loads((tmp_path / "found2" / "result.json").read_text())["crf"] == "irn"
