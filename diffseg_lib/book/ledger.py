"""A ledger of claims as cards for a page: verdicts by colour and word, filters by verdict, a link to each claim's chapter.

The filters are radio buttons and a style sheet (``_static/book.css``): they need no script, and without the style sheet every claim shows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .run import notebooks_dir


@dataclass(frozen=True)
class Cards:
    """A ledger as a notebook shows it.

    Args:
        data: HTML.
    """

    data: str

    def _repr_html_(self) -> str:
        return self.data


def ledger_cards(rows: Sequence[Any], name: str = "claims") -> Cards:
    """A ledger as cards, numbered from 1, for a notebook's output.

    Args:
        rows: The judged claims, as :func:`~diffseg_lib.experiments.claims.ledger` gives them.
        name: What sets the ledgers of one page apart, an identifier.
    """
    choices = {"all": len(rows)} | dict(Counter(_kind(row) for row in rows).most_common())
    buttons = "".join(_button(name, kind, number) for kind, number in choices.items())
    cards = "".join(_card(row) for row in rows)
    return Cards(f'<div class="ledger" id="ledger-{name}"><fieldset><legend>Show</legend>{buttons}</fieldset><ol>{cards}</ol></div>')


def _button(name: str, kind: str, number: int) -> str:
    checked = " checked" if kind == "all" else ""
    return f'<label><input type="radio" name="ledger-{name}" value="{_class(kind)}"{checked}> {kind} <b>{number}</b></label> '


def _card(row: Any) -> str:
    lines = {"": _measured(row), "The paper, quoted": escape(row.paper), "Real weights": escape(_real(row))}
    told = "".join(f"<p>{f'<i>{title}:</i> ' if title else ''}{text}</p>" for title, text in lines.items() if text)
    link = f'<a href="{row.chapter}.html">{escape(_title(row.chapter))}</a>'
    head = f'<p class="claim"><b class="verdict">{escape(row.verdict)}</b> {escape(row.claim)}</p>'
    return f'<li class="{_class(_kind(row))}">{head}{told}<p class="where">{escape(row.where)} · {link}</p></li>'


def _measured(row: Any) -> str:
    if row.effect is None:
        return f"Measured by <code>{escape(row.command)}</code>" if row.command else escape(row.why)
    seeds = f", {len(row.seeds)} seeds" if len(row.seeds) > 1 else ""
    return f"<b>{escape(row.measured)}</b>: {escape(row.label)}; {row.images} images{seeds}"


def _real(row: Any) -> str:
    return "" if isinstance(row.real, str) else "; ".join(f"{name}: {one.verdict}" for name, one in row.real.items())


def _kind(row: Any) -> str:
    return str(row.verdict).split(":")[0]


def _class(kind: str) -> str:
    return kind.replace(" ", "-")


def _title(chapter: str) -> str:
    """The chapter's heading up to its colon."""
    cells = json.loads((notebooks_dir() / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").splitlines()
    return next(line for line in lines if line.startswith("# "))[2:].split(":")[0]
