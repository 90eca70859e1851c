"""One file over the network: resumed where it was cut off, checked by size and checksum, and under its own name only when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

PARTIAL = ".incomplete"  # behind the name of a file that is not whole
ATTEMPTS = 5  # times that a connection may break in one run
PATIENCE = 60  # seconds without a byte
CHUNK = 1 << 20  # bytes
CUT = (http.client.HTTPException, ConnectionError, TimeoutError, URLError)  # what a connection that breaks raises


@dataclass(frozen=True)
class Item:
    """A file that is to be fetched.

    Args:
        name: Name for people.
        address: Address that it comes from.
        place: Path that it goes to.
        size: Number of its bytes; None where only the server knows it.
        digests: Known checksums by their kind, "sha256", "md5" or "git" (of a file in a git repository), in hexadecimal digits.
    """

    name: str
    address: str
    place: Path
    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def partial(self) -> Path:
        """Where its bytes lie until it is whole."""
        return self.place.with_name(self.place.name + PARTIAL)

    @property
    def here(self) -> int:
        """Number of bytes that are on this machine."""
        return next((path.stat().st_size for path in (self.place, self.partial) if path.is_file()), 0)


def in_bytes(size: float) -> str:
    """A size for people.

    >>> in_bytes(999), in_bytes(1_999_639_040)
    ('999 B', '2.0 GB')
    """
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def checksum(path: Path, kind: str) -> str:
    """A checksum of a file's content.

    Args:
        path: Path of the file.
        kind: Kind of the checksum: "sha256", "md5", or "git", as git names the content by.
    """
    with path.open("rb") as file:
        if kind != "git":
            return hashlib.file_digest(file, kind).hexdigest()
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def verify(item: Item, path: Path) -> str:
    """Hold a file against what is known of it; returns its SHA-256.

    Raises:
        ValueError: If size or a checksum is another.
    """
    found: Any = path.stat().st_size
    if item.size not in (None, found):
        raise ValueError(f"{item.name} has {found} bytes: expected {item.size}")
    for kind, expected in item.digests.items():
        found = checksum(path, kind)
        if found != expected:
            raise ValueError(f"{item.name} has the {kind} checksum {found}: expected {expected}")
    return item.digests.get("sha256") or checksum(path, "sha256")


def transfer(item: Item, headers: Mapping[str, str] | None = None) -> str:
    """Fetch a file, or what is still missing of it, and check it; one that is here is checked and not fetched. Returns its SHA-256.

    Args:
        item: File that is wanted.
        headers: Headers for its server alone, such as an authorization; no other server that it points to gets them.

    Raises:
        OSError: If the connection broke too often, or the server has no such file; what came stays for the next run.
        ValueError: If what came is another file than the known one; it is deleted.
    """
    if item.place.is_file():
        try:
            return verify(item, item.place)
        except ValueError as error:
            raise ValueError(f"{item.place} is damaged ({error}): delete it, and fetch again") from error
    item.place.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if _append(item, headers or {}):
                break
            why = "the connection ended early"
        except HTTPError as error:
            raise OSError(f"{item.address}: the server answers {error.code} {error.reason}") from error
        except CUT as error:
            why = str(getattr(error, "reason", "") or error) or type(error).__name__
        if attempt == ATTEMPTS:
            of = f" of {item.size}" if item.size else ""
            raise OSError(f"{item.address}: {why}; {item.here} bytes{of} are kept, and the same command goes on from there")
    try:
        found = verify(item, item.partial)
    except ValueError as error:
        item.partial.unlink()
        raise ValueError(f"{error}; what came from {item.address} was deleted: fetch again, or from another place") from error
    item.partial.replace(item.place)
    return found


def _append(item: Item, headers: Mapping[str, str]) -> bool:
    """Ask for the rest of a file and write it behind what is there; whether the file is whole now."""
    from tqdm import tqdm

    have = item.here
    if item.size is not None and have == item.size:
        return True
    if item.size is not None and have > item.size:
        item.partial.unlink()
        have = 0
    request = Request(item.address, headers={"User-Agent": "diffseg"} | ({"Range": f"bytes={have}-"} if have else {}))
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    with _opened(request, item) as answer:
        kept = have if answer.status == 206 else 0  # a server that knows no ranges sends the whole
        total = _total(answer, kept)
        if item.size is not None and total not in (None, item.size):
            raise ValueError(f"{item.address} is of {total} bytes: expected {item.size}, so it is another file than the known one")
        with item.partial.open("ab" if kept else "wb") as file, tqdm(total=total, initial=kept, unit="B", unit_scale=True, desc=item.name, disable=None) as bar:
            while block := answer.read(CHUNK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
            return total is None or file.tell() == total


def _opened(request: Request, item: Item) -> Any:
    if urlsplit(item.address).scheme not in ("http", "https"):
        raise ValueError(f"{item.address}: expected an address that begins with http:// or https://")
    try:
        return urlopen(request, timeout=PATIENCE)
    except HTTPError as error:
        if error.code != 416:  # nothing behind what is here: it is not of this file
            raise
        item.partial.unlink(missing_ok=True)
        raise ConnectionError("the server's file is shorter than what was kept, which was deleted") from error


def _total(answer: Any, kept: int) -> int | None:
    """The size of the whole file by an answer's headers."""
    spans = (answer.headers.get("Content-Range") or "").rpartition("/")[2]
    if kept and spans.isdecimal():
        return int(spans)
    length = answer.headers.get("Content-Length")
    return kept + int(length) if length else None
