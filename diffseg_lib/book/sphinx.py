"""A Sphinx extension for the site: its pages load every script once, and ask no network for anything."""

from __future__ import annotations

from typing import Any


def keep_once(scripts: list[Any]) -> list[Any]:
    """Scripts without repetitions (the first of a file or a text stays) and without those that would run code elsewhere.

    The theme asks for Thebe, which lives on a content network, and asks twice; the mathematics is asked for twice too.
    """
    kept: dict[str, Any] = {}
    for script in scripts:
        name = str(getattr(script, "filename", None) or "") or str(getattr(script, "attributes", {}).get("body", script))
        if "thebe" not in name.lower():
            kept.setdefault(name, script)
    return list(kept.values())


def _tidy(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    context["script_files"] = keep_once(context.get("script_files", []))


def setup(app: Any) -> dict[str, Any]:
    """Ask Sphinx to be called after all others have added their scripts."""
    app.connect("html-page-context", _tidy, priority=990)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
