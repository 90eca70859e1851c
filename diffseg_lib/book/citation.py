"""Who wrote the book and how it is cited: ``CITATION.cff`` is the one place that says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..support.paths import repository_root

WANTED = ("title", "authors", "version", "date-released", "license")


@dataclass(frozen=True)
class Citation:
    """What a citation of the book needs.

    Args:
        title: Title of the book.
        authors: Its authors, each as "Family, Given" or as the name of a group.
        version: Version of the book and of its library.
        released: Day of that version.
        license: Its licence, by SPDX's name.
    """

    title: str
    authors: tuple[str, ...]
    version: str
    released: date
    license: str

    @property
    def author(self) -> str:
        """The authors as one line of prose."""
        return " and ".join(self.authors)

    def bibtex(self, page: str = "", title: str = "", url: str = "") -> str:
        """An entry for BibTeX of the book, or of one of its pages.

        Args:
            page: Name of the page, for the entry's key; "" is the whole book.
            title: Title of the page; "" is the whole book.
            url: Where the book's source is; "" where that is not known.

        >>> book = Citation("A Book", ("A Group",), "1.0", date(2026, 11, 23), "MIT")
        >>> print(book.bibtex("fusion", "Fusion"))
        @incollection{diffsegmenter-book-fusion,
          author    = {{A Group}},
          title     = {Fusion},
          booktitle = {A Book},
          year      = {2026},
          month     = nov,
          note      = {Version 1.0}
        }
        """
        names = " and ".join(name if "," in name else f"{{{name}}}" for name in self.authors)
        kind, titles = ("incollection", {"title": title, "booktitle": self.title}) if title else ("misc", {"title": self.title})
        facts = {"author": names, **titles, "year": str(self.released.year)}
        rows = [(name, f"{{{_tex(value)}}}") for name, value in facts.items()]
        rows += [("month", self.released.strftime("%b").lower()), ("note", f"{{Version {self.version}}}")] + ([("url", f"{{{url}}}")] if url else [])
        lines = ",\n".join(f"  {name:9} = {value}" for name, value in rows)
        return f"@{kind}{{{'-'.join(['diffsegmenter-book', *filter(None, [page])])},\n{lines}\n}}"


def _tex(text: str) -> str:
    return re.sub(r"([&%#_])", r"\\\1", text)


def read_citation(path: Path | None = None) -> Citation:
    """Read a citation file.

    Args:
        path: A file in the Citation File Format; None is the book's own, ``CITATION.cff``.

    Raises:
        ValueError: If it leaves out what a citation needs.
    """
    import yaml

    path = path or repository_root() / "CITATION.cff"
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    if missing := [name for name in WANTED if not told.get(name)]:
        raise ValueError(f"{path.name} does not say {', '.join(missing)}: every page of the site cites it")
    released = told["date-released"]
    names = tuple(_name(one) for one in told["authors"])
    return Citation(told["title"], names, str(told["version"]), released if isinstance(released, date) else date.fromisoformat(released), told["license"])


def _name(author: Mapping[str, Any]) -> str:
    return str(author.get("name") or f"{author['family-names']}, {author['given-names']}")
