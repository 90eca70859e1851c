"""``python -m diffseg_lib.studies`` is ``diffseg study``."""

import sys

from .cli.study import main

if __name__ == "__main__":
    sys.exit(main())
