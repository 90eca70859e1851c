"""``python -m diffseg_lib.book`` is ``diffseg book``."""

import sys

from ..cli.main import program

if __name__ == "__main__":
    sys.exit(program("book"))
