"""One case's peak of memory, in a process of its own: ``python -m benchmarks.peak full CASE CLASSES H W DTYPE``."""

from __future__ import annotations

import json
import sys

import torch

from .cases import cases
from .many import WAYS
from .many import case as many_case
from .measure import peak_of
from .models import full_size, pocket

if __name__ == "__main__":
    model, case, classes, h, w, dtype = sys.argv[1:]
    backbone = full_size(dtype=getattr(torch, dtype)) if model == "full" else pocket()
    if case in WAYS:
        small, run = many_case(backbone, case, 1, (8, 8)), many_case(backbone, case, int(classes), (int(h), int(w)))
    else:
        [small] = cases(backbone, 1, (8, 8), (case,)).values()
        [run] = cases(backbone, int(classes), (int(h), int(w)), (case,)).values()
    small()
    print(json.dumps(peak_of(run)))
