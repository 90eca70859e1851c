"""A Sphinx extension for the site: light pages that ask no network, say who wrote them, and show citations and terms where they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from .citation import read_citation
from .costs import costs_markup
from .launch import repository
from .mathml import split_tag, visit_displaymath, visit_math
from .status import Status, summary

DESCRIBED = 200  # characters of a page's description at most
LIBRARY = ("api", "genindex", "py-modindex")  # pages that a search shows last
SEARCHED = "searchtexts.js"
SHOWN = 550  # characters of a section that a search can show a part of
OF_CELLS = re.compile(r"togglebutton|copybutton|clipboard|design|mystnb|thebe|citations|math\.css")
TERM = re.compile(r'<a class="reference internal" href="[^"]*#(?P<id>term-[^"]+)"(?P<rest>[^>]*)>(?=<span class="xref std std-term">)')

# -- light pages ---------------------------------------------------------------------------------


def keep_once(scripts: list[Any]) -> list[Any]:
    """Scripts without repetitions (the first of a file or a text stays) and without those that would run code elsewhere.

    The theme asks for Thebe, which lives on a content network, and asks twice.
    """
    kept: dict[str, Any] = {}
    for script in scripts:
        name = str(getattr(script, "filename", None) or "") or str(getattr(script, "attributes", {}).get("body", script))
        if "thebe" not in name.lower():
            kept.setdefault(name, script)
    return list(kept.values())


# -- what a page says of itself ------------------------------------------------------------------


def describe(doctree: Any) -> str:
    """A page's description: the beginning of its first paragraph of prose, whole words, at most 200 characters."""
    from docutils import nodes

    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if isinstance(paragraph.parent, nodes.section | nodes.document) and len(text) > 40:
            return text if len(text) <= DESCRIBED else text[: DESCRIBED - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"
    return ""


def first_picture(body: str) -> str:
    """The address of the first picture in a page's HTML; "" if it has none."""
    found = re.search(r'<img\b[^>]*?\bsrc="([^"]+)"', body)
    return found[1] if found and not found[1].startswith("data:") else ""


def meta_tags(title: str, description: str, picture: str, site: str) -> str:
    """The tags in a page's head by which other programs show it, ``og:`` ones among them."""
    facts = {"og:type": "article", "og:site_name": site, "og:title": title, "og:description": description, "og:image": picture}
    tags = [f'<meta property="{name}" content="{escape(value)}" />' for name, value in facts.items() if value]
    return "\n".join([f'<meta name="description" content="{escape(description)}" />', *tags]) if description else "\n".join(tags)


def plain(markup: str) -> str:
    """The text of a piece of HTML on one line."""
    from html import unescape

    return " ".join(unescape(re.sub(r"<[^>]+>", "", markup)).split())


# -- citations that show where they stand --------------------------------------------------------


def cited_entries(body: str, entries: dict[str, str]) -> str:
    """The entries of the bibliography that a page cites, as one hidden element of it; "" if it cites none.

    Args:
        body: The page's HTML.
        entries: HTML of the entries by their anchors on the bibliography's page.
    """
    found = dict.fromkeys(re.findall(r'href="[^"#]*bibliography\.html#([\w-]+)"', body))
    shown = "".join(f'<div data-entry="{name}">{entries[name]}</div>' for name in found if name in entries)
    return f'<template id="cited">{shown}</template>' if shown else ""


def _entries(env: Any) -> dict[str, str]:
    return {one.citation_id: one.formatted_entry.text.render_as("html") for one in env.get_domain("cite").citations}


# -- terms that show their meaning ----------------------------------------------------------------


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
            formula[0] = type(formula[0])(typed(formula.astext()))
        found |= {anchor: sentence.astext() for name in item.findall(term) for anchor in name["ids"]}
    return found


def typed(formula: str) -> str:
    r"""A short formula as people would type it.

    >>> typed(r"\bar\alpha_t / (1 - \bar\alpha_t)"), typed(r"\operatorname{norm}"), typed(r"\log p(z_0 \mid c)")
    ('ᾱ_t / (1 - ᾱ_t)', 'norm', 'log p(z_0 | c)')
    """
    for written, shown in ((r"\bar\alpha", "ᾱ"), (r"\epsilon", "ε"), (r"\theta", "θ"), (r"\mid", "|"), (r"\log", "log"), (r"\times", "×")):
        formula = formula.replace(written, shown)
    return re.sub(r"\\\w+|[{}]", "", formula)


# -- tables that the build fills ------------------------------------------------------------------


def status_markup(rows: list[Status], titles: dict[str, str]) -> str:
    """The chapters' status in MyST: a sentence and a table, to be read as part of a page.

    Args:
        rows: Status of every chapter.
        titles: Titles of the chapters by the stems of their files.
    """
    lines = [summary(rows), "", "```{table}", ":class: status", "", "| chapter | state | run | seconds | code | models |", "|---|---|---|---|---|---|"]
    for one in rows:
        why = "; ".join(fault.removeprefix("its outputs are stale: ") for fault in one.faults).replace("|", " ")
        state = "{status-current}`current`" if one.current else f"{{status-stale}}`stale` {why}"
        models = " ".join(f"`{key[:6]}`" for key in one.models.values()) or "not recorded"
        seconds = "not recorded" if one.seconds is None else f"{one.seconds:.0f}"
        lines.append(f"| [{titles[one.name]}](notebooks/{one.name}) | {state} | {one.ran} | {seconds} | `{one.code[:6]}` | {models} |")
    return "\n".join([*lines, "```"])


def _directives() -> dict[str, Any]:
    from docutils.parsers.rst import roles
    from sphinx.util.docutils import SphinxDirective

    from ..support.paths import data_dir

    for state in ("current", "stale"):
        roles.register_local_role(f"status-{state}", roles.CustomRole(f"status-{state}", roles.generic_custom_role, {"class": [f"status-{state}"]}))

    class ChapterStatus(SphinxDirective):
        """Shows the status that the build found."""

        def run(self) -> list[Any]:
            told = json.loads(Path(self.env.srcdir, "status.json").read_text(encoding="utf-8"))
            rows = [Status(**{**row, "faults": tuple(row["faults"])}) for row in told["rows"]]
            return list(self.parse_text_to_nodes(status_markup(rows, told["titles"])))

    class CommandCosts(SphinxDirective):
        """Shows what the paper's tables would cost, by the kept timings."""

        def run(self) -> list[Any]:
            return list(self.parse_text_to_nodes(costs_markup(json.loads((data_dir() / "results" / "speed.json").read_text(encoding="utf-8")))))

    return {"chapter-status": ChapterStatus, "command-costs": CommandCosts}


# -- what Sphinx calls ---------------------------------------------------------------------------


def _configure(app: Any, config: Any) -> None:
    config.html_theme_options = config.html_theme_options | {
        "use_sidenotes": True,
        "article_footer_items": ["cite.html"],
        "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo-dark.svg", "text": config.html_title, "alt_text": ""},
    }


def _tidy(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    context["script_files"] = keep_once(context.get("script_files", []))
    if doctree is None:  # the search and the index have no cells, tabs or buttons
        context["script_files"] = [one for one in context["script_files"] if not OF_CELLS.search(str(getattr(one, "filename", "")))]
        context["css_files"] = [one for one in context["css_files"] if not OF_CELLS.search(str(getattr(one, "filename", "")))]


def _tell(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Say on a page who wrote it and how it is cited: before the theme looks which of its templates would be empty."""
    if doctree is None:
        return
    if app.env.diffseg_shown is None:
        glossary = app.env.get_doctree("glossary") if "glossary" in app.env.found_docs else None
        app.env.diffseg_shown = (meanings_of(glossary) if glossary else {}, _entries(app.env))
    meanings, entries = app.env.diffseg_shown
    body = with_meanings(context.get("body", ""), meanings)
    book, title = read_citation(), plain(context.get("title", ""))
    source = repository()
    picture, base = first_picture(body), app.config.html_baseurl
    root = context["pathto"]("", 1).rstrip("/")
    if not picture:
        picture = f"{root}/_static/logo.svg".lstrip("/")
    if base:  # what reads these tags elsewhere needs the whole address
        from urllib.parse import urljoin

        picture = urljoin(urljoin(base, f"{page}.html"), picture)
    context["metatags"] = context.get("metatags", "") + meta_tags(title, describe(doctree), picture, book.title)
    context["body"] = body + cited_entries(body, entries)
    of_page = ("", "") if page == app.config.root_doc else (page.split("/")[-1], title)
    context["book"], context["source"], context["chapter"] = book, source, page if page.startswith("notebooks/") else ""
    context["bibtex"] = book.bibtex(*of_page, url=source.url if source else "")
    app.env.diffseg_texts[page] = _searched(page, title, doctree)


def _searched(page: str, title: str, doctree: Any) -> dict[str, Any]:
    """What a search shows of a page: its title, and its prose by the anchors that lead to it; of the library the first sentence of each entry."""
    from docutils import nodes
    from sphinx import addnodes

    parts: dict[str, list[str]] = {}
    if page.startswith(LIBRARY):
        for entry in doctree.findall(addnodes.desc):
            anchor = next((name for sign in entry.findall(addnodes.desc_signature) for name in sign.get("ids", [])), "")
            first = next((p for c in entry.children if isinstance(c, addnodes.desc_content) for p in c.children if isinstance(p, nodes.paragraph)), None)
            if anchor and first is not None:
                parts[anchor] = [re.split(r"(?<=[.:;]) ", " ".join(first.astext().split()))[0]]
        return {"title": title, "parts": parts}
    for one in doctree.findall(lambda n: isinstance(n, nodes.paragraph | nodes.caption) and not isinstance(n.parent, nodes.entry)):
        place = one.parent
        while place is not None and not isinstance(place, nodes.section):
            place = place.parent
        parts.setdefault(place["ids"][0] if place is not None else "", []).append(" ".join(one.astext().split()))
    return {"title": title, "parts": parts}


def _write_texts(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        texts = {page: {anchor: " ".join(said)[:SHOWN] for anchor, said in one["parts"].items()} for page, one in sorted(app.env.diffseg_texts.items())}
        Path(app.outdir, SEARCHED).write_text(f"Search.texts = {json.dumps(texts, ensure_ascii=False, separators=(',', ':'))};\n", encoding="utf-8")
        index = Path(app.outdir, "searchindex.js")  # entries of the general index are its objects again
        index.write_text(
            re.sub(r'"indexentries":\s*\{.*?\},\s*(?="objects")', '"indexentries":{},', index.read_text(encoding="utf-8"), flags=re.DOTALL), encoding="utf-8"
        )


def tag_for_latex(doctree: Any) -> None:
    """Make formulas with a ``\\tag`` equations of their own: LaTeX allows none inside the split that Sphinx writes."""
    from docutils import nodes

    for node in doctree.findall(nodes.math_block):
        latex, tag = split_tag(node.astext())
        if tag:
            node.children = [nodes.Text(f"\\begin{{equation*}}\n{latex.strip()} \\tag{{{tag}}}\n\\end{{equation*}}")]
            node["nowrap"] = True


def _resolved(app: Any, doctree: Any, page: str) -> None:
    if app.builder.format == "latex":
        tag_for_latex(doctree)


def _begin(app: Any) -> None:
    app.env.diffseg_texts = {}
    app.env.diffseg_shown = None  # meanings of terms and entries of the bibliography, found once for all pages


def setup(app: Any) -> dict[str, Any]:
    """Ask Sphinx to be called after all others have added their scripts."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    for name, directive in _directives().items():
        app.add_directive(name, directive)
    app.connect("config-inited", _configure, priority=900)
    app.connect("builder-inited", _begin)
    app.connect("doctree-resolved", _resolved)
    app.connect("html-page-context", _tell, priority=100)
    app.connect("html-page-context", _tidy, priority=990)
    app.connect("build-finished", _write_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
