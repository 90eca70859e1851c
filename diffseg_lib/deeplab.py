"""``python -m diffseg_lib.deeplab`` is ``diffseg network``."""

import sys

from .cli.network import main

if __name__ == "__main__":
    sys.exit(main())
