"""From a folder of photos to a data set: every photo segmented by words, one COCO file, one page to look through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from ..category_filter import CategoryFilter
from ..segmenter import DiffSegmenter, Segmentation
from ..support.identity import describe_code, describe_models, fingerprint
from ..support.images import Photo
from .coco_file import Form, Row, named_photos, read_row, segment_folder, sharpened, stem, write_coco
from .contact_sheet import Card, write_sheet
from .crf import Crf


@dataclass(frozen=True)
class LabelledFolder:
    """What came of a folder.

    Args:
        file: The COCO file.
        sheet: The page of overlays.
        base: Folder that the file's names of photos are relative to.
        photos: Number of photos in the file.
        annotations: Number of annotations of each class.
        errors: Photos that are not in the file, and why.
    """

    file: Path
    sheet: Path
    base: Path
    photos: int
    annotations: dict[str, int]
    errors: dict[str, str]


def segment_kept(
    segmenter: DiffSegmenter, pixels: UInt8[np.ndarray, "H W 3"], classes: Sequence[str], kept: Sequence[str], intermediates: bool = False
) -> Segmentation:
    """A segmentation by all the classes of which those that were kept alone are looked for; the others' maps are 0, and labels keep their numbers.

    Args:
        segmenter: The diffusion model.
        pixels: The picture.
        classes: Names of all classes, in the order of the labels.
        kept: Names that are looked for; with none of them all is background.
        intermediates: Whether the intermediates of those are returned, too.
    """
    if not kept:
        nothing, notes = np.zeros((len(classes), 1, 1), np.float32), ("none of the words is in the picture: all is background",)
        labels = np.zeros(pixels.shape[:2], np.int32)
        return Segmentation(labels, nothing, torch.from_numpy(nothing), segmenter.config.final_norm, tuple(classes), segmenter.threshold, notes)
    found = segmenter.segment(pixels, kept, return_intermediates=intermediates)
    if len(kept) == len(classes):
        return found
    places = [list(classes).index(name) for name in kept]
    maps, completed = np.zeros((len(classes), *found.maps.shape[1:]), np.float32), found.completed.new_zeros(len(classes), *found.completed.shape[1:])
    maps[places], completed[places] = found.maps, found.completed
    numbers = np.array([0, *(place + 1 for place in places)], np.int32)
    return replace(found, labels=numbers[found.labels], maps=maps, completed=completed, classes=tuple(classes))


def label_folder(
    segmenter: DiffSegmenter,
    paths: Sequence[Path],
    classes: Sequence[str],
    out: str | Path,
    file: str | Path,
    *,
    form: Form | None = None,
    crf: Crf | None = None,
    chosen_by: CategoryFilter | None = None,
    progress: Callable[[str, str], Any] = lambda name, error: None,
) -> LabelledFolder:
    """Segment photos by words into one COCO file, and a contact sheet ``index.html``; what an earlier run has done is not done again.

    After an interruption file and page hold the photos that are done.

    Args:
        segmenter: The method and its models.
        paths: Photos, at least one; the file's names are relative to the folder that they have in common.
        classes: Words to look for, in the order of the categories, 1, 2 and so on.
        out: Folder of the rows, pictures and page.
        file: Place of the COCO file.
        form: How regions are written; None is as runs, one annotation a class and photo.
        crf: The dense CRF that sharpens the labels, or None.
        chosen_by: The filter that chooses among the words for each photo, or None, which asks for all of them; a word that is asked for is always painted
            somewhere.
        progress: Called with every photo's name and its error ("" where there is none).

    Raises:
        ValueError: On classes that cannot be used, and on a threshold that the CRF cannot take.
        RunError: If the folder cannot be written.
    """
    names = [one.name for one in segmenter.prompts(classes)]
    base, photos = named_photos(paths)
    profile = segmenter.backbone.profile
    facts = {"models": describe_models(profile), "config": asdict(segmenter.resolved), "classes": names, "crf": crf and asdict(crf)}
    if chosen_by is not None:
        thresholds = (chosen_by.text_similarity_threshold, chosen_by.relative_clip_threshold)
        facts["filter"] = {"names": chosen_by.names, "sources": chosen_by.sources, "thresholds": thresholds}
    facts["code"] = describe_code("applications.coco_file", "category_filter")
    settings, errors, top = fingerprint(facts), dict[str, str](), Path(out)

    def method(photo: Photo) -> Segmentation:
        asked = names if chosen_by is None else chosen_by.filter(photo.pixels).names
        found = segment_kept(segmenter, photo.pixels, names, asked)
        return sharpened(found, photo.pixels, crf) if crf and asked else found

    def note(name: str, error: str) -> None:
        if error:
            errors[name] = error
        progress(name, error)

    def rows() -> Iterator[Row]:
        found = (read_row(top, name, settings) for name in photos if name not in errors)
        return (row for row in found if row is not None)

    def put_together() -> LabelledFolder:
        about = f"{', '.join(names)} in {base.name}, found by diffseg with {profile.name}, to be corrected by hand"
        counts = write_coco(file, rows, names, form or Form(), about)
        cards = [Card(one.name, photos[one.name], *_pictures(one.name), (one.width, one.height), one.shares()) for one in rows()]
        sheet = write_sheet(top / "index.html", f"{base.name}: {', '.join(names)}", cards, names, errors)
        return LabelledFolder(Path(file), sheet, base, len(cards), counts, errors)

    try:
        segment_folder(photos, top, method, facts, note)
    except KeyboardInterrupt:
        put_together()
        raise
    return put_together()


def _pictures(name: str) -> tuple[str, str]:
    return f"thumbs/{stem(name)}.jpg", f"overlays/{stem(name)}.jpg"
