"""Every kind of bad input in a real file, through the command line: what it says, what it exits with, and that nothing is lost."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffseg_lib.cli.main import main
from diffseg_lib.pocket.layouts import write_layout
from diffseg_lib.support.images import save_labels, voc_colours

COUNT = 3
INSIDE = Path("VOCdevkit/VOC2012")


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("voc") / "tree"
    write_layout("voc", "val", COUNT, 5, root)
    return root


@pytest.fixture
def tree(clean, tmp_path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "tree"))


def ids(tree: Path) -> list[str]:
    return (tree / INSIDE / "ImageSets/Segmentation/val.txt").read_text().split()


def picture(tree: Path, number: int = 1) -> Path:
    return tree / INSIDE / "JPEGImages" / f"{ids(tree)[number]}.jpg"


def mask(tree: Path, number: int = 1) -> Path:
    return tree / INSIDE / "SegmentationClass" / f"{ids(tree)[number]}.png"


def evaluate(tree: Path, out: Path, *more: str) -> tuple[int, dict]:
    arguments = ["evaluate", "--dataset", "voc", "--root", str(tree), "--labels", "image", "--threshold", ".3", "--threads", "1", "--out", str(out), *more]
    code = main(arguments)
    found = out / "summary.json"
    return code, json.loads(found.read_text()) if found.exists() else {}


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "images.csv").open() as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def truncate(tree):
    path = picture(tree)
    path.write_bytes(path.read_bytes()[:300])


def corrupt(tree):
    picture(tree).write_bytes(b"\xff\xd8 not a picture")


def lose_picture(tree):
    picture(tree).unlink()


def lose_mask(tree):
    mask(tree).unlink()


def shrink_mask(tree):
    save_labels(np.zeros((64, 100), np.uint8), mask(tree))


def strange_colours(tree):
    Image.new("RGB", (128, 128), (1, 2, 3)).save(mask(tree))


ERRORS = [
    (truncate, "DataError", ".jpg cannot be read as a picture"),
    (corrupt, "DataError", ".jpg cannot be read as a picture"),
    (lose_picture, "DataError", "the split lists it; restore the file"),
    (lose_mask, "DataError", "the split lists it; restore the file"),
    (shrink_mask, "DataError", "the image is 128 x 128 px, its mask 100 x 64"),
    (strange_colours, "DataError", "#010203; expected a palette PNG, or its exact colours"),
]


@pytest.mark.parametrize("plant, kind, said", ERRORS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_broken_image_is_an_error_row_the_others_go_on_and_there_is_no_headline(tree, tmp_path, capsys, plant, kind, said):
    name = ids(tree)[1]
    plant(tree)
    code, found = evaluate(tree, tmp_path / "out")
    assert code == 1 and found["miou"] is None and found["coverage"] == f"PARTIAL {COUNT - 1}/{COUNT}"
    assert said in found["errors"][name] and found["errors"][name].startswith(kind)
    sheet = rows(tmp_path / "out")
    assert [sheet[one]["status"] for one in ids(tree)] == ["ok", "error", "ok"] and sheet[name]["error_type"] == kind
    told = capsys.readouterr().err
    assert f"PARTIAL {COUNT - 1}/{COUNT}: no headline figure; 1 images failed" in told and name in told


def saved_as(mode):
    def plant(tree):
        path = picture(tree)
        with Image.open(path) as image:
            image = image.convert("RGB")
        if mode == "I;16":
            wide = np.asarray(image.convert("L")).astype(np.uint16) * 257
            Image.fromarray(wide).save(path, "PNG")
        elif mode == "CMYK":
            image.convert("CMYK").save(path, "JPEG", quality=95)
        else:
            image.convert(mode).save(path, "PNG")

    return plant


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16", "P", "RGBA"])
def test_a_picture_of_another_kind_is_read_by_content_converted_and_noted(tree, tmp_path, mode):
    saved_as(mode)(tree)
    code, found = evaluate(tree, tmp_path / "out")
    assert code == 0 and found["pictures_converted"] == 1
    assert f"converted from mode {mode}" in rows(tmp_path / "out")[ids(tree)[1]]["notes"]


def test_a_png_named_jpg_is_a_png(tree, tmp_path):
    path = picture(tree)
    with Image.open(path) as image:
        image.load()
    image.save(path, "PNG")
    code, found = evaluate(tree, tmp_path / "out")
    assert code == 0 and found["pictures_converted"] == 0


def test_an_exif_rotation_is_not_applied_and_said(tree, tmp_path):
    path = picture(tree)
    with Image.open(path) as image:
        image.load()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, "JPEG", quality=95, exif=exif)
    code, _ = evaluate(tree, tmp_path / "out")
    assert code == 0 and "EXIF orientation is not applied" in rows(tmp_path / "out")[ids(tree)[1]]["notes"]


def test_a_mask_saved_as_its_exact_colours_gives_the_same_counts(tree, clean, tmp_path):
    with Image.open(mask(tree)) as image:
        labels = np.asarray(image)
    Image.fromarray(voc_colours()[labels].astype(np.uint8)).save(mask(tree))
    assert evaluate(tree, tmp_path / "a")[1]["confusion"] == evaluate(clean, tmp_path / "b")[1]["confusion"]


def test_labels_beyond_the_classes_stop_the_run_with_the_images_and_the_cause(tree, tmp_path, capsys):
    for number in (0, 2):
        save_labels(np.full((128, 128), 77, np.uint8), mask(tree, number))
    code, found = evaluate(tree, tmp_path / "out")
    told = capsys.readouterr().err
    assert code == 2 and found == {} and "another set's mask, or another label order?" in told
    assert f"2 of {COUNT} images: {ids(tree)[0]}, {ids(tree)[2]}" in told


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda text: None, "no split file"),
        (lambda text: "\n\n", "lists no image"),
        (lambda text: text + text.split()[0] + "\n", f"{COUNT + 1} lines, {COUNT} different"),
    ],
    ids=["missing", "empty", "repeated"],
)
def test_a_split_file_that_cannot_be_used_is_refused_with_what_was_expected(tree, tmp_path, capsys, change, said):
    path = tree / INSIDE / "ImageSets/Segmentation/val.txt"
    text = change(path.read_text())
    path.unlink() if text is None else path.write_text(text)
    code, found = evaluate(tree, tmp_path / "out")
    assert code == 2 and found == {} and said in capsys.readouterr().err


def test_blank_and_crlf_lines_do_not_matter(tree, clean, tmp_path):
    path = tree / INSIDE / "ImageSets/Segmentation/val.txt"
    path.write_bytes("\r\n\r\n".join(ids(tree)).encode() + b"\r\n\r\n")
    assert evaluate(tree, tmp_path / "a")[1]["confusion"] == evaluate(clean, tmp_path / "b")[1]["confusion"]


def test_a_list_shorter_than_the_published_split_gives_no_headline(tree, tmp_path, capsys):
    (tree / "classes.txt").unlink()  # the names are now VOC's own, and val has 1449 images
    code, found = evaluate(tree, tmp_path / "out", "--method", "denseclip")  # asks for words that the pocket diffusion model refuses
    assert code == 1 and found["coverage"] == f"PARTIAL {COUNT}/1449" and found["miou"] is None
    assert f"the split's list has {COUNT} images" in capsys.readouterr().err
    code, found = evaluate(tree, tmp_path / "limited", "--method", "denseclip", "--limit", "2")  # asked for: the figure is of two images, and says so
    assert code == 0 and found["images"] == 2 and found["miou"] is not None
    code, found = evaluate(tree, tmp_path / "beyond", "--method", "denseclip", "--limit", "9999")  # the whole split was asked for, and more
    assert code == 1 and found["coverage"] == f"PARTIAL {COUNT}/1449" and found["miou"] is None


def test_an_empty_filter_is_all_background_and_counted(tree, tmp_path, monkeypatch):
    from diffseg_lib.category_filter import CategoryFilter

    monkeypatch.setattr(CategoryFilter, "filter", lambda self, image: type("Found", (), {"kept": ()})())
    code, found = evaluate(tree, tmp_path / "out", "--labels", "filter")
    assert code == 0 and found["empty_labels"] == COUNT and np.array(found["confusion"])[:, 1:].sum() == 0


def test_a_map_that_is_not_a_number_is_an_error_row_by_name(tree, tmp_path, monkeypatch):
    import diffseg_lib.segmenter as module

    calls, inner = [], module.upsample

    def broken(maps, *rest):
        calls.append(0)
        return inner(torch.full_like(maps, torch.nan) if len(calls) == 2 else maps, *rest)

    monkeypatch.setattr(module, "upsample", broken)
    code, found = evaluate(tree, tmp_path / "out")
    [text] = found["errors"].values()
    assert code == 1 and "ValueError: score maps" in text and "hold NaN or infinity" in text


def test_a_map_that_says_nothing_is_zeros_and_a_note(tree, tmp_path, monkeypatch):
    import diffseg_lib.segmenter as module

    monkeypatch.setattr(module, "complete", lambda maps, *rest: torch.full_like(maps, 0.2))
    code, found = evaluate(tree, tmp_path / "out")
    assert code == 0 and np.array(found["confusion"])[:, 1:].sum() == 0
    assert all("is constant" in row["notes"] for row in rows(tmp_path / "out").values())


def test_memory_that_runs_out_twice_is_an_error_row(tree, tmp_path, monkeypatch):
    from diffseg_lib.segmenter import DiffSegmenter

    def nothing_left(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(DiffSegmenter, "_attend_optimized", nothing_left)
    code, found = evaluate(tree, tmp_path / "out")
    assert code == 1 and len(found["errors"]) == COUNT and all("allocate memory" in text for text in found["errors"].values())


def test_the_same_folder_with_another_configuration_never_mixes(tree, tmp_path):
    first, second = (evaluate(tree, tmp_path / "out", "--seed", seed)[1] for seed in ("0", "1"))
    alone = evaluate(tree, tmp_path / "alone", "--seed", "1")[1]
    assert first["run"] != second["run"] == alone["run"] and second["confusion"] == alone["confusion"] != first["confusion"]
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2


def test_a_default_run_opens_no_connection_and_weights_are_safetensors_alone(tree, tmp_path, monkeypatch):
    import pickle
    import socket

    import diffseg_lib.evaluation.jobs as jobs

    def refuse(*arguments, **options):
        raise AssertionError("a connection was opened, or a pickle read")

    for name in ("_segmenter", "_tools", "_dataset"):
        getattr(jobs, name).cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    code, found = evaluate(tree, tmp_path / "out", "--labels", "filter")
    assert code == 0 and found["images"] == COUNT
