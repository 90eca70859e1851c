"""What a call's tensors take at their peak."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def tensor_peak(run: Callable[[], Any], device: str = "cpu") -> float:
    """MiB by which tensors that a call makes raise what torch holds, at the peak: by torch's own book of what it took and gave back, so the same each time.

    Args:
        run: The call.
        device: Kind of device whose memory counts: "cuda" is the graphics card's, all others main memory.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20
    with _without_remarks(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as kept:
        run()
    found = kept.profiler.kineto_results.events() if kept.profiler else []
    held, peak = 0, 0
    for event in sorted((one for one in found if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Without what the profiler writes to the process's standard error past Python's own."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
