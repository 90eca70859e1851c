"""``diffseg claims``: the ledger of the claims of the paper and of its successors, and what was measured for each."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from ..support.paths import data_dir
from .exits import Exit
from .options import page, share

ABOUT = """
Print every claim of the paper, and of what came after it, with its effect, its 95 % interval and its verdict, which follows by rule from the JSON that diffseg
study wrote. Nothing is computed anew; the chapter "The ledger" shows the same with its figure.
"""
EXAMPLE = "diffseg claims --profile pocket --write"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="the ledger was not written")
    share(parser, "--profile", help="Whose results the verdicts are about.")
    parser.add_argument("--results", type=Path, default=data_dir() / "results", metavar="DIR", help="A folder with a folder of JSON for each profile.")
    parser.add_argument("--write", action="store_true", help="Write claims.json into that folder too.")


def run(o: argparse.Namespace) -> int:
    """Print the ledger."""
    from ..experiments.claims import counts, ledger, measured_text, write_ledger
    from ..experiments.successor_claims import ALL_CLAIMS

    rows = ledger(o.results, Path(o.profile).name, ALL_CLAIMS)
    for row in rows:
        print(f"{row.verdict:21} {textwrap.shorten(row.claim, 78):78} {measured_text(row) or '-'}")
    print(f"{len(rows)} claims, profile {o.profile}: {', '.join(f'{number} {verdict}' for verdict, number in counts(rows).items())}")
    if o.write:
        print(write_ledger(rows, o.results))
    return Exit.OK
