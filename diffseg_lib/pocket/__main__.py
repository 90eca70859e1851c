"""``python -m diffseg_lib.pocket write``: the pocket world as a data set on disk."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .layouts import LAYOUTS, write_layout
from .world import SPLITS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 2 with one line on standard error if the input was wrong."""
    parser = argparse.ArgumentParser(prog="python -m diffseg_lib.pocket", description="The pocket world.")
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write a tree of new scenes in a real data set's layout")
    write.add_argument("--layout", choices=list(LAYOUTS), required=True)
    write.add_argument("--split", choices=list(SPLITS), default="val")
    write.add_argument("--n", type=int, default=200, help="scenes")
    write.add_argument("--seed", type=int, default=20261122, help="of the world; the shipped models were trained on seed 0")
    write.add_argument("--captions", action="store_true", help="add a CSV of captions")
    write.add_argument("--out", type=Path, required=True)
    o = parser.parse_args(arguments)
    try:
        write_layout(o.layout, o.split, o.n, o.seed, o.out, o.captions)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{o.out}: {o.n} scenes of split {o.split}, seed {o.seed}, in the layout of {o.layout}; class names in classes.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
