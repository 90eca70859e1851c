"""Profiles: a model and the numbers chosen for it.

A profile is named ("pocket", "sd15", ...: a file of ``notebooks/profiles``), is a YAML file of the same form, a hub id (organisation/model, with ``@revision``
behind it or not), or the folder of a pipeline, whose ``profile.json`` holds the numbers if there is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml

from .support.errors import nearest
from .support.locks import ENDING, pinned
from .support.paths import data_folder, is_single_file, models_dir, profiles_dir
from .support.settings import Lora, NotNegativeInteger, Share, Template, Texts, Timesteps, Weights, one_of, settings

BLIP, CLIP = "Salesforce/blip-image-captioning-large", "openai/clip-vit-base-patch16"  # beside a model that names none
POCKET_MODELS = {"pocket": "diffusion", "pocket-transformer": "transformer"}  # sources that stand for folders of the shipped models
PAPER_WEIGHTS = {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}  # Eq. (5), stride 8 to stride 1
DTYPES = ("float32", "bfloat16", "float16")  # of weights and activations
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+(/[\w.-]+)*)?$")  # a revision may have slashes, as in refs/pr/2
_YAML = (".yaml", ".yml")


def is_hub_id(source: str) -> bool:
    """Whether a source reads like organisation/model or organisation/model@revision, and is no folder."""
    return bool(_HUB_ID.match(source)) and not Path(source).is_dir() and not is_single_file(source)


def split_revision(source: str) -> tuple[str, dict[str, Any]]:
    """A source without its revision, and the options by which ``from_pretrained`` finds its files on this machine.

    >>> split_revision("someone/model@v2")
    ('someone/model', {'local_files_only': True, 'revision': 'v2'})
    """
    place, _, revision = source.partition("@") if is_hub_id(source) else (source, "", "")
    return place, {"local_files_only": True} | ({"revision": revision} if revision else {})


def local_folder(source: str) -> Path | None:
    """The folder of a model's files: the source itself, or of a hub id the snapshot in the cache on this machine; None if it is not there."""
    if not is_hub_id(source):
        return Path(source)
    from .support.identity import snapshot  # loads numpy

    place, where = split_revision(source)
    return snapshot(place, where.get("revision", ""))


@settings
class Profile:
    """A model and the numbers chosen for it.

    Args:
        name: Name of the profile.
        source: Folder or hub id of the model, ``@revision`` behind it or not, or a single file of safetensors.
        timesteps: Timesteps of the noise, 1..999.
        weights: Fusion weights by stride relative to the latents; the default is Eq. (5)'s.
        threshold: Background threshold, in [0, 1].
        size: Length of an image's short side that the model works at, px; 0 is the model's own.
        template: Template of the prompt, with ``{class}`` in it.
        words: Vocabulary that the model was trained on; an empty one is open.
        captioner: Source of the BLIP beside the model.
        clip: Source of the CLIP beside the model.
        relative_clip_threshold: Share of the best class's CLIP score that keeps a class (see :mod:`diffseg_lib.category_filter`).
        absent_clip_threshold: Share of the best word's CLIP score below which a word that was asked for is noted as perhaps not in the picture. The pocket's is
            the largest, in steps of .05, that notes at most 5 % of the words present in 200 scenes of the train split (it notes 63 % of the absent ones;
            ``diffseg pocket measure absent``); the default lies between the cosines that CLIP usually gives to what is in a photo and what is not, and
            was chosen on no data.
        text_similarity_threshold: CLIP text cosine at which a caption's word means a class (see :mod:`diffseg_lib.category_filter`).
        max_sequence_length: Number of tokens of T5, or of a language model, that a transformer reads, of Stable Diffusion 3 also where there is no T5 and its
            tokens are zeros, as its pipeline's argument of this name; None is the length of the family's pipeline.
        roots: Folders of data sets by name, ``$VARIABLES`` of the environment in them; "pocket" is the pocket world's tree.
        device: Device that it runs on; "auto", in a file, is a GPU where there is one, else the processor.
        dtype: Precision that it runs in, of :data:`DTYPES`; "auto", in a file, is float32 on the processor, else float16.
        pickled_weights: Whether files of ``torch.save`` (``.bin``) are read, as tensors alone, where there are no safetensors.
        config: Folder or hub id of a pipeline whose settings and tokenizers a single file is read by; "" takes those that all models of its kind share.
        lora: Path of a LoRA that is added to the model, and its scale; None is none.
        chosen_on: Phrase on where the numbers are from.

    Raises:
        ValueError: On values of another type or out of range, or an unknown name.
    """

    name: str
    source: str
    timesteps: Timesteps = (100,)
    weights: Weights = field(default_factory=lambda: dict(PAPER_WEIGHTS))
    threshold: Share = 0.5
    size: NotNegativeInteger = 0
    template: Template = "a photograph of a {class}"
    words: Texts = ()
    captioner: str = BLIP
    clip: str = CLIP
    relative_clip_threshold: Share = 0.97
    text_similarity_threshold: Share = 0.8
    absent_clip_threshold: Share = 0.8
    max_sequence_length: NotNegativeInteger | None = None
    roots: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    dtype: Annotated[str, one_of(DTYPES)] = "float32"
    pickled_weights: bool = True
    config: str = ""
    lora: Lora | None = None
    chosen_on: str = "the paper's values"

    def with_models(self, captioner: str = "", clip: str = "") -> Profile:
        """The same profile with another BLIP or CLIP, where one is named."""
        return replace(self, captioner=captioner or self.captioner, clip=clip or self.clip)

    def data_root(self, dataset: str, given: str = "") -> str:
        """The folder of a data set: the one given, else the profile's, else an error; as :func:`~diffseg_lib.support.paths.data_folder` finds it."""
        return data_folder(dataset, given, self.roots, self.name)


def known_profiles() -> list[str]:
    """Names of the profiles that come with the repository."""
    return sorted(path.stem for path in profiles_dir().glob("*.yaml") if not path.name.endswith(ENDING))


def load_profile(name: str | Path = "pocket") -> Profile:
    """Find a profile: by name, YAML file, hub id (organisation/model), folder of a pipeline or single file. No model is looked at.

    Raises:
        ValueError: On a name that is neither known nor a file nor a folder, or a file that is no profile.
    """
    text, shipped = str(name), profiles_dir() / f"{name}.yaml"
    if shipped.is_file():
        return _of_yaml(shipped, text)
    if text.endswith(_YAML) and Path(text).is_file():
        return _of_yaml(Path(text), Path(text).stem)
    if is_hub_id(text) or (is_single_file(text) and Path(text).is_file()):
        return Profile(text, text)
    if not Path(text).is_dir():
        raise ValueError(
            f"unknown profile {text!r}: expected {', '.join(known_profiles())}, a YAML file, a folder or a .safetensors file; {nearest(text, known_profiles())}"
        )
    return _of_folder(Path(text), text)


def _of_folder(folder: Path, name: str, more: Mapping[str, Any] | None = None) -> Profile:
    facts = folder / "profile.json"
    if not facts.is_file():
        return _made(name, str(folder), more or {}, facts)
    try:
        known = json.loads(facts.read_text())
    except ValueError as error:
        raise _no_profile(facts, error) from error
    if not isinstance(known, dict):
        raise _no_profile(facts, f"expected an object, got {type(known).__name__}")
    return _made(name, str(folder), known | dict(more or {}), facts)


def _of_yaml(path: Path, name: str) -> Profile:
    """The ``settings`` of a file whose other entries are parameters of the chapters."""
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise _no_profile(path, error) from error
    settings = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or not isinstance(settings.get("source"), str):
        raise ValueError(f"{path} is no profile: expected 'settings' with at least a 'source': a folder, a hub id, or pocket")
    settings = pinned(settings, path)
    rest = {key: value for key, value in settings.items() if key != "source"}
    source = str(models_dir() / POCKET_MODELS[settings["source"]]) if settings["source"] in POCKET_MODELS else settings["source"]
    return _made(name, source, rest, path) if is_hub_id(source) or not Path(source).is_dir() else _of_folder(Path(source), name, rest)


def _made(name: str, source: str, facts: Mapping[str, Any], where: Path) -> Profile:
    try:
        return Profile(name, source, **dict(facts) | (_automatic(facts) if "auto" in (facts.get("device"), facts.get("dtype")) else {}))
    except (TypeError, ValueError) as error:
        raise _no_profile(where, error) from error


def _automatic(facts: Mapping[str, Any]) -> dict[str, str]:
    import torch

    device = facts.get("device", "cpu")
    device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    dtype = facts.get("dtype", "float32")
    return {"device": device, "dtype": dtype if dtype != "auto" else "float32" if device == "cpu" else "float16"}


def _no_profile(where: Path, why: object) -> ValueError:
    return ValueError(f"{where} is not a profile: {why}")
