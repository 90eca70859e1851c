"""Where the book's source lives, said once: buttons that open a chapter elsewhere are made from the variable ``REPOSITORY``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

BRANCH = "main"
FORM = re.compile(r"https://(?P<host>github\.com|gitlab\.com)/(?P<owner>[\w.-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?(?:@(?P<branch>[\w./-]+))?")


@dataclass(frozen=True)
class Repository:
    """A public repository of the book.

    Args:
        url: Its address, as in "https://github.com/OWNER/NAME".
        host: The server, "github.com" or "gitlab.com".
        path: Owner and name, as in "OWNER/NAME".
        branch: The branch whose files are opened.
    """

    url: str
    host: str
    path: str
    branch: str

    @property
    def on_github(self) -> bool:
        """Whether Colab can open its notebooks."""
        return self.host == "github.com"

    @property
    def install(self) -> str:
        """The line that installs the library, with the locked versions, on a machine that has the notebook alone."""
        lock = f" -c https://raw.githubusercontent.com/{self.path}/{self.branch}/requirements.lock" if self.on_github else ""
        return f'%pip install "diffseg-lib[book] @ git+{self.url}@{self.branch}"{lock}'

    def settings(self) -> dict[str, Any]:
        """What Jupyter Book's configuration says of it: the repository, and the buttons that open a chapter."""
        colab = {"colab_url": "https://colab.research.google.com"} if self.on_github else {}
        buttons = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"} | colab
        return {"repository": {"url": self.url, "path_to_book": "", "branch": self.branch}, "launch_buttons": buttons}


def repository(address: str | None = None) -> Repository | None:
    """The book's repository; None where none is named, and no page then has a button.

    Args:
        address: Address as in ``https://github.com/OWNER/NAME``, of github.com or gitlab.com, ``@BRANCH`` behind it or not (main); None reads ``$REPOSITORY``.

    Raises:
        ValueError: On an address of another form.

    >>> repository("https://github.com/someone/book@draft").branch
    'draft'
    """
    given = os.environ.get("REPOSITORY", "") if address is None else address
    if not given.strip():
        return None
    found = FORM.fullmatch(given.strip())
    if not found:
        raise ValueError(f"REPOSITORY is {given!r}: expected https://github.com/OWNER/NAME or one of gitlab.com, with @BRANCH behind it or not")
    path = f"{found['owner']}/{found['name']}"
    return Repository(f"https://{found['host']}/{path}", found["host"], path, found["branch"] or BRANCH)
