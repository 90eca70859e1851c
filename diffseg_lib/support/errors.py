"""What errors have in common: the nearest known name, and how to tell that memory ran out."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection

OUT_OF_MEMORY = (MemoryError, RuntimeError)  # that :func:`ran_out_of_memory` tells apart


def nearest(word: str, words: Collection[str]) -> str:
    """A hint for an error message: the closest known words, or all of them where none is close.

    Args:
        word: Word that is not known.
        words: Words that are known.

    >>> nearest("hous", ["house", "fish"])
    'did you mean house?'
    """
    close = difflib.get_close_matches(word, list(words), n=3)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(words))}"


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory; on the CPU torch has no type of its own for it."""
    torch = sys.modules.get("torch")
    known = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or (isinstance(error, RuntimeError) and any(text in str(error) for text in ("allocate memory", "not enough memory")))
