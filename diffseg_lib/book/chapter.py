"""What a chapter opens with and leaves behind."""

from __future__ import annotations


def glue_numbers(**numbers: str) -> None:
    """Glue strings under their names, for ``{glue:text}`` in the prose, and print them for the tests to compare."""
    from myst_nb import glue

    for name, text in numbers.items():
        glue(name, text, display=False)
        print(f"{name} = {text}")
