"""``python -m diffseg_lib.pocket`` is ``diffseg pocket``."""

import sys

from ..cli.main import program

if __name__ == "__main__":
    sys.exit(program("pocket"))
