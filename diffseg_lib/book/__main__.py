"""``python -m diffseg_lib.book`` is ``diffseg book``."""

import sys

from ..cli.book import main

if __name__ == "__main__":
    sys.exit(main())
