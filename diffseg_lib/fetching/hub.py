"""Models from the hub: exactly the files that a profile needs, at one commit, put into the hub's own cache on this machine."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..profiles import Profile, is_hub_id, split_revision
from .transfer import Item, transfer

_TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "chat_template.jinja",
)
_SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "scheduler_config.json", *_TOKENIZER)
_WITH_WEIGHTS = ("vae", "unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
PARTS = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3", *_WITH_WEIGHTS)  # of a pipeline; no safety checker
_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<a>(?!safetensors|bin)\w+))?(?P<shard>-\d{5}-of-\d{5})?(?:\.(?P<b>(?!safetensors|bin)\w+))?"
    r"\.(?P<format>safetensors|bin)(?P<index>\.index(?:\.(?P<c>\w+))?\.json)?"
)


@dataclass(frozen=True)
class Model:
    """A model that is to be fetched.

    Args:
        source: Name of it in the profile.
        commit: Commit that its revision stands for.
        licence: Name of its licence, as its page has it.
        items: Files of it that are needed.
        notes: Sentences on what was chosen, and why.
    """

    source: str
    commit: str
    licence: str
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @property
    def repository(self) -> str:
        """Organisation and name, without the revision."""
        return split_revision(self.source)[0]


def sources_of(profile: Profile, more: Iterable[str] = ()) -> list[str]:
    """The hub ids among a profile's models and further ones, each once.

    Raises:
        ValueError: If a further one is no hub id.
    """
    for source in more:
        if not is_hub_id(source):
            raise ValueError(f"{source!r} is no hub id: expected organisation/model, or organisation/model@revision")
    return [source for source in dict.fromkeys((profile.source, profile.captioner, profile.clip, *more)) if is_hub_id(source)]


def choose_weights(names: Collection[str], variant: str = "") -> tuple[list[str], str]:
    """The weight files of a part, out of the names in its folder: one precision, one format, nothing twice.

    Safetensors come before ``.bin``; of safetensors the variant asked for comes first, then the plain ones, then whatever other precision is there.

    Args:
        names: Names of the files in the folder.
        variant: Precision asked for, as in "fp16"; "" is the plain one.

    Returns:
        The names, with the index of the shards where there are several; and a sentence where it is not what was asked for, else "".

    >>> choose_weights(["config.json", "model.safetensors", "pytorch_model.bin", "model.fp16.safetensors", "flax_model.msgpack"])
    (['model.safetensors'], '')
    """
    groups: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)  # precision and format: name, and its shard, "index" or ""
    for name in sorted(names):
        if found := _WEIGHTS.fullmatch(name):
            kind = "index" if found["index"] else found["shard"] or ""
            groups[found["a"] or found["b"] or found["c"] or "", found["format"]].append((name, kind))
    whole = {key: chosen for key, files in groups.items() if (chosen := _complete(files))}
    order = sorted(whole, key=lambda key: (key[1] == "bin", key[0] != variant, key[0] != "", key[0] == "non_ema", key[0]))
    if not order:
        return [], ""
    precision, form = order[0]
    said = []
    if precision != variant:
        said.append(f"there is no {variant or 'plain'} variant, so {precision or 'the plain one'} is taken")
    if form == "bin":
        said.append("there are no safetensors, so .bin is taken")
    return whole[order[0]], "; ".join(said)


def _complete(files: list[tuple[str, str]]) -> list[str]:
    """One file with everything in it, else an index and all of its shards, else nothing."""
    single = [name for name, kind in files if not kind]
    if single:
        return single[:1]
    shards = [name for name, kind in files if kind not in ("", "index")]
    counts = {kind[-5:] for _, kind in files if kind not in ("", "index")}
    return [name for name, _ in files] if len(counts) == 1 and len(shards) == int(next(iter(counts))) and len(shards) < len(files) else []


def choose_files(names: Collection[str], variant: str = "") -> tuple[list[str], list[str]]:
    """The files of a repository that are needed, and sentences on what was chosen.

    Args:
        names: Paths of all its files.
        variant: Precision asked for, as of :func:`choose_weights`.

    Raises:
        ValueError: If it is neither a pipeline nor a model, or weights are missing.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, _, file = name.rpartition("/")
        folders[folder].append(file)
    pipeline = any("config.json" in folders.get(part, ()) for part in ("unet", "transformer"))
    if not pipeline and "config.json" not in folders.get("", ()):
        there = ", ".join(sorted(folder for folder in folders if folder)) or "no folder"
        raise ValueError(f"it holds {there}: expected a pipeline with unet/config.json or transformer/config.json, or a model with config.json")
    chosen, notes = (["model_index.json"] if pipeline and "model_index.json" in folders[""] else []), []
    for part in PARTS if pipeline else ("",):
        inside = folders.get(part, [])
        prefix = f"{part}/" if part else ""
        chosen += [prefix + file for file in sorted(inside) if file in _SETTINGS]
        if part in _WITH_WEIGHTS or not pipeline:
            weights, said = choose_weights(inside, variant)
            if inside and not weights:
                raise ValueError(f"{part or 'its top folder'} holds no weights as safetensors or .bin, but {', '.join(sorted(inside))}")
            chosen += [prefix + file for file in weights]
            notes += [f"{part or 'weights'}: {said}"] if said else []
    return chosen, notes


def plan_model(source: str, variant: str = "", commit: str = "") -> Model:
    """What of a model is to be fetched, by the listing of its repository.

    Args:
        source: Hub id, ``@revision`` behind it or not.
        variant: Precision asked for, as of :func:`choose_weights`.
        commit: Commit that a lock holds it to; "" asks what its revision stands for now.

    Raises:
        ValueError: If it does not hold what is needed.
        OSError: If the hub cannot be reached, or has no such repository or revision, or wants an agreement first.
    """
    from huggingface_hub import HfApi, constants, hf_hub_url

    repository, options = split_revision(source)
    with _told(source):
        info = HfApi(endpoint=constants.ENDPOINT).model_info(repository, revision=commit or options.get("revision"), files_metadata=True)
    known = {one.rfilename: one for one in info.siblings or []}
    try:
        chosen, notes = choose_files(list(known), variant)
    except ValueError as error:
        raise ValueError(f"{source} at commit {info.sha}: {error}") from error
    blobs = _folder(repository) / "blobs"
    items = []
    for name in chosen:
        one = known[name]
        digests = {"sha256": one.lfs.sha256} if one.lfs else {"git": str(one.blob_id)}
        address = hf_hub_url(repository, name, revision=info.sha, endpoint=constants.ENDPOINT)
        items.append(Item(name, address, blobs / next(iter(digests.values())), one.size, digests))
    return Model(source, str(info.sha), _licence(info), tuple(items), tuple(notes))


def fetch_model(model: Model) -> dict[str, Any]:
    """Fetch what is missing of a model and give every file its name in the cache; returns what its lock holds.

    Raises:
        OSError, ValueError: As of :func:`~diffseg_lib.fetching.transfer.transfer`.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import build_hf_headers

    wanted = split_revision(model.source)[1].get("revision", "main")
    headers = {name: value for name, value in build_hf_headers().items() if name.lower() == "authorization"}
    files = {}
    for item in model.items:
        files[item.name] = {"size": item.place.stat().st_size if item.place.is_file() else item.size, "sha256": transfer(item, headers)}
    with _told(model.source):
        for item in model.items:
            hf_hub_download(model.repository, item.name, revision=model.commit, endpoint=constants.ENDPOINT)
    _remember(_folder(model.repository), wanted, model.commit)
    return {"commit": model.commit, "licence": model.licence, "files": files}


def _remember(folder: Path, revision: str, commit: str) -> None:
    """Note in the cache what a revision stands for, as the hub's own client does."""
    if revision != commit:
        place = folder / "refs" / revision
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(commit)


def _folder(repository: str) -> Path:
    """A repository's folder in the hub's cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def _licence(info: Any) -> str:
    card: Mapping[str, Any] = info.card_data.to_dict() if info.card_data else {}
    named = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    licence = card.get("license_name") or card.get("license") or ", ".join(named)
    return str(licence or "not told on its page")


class _told:
    """Turn what the hub's client raises into a sentence."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from huggingface_hub import constants, errors

        page = f"{constants.ENDPOINT}/{split_revision(self.source)[0]}"
        if isinstance(error, errors.GatedRepoError):
            raise OSError(f"{self.source} is given only to those who agree to its terms: do so on {page}, and log in by: hf auth login") from error
        if isinstance(error, errors.RepositoryNotFoundError):
            raise OSError(f"there is no {self.source} at {page} (or it was taken down, or is private): name another in the profile") from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise OSError(f"{page} has no revision {self.source.partition('@')[2]!r}: name one that it has") from error
        if isinstance(error, errors.OfflineModeIsEnabled):
            raise OSError("the hub's client was told to stay offline: unset HF_HUB_OFFLINE to fetch") from error
        if error is not None and not isinstance(error, ValueError | KeyboardInterrupt):
            said = " ".join(str(error).split())[:200]
            raise OSError(f"{page} cannot be read ({said or type(error).__name__}): look at the connection, and run the same command again") from error
