"""Reading photos and writing what was found in them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

LARGEST = 100_000_000  # pixels
LONGEST = 8  # long side over short side

# Paul Tol's "muted" and "bright" colours: told apart by colour-blind readers; 0 is the background.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (51, 34, 136),
    (221, 204, 119),
    (17, 119, 51),
    (136, 204, 238),
    (204, 102, 119),
    (170, 68, 153),
    (68, 170, 153),
    (153, 153, 51),
    (136, 34, 85),
    (238, 119, 51),
    (0, 119, 187),
    (187, 187, 187),
)


class ImageError(ValueError):
    """An image that cannot be read, or is too large."""


@dataclass(frozen=True)
class Photo:
    """A picture's pixels, and how they were brought to RGB.

    Args:
        pixels: Pixels of the picture, H W 3, uint8 RGB.
        notes: Sentences on what was done to get there.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor as an array, whatever device it is on, whatever precision it has, and whether it takes part in a gradient.

    Args:
        tensor: A ``torch.Tensor``. Values of half precision come as float32 (NumPy has no bfloat16), others as they are.
    """
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).cpu().numpy()


def voc_colours(count: int = 256) -> np.ndarray:
    """The colour map of PASCAL VOC's palette images: count x 3, uint8 (the bits of the index, spread)."""
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for shift in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * shift + channel)) & 1) << (7 - shift)).astype(np.uint8)
    return colours


def load_photo(path: str | Path) -> Photo:
    """Read a user's photo by its content: it is turned by EXIF once and brought to RGB, and the notes say so.

    Args:
        path: Path of the photo, a JPEG, PNG or other picture.

    Raises:
        ImageError: If there is no such file, it is no image, it is cut short, or it has more than :data:`LARGEST` pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"no image at {path}: expected an existing JPEG, PNG or other picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
            if image.width * image.height > LARGEST:
                raise ImageError(f"{path} has {image.width} x {image.height} pixels, more than {LARGEST:,}: shrink it first")
            image.load()
            return to_photo(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to open ({error}): shrink it to {LARGEST:,} pixels or fewer") from error
    except ImageError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path} cannot be read as an image ({error}): expected a complete JPEG, PNG or other picture") from error


def to_photo(image: Image.Image) -> Photo:
    """An opened picture of any mode, turned by EXIF once and brought to RGB."""
    notes = []
    if image.getexif().get(0x0112, 1) in range(2, 9):
        notes.append("turned by its EXIF orientation")
    return Photo(to_rgb(ImageOps.exif_transpose(image), notes), tuple(notes))


def to_rgb(image: Image.Image, notes: list[str]) -> np.ndarray:
    """An opened picture of any mode as RGB, H W 3, uint8; what was done is added to `notes`."""
    if image.mode == "RGB":
        return np.asarray(image)
    notes.append(f"converted from mode {image.mode}")
    if image.mode.startswith("I") or image.mode == "F":  # 16 and 32 bit: scaled, never cut
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0).clip(0)
        top = max(65535.0 if image.mode != "F" else 255.0 if values.max() > 1 else 1.0, values.max())
        return np.repeat((values / top * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def working_size(height: int, width: int, short_side: int, multiple: int) -> tuple[int, int]:
    """Height and width that the model works at: the short side near `short_side`, both multiples of `multiple`.

    Args:
        height: Height of the picture, px.
        width: Width of the picture, px.
        short_side: Length that the short side is to have, px.
        multiple: Number that both sides are rounded to multiples of, px.

    Raises:
        ImageError: On a strip more than :data:`LONGEST` times as long as it is wide.

    >>> working_size(375, 500, 512, 64)
    (512, 704)
    """
    if max(height, width) > LONGEST * min(height, width):
        raise ImageError(f"a picture of {width} x {height} px is too long a strip: crop it to at most {LONGEST} : 1")
    scale = short_side / min(height, width)
    h, w = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
    return h, w


def overlay(pixels: np.ndarray, labels: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """The picture with its labels laid over it, outlined in white: H W 3, uint8."""
    colours = np.array(PALETTE)[np.where(labels > 0, (labels - 1) % (len(PALETTE) - 1) + 1, 0)]
    mixed = np.where((labels > 0)[..., None], (1 - strength) * pixels + strength * colours, pixels)
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    mixed[edge] = 255
    return mixed.round().astype(np.uint8)


def save_labels(labels: np.ndarray, path: Path | IO[bytes]) -> None:
    """Write labels (H W, 0..255) as a palette PNG whose indices are the labels, in VOC's colours, to a path or an open file."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(voc_colours().reshape(-1).tolist())
    image.save(path, "PNG")


def areas(labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """The share of the image that each class takes, background included."""
    counts = np.bincount(labels.reshape(-1), minlength=len(classes) + 1) / labels.size
    return {name: round(float(share), 6) for name, share in zip(["background", *classes], counts, strict=True)}


PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # by which a folder's pictures are known


def pictures_in(paths: Sequence[Path]) -> list[Path]:
    """Files as they are given; a folder is replaced by its pictures, sorted by name.

    Args:
        paths: Files and folders.

    Raises:
        ImageError: On a folder without pictures.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURES) if path.is_dir() else [path]
        if not inside:
            raise ImageError(f"{path} has no picture in it: expected files ending in {', '.join(PICTURES)}")
        found += inside
    return found


def coco_segments(labels: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Labels as COCO's annotations: one segment for each class that was found.

    Args:
        labels: Labels, H W; 0 is the background, i the i-th class.
        classes: Names of the classes, in the order of the labels.

    Returns:
        Dictionaries with the mask as compressed runs, the box (x, y, width, height, px) and the area in px.
    """
    from pycocotools import mask as runs

    found: list[dict[str, Any]] = []
    for i, name in enumerate(classes, start=1):
        coded = runs.encode(np.asfortranarray((labels == i).astype(np.uint8)))
        if area := int(runs.area(coded)):
            segmentation = {"size": [int(side) for side in coded["size"]], "counts": coded["counts"].decode("ascii")}
            box = [float(value) for value in runs.toBbox(coded)]
            found.append({"id": len(found) + 1, "category_id": i, "category": name, "segmentation": segmentation, "bbox": box, "area": area, "iscrowd": 0})
    return found
