"""Is everything there? Models and data looked at before anything is loaded, every finding at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..data import READERS, place_of
from ..data.names import PUBLISHED
from ..loading import check_folder
from ..profiles import Profile, is_hub_id, load_profile, local_folder, split_revision
from ..support.paths import POCKET, pocket_source
from ..vision_language import find_pretrained
from .labels import check_coverage
from .sources import open_dataset

SPLITS: Mapping[str, tuple[str, ...]] = {"voc": ("train", "val", "trainaug"), "context": ("train", "val"), "object": ("train", "val")}
OPTIONAL = ("trainaug",)  # splits that a data set may lack
_MODELS = {"captioner": "captioner (BLIP)", "clip": "CLIP"}
SHOWN = 5  # broken images named
_LAYOUTS = {"voc": "VOCdevkit/VOC2012", "context": "VOCdevkit/VOC2010", "object": "annotations"}


@dataclass(frozen=True)
class Finding:
    """What one look at a model or a data set found.

    Args:
        what: Name of what was looked at.
        state: State that it is in: "ready", "missing" or "wrong".
        detail: Sentence on what was found, and what to do.
        optional: Whether nothing needs doing where it is missing.
    """

    what: str
    state: str
    detail: str
    optional: bool = False

    @property
    def pending(self) -> bool:
        """Whether something needs doing."""
        return self.state == "wrong" or (self.state == "missing" and not self.optional)


def _absent(what: str, source: str) -> Finding:
    """Of a hub id whose files are not on this machine: how to fetch them."""
    place, options = split_revision(source)
    revision = f", revision={options['revision']!r}" if "revision" in options else ""
    fetch = f"diffseg fetch with this profile (or huggingface_hub.snapshot_download({place!r}{revision}))"
    return Finding(what, "missing", f"{source} is not on this machine: fetch it once, online, by {fetch}, or name a folder it is in")


def check_models(profile: Profile, models: Sequence[str] = ("captioner", "clip")) -> list[Finding]:
    """Look at the diffusion model of a profile and, of BLIP and CLIP, at those named: every file's header, its size, and whether weights fit their settings.

    Args:
        profile: Profile whose models are looked at.
        models: Models beside the diffusion model that are looked at: "captioner", "clip".
    """
    looks: list[tuple[str, str, Callable[[], Sequence[str]]]] = [("diffusion model", profile.source, lambda: check_folder(profile)[1].notes)]
    for field in models:
        source = getattr(profile, field)
        looks.append((_MODELS[field], source, partial(_notes, field, source, profile.pickled_weights)))
    return [_model(*look) for look in looks]


def _notes(kind: str, source: str, pickled: bool) -> Sequence[str]:
    return find_pretrained(kind, source, pickled)[2]


def _model(what: str, source: str, look: Callable[[], Sequence[str]]) -> Finding:
    """Of a model: whether it would load, and what is unusual in its files."""
    if is_hub_id(source) and local_folder(source) is None:
        return _absent(what, source)
    try:
        notes = look()
    except FileNotFoundError as error:
        return Finding(what, "missing", str(error))
    except (ValueError, OSError) as error:
        return Finding(what, "wrong", str(error))
    return Finding(what, "ready", (source if is_hub_id(source) else Path(source).name) + (f" ({'; '.join(notes)})" if notes else ""))


def check_data(name: str, root: Path, splits: Sequence[str] = (), images: int = 50, order: str = "") -> Iterator[Finding]:
    """Look at a data set's splits: list and counts, order of labels, and so many images and masks of each, spread over the split.

    Args:
        name: Name of the data set, of ``diffseg_lib.data.READERS``.
        root: Folder of the tree.
        splits: Splits to look at; without any, those of :data:`SPLITS`, of which those of :data:`OPTIONAL` may be missing.
        images: Number of images of each split that are read at least; 0 is all.
        order: Order of Context's labels, as :func:`~diffseg_lib.evaluation.sources.open_dataset` takes it.
    """
    for split in splits or SPLITS[name]:
        what = f"{name}, {split}"
        try:
            dataset = open_dataset(name, root, split, order=order)
        except (ValueError, OSError) as error:
            missing = "no split file" in str(error) or "no annotations" in str(error) or "holds no" in str(error) or "is no folder" in str(error)
            yield Finding(what, "missing" if missing else "wrong", str(error), optional=not splits and split in OPTIONAL)
            continue
        yield from (Finding(what, "wrong", note) for note in dataset.notes if PUBLISHED in note)
        step = max(1, len(dataset) // images) if images else 1
        looked, broken = dataset.ids[::step], []
        for one in looked:
            try:
                dataset.load(one)
            except (ValueError, OSError) as error:
                broken.append(str(error))
        for text in broken[:SHOWN]:
            yield Finding(what, "wrong", text)
        if len(broken) > SHOWN:
            yield Finding(what, "wrong", f"and {len(broken) - SHOWN} more of the {len(looked)} images looked at")
        if not broken and len(dataset) == dataset.expected:
            notes = f" ({'; '.join(dataset.notes)})" if dataset.notes else ""
            yield Finding(what, "ready", f"{len(dataset)} images of {dataset.name}, {len(dataset.names) - 1} classes, {len(looked)} read{notes}")


def _place(profile: Profile, name: str, given: str, split: str, order: str) -> Finding:
    """Of a data set: whether it has a folder, and its tree can be opened; the pocket world's tree is written when asked for."""
    try:
        root = profile.data_root(name, given)
        return Finding(name, "ready", "the pocket world's" if root == POCKET else f"{len(open_dataset(name, root, split, order=order))} images")
    except ValueError as error:
        return Finding(name, "missing", f"{error}; the page on running it for real says where to fetch it")


def require(profile: str | Path | Profile, *models: str, datasets: Sequence[str] = (), data_root: str = "", split: str = "val", order: str = "") -> Profile:
    """A profile whose files are all there, with the data's folders in it: everything that is missing is told in one message, before anything loads.

    Args:
        profile: Profile, as :func:`~diffseg_lib.profiles.load_profile` takes it.
        models: Models beside the diffusion model that will be needed: "captioner", "clip".
        datasets: Names of the data sets that will be read.
        data_root: Folder of the data sets; "" is the profile's; "pocket" is the pocket world's tree, which is written when asked for.
        split: Split that will be read.
        order: Order of Context's labels, for Context alone.

    Raises:
        ValueError: On an unknown profile.
        FileNotFoundError: If anything is missing, a folder of a data set among it; the message says how to get each.
    """
    found = profile if isinstance(profile, Profile) else load_profile(profile)
    looked = check_models(found, models)
    looked += [_place(found, name, data_root, split, order if name == "context" else "") for name in datasets]
    lacking = [one for one in looked if one.state != "ready"]
    if lacking:
        lines = "\n".join(f"- {one.what}: {one.detail}" for one in lacking)
        raise FileNotFoundError(f"profile {found.name!r} cannot run yet:\n{lines}")
    roots = {pocket_source(name)[0]: found.data_root(name, data_root) for name in datasets}
    return replace(found, roots={**found.roots, **dict.fromkeys(READERS if data_root else (), data_root), **roots})


def check(
    profile: Profile,
    root: str | Path = "",
    names: Sequence[str] = (),
    images: int = 50,
    order: str = "",
    split: str = "",
    labels: str = "",
    labels_from: Sequence[str] = (),
) -> list[Finding]:
    """Look at the models of a profile, at data sets under a folder, and at a file of labels.

    Args:
        profile: Profile whose models are looked at.
        root: Folder with ``VOCdevkit``, ``annotations`` or ``coco`` in it; "" looks at no data.
        names: Names of the data sets; without any, those whose folders are there.
        images: Number of images of each split that are read, as :func:`check_data` takes it.
        order: Order of Context's labels, for Context alone.
        split: Split that is looked at; "" is all, as :func:`check_data` has them.
        labels: File of labels that is held against `split`, or else val; "" is none.
        labels_from: Dictionaries of the file, as :func:`~diffseg_lib.evaluation.labels.read_labels` takes them.
    """
    found = check_models(profile)
    if str(root):
        top = Path(root)
        wanted = names or [name for name in READERS if (place_of(name, top) / _LAYOUTS[name]).is_dir()]
        if not wanted:
            found.append(Finding("data", "missing", f"{top} holds none of {', '.join(_LAYOUTS.values())} (or coco/annotations): expected a data set's root"))
        for name in wanted:
            own = order if name == "context" else ""
            found += check_data(name, top, (split,) if split else (), images, own)
            if labels:
                found.append(_labels(name, top, split or "val", own, labels, labels_from))
    elif labels:
        found.append(Finding("labels", "missing", f"{labels} is held against a data set: expected the folder of one, by --data-root"))
    return found


def _labels(name: str, root: Path, split: str, order: str, labels: str, labels_from: Sequence[str]) -> Finding:
    """Of a file of labels: whether it fits a split."""
    what = f"{name}, labels of {split}"
    try:
        return Finding(what, "ready", f"{check_coverage(open_dataset(name, root, split, order=order), labels, labels_from)} images have labels in {labels}")
    except ValueError as error:
        return Finding(what, "wrong", str(error))
