"""One case's peak of memory, in a process of its own: ``python -m benchmarks.peak full CASE CLASSES H W DTYPE``."""

from __future__ import annotations

import json
import sys

import torch

from .cases import cases
from .measure import peak_of
from .models import full_size, pocket

if __name__ == "__main__":
    model, case, classes, h, w, dtype = sys.argv[1:]
    backbone = full_size(dtype=getattr(torch, dtype)) if model == "full" else pocket()
    [small] = cases(backbone, 1, (8, 8), (case,)).values()
    [run] = cases(backbone, int(classes), (int(h), int(w)), (case,)).values()
    small()
    print(json.dumps(peak_of(run)))
