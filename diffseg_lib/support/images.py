"""Reading photos and writing what was found in them."""

from __future__ import annotations

import mimetypes
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, features

from .bit_depth import deep_samples, raw_mode, stated_top, to_eight
from .errors import ran_out_of_memory

LARGEST = 100_000_000  # pixels
LONGEST = 8  # long side over short side
ROWS = 256  # of a picture that are drawn or counted at once

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

    Every format that the installed Pillow opens is taken; HEIC where pillow-heif is installed. A damaged EXIF block is left out, and said.

    Args:
        path: Path of the photo, a JPEG, PNG or other picture.

    Raises:
        ImageError: If there is no such file, it is no image, it is damaged or cut short, or it has more than :data:`LARGEST` pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"no image at {path}: expected an existing JPEG, PNG or other picture")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            open_heic()
            image = Image.open(path)
            if image.width * image.height > LARGEST:
                raise ImageError(f"{path} has {image.width} x {image.height} pixels, more than {LARGEST:,}: shrink it first")
            photo = to_photo(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to open ({error}): shrink it to {LARGEST:,} pixels or fewer") from error
    except ImageError:
        raise
    except Exception as error:  # a decoder that meets damage raises whatever it happens to
        if ran_out_of_memory(error):
            raise
        reason = str(error) if isinstance(error, OSError | ValueError | SyntaxError) else f"{type(error).__name__}: {error}"
        raise ImageError(f"{path} cannot be read as an image ({reason}): {why_not(path) or 'expected a complete JPEG, PNG or other picture'}") from error
    said = [" ".join(str(one.message).split()) for one in told if not issubclass(one.category, Image.DecompressionBombWarning | DeprecationWarning)]
    return Photo(photo.pixels, (*photo.notes, *dict.fromkeys(f"the reader says: {text}" for text in said)))


ORIENTATION = 0x0112  # tag of EXIF
# What brings an array H W 3 upright, by EXIF's orientation.
TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


def to_photo(image: Image.Image) -> Photo:
    """An opened picture of any mode, upright and in RGB; it is turned by its orientation where the reader has not done so already."""
    notes: list[str] = []
    raw = raw_mode(image)  # asking for EXIF may load the picture
    told = _orientation(image, notes)
    more: list[str] = []
    pixels = to_rgb(image, more, raw)
    left = _orientation(image, notes)  # some readers turn the picture while they decode it, and then say 1
    if any(one in TURNS for one in (told, left, image.info.get("original_orientation"))):
        notes.append("turned by its EXIF orientation")
    if left in TURNS:
        pixels = np.ascontiguousarray(TURNS[left](pixels))
    if (pages := getattr(image, "n_frames", 1)) > 1 and image.format not in ("MPO", "PSD"):  # a phone's second frame is a thumbnail, a PSD's are layers
        notes.append(f"the first of its {pages} pages")
    return Photo(pixels, (*notes, *more))


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception as error:  # whatever a damaged block makes its reader raise
        if not any("EXIF block" in note for note in notes):
            notes.append(f"its EXIF block is damaged ({type(error).__name__}) and left out: the picture is not turned")
        return 1
    return found if isinstance(found, int) else 1


def to_rgb(image: Image.Image, notes: list[str], raw: str = "") -> np.ndarray:
    """An opened picture of any mode as RGB, H W 3, uint8; what was done is added to `notes`; `raw` is its :func:`raw_mode`, if it is loaded already."""
    raw, stated = raw or raw_mode(image), stated_top(image)
    deep = ";16" in raw and image.mode in ("RGB", "RGBA", "LA")
    image.load()
    if image.mode == "RGB" and not deep:
        return np.asarray(image)
    notes.append(f"reduced from 16 bits a sample, mode {image.mode}" if deep else f"converted from mode {image.mode}")
    if image.mode.startswith("I;16"):
        return np.repeat(to_eight(np.asarray(image).astype(np.uint16), stated, notes)[..., None], 3, axis=2)
    if image.mode.startswith("I") or image.mode == "F":  # 32 bit: scaled, never cut
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0).clip(0)
        top = max(65535.0 if image.mode != "F" else 255.0 if values.max() > 1 else 1.0, values.max())
        return np.repeat((values / top * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    if deep:
        image = _deepened(image, raw, stated, notes)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _deepened(image: Image.Image, raw: str, stated: int, notes: list[str]) -> Image.Image:
    """A picture whose upper bytes alone were read; those of fewer bits in sixteen are nearly black, and are read with their lower ones."""
    high = np.asarray(image)
    colours = high.shape[2] - ("A" in image.getbands())
    if high[..., :colours].max() > 15:
        return image
    if (whole := deep_samples(image, high, raw)) is None:
        notes.append(f"its brightest value is {high[..., :colours].max()} of 255: stretch it to all of its 16 bits if it looks black")
        return image
    samples = to_eight(whole[..., :colours], stated, notes)
    return Image.fromarray(np.concatenate([samples, high[..., colours:]], axis=2))


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
    """The picture with its labels laid over it, outlined in white: H W 3, uint8; made some rows at a time, to spare memory."""
    values, drawn = np.arange(256), np.empty_like(pixels)
    numbers = np.arange(max(labels.max(initial=0), 0) + 1)
    colours = np.where(numbers > 0, (numbers - 1) % (len(PALETTE) - 1) + 1, 0)
    mixed = ((1 - strength) * values + strength * np.array(PALETTE)[colours].T[..., None]).round().astype(np.uint8)  # channels, labels, values
    mixed[:, 0] = values
    for top in range(0, len(labels), ROWS):
        rows, above = labels[top : top + ROWS], labels[max(top - 1, 0) : top + ROWS]
        edge = above[1:] != above[:-1] if top else np.vstack([np.zeros_like(rows[:1], bool), rows[1:] != rows[:-1]])
        edge[:, 1:] |= rows[:, 1:] != rows[:, :-1]
        start = rows.astype(np.intp) * 256
        for channel, table in enumerate(mixed):
            drawn[top : top + ROWS, :, channel] = table.take(start + pixels[top : top + ROWS, :, channel])
        drawn[top : top + ROWS][edge] = 255
    return drawn


def save_labels(labels: np.ndarray, path: Path | IO[bytes]) -> None:
    """Write labels (H W, 0..255) as a palette PNG whose indices are the labels, in VOC's colours, to a path or an open file."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(voc_colours().reshape(-1).tolist())
    image.save(path, "PNG")


def areas(labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """The share of the image that each class takes, background included."""
    rows = (labels[top : top + ROWS].reshape(-1) for top in range(0, len(labels), ROWS))  # a count of all at once would copy them
    counts = np.sum([np.bincount(one, minlength=len(classes) + 1) for one in rows], axis=0) / labels.size
    return {name: round(float(share), 6) for name, share in zip(["background", *classes], counts, strict=True)}


HEIC = (".heic", ".heif", ".hif")
RAW = tuple(".3fr .arw .cr2 .cr3 .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f".split())
# Formats that Pillow registers and that hold no photo, or that it hands to another program.
NO_PHOTOS = frozenset("BUFR GRIB HDF5 MPEG EPS WMF IPTC".split())


@cache
def open_heic() -> bool:
    """Let Pillow open HEIC, if the package pillow-heif is installed; returns whether it is."""
    if find_spec("pillow_heif") is None:
        return False
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return True


@cache
def picture_suffixes() -> frozenset[str]:
    """Endings, in lower case, by which a folder's pictures are known: those of every photo format that the installed Pillow opens."""
    open_heic()
    known = Image.registered_extensions()  # fills Image.OPEN, too
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in NO_PHOTOS)


def why_not(path: Path) -> str:
    """Why a file that looks like a picture is not taken, and what to do, by its ending and its first bytes; "" where there is no such reason.

    Args:
        path: Path of the file.
    """
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        head = file.read(16)
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if (brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1") or suffix in HEIC) and not open_heic():
        return "HEIC needs the package pillow-heif: pip install 'diffseg-lib[heic]'"
    if (brand in (b"avif", b"avis") or suffix == ".avif") and not features.check("avif"):
        return "this Pillow was built without AVIF: pip install --upgrade pillow"
    if suffix in (".svg", ".svgz"):
        return "it is a drawing and has no pixels: export it as PNG"
    if suffix in RAW:
        return "it is a camera's raw file: develop it to JPEG or TIFF first"
    if suffix not in picture_suffixes() and ((mimetypes.guess_type(path.name)[0] or "").startswith("image/") or suffix in (".jxl", ".exr", ".hdr", ".xcf")):
        return f"Pillow opens no {suffix} files: save it as JPEG, PNG or TIFF"
    return ""


def pictures_in(paths: Sequence[Path]) -> list[Path]:
    """Files as they are given; a folder is replaced by the pictures that lie in it directly, sorted by name.

    A folder's pictures are known by their endings (:func:`picture_suffixes`), those without an ending by their content; hidden files are none.

    Args:
        paths: Files and folders.

    Raises:
        ImageError: On a folder without pictures.
    """
    found: list[Path] = []
    for path in paths:
        inside = [one for one in _visible(path) if _is_picture(one)] if path.is_dir() else [path]
        if not inside:
            left = "".join(f"; {told}" for told in not_taken([path])[:3])
            raise ImageError(f"{path} has no picture in it: expected JPEG, PNG or other files that Pillow opens{left}")
        found += inside
    return found


def not_taken(paths: Sequence[Path]) -> list[str]:
    """What in folders looks like a picture and is not among :func:`pictures_in`, each with the reason, and inner folders with pictures.

    Args:
        paths: Files and folders.
    """
    told = []
    for path in paths:
        for one in _visible(path) if path.is_dir() else ():
            if one.is_file() and not _is_picture(one) and (why := why_not(one)):
                told.append(f"{one} is not taken: {why}")
    return told


def inner_folders(paths: Sequence[Path]) -> list[Path]:
    """Folders inside the given ones that hold pictures and no results, which :func:`pictures_in` does not look into."""
    inner = [one for path in paths if path.is_dir() for one in _visible(path) if one.is_dir()]
    return [one for one in inner if not (one / "result.json").exists() and any(_is_picture(inside) for inside in _visible(one))]


def _visible(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if not one.name.startswith("."))


def _is_picture(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix:
        return path.suffix.lower() in picture_suffixes()
    try:
        with Image.open(path):
            return True
    except Exception:  # it is something else, or damaged beyond being known
        return False


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
    upright = np.asfortranarray(labels, np.min_scalar_type(len(classes)))  # runs go down the columns
    for i, name in enumerate(classes, start=1):
        coded = runs.encode((upright == i).view(np.uint8))
        if area := int(runs.area(coded)):
            segmentation = {"size": [int(side) for side in coded["size"]], "counts": coded["counts"].decode("ascii")}
            box = [float(value) for value in runs.toBbox(coded)]
            found.append({"id": len(found) + 1, "category_id": i, "category": name, "segmentation": segmentation, "bbox": box, "area": area, "iscrowd": 0})
    return found
