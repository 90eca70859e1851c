"""A ledger of claims as cards for a page: verdicts by colour and word, filters by verdict, a link to each claim's chapter.

The filters are radio buttons and a style sheet (``_static/book.css``): they need no script, and without the style sheet every claim shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from ..experiments.claims import UNMEASURED, VERDICTS, LedgerRow, counts, kind_of, measured_text
from .run import notebooks_dir


def ledger_cards(rows: Sequence[LedgerRow], name: str = "claims") -> Any:
    """A ledger as cards, numbered from 1, for a notebook's output (HTML).

    Args:
        rows: The judged claims, as :func:`~diffseg_lib.experiments.claims.ledger` gives them.
        name: What sets the ledgers of one page apart, an identifier.
    """
    from IPython.display import HTML

    found = counts(rows)
    choices = {"all": len(rows)} | {kind: found[kind] for kind in VERDICTS if kind in found}
    buttons = "".join(_button(name, kind, number) for kind, number in choices.items())
    cards = "".join(_card(row) for row in rows)
    return HTML(f'<div class="ledger" id="ledger-{name}"><fieldset><legend>Show</legend>{buttons}</fieldset><ol>{cards}</ol></div>')


def _button(name: str, kind: str, number: int) -> str:
    checked = " checked" if kind == "all" else ""
    return f'<label><input type="radio" name="ledger-{name}" value="{_class(kind)}"{checked}> {kind} <b>{number}</b></label> '


def _card(row: LedgerRow) -> str:
    lines = {"": _measured(row), "The paper, quoted": escape(row.paper), "Real weights": escape(_real(row))}
    told = "".join(f"<p>{f'<i>{title}:</i> ' if title else ''}{text}</p>" for title, text in lines.items() if text)
    link = f'<a href="{row.chapter}.html">{escape(_title(row.chapter))}</a>'
    head = f'<p class="claim"><b class="verdict">{escape(row.verdict)}</b> {escape(row.claim)}</p>'
    return f'<li class="{_class(kind_of(row))}">{head}{told}<p class="where">{escape(row.where)} · {link}</p></li>'


def _measured(row: LedgerRow) -> str:
    if row.effect is None:
        return f"Measured by <code>{escape(row.command)}</code>" if row.verdict == UNMEASURED else escape(row.why)
    seeds = f", {len(row.seeds)} seeds" if len(row.seeds) > 1 else ""
    return f"<b>{escape(measured_text(row))}</b>: {escape(row.label)}; {row.images} images{seeds}"


def _real(row: LedgerRow) -> str:
    return "" if isinstance(row.real, str) else "; ".join(f"{name}: {one.verdict}" for name, one in row.real.items())


def _class(kind: str) -> str:
    return kind.replace(" ", "-")


def _title(chapter: str) -> str:
    """The chapter's heading up to its colon."""
    cells = json.loads((notebooks_dir() / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").splitlines()
    return next(line for line in lines if line.startswith("# "))[2:].split(":")[0]
