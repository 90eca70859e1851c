"""``python -m diffseg_lib.book.plots PATH`` draws the studies in a folder, or the welcome picture into a file."""

from __future__ import annotations

import sys
from pathlib import Path

from .files import main

if __name__ == "__main__":
    main(Path(sys.argv[1]))
