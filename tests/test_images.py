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


def _png(path, depth: int, significant: int = 0) -> None:
    """A PNG's chunk sBIT is set behind its head: `significant` bits."""
    import struct
    import zlib

    data, chunk = path.read_bytes(), b"sBIT" + bytes([significant] * depth)
    path.write_bytes(data[:33] + struct.pack(">I", depth) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:])


@pytest.mark.parametrize(
    ("name", "top", "whole", "said"),
    [
        ("grey.png", 65535, 65535, None),
        ("grey.png", 40000, 65535, None),  # dark, not shallow
        ("grey.png", 4095, 4095, "taken as 12 bits"),
        ("sbit.png", 3000, 4095, "as the file says"),
        ("sbit.png", 65520, 65535, None),  # stretched, as PNG wants it
        ("bits.tif", 4095, 4095, "taken as 12 bits"),
        ("tagged.tif", 900, 16383, "as the file says"),
        ("grey.jp2", 65535, 65535, None),
        ("colour.png", 65535, 65535, None),
        ("colour.png", 4095, 4095, "taken as 12 bits"),
        ("colour.tif", 1000, 1023, "taken as 10 bits"),
    ],
)
def test_more_than_eight_bits_are_scaled_by_the_files_own_depth_never_cut(tmp_path, name, top, whole, said):
    import tifffile

    values, path = np.linspace(0, top, 600).reshape(20, 30).astype(np.uint16), tmp_path / name
    if name.startswith("colour"):
        values = np.stack([values, values[::-1], values[:, ::-1]], axis=2)
    if name == "colour.png":
        _write_deep_png(path, values)
    elif path.suffix == ".tif":
        tags = [(281, "H", 1, 16383, True)] if name == "tagged.tif" else []
        tifffile.imwrite(path, values, extratags=tags, photometric="rgb" if values.ndim == 3 else "minisblack")
    else:
        Image.fromarray(values).save(path)
    if name == "sbit.png":
        _png(path, 1, 12)
    photo = load_photo(path)
    found = photo.pixels if values.ndim == 3 else photo.pixels[..., 0]
    assert np.abs(found - values / whole * 255).max() <= (1 if whole == 65535 else 0.5)
    assert (said in " ".join(photo.notes)) if said else len(photo.notes) == 1


def _write_deep_png(path, values) -> None:
    """A PNG of 16 bits a colour, which Pillow does not write."""
    import struct
    import zlib

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks))


@pytest.mark.parametrize("name", ["photo.tif", "photo.avif", "photo.webp", "photo.jpg"])
def test_orientation_is_applied_and_said_whoever_applies_it(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, :16] = 255  # the left half lies above when the picture is upright
    Image.fromarray(wide).save(tmp_path / name, exif=exif)
    photo = load_photo(tmp_path / name)
    assert photo.pixels.shape == (32, 16, 3) and photo.notes == ("turned by its EXIF orientation",)
    assert photo.pixels[:12].min() > 200 and photo.pixels[-12:].max() < 50


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"])
@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp"])
def test_a_damaged_exif_block_is_left_out_and_said(tmp_path, rgb, name, exif, recwarn):
    Image.fromarray(rgb).save(tmp_path / name, exif=exif)
    photo = load_photo(tmp_path / name)
    assert photo.pixels.shape == rgb.shape and ("EXIF" in " ".join(photo.notes) or "Truncated" in " ".join(photo.notes)) and not recwarn.list


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, TypeError, OverflowError, ZeroDivisionError])
def test_whatever_a_decoder_raises_is_an_error_of_the_photo(tmp_path, rgb, monkeypatch, kind):
    Image.fromarray(rgb).save(tmp_path / "photo.png")

    def fail(self):
        raise kind("inside")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(ImageError, match=r"photo\.png cannot be read as an image .*inside"):
        load_photo(tmp_path / "photo.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        load_photo(tmp_path / "photo.png")


def test_heic_is_read_with_its_package_and_named_without_it(tmp_path, monkeypatch):
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    with monkeypatch.context() as patch:
        patch.setattr(images, "open_heic", lambda: False)
        with pytest.raises(ImageError, match=r"HEIC needs the package pillow-heif: pip install 'diffseg-lib\[heic\]'"):
            load_photo(tmp_path / "photo.jpg")
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, :64] = 255
    Image.fromarray(wide).save(tmp_path / "photo.heic", exif=exif.tobytes())
    assert images.pictures_in([tmp_path]) == [tmp_path / "photo.heic", tmp_path / "photo.jpg"]
    photo = load_photo(tmp_path / "photo.heic")
    assert photo.pixels.shape == (128, 64, 3) and photo.notes == ("turned by its EXIF orientation",) and photo.pixels[:40].min() > 200


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
