"""``diffseg fetch``: a profile's models and data sets, over the network; no other command touches it."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..data import READERS
from ..support.locks import PINNED, lock_places, lock_to_write, read_lock, write_lock
from ..support.paths import profiles_dir
from .exits import Exit
from .options import MODELS, page, share

if TYPE_CHECKING:
    from ..fetching.hub import Model
    from ..profiles import Profile

ABOUT = """
Fetch the models of a profile from the hub, exactly the files that are needed, and data sets from their organisers. Sizes and licences are
shown and asked about first. What is here is checked and not fetched again; an interrupted run goes on where it was. The commits that were
fetched, with every size and checksum, go into NAME.lock.yaml beside the profile, which holds the profile to them from then on.

No other command touches the network.
"""
EXAMPLE = "diffseg fetch --profile sd15 --data voc --data-root DIR"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="what came is kept, and is gone on from")
    share(parser, "--profile", *MODELS)
    parser.add_argument("--also", nargs="+", default=[], metavar="HUB_ID", help="Further models, such as the one of a baseline.")
    parser.add_argument(
        "--variant", default="", metavar="NAME", help="The precision of the files, where a model has several: fp16. Without it, the plain ones."
    )
    parser.add_argument("--data", nargs="+", default=[], choices=tuple(READERS), metavar="NAME", help="Data sets to fetch too: voc, context, object (COCO).")
    parser.add_argument("--data-root", "--root", default="", metavar="DIR", help="The folder that data sets go to: DIR/VOCdevkit, DIR/coco.")
    parser.add_argument(
        "--mirror", default="", metavar="URL", help="Another folder on the network that holds the data sets' archives; checksums hold as before."
    )
    parser.add_argument("--lock", type=Path, metavar="FILE", help="The lock to hold to and to write, in place of the one beside the profile.")
    parser.add_argument("--update", action="store_true", help="Ask the hub what the revisions stand for now, whatever the lock says.")
    parser.add_argument("--yes", action="store_true", help="Fetch without asking.")


def run(o: argparse.Namespace) -> int:
    """Plan, ask and fetch; 1 if it was declined."""
    from ..fetching.archives import SOURCES, fetch_archive
    from ..fetching.hub import fetch_model, plan_model, sources_of
    from ..profiles import load_profile

    if o.data and not o.data_root:
        raise ValueError("data sets go into a folder of yours: name it by --data-root DIR")
    profile, file = _as_written(load_profile(o.profile), o.profile)
    lock = o.lock or (lock_to_write(file) if file else None)
    read = o.lock or (next((one for one in lock_places(file) if one.is_file()), None) if file else None)
    held = read_lock(read) if read else {"models": {}, "data": {}}
    known = {} if o.update else {name: facts.get("commit", "") for name, facts in held["models"].items()}
    models = [plan_model(source, o.variant, known.get(source, "")) for source in sources_of(profile.with_models(o.captioner, o.clip), o.also)]
    root = Path(o.data_root)
    archives = [archive for name in o.data for archive in SOURCES[name].archives if not archive.place(root).exists()]
    _show(models, o.data, root, o.mirror)
    if not _agreed(models, [one.item(root, o.mirror) for one in archives], o.yes):
        print("nothing was fetched", file=sys.stderr)
        return Exit.SOME_FAILED
    facts: dict[str, Any] = {"profile": Path(str(o.profile)).name, "fetched": time.strftime("%Y-%m-%d"), "models": held["models"], "data": held["data"]}
    for model in models:
        facts["models"][model.source] = fetch_model(model)
        if lock:
            write_lock(lock, facts)
    for archive in archives:
        facts["data"][archive.name] = fetch_archive(archive, root, o.mirror)
        if lock:
            write_lock(lock, facts)
    where = f"; written to {lock}" if lock else "; no lock was written, since the profile is no file: --lock FILE writes one"
    print(f"all is here and checked{where}\nnext: diffseg check --profile {o.profile}" + (f" --data-root {root}" if o.data else ""))
    return Exit.OK


def _as_written(profile: Profile, given: str) -> tuple[Profile, Path | None]:
    """The profile with its models as its file names them, whatever a lock says, and that file, if it is one."""
    shipped = profiles_dir() / f"{given}.yaml"
    file = shipped if shipped.is_file() else Path(given) if given.endswith((".yaml", ".yml")) else None
    if file is None:
        return profile, None
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))["settings"]
    return replace(profile, **{key: settings[key] for key in PINNED if key in settings and settings[key] != "pocket"}), file


def _show(models: Sequence[Model], data: Sequence[str], root: Path, mirror: str) -> None:
    from ..fetching.archives import SOURCES
    from ..fetching.transfer import in_bytes

    for model in models:
        size = sum(item.size or 0 for item in model.items)
        print(f"{model.source}, commit {model.commit[:12]}: {len(model.items)} files, {in_bytes(size)}; licence: {model.licence}")
        for item in model.items:
            print(f"  {item.name}  {in_bytes(item.size or 0)}{'  (here)' if item.place.is_file() else ''}")
        print("".join(f"  note: {note}\n" for note in model.notes), end="")
    for name in data:
        source = SOURCES[name]
        print(f"{name}: licence: {source.licence}")
        for archive in source.archives:
            bytes_told = in_bytes(archive.size) if archive.size else "size as the server says"
            there = "  (its tree is there, and is left as it is)" if archive.place(root).exists() else ""
            known = "" if archive.md5 else "  (no checksum is known: the size is checked, and the checksum recorded)"
            print(f"  {archive.item(root, mirror).address}  {bytes_told}{known}{there}")
        print(f"  not fetched: {source.lacking}\n" if source.lacking else "", end="")


def _agreed(models: Sequence[Model], archives: Sequence[Any], yes: bool) -> bool:
    """Whether what is missing may be fetched.

    Raises:
        ValueError: If nobody can be asked, or the disk is too full.
    """
    from huggingface_hub import constants

    from ..fetching.transfer import in_bytes

    items = [item for model in models for item in model.items]
    todo = sum(max((item.size or 0) - item.here, 0) for item in items)
    more = sum(max((item.size or 0) - item.here, 0) for item in archives)
    for need, place in ((todo, Path(constants.HF_HUB_CACHE)), (2 * more, archives[0].place.parent if archives else Path())):  # an archive lies beside its tree
        free = shutil.disk_usage(next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())).free
        if need > free:
            raise ValueError(f"{in_bytes(need)} are needed in {place}, and {in_bytes(free)} are free: make room, or name another folder (HF_HOME, --data-root)")
    if yes or not (todo or more or any(item.size is None for item in archives)):
        return True
    if not sys.stdin.isatty():
        raise ValueError(f"{in_bytes(todo + more)} would be fetched under the licences above, and nobody can be asked here: give --yes to agree")
    return input(f"fetch {in_bytes(todo + more)} under these licences? [y/N] ").strip().lower() in ("y", "yes")
