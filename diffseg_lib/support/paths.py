"""Where things live: the repository, its data, the cache of generated files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

POCKET = "pocket"  # in place of a data set's folder: the pocket world's tree; before its name: that tree's

PICKLED = (".ckpt", ".pt", ".pth", ".bin")  # endings of files of weights that can hold code


def is_single_file(source: str) -> bool:
    """Whether a model's source names a file of weights rather than a folder or a hub id.

    >>> is_single_file("models/v1-5-pruned-emaonly.safetensors"), is_single_file("someone/model")
    (True, False)
    """
    return source.endswith((".safetensors", *PICKLED)) and not Path(source).is_dir()


def repository_root() -> Path:
    """The folder that holds ``diffseg_lib``."""
    return Path(__file__).resolve().parent.parent.parent


def in_repository() -> bool:
    """Whether this library is used from its repository; an installed one has ``data`` and ``profiles`` inside the package, in ``shipped``."""
    return (repository_root() / "pyproject.toml").is_file()


def _shipped() -> Path:
    return Path(__file__).resolve().parent.parent / "shipped"


def data_dir() -> Path:
    """``$DIFFSEG_DATA``, else ``data`` at the top of the repository, else what was installed with the library."""
    return Path(os.environ.get("DIFFSEG_DATA", (repository_root() if in_repository() else _shipped()) / "data"))


def results_file(study: str, profile: str) -> Path:
    """The file of a study's larger run.

    Args:
        study: Name of the study.
        profile: Profile that it ran on: a name, or a path whose last part counts.
    """
    return data_dir() / "results" / Path(profile).name / f"{study}.json"


def profiles_dir() -> Path:
    """The profiles that come with the library, YAML files."""
    return repository_root() / "notebooks" / "profiles" if in_repository() else _shipped() / "profiles"


def models_dir() -> Path:
    """The shipped pocket models."""
    return data_dir() / "pocket" / "models"


def cache_dir() -> Path:
    """Generated files: ``$DIFFSEG_CACHE``, else ``~/.cache/diffseg``."""
    return Path(os.environ.get("DIFFSEG_CACHE", Path.home() / ".cache" / "diffseg"))


def build_dir() -> Path:
    """Where everything generated goes: ``build`` in the repository, where git does not look; of an installed library in the current folder."""
    return (repository_root() if in_repository() else Path.cwd()) / "build"


def pocket_source(dataset: str, root: str = "") -> tuple[str, str]:
    """The name and the folder of a data set, which may be named as the pocket world's.

    Args:
        dataset: Name of the data set, ``pocket-`` before it or not.
        root: Folder of the data set; "" is none.

    Raises:
        ValueError: If another folder is given for a tree of the pocket world.

    >>> pocket_source("pocket-voc"), pocket_source("voc", "DIR")
    (('voc', 'pocket'), ('voc', 'DIR'))
    """
    name = dataset.removeprefix(f"{POCKET}-")
    if name == dataset:
        return name, root
    if root not in ("", POCKET):
        raise ValueError(f"{dataset} is the pocket world's, which lies in no folder {root}: give the folder alone, or call the data set {name}")
    return name, POCKET


def data_folder(dataset: str, given: str, roots: Mapping[str, str], profile: str) -> str:
    """The folder of a data set: the one given, else the profile's; "pocket" is the pocket world's tree, of which no other profile is measured unasked.

    Args:
        dataset: Name of the data set: "voc", "context" or "object"; "pocket-voc" and so on are the pocket world's.
        given: Folder that goes before the profile's; "" is none.
        roots: Folders of the profile by data set, ``$VARIABLES`` of the environment in them.
        profile: Name of the profile.

    Raises:
        ValueError: If no folder is given and the profile has none, or its variable is not set.
    """
    dataset, given = pocket_source(dataset, given)
    declared = roots.get(dataset, "")
    root = given or os.path.expandvars(declared)
    if root and not root.startswith("$"):
        return root
    lacking = f"the variable {declared} is not set" if declared else "it names none"
    raise ValueError(
        f"profile {profile!r} has no folder of the data set {dataset!r} ({lacking}): give one, by --root (--{dataset} of study) or the parameter data_root, "
        f"or give {POCKET!r} there for the pocket world's tree"
    )
