"""``python -m diffseg_lib.deeplab`` is ``diffseg network``."""

import sys

from .cli.main import alias

if __name__ == "__main__":
    sys.exit(alias("network"))
