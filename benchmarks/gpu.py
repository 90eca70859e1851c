"""The tables of a graphics card: time and memory in half precision, images a second against the floors, batch sizes, ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from diffseg_lib.backbone import Backbone

from .cases import OURS, bare, cases
from .measure import interleaved_timings, peak_of, ratios, summary
from .models import inputs
from .parts import gigaflops

TABLES = ("time and memory", "floors", "batch sizes", "torch.compile")


def floors(device: str, dtype: torch.dtype, side: int = 8192, mib: int = 1024, repeats: int = 5) -> dict[str, float]:
    """What the device does at best, measured: teraflops a second of a square matrix product, gigabytes a second of a copy (read and written)."""
    square = torch.randn(side, side, device=device, dtype=dtype)
    block = torch.empty(mib * 2**20, device=device, dtype=torch.uint8)
    seconds = interleaved_timings({"product": lambda: square @ square, "copy": block.clone}, repeats)
    best = {name: min(values) for name, values in seconds.items()}
    return {"teraflops": 2 * side**3 / best["product"] / 1e12, "gigabytes": 2 * mib * 2**20 / best["copy"] / 1e9}


def time_and_memory(backbone: Backbone, classes: Sequence[int], size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """By number of classes: ratio to the bare forward, and MiB above it."""
    found = {}
    for number in classes:
        both = cases(backbone, number, size, ("bare", OURS))
        seconds = interleaved_timings(both, repeats)
        peaks = {name: peak_of(run) for name, run in both.items()}
        extra = None if None in peaks.values() else round(peaks[OURS] - peaks["bare"], 1)  # type: ignore[operator]
        found[str(number)] = {"time_ratio": ratios(seconds, OURS), "seconds": summary(seconds[OURS], 4), "extra_mib": extra}
    return found


def batches(backbone: Backbone, numbers: Sequence[int], size: tuple[int, int], best: dict[str, float], repeats: int) -> dict[str, Any]:
    """By batch size: rows a second, and the most that counted operations and the weights' bytes allow at the device's best."""
    weights = sum(p.numel() * p.element_size() for p in backbone.unet.parameters()) / 1e9
    operations = gigaflops(None if backbone.tokenizer is None else backbone, size) / 1e3
    found = {}
    for number in numbers:
        seconds = interleaved_timings(cases(backbone, number, size, (OURS,)), repeats)[OURS]
        bound = number / max(number * operations / best["teraflops"], weights / best["gigabytes"])
        rate = summary([number / value for value in seconds])
        found[str(number)] = {"rows_per_second": rate, "most": round(bound, 2), "share": round(rate["median"] / bound, 3)}
    return found


def compiled(backbone: Backbone, size: tuple[int, int], repeats: int, compile_: Callable[..., Any] = torch.compile) -> dict[str, Any] | str:
    """Ratio of the compiled bare forward's time to the plain one's (recording runs on the plain UNet); why not, where it cannot be compiled."""
    given = inputs(backbone, 1, size)
    latents, embeddings = given["latents"], given["embeddings"]
    try:
        unet = compile_(backbone.unet)
        with torch.no_grad():
            seconds = interleaved_timings(
                {"bare": lambda: bare(backbone, given), "compiled": lambda: unet(latents, 100, encoder_hidden_states=embeddings)}, repeats
            )
    except Exception as error:  # whatever the compiler's tool chain raises
        return f"not run: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ratios(seconds, "compiled")


def tables(backbone: Backbone, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """All of them, for a backbone on the card."""
    best = floors(str(backbone.device), backbone.dtype)
    values = (
        time_and_memory(backbone, [1, 4, 20], size, repeats),
        best,
        batches(backbone, [1, 4, 8, 16, 32], size, best, repeats),
        compiled(backbone, size, repeats),
    )
    return dict(zip(TABLES, values, strict=True))
