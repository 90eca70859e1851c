"""``python -m diffseg_lib.book`` is ``diffseg book``."""

import sys

from ..cli.main import alias

if __name__ == "__main__":
    sys.exit(alias("book"))
