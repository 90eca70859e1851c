"""Photos of every kind come out as RGB, whole and upright, or as a named error."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffseg_lib.support import images
from diffseg_lib.support.images import ImageError, areas, load_photo, overlay, save_labels, to_numpy, voc_colours, working_size


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_a_png_named_jpg_is_read_by_content(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "photo.jpg", format="PNG")
    photo = load_photo(tmp_path / "photo.jpg")
    assert np.array_equal(photo.pixels, rgb) and photo.notes == ()


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_is_applied_once_and_said(tmp_path, rgb, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "photo.png", exif=exif)
    photo = load_photo(tmp_path / "photo.png")
    assert np.array_equal(photo.pixels, np.rot90(rgb, turn)) and photo.notes == ("turned by its EXIF orientation",)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA"])
def test_other_modes_are_converted_and_said(tmp_path, rgb, mode):
    Image.fromarray(rgb).convert(mode).save(tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png"))
    photo = load_photo(next(tmp_path.iterdir()))
    assert photo.pixels.shape == rgb.shape and photo.pixels.dtype == np.uint8
    assert photo.notes == (f"converted from mode {mode}",)
    expected = np.asarray(Image.fromarray(rgb).convert(mode).convert("RGB"))
    assert np.array_equal(photo.pixels, expected)


def test_transparency_lies_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (load_photo(tmp_path / "clear.png").pixels == 255).all()


@pytest.mark.parametrize("top", [200, 65535])
def test_sixteen_bits_are_scaled_never_cut(tmp_path, top):
    values = np.linspace(0, top, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    photo = load_photo(tmp_path / "deep.png")
    assert np.abs(photo.pixels[..., 0].astype(float) - values / 65535 * 255).max() <= 0.5


def test_unreadable_files_are_named(tmp_path, rgb):
    with pytest.raises(ImageError, match=r"no image at .*nowhere\.png"):
        load_photo(tmp_path / "nowhere.png")
    (tmp_path / "words.png").write_text("not a picture")
    with pytest.raises(ImageError, match=r"words\.png cannot be read as an image"):
        load_photo(tmp_path / "words.png")
    Image.fromarray(rgb).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with pytest.raises(ImageError, match=r"cut\.png cannot be read as an image"):
        load_photo(tmp_path / "cut.png")


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, rgb, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "huge.png")
    monkeypatch.setattr(images, "LARGEST", 500)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="30 x 20 pixels, more than 500: shrink it first"):
        load_photo(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="too large to open"):
        load_photo(tmp_path / "huge.png")


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 64), (375, 500), (1000, 300), (33, 40)])
def test_working_size_keeps_the_shape_nearly(height, width):
    h, w = working_size(height, width, 128, 32)
    assert h % 32 == w % 32 == 0 and min(h, w) == 128
    assert abs(max(h, w) - 128 * max(height, width) / min(height, width)) <= 16


def test_a_strip_is_refused():
    with pytest.raises(ImageError, match="too long a strip: crop it"):
        working_size(10, 1000, 128, 32)


def test_label_files_hold_the_indices_in_vocs_colours(tmp_path):
    labels = np.arange(256).reshape(16, 16)
    save_labels(labels, tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), labels)
        assert np.array_equal(np.array(image.getpalette()).reshape(-1, 3), voc_colours())
    known = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]  # the first of VOC's devkit
    assert [tuple(c) for c in voc_colours(5).tolist()] == known
    assert tuple(voc_colours()[255].tolist()) == (224, 224, 192)  # its void


def test_the_overlay_leaves_the_background_alone(rgb):
    labels = np.zeros((20, 30), int)
    assert np.array_equal(overlay(rgb, labels), rgb)
    labels[5:10, 5:10] = 1
    mixed = overlay(rgb, labels)
    assert np.array_equal(mixed[:5], rgb[:5]) and (mixed[5, 5:10] == 255).all() and (mixed[6:10, 6:10] != rgb[6:10, 6:10]).any()


def test_areas_sum_to_one():
    assert areas(np.array([[0, 2], [2, 2]]), ["house", "fish"]) == {"background": 0.25, "house": 0.0, "fish": 0.75}


def test_any_tensor_becomes_an_array():
    import torch

    values = torch.tensor([0.5, -2.0], requires_grad=True)
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        found = to_numpy(values.to(kind))
        assert found.dtype == np.float32 and found.tolist() == [0.5, -2.0]
    exact = torch.tensor([1 / 3], dtype=torch.float64)
    assert to_numpy(exact).dtype == np.float64 and to_numpy(exact)[0] == 1 / 3
    assert to_numpy(torch.tensor([3, 255], dtype=torch.uint8)).dtype == np.uint8


def test_tensors_reach_numpy_by_one_way():
    import ast
    from pathlib import Path

    import diffseg_lib

    others = []
    for path in Path(diffseg_lib.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "numpy":
                others.append(path.name)
    assert others == ["images.py"], "call diffseg_lib.support.images.to_numpy, which takes any device and precision"
