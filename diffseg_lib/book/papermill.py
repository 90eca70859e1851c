"""papermill in a process that ends when the one that started it does, however that one ended.

``python -m diffseg_lib.book.papermill PID ...`` takes the process to follow, then papermill's own command line.
"""

from __future__ import annotations

import os
import sys
import threading
import time

PAUSE = 0.5  # seconds between two looks


def follow(parent: int) -> None:
    """End this process as soon as `parent` is no longer the one above it."""
    while os.getppid() == parent:
        time.sleep(PAUSE)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=follow, args=(int(sys.argv.pop(1)),), daemon=True).start()
    from papermill.__main__ import papermill

    sys.exit(papermill())
