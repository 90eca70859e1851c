"""Nothing reads a tensor of a card as an array or mixes it with one in main memory: commands and library on a card that is pretended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def test_what_computes_runs_on_a_card():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:doctest", "-o", "addopts=", str(TESTS / "on_card.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, timeout=1800)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
