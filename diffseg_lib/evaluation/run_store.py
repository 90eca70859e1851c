"""Runs that survive: a folder a run, rows in small Parquet parts, written once and never changed.

``runs/<key>/manifest.json`` says what is computed; ``part-*.parquet`` hold a row an image. A file is written under
a temporary name, brought to the disk and renamed, so that a process killed at any moment leaves whole parts only.
Going on is computing what the split has and the parts lack; two processes at the same run at worst compute an
image twice, and rows that disagree are an error. Figures are read off integer counts, so that neither the order nor the
number of parts, processes or machines can change them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..support.files import RunError, atomic_write, read_manifest, to_plain, write_json
from ..support.identity import fingerprint
from .metrics import ScoreHistogram

FORMAT = 1  # of the parts


@dataclass(frozen=True)
class Row:
    """One image of a run.

    Args:
        id: Id of the image.
        status: Either "ok" or "error".
        error_type: Type of the error; "" where there is none.
        error: Message of the error; "" where there is none.
        height: Height of the image, px.
        width: Width of the image, px.
        valid_pixels: Number of pixels that are not void.
        present: Names of the classes in the ground truth.
        asked: Names of the classes asked for.
        why: Names of the classes asked for to the reasons why a filter kept them.
        notes: Sentences on what was done to the picture.
        unet_calls: Number of UNet evaluations, one a prompt and noise draw.
        seconds: Seconds that the image took.
        counted: Sparse integer counts of the image; None in an error row.
    """

    id: str
    status: str
    error_type: str = ""
    error: str = ""
    height: int = 0
    width: int = 0
    valid_pixels: int = 0
    present: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unet_calls: int = 0
    seconds: float = 0.0
    counted: ScoreHistogram | None = None

    def agrees(self, other: Row) -> bool:
        """Whether two rows say the same; the seconds they took do not matter."""
        same = all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name not in ("seconds", "counted"))
        if self.counted is None or other.counted is None:
            return same and self.counted is other.counted
        return same and np.array_equal(self.counted.counts, other.counted.counts)


@dataclass(frozen=True)
class Run:
    """A run's folder. Open it by :func:`open_run`.

    Args:
        folder: Folder of the run.
        facts: Facts that the run is known by, as its manifest holds them.
    """

    folder: Path
    facts: Mapping[str, Any]

    def parts(self) -> list[Path]:
        """The parts that are there now."""
        return sorted(self.folder.glob("part-*.parquet"))

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows as one more part.

        Args:
            rows: Rows to keep; without any, no part is written.

        Raises:
            RunError: If they cannot be written; what was kept before is untouched.
        """
        if rows:
            table = _table(rows)
            with _kept(self.folder), atomic_write(self.folder / f"part-{uuid.uuid4().hex}.parquet") as file:
                _parquet().write_table(table, file)

    def rows(self, known: dict[Path, list[Row]] | None = None) -> dict[str, Row]:
        """All rows by id. Of an image that was tried again after an error, the good row stands.

        Args:
            known: Parts that were read before, and are not read again; new ones are added to it.

        Raises:
            RunError: If a part is damaged, or two good rows of an image disagree.
        """
        known = {} if known is None else known
        found: dict[str, Row] = {}
        for path in self.parts():
            if path not in known:
                known[path] = _read(path)
            for row in known[path]:
                before = found.get(row.id)
                if before is not None and before.status == row.status == "ok" and not before.agrees(row):
                    raise RunError(
                        f"{self.folder}: two rows of image {row.id} disagree, the later one in {path.name}: the data changed while it ran, or machines "
                        "that round differently shared it; delete the folder and run again"
                    )
                if before is None or before.status != "ok":
                    found[row.id] = row
        return found


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Say of an error in writing what is to be done."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror or error}): free some space or choose another --out; what was kept is whole") from error


def open_run(parent: str | Path, facts: Mapping[str, Any]) -> Run:
    """The folder of the run that `facts` describe, made if it is not there.

    Args:
        parent: Folder of all runs.
        facts: Facts by which the run is known, plain values.

    Raises:
        RunError: If the folder cannot be made or written, or holds another run.
    """
    facts = to_plain(dict(facts) | {"format": FORMAT})
    folder = Path(parent) / fingerprint(facts)
    manifest = folder / "manifest.json"
    with _kept(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not manifest.exists():
            write_json(manifest, facts, once=True)
    if read_manifest(manifest) != facts:
        raise RunError(f"{manifest} is of another run than its folder's name says: delete the folder and run again")
    return Run(folder, facts)


def _parquet() -> Any:
    import pyarrow.parquet

    return pyarrow.parquet


def _table(rows: Sequence[Row]) -> Any:
    import pyarrow as pa

    text, words, number = pa.string(), pa.list_(pa.string()), pa.int64()
    kinds = {"id": text, "status": text, "error_type": text, "error": text, "height": number, "width": number, "valid_pixels": number}
    kinds |= {"present": words, "asked": words, "why": text, "notes": words, "unet_calls": number, "seconds": pa.float64(), "counted": pa.list_(number)}
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in kinds}
    columns["why"] = [json.dumps(dict(row.why), ensure_ascii=False) for row in rows]
    columns["counted"] = [None if row.counted is None else row.counted.counts.ravel().tolist() for row in rows]
    return pa.table({name: pa.array([list(v) if isinstance(v, tuple) else v for v in columns[name]], kind) for name, kind in kinds.items()})


def _read(path: Path) -> list[Row]:
    import pyarrow as pa

    try:
        records = _parquet().read_table(path).to_pylist()
        return [_row(record) for record in records]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): delete this file; its images are done again") from error


def _row(record: dict[str, Any]) -> Row:
    counted = record.pop("counted")
    words = {name: tuple(record.pop(name)) for name in ("present", "asked", "notes")}
    histogram = None if counted is None else ScoreHistogram(np.array(counted, np.int64).reshape(-1, 4))
    plain: dict[str, Any] = words | record
    return Row(why=json.loads(plain.pop("why")), counted=histogram, **plain)


def pending_ids(ids: Iterable[str], rows: Mapping[str, Row]) -> list[str]:
    """Ids that have no good row yet; an image that failed is tried again."""
    return [name for name in ids if name not in rows or rows[name].status != "ok"]
