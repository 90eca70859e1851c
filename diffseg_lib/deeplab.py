"""``python -m diffseg_lib.deeplab`` is ``diffseg network``."""

import sys

from .cli.main import program

if __name__ == "__main__":
    sys.exit(program("network"))
