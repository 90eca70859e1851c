"""``python -m diffseg_lib.studies`` is ``diffseg study``."""

import sys

from .cli.main import program

if __name__ == "__main__":
    sys.exit(program("study"))
