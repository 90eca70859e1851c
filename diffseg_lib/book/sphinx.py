"""A Sphinx extension for the site: pages load every script once, ask no network for anything, and show what a term means where it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

TERM = re.compile(r'<a class="reference internal" href="[^"]*#(?P<id>term-[^"]+)"(?P<rest>[^>]*)>(?=<span class="xref std std-term">)')


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


def with_meanings(body: str, meanings: Mapping[str, str]) -> str:
    """A page's HTML in which every link to a term of the glossary carries the term's sentence, to see and to hear.

    Args:
        body: The page.
        meanings: Anchor of a term, as ``term-ELBO``, to its sentence.

    >>> page = '<a class="reference internal" href="glossary.html#term-IoU"><span class="xref std std-term">IoU</span></a>'
    >>> with_meanings(page, {"term-IoU": "Overlap."})[:75]
    '<a class="reference internal term" data-meaning="Overlap." aria-description'
    """

    def meant(found: re.Match[str]) -> str:
        text = escape(meanings.get(found["id"], ""), quote=True)
        told = f'data-meaning="{text}" aria-description="{text}"'
        return found[0].replace('"reference internal"', f'"reference internal term" {told}', 1) if text else found[0]

    return TERM.sub(meant, body)


def meanings_of(glossary: Any) -> dict[str, str]:
    """The sentence of every term by its anchor, from the glossary's document tree."""
    from docutils.nodes import definition, definition_list_item, math, term

    found: dict[str, str] = {}
    for item in glossary.findall(definition_list_item):
        sentence = next(item.findall(definition)).deepcopy()
        for formula in list(sentence.findall(math)):
            formula[0] = type(formula[0])(plain(formula.astext()))
        found |= {anchor: sentence.astext() for name in item.findall(term) for anchor in name["ids"]}
    return found


def plain(formula: str) -> str:
    r"""A short formula as people would type it.

    >>> plain(r"\bar\alpha_t / (1 - \bar\alpha_t)"), plain(r"\operatorname{norm}"), plain(r"\log p(z_0 \mid c)")
    ('ᾱ_t / (1 - ᾱ_t)', 'norm', 'log p(z_0 | c)')
    """
    for written, typed in ((r"\bar\alpha", "ᾱ"), (r"\epsilon", "ε"), (r"\theta", "θ"), (r"\mid", "|"), (r"\log", "log"), (r"\times", "×")):
        formula = formula.replace(written, typed)
    return re.sub(r"\\\w+|[{}]", "", formula)


def _tidy(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    context["script_files"] = keep_once(context.get("script_files", []))
    if "body" in context and "glossary" in app.env.found_docs:
        context["body"] = with_meanings(context["body"], meanings_of(app.env.get_doctree("glossary")))


def setup(app: Any) -> dict[str, Any]:
    """Ask Sphinx to be called after all others have added their scripts."""
    app.connect("html-page-context", _tidy, priority=990)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
