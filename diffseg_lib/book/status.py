"""The status of every chapter: when it was run, by which code and models, how long it took, and whether that is still current."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from ..support.source_code import PACKAGE
from .check import faults
from .run import inputs_of

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Status:
    """One chapter's.

    Args:
        name: The stem of its file.
        ran: When it was executed, as "2026-11-27 14:05 UTC"; "not recorded" where that is not known.
        code: A hash of all that its outputs depend on, as it was then.
        seconds: The time that it took, seconds; None where that is not known.
        models: Hashes of the models that it ran on, by what they are.
        faults: What is no longer as it was, or breaks the chapters' contract, a sentence each; none is green.
    """

    name: str
    ran: str
    code: str
    seconds: float | None
    models: dict[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @property
    def current(self) -> bool:
        """Whether the outputs are those of the code, library and models that stand now."""
        return not self.faults


def status_of(path: Path, shown: Path) -> Status:
    """The status of one chapter.

    Args:
        path: The chapter in ``notebooks/``.
        shown: The executed notebook that the site shows, which may be the same file.
    """
    done = nbformat.read(shown, 4)
    told = done.metadata.get(PACKAGE, {})
    if shown.resolve() == path.resolve():
        found = [fault.removeprefix(f"{path.name}: ") for fault in faults(path)]
    else:
        found = [] if told.get("inputs") == inputs_of(path) else ["its outputs are stale: code, library or weights changed since; run it again"]
    seconds = told.get("seconds")
    return Status(path.stem, told.get("ran", UNKNOWN), told.get("inputs", UNKNOWN), seconds, dict(told.get("models", {})), tuple(found))


def title_of(path: Path) -> str:
    """The first heading of a chapter."""
    prose = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    found = re.search(r"^# (.+)$", prose, re.MULTILINE)
    return found[1].strip() if found else path.stem


def as_json(statuses: Sequence[Status]) -> list[dict[str, Any]]:
    """Statuses as plain values, for the site's page to read."""
    return [asdict(one) for one in statuses]


def summary(rows: Sequence[Status]) -> str:
    """One sentence on all of them.

    >>> summary([Status("01_a", "", "", 1.0), Status("02_b", "", "", 2.5, faults=("stale",))])
    '1 of 2 chapters are current. Their runs took 4 s together.'
    """
    known = [one.seconds for one in rows if one.seconds is not None]
    took = f" Their runs took {sum(known):.0f} s together." if len(known) == len(rows) and rows else ""
    return f"{sum(one.current for one in rows)} of {len(rows)} chapters are current.{took}"
