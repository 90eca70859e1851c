"""Time as ratios within rounds; memory in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def interleaved_timings(
    cases: Mapping[str, Callable[[], Any]], repeats: int, warm: bool = True, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every case by a clock, each once a round, the order turned from round to round; one round before is not counted."""
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-1 if warm else 0, repeats):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            _wait()
            started = clock()
            cases[name]()
            _wait()
            if number >= 0:
                seconds[name].append(clock() - started)
    return seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summary(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Median, range and number of some values."""
    return {"median": round(statistics.median(values), digits), "range": [round(min(values), digits), round(max(values), digits)], "repeats": len(values)}


def ratios(seconds: Mapping[str, Sequence[float]], name: str, to: str = "bare") -> dict[str, Any]:
    """Spread of the ratios of two cases, round by round."""
    return summary([a / b for a, b in zip(seconds[name], seconds[to], strict=True)])


def peak_of(run: Callable[[], Any]) -> float | None:
    """MiB by which a call raises the peak of this process's resident memory (of the GPU's, if there is one); None where it cannot be told."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not CLEAR.exists():
        return None
    CLEAR.write_text("5")  # the high-water mark starts again from here
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> float:
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith(key))


def peak_alone(model: str, case: str, classes: int, size: tuple[int, int], dtype: str = "float32") -> float | None:
    """:func:`peak_of` one case in a fresh process, after a small call that loads what is loaded once."""
    command = [sys.executable, "-m", "benchmarks.peak", model, case, str(classes), *map(str, size), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        return None  # out of memory: the process may have been killed
    return json.loads(done.stdout.splitlines()[-1])
