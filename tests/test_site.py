"""The built site in a headless browser, its network cut: ``make site`` builds it and runs this."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml

from diffseg_lib.book.run import all_notebooks
from diffseg_lib.experiments.claims import CLAIMS

pytestmark = pytest.mark.site
ROOT = Path(__file__).parent.parent
SITE = Path(os.environ.get("DIFFSEG_SITE", ROOT / "build" / "site")).resolve()
LISTED = [chapter for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"] for chapter in part["chapters"]]
CHAPTERS = [one["file"] for chapter in LISTED for one in [chapter, *chapter.get("sections", [])]]
LIGHT = 1_000_000  # bytes of a page's HTML, scripts and style sheets
PAGES = ["intro", *CHAPTERS]
# How much lighter text and ground are than each other, by the web's accessibility rules; 4.5 is what they ask of text.
CONTRAST = """
(() => {
  const light = c => { c = c / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const parts = s => (s.match(/[\\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.9) return c;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('SELECTED')]
    .filter(e => e.textContent.trim() && e.offsetWidth)
    .map(e => {
      const a = luminance(parts(getComputedStyle(e).color)), b = luminance(ground(e));
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + ': ' + e.textContent.slice(0, 40)];
    })
    .filter(([ratio]) => ratio < MINIMUM).slice(0, 5);
})()
"""
# What is cut off, what starts elsewhere than at its beginning, and what a table breaks or leaves empty.
LAYOUT = r"""
(() => {
  const found = [], tell = (what, e, text) => found.push(`${what}: ${(text || e.textContent).trim().replace(/\s+/g, ' ').slice(0, 60)}`);
  const wide = e => e.scrollWidth > e.clientWidth + 1;
  for (const e of document.querySelectorAll('article pre')) if (wide(e)) tell('code is cut', e);
  for (const e of document.querySelectorAll('article *')) if (e.scrollLeft) tell('starts elsewhere than at its beginning', e);
  for (const e of document.querySelectorAll('article div.math')) {
    const inner = e.querySelector('svg, math, mjx-math, .katex-html') || e;
    if (inner.getBoundingClientRect().left < e.getBoundingClientRect().left - 1) tell('an equation is cut at its beginning', e);
    if (innerWidth > 700 && [e, ...e.children].some(wide)) tell('an equation is wider than its box', e);
  }
  for (const table of document.querySelectorAll('article table')) {
    if (innerWidth > 1200 && wide(table)) tell('a table is wider than the page', table);
    if (wide(table) && getComputedStyle(table).overflowX !== 'auto') tell('a table does not scroll in its own box', table);
    const sentences = [...table.querySelectorAll('td:not(:first-child)')].some(e => e.textContent.trim().length > 24);
    if (innerWidth < 600 && wide(table) && sentences && !table.matches('.dataframe')) tell('a table of sentences is wider than a phone', table);
    if (table.rows[0] && table.rows[0].cells.length > 10) tell('a table has more than ten columns', table);
    for (const cell of table.querySelectorAll('td, th')) {
      if (/^(nan|NaN|None|0 s)$/.test(cell.textContent.trim())) tell('a cell says nothing', cell, cell.closest('tr').textContent);
      const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
      while (texts.nextNode()) for (const word of texts.currentNode.data.matchAll(/[\p{L}\p{N}]+/gu)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, word.index);
        range.setEnd(texts.currentNode, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].filter(r => r.width).map(r => Math.round(r.top)));
        if (lines.size > 1) tell('a word of a table is broken', cell, word[0]);
      }
    }
  }
  return found;
})()
"""
TEXT = "article p, article h1, article h2, article li, article pre span, article figcaption, .ledger .verdict, .ledger label"
SHOWN = "[...document.querySelectorAll('#ledger-claims li')].filter(e => e.offsetHeight).map(e => e.querySelector('.verdict').textContent)"


class _Links(HTMLParser):
    """The links and the anchors of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag points at and what it can be reached by."""
        given = dict(attrs)
        self.anchors |= {given[name] or "" for name in ("id", "name") if name in given}
        self.links += [given[name] or "" for name in ("href", "src") if given.get(name)]


def read_links(page: Path) -> _Links:
    """Parse one page."""
    found = _Links()
    found.feed(page.read_text())
    return found


def views(page: Path) -> set[str]:
    """What the attention explorer opens by the address's fragment."""
    if page.parent.name != "explorer":
        return set()
    scenes = {f"scene={path.stem.removeprefix('scene-')}" for path in page.parent.glob("scene-*.js")}
    return scenes | {f"view={name}" for name in re.findall(r"^  (\w+): \{ hint:", page.read_text(), re.MULTILINE)}


def broken_links(site: Path) -> list[str]:
    """Links inside a site whose file or anchor is not there."""
    pages = {page: read_links(page) for page in sorted(site.rglob("*.html")) if "_static" not in page.parts}
    broken = []
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                broken.append(f"{page.relative_to(site)}: {link}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors | views(target):
                broken.append(f"{page.relative_to(site)}: {link} (no such anchor)")
    return broken


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="here"></h1><a href="a.html#here">x</a><a href="b.html">y</a><a href="#there">z</a>')
    assert broken_links(tmp_path) == ["a.html: b.html", "a.html: #there (no such anchor)"]


def test_no_link_is_broken():
    assert broken_links(SITE) == []


def test_every_chapter_is_there():
    assert [page for page in PAGES if not (SITE / f"{page}.html").exists()] == []


def address(page: str) -> str:
    return (SITE / f"{page}.html").as_uri()


@pytest.mark.parametrize("page", [*PAGES, "search", "genindex"])
def test_a_page_loads_quietly_and_asks_no_network(chromium, page):
    chromium.open(address(page))
    assert chromium.complaints() == []
    assert [url for url in chromium.requests() if not url.startswith(("file:", "data:", "about:", "blob:"))] == []


def test_the_browser_hears_an_error_and_a_request(chromium, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<script>console.error("no"); fetch("https://example.org/x").catch(() => 0); missing()</script>')
    chromium.open(page.as_uri())
    assert len(chromium.complaints()) >= 2
    assert "https://example.org/x" in chromium.requests()


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_set(chromium, page):
    chromium.open(address(page))
    assert (
        chromium.script("[...document.querySelectorAll('.math')].filter(e => !e.querySelector('math') || e.querySelector('math').clientWidth < 1).length") == 0
    )
    assert chromium.script("[...document.querySelectorAll('merror')].length") == 0
    if chromium.script("document.querySelectorAll('math').length"):
        assert chromium.script("document.fonts.load('16px \"STIX Two Math\"').then(found => found.length)") == 1
        root = "[...document.querySelectorAll('math')][0]"
        assert chromium.script(f"getComputedStyle({root}).fontFamily").startswith('"STIX Two Math"')


@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("notebooks")])
def test_equations_start_at_their_beginning_on_a_phone(chromium, page):
    chromium.open(address(page), width=390, height=844)
    places = chromium.script(
        "[...document.querySelectorAll('div.math')].map(e => { const f = e.querySelector('.formula'), m = f.querySelector('math');"
        " return [m.getBoundingClientRect().left - f.getBoundingClientRect().left, f.scrollLeft, f.getBoundingClientRect().width,"
        " e.querySelector('.eqno') ? e.querySelector('.eqno').getBoundingClientRect().left - f.getBoundingClientRect().right : 0]; })"
    )
    for left, scrolled, width, number in places:
        assert left >= -1 and scrolled == 0 and width > 150 and number >= 0


def test_some_page_has_formulas():
    assert any('class="math' in (SITE / f"{page}.html").read_text() for page in CHAPTERS)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_a_phone(chromium, page):
    chromium.open(address(page), width=375, height=812)
    wide = chromium.script(
        "[...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        ".filter(e => { for (let p = e; p; p = p.parentElement) if (getComputedStyle(p).overflowX !== 'visible') return false; return true; })"
        ".slice(0, 5).map(e => e.outerHTML.slice(0, 120))"
    )
    assert wide == []
    assert chromium.script("document.documentElement.scrollWidth") <= 376
    assert float(chromium.script("parseFloat(getComputedStyle(document.querySelector('article p')).fontSize)")) >= 14


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("page", PAGES)
def test_text_stands_out(chromium, page, dark):
    chromium.open(address(page), dark=dark)
    theme = chromium.script("document.documentElement.dataset.theme")
    assert theme == ("dark" if dark else "light")
    assert chromium.script(CONTRAST.replace("SELECTED", TEXT).replace("MINIMUM", "4.0" if dark else "3.5")) == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith(("intro", "notebooks"))])
def test_pictures_show_and_say_what_they_show(chromium, page):
    chromium.open(address(page))
    pictures = chromium.script("[...document.querySelectorAll('article img')].map(e => [e.naturalWidth, e.alt, e.src])")
    assert pictures
    for width, alt, source in pictures:
        assert width > 0, source
        assert len(alt.split()) >= 4, source
        assert not alt.endswith(".png")


def test_a_term_shows_its_meaning_by_keyboard(chromium):
    chromium.open(address("notebooks/00_what_you_need"))
    chromium.call("Emulation.setFocusEmulationEnabled", enabled=True)
    shown = "getComputedStyle(document.querySelector('a.term'), '::after').content"
    assert chromium.script(shown) == "none"
    chromium.script("document.querySelector('a.term').focus({focusVisible: true})")
    assert len(chromium.script(shown).split()) >= 4


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_cut_and_no_word_of_a_table_is_broken(chromium, page, width):
    chromium.open(address(page), width=width)
    assert chromium.script(LAYOUT) == []


def test_what_is_cut_or_broken_is_found(chromium, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("""<article style="width: 300px">
        <pre style="overflow: auto">a line of code that is far too long for so narrow a box, and goes on</pre>
        <div class="math" style="overflow: auto; display: flex; flex-direction: row-reverse"><svg style="min-width: 500px"></svg></div>
        <table style="word-break: break-all; width: 40px"><tr><td>unbreakable</td><td>NaN</td></tr></table>
        <table><tr><td>1</td><td>2</td><td>3</td><td>4</td><td>5</td><td>6</td><td>7</td><td>8</td><td>9</td><td>10</td><td>11</td></tr></table></article>""")
    chromium.open(page.as_uri(), width=1280)
    told = " ".join(chromium.script(LAYOUT))
    for said in (
        "code is cut",
        "cut at its beginning",
        "wider than its box",
        "table is broken: unbreakable",
        "says nothing",
        "more than ten columns",
    ):
        assert said in told


def test_a_table_of_sentences_is_cards_on_a_phone_and_a_table_elsewhere(chromium):
    first = "[...document.querySelectorAll('article table.stacked tbody tr')][0]"
    cells = "[...e.cells].filter(e => e.offsetHeight).map(e => e.dataset.heading ?? '')"
    rows = f"[...document.querySelectorAll('article table.stacked tbody tr')].map(e => {cells})"
    chromium.open(address("notebooks/16_folder"), width=390)
    found = chromium.script(rows)
    assert len(found) == 3 and all(one == ["", "import", "what it needs"] for one in found)
    assert chromium.script(f"getComputedStyle({first}.cells[1], '::before').content") == '"import"'
    chromium.open(address("notebooks/16_folder"), width=1280)
    assert chromium.script(rows) == [] and chromium.script("document.querySelector('article table td').dataset.heading ?? null") is None


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("notebooks")])
def test_captions_stand_out(chromium, page, dark):
    chromium.open(address(page), dark=dark)
    assert chromium.script(CONTRAST.replace("SELECTED", "article figcaption p").replace("MINIMUM", "7")) == []


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_glue_and_echoes_leave_the_page_and_folded_cells_are_folded(chromium, path):
    chromium.open(address(f"notebooks/{path.stem}"))
    code = chromium.script("[...document.querySelectorAll('article div.cell_input')].map(e => e.textContent).join(' ')")
    assert [word for word in ("chapter.close", "open_chapter", "Chapter(", "glue") if word in code] == []
    echoes = chromium.script("[...document.querySelectorAll('article div.cell_output')].map(e => e.textContent).join(' ')")
    assert f"{path.stem}.json" not in echoes
    cells = [set(cell.metadata.get("tags", [])) for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    expected = sum(bool(tags & {"hide-input", "hide-output", "hide-cell"}) for tags in cells)
    assert chromium.script("document.querySelectorAll('article div.cell details').length") == expected
    assert chromium.script("document.querySelectorAll('article div.cell details[open]').length") == 0


def test_the_ledger_is_filtered_by_verdict(chromium):
    chromium.open(address("notebooks/22_claims"))
    every = chromium.script(SHOWN)
    kinds = chromium.script("[...document.querySelectorAll('#ledger-claims input')].map(e => e.value)")
    assert kinds[0] == "all" and len(kinds) > 2 and len(every) == len(CLAIMS)
    for kind in [*kinds[1:], "all"]:
        chromium.script(f"document.querySelector('#ledger-claims input[value=\"{kind}\"]').click()")
        shown = chromium.script(SHOWN)
        assert shown == [one for one in every if kind == "all" or one.split(":")[0].replace(" ", "-") == kind] and shown


def weight(page: Path) -> int:
    """Bytes of a page's HTML without the pictures in it, and of all scripts and style sheets that it asks for, each counted once."""
    text = re.sub(r"data:image/[^\"')]+", "", page.read_text())
    asked = [link for tag, link in _ASKED.findall(text) if tag == "script" or link.partition("?")[0].endswith((".css", ".js"))]
    files = {(page.parent / unquote(urlsplit(link).path)).resolve() for link in asked if not urlsplit(link).scheme}
    return len(text.encode()) + sum(file.stat().st_size for file in files)


_ASKED = re.compile(r'<(script|link)\b[^>]*?\b(?:src|href)="([^"]+)"')


def test_scripts_and_styles_are_weighed(tmp_path):
    (tmp_path / "a.css").write_text("x" * 100)
    (tmp_path / "b.js").write_text("x" * 1000)
    page = tmp_path / "p.html"
    page.write_text('<link rel="stylesheet" href="a.css?v=1"><script src="b.js"></script><script src="b.js"></script><link rel="next" href="q.html">')
    assert weight(page) == 1100 + page.stat().st_size
    page.write_text(page.read_text() + '<img src="data:image/png;base64,AAAA">')
    assert weight(page) == 1100 + page.stat().st_size - len("data:image/png;base64,AAAA")


@pytest.mark.parametrize("page", [*PAGES, "search", "genindex", "py-modindex"])
def test_a_page_is_light(page):
    assert weight(SITE / f"{page}.html") < LIGHT


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_who_wrote_it_and_how_it_is_cited(chromium, page):
    from pybtex.database import parse_string

    from diffseg_lib.book.citation import read_citation

    book = read_citation()
    chromium.open(address(page))
    told = chromium.script("[document.querySelector('section.cite p').textContent, document.querySelector('section.cite pre').textContent]")
    assert book.author in told[0] and f"Version {book.version}, {book.released.isoformat()}" in told[0]
    [entry] = parse_string(told[1], "bibtex").entries.values()
    assert book.title in (entry.fields.get("booktitle"), entry.fields["title"])
    assert page == "intro" or entry.fields["title"].replace("\\", "") == chromium.script("document.querySelector('meta[property=\"og:title\"]').content")
    footer = chromium.script("document.querySelector('footer.bd-footer-content').textContent")
    assert f"Copyright {book.released.year}" in footer and "2023" not in footer


@pytest.mark.parametrize("page", PAGES)
def test_the_head_of_a_page_says_what_others_show(page):
    head = (SITE / f"{page}.html").read_text().partition("</head>")[0]
    facts = dict(re.findall(r'<meta (?:name|property)="([\w:]+)" content="([^"]*)"', head))
    assert len(facts.get("description", "")) > 40 or page.startswith("api")
    assert facts.get("description", "") == facts.get("og:description", "") and len(facts.get("description", "")) <= 400
    assert facts["og:title"] and facts["og:type"] == "article"
    assert (SITE / f"{page}.html").parent.joinpath(facts["og:image"]).is_file()
    icons = re.findall(r'<link rel="icon" href="([^"]+)"', head)
    assert icons and (SITE / f"{page}.html").parent.joinpath(icons[0].partition("?")[0]).is_file()


@pytest.mark.parametrize("dark", [False, True])
def test_the_logo_shows_in_light_and_dark(chromium, dark):
    chromium.open(address("intro"), dark=dark)
    shown = chromium.script("[...document.querySelectorAll('.navbar-brand img')].filter(e => e.clientWidth && e.naturalWidth).map(e => e.src.split('/').pop())")
    assert shown == ["logo-dark.svg" if dark else "logo.svg"]


def test_no_page_has_a_button_to_an_address_that_is_not_known():
    if "REPOSITORY" not in os.environ:
        assert [
            page
            for page in PAGES
            if re.search(r"mybinder|colab\.research|launch-buttons|github\.com/[^\"]*/(issues|blob)", (SITE / f"{page}.html").read_text())
        ] == []


def test_the_status_page_has_every_chapter_in_its_colour(chromium):
    chromium.open(address("status"))
    rows = chromium.script(
        "[...document.querySelectorAll('table.status tbody tr')].map(r => [r.querySelector('a').getAttribute('href'), r.querySelector(STATE).textContent,"
        " getComputedStyle(r.querySelector(STATE)).backgroundColor, r.cells[4].textContent])".replace("STATE", "'.status-current, .status-stale'")
    )
    assert [row[0] for row in rows] == [f"{page}.html" for page in CHAPTERS if page.startswith("notebooks")]
    colours = {"current": "rgb(26, 127, 55)", "stale": "rgb(179, 38, 30)"}
    assert all(colours[state] == colour and code for _, state, colour, code in rows)
    current = sum(state == "current" for _, state, _, _ in rows)
    assert f"{current} of {len(rows)} chapters are current." in chromium.script("document.querySelector('article').textContent")


RESULTS = """[...document.querySelectorAll('ul.search.results > li')].map(e =>
  [e.querySelector('a').getAttribute('href'), e.querySelector('p') ? e.querySelector('p').textContent : '', e.querySelectorAll('mark').length])"""


@pytest.mark.parametrize("words", ["self-attention", "fuse", "threshold"])
def test_a_search_shows_chapters_first_and_what_they_say(chromium, words):
    chromium.open(f"{address('search')}?q={words}")
    chromium.script("new Promise(done => setTimeout(() => done(true), 400))")
    found = chromium.script(RESULTS)
    library = [href.startswith(("api", "genindex", "py-modindex")) for href, _, _ in found]
    assert library == sorted(library) and False in library and True in library
    chapters = [one for one in found if one[0].startswith("notebooks/")]
    assert chapters and sum(bool(text) and marks > 0 for _, text, marks in chapters) > len(chapters) / 2
    assert chromium.complaints() == []
    assert [url for url in chromium.requests() if not url.startswith(("file:", "data:", "blob:"))] == []
    for href, _, _ in found[:20]:
        path, _, anchor = href.partition("#")
        assert unquote(anchor) in read_links(SITE / path).anchors


CITED = "(e => e ? e.textContent : '')(document.getElementById('cited-entry'))"


def test_a_citation_shows_its_entry_by_mouse_and_keyboard(chromium):
    page = next(p for p in PAGES if 'id="cited"' in (SITE / f"{p}.html").read_text() and p.startswith("notebooks"))
    chromium.open(address(page))
    link = "document.querySelector('article a[href*=\"bibliography.html#\"]')"
    x, y = chromium.script(
        f"(({link}).scrollIntoView({{block: 'center'}}), (b => [b.left + b.width / 2, b.top + b.height / 2])({link}.getBoundingClientRect()))"
    )
    assert chromium.script(CITED) == ""
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert "Diffusion" in chromium.script(CITED)
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    chromium.script("new Promise(done => setTimeout(() => done(true), 400))")
    assert chromium.script(CITED) == ""
    chromium.script(f"{link}.focus()")
    assert "Diffusion" in chromium.script(CITED)
    assert chromium.script(f"{link}.getAttribute('aria-describedby')") == "cited-entry"
    chromium.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert chromium.script(CITED) == ""
    assert [url for url in chromium.requests() if not url.startswith(("file:", "data:", "blob:"))] == []


def test_a_footnote_stands_in_the_margin_and_opens_on_a_phone(chromium):
    chromium.open(address("real"), width=1400)
    place = "(e => { const b = e.getBoundingClientRect(), p = e.closest('p').getBoundingClientRect(); return [b.left - p.left, b.width]; })"
    left, width = chromium.script(f"{place}(document.querySelector('article span.sidenote'))")
    assert width > 100 and left > chromium.script("document.querySelector('article p').getBoundingClientRect().width") * 0.9
    chromium.open(address("real"), width=390, height=844)
    assert chromium.script("document.querySelector('article span.sidenote').offsetWidth") == 0
    chromium.script("document.querySelector('article input.margin-toggle').click()")
    assert chromium.script("document.querySelector('article span.sidenote').offsetWidth") > 100


def test_the_book_becomes_latex_without_a_warning(tmp_path):
    from diffseg_lib.book.pdf import latex_sources

    source = latex_sources(ROOT / "notebooks", tmp_path / "latex")  # Sphinx's warnings are errors there
    text = source.read_text()
    pictures = re.findall(r"\\(?:sphinx)?includegraphics(?:\[[^\]]*\])?\{\{?([^{}]+)\}?(\.\w+)?\}", text)
    assert len(pictures) > 20
    assert [name for name, ending in pictures if not list(source.parent.glob(f"{Path(name).name}{ending or '*'}"))] == []
    assert all(f"/notebooks/{Path(page).stem}" in text or Path(page).stem in text for page in CHAPTERS if page.startswith("notebooks"))
