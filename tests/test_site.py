"""The built site in a headless browser, its network cut: ``make site`` builds it and runs this."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

pytestmark = pytest.mark.site
ROOT = Path(__file__).parent.parent
SITE = Path(os.environ.get("DIFFSEG_SITE", ROOT / "build" / "site")).resolve()
CHAPTERS = [chapter["file"] for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"] for chapter in part["chapters"]]
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
  return [...document.querySelectorAll('article p, article h1, article h2, article li, article pre span, article figcaption')]
    .filter(e => e.textContent.trim() && e.offsetWidth)
    .map(e => {
      const a = luminance(parts(getComputedStyle(e).color)), b = luminance(ground(e));
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + ': ' + e.textContent.slice(0, 40)];
    })
    .filter(([ratio]) => ratio < MINIMUM).slice(0, 5);
})()
"""


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
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
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
    written = chromium.script("document.querySelectorAll('.math').length")
    drawn = chromium.script("[...document.querySelectorAll('.math mjx-container svg')].filter(e => e.clientWidth > 0).length")
    assert drawn >= written
    assert chromium.script("document.querySelectorAll('mjx-merror, [data-mjx-error]').length") == 0


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
    assert chromium.script(CONTRAST.replace("MINIMUM", "4.0" if dark else "3.5")) == []


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
