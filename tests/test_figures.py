"""Figures on a page: sliders, wipes and the enlarged view, by mouse and keys, with and without scripts, in a browser whose network is cut."""

from __future__ import annotations

import numpy as np
import pytest

from diffseg_lib.book import plots
from diffseg_lib.support.paths import repository_root

STATIC = repository_root() / "_static"
MASK = np.zeros((32, 32), bool)
MASK[8:24, 8:24] = True
SLID = plots.map_strip(None, "house", {f"t = {t}": np.random.default_rng(t).random((8, 8)) for t in (1, 50, 100)}, MASK, way="slide")
WIPED = plots.wipe(plots.picture(np.zeros((32, 32, 3), np.uint8), "before"), plots.picture(np.full((32, 32, 3), 255, np.uint8), "after"))
LABELLED = plots.Panels([[plots.labels(MASK.astype(int), ["house"], "the labels"), *(plots.heat(np.eye(4), f"map {i}") for i in range(5))]])


@pytest.fixture
def page(tmp_path):
    def write(*figures, scripts=True):
        script = (STATIC / "figures.js").as_uri() if scripts else ""
        shown = "".join(f"<figure>{one.html()}<figcaption>What it shows.</figcaption></figure>" for one in figures)
        text = '<!doctype html><meta charset=utf-8><meta name=viewport content="width=device-width">'
        text += f'<link rel=stylesheet href="{(STATIC / "figures.css").as_uri()}">'
        text += f"<style>body{{margin:16px;font:16px sans-serif}} figure{{margin:0}}</style><article>{shown}</article><script src='{script}'></script>"
        (tmp_path / "page.html").write_text(text)
        return (tmp_path / "page.html").as_uri()

    return write


SEEN = "[...document.querySelectorAll('.panels-panel')].filter(e => e.offsetWidth).length"


def press(chromium, key, code):
    for kind in ("keyDown", "keyUp"):
        text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
        chromium.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


def test_a_slider_shows_one_column_at_a_time_and_obeys_keys(chromium, page):
    chromium.open(page(SLID))
    assert chromium.script(SEEN) == 1
    assert chromium.script("document.querySelector('output').textContent") == "t = 1"
    chromium.script("document.querySelector('.panels-slider input').focus()")
    press(chromium, "ArrowRight", 39)
    assert chromium.script("document.querySelector('output').textContent") == "t = 50" and chromium.script(SEEN) == 1
    assert chromium.script("document.querySelector('input').getAttribute('aria-valuetext')") == "t = 50"
    assert chromium.script("document.querySelector(`label[for=${document.querySelector('input').id}]`).textContent") == "Show"
    assert chromium.complaints() == [] and all(url.startswith(("file:", "data:")) for url in chromium.requests())


def test_a_wipe_draws_the_second_picture_over_the_first_as_far_as_it_is_told(chromium, page):
    chromium.open(page(WIPED))
    assert chromium.script(SEEN) == 1
    assert chromium.script("document.querySelectorAll('.panels-frame img').length") == 2
    clip = "getComputedStyle(document.querySelector('.panels-over')).clipPath"
    assert chromium.script(clip) == "inset(0px 0px 0px 50%)"
    chromium.script("const i = document.querySelector('input'); i.value = 0; i.dispatchEvent(new Event('input'))")
    assert chromium.script(clip) == "inset(0px 0px 0px 100%)" and chromium.script("document.querySelector('output').textContent") == "0 % of “after”"


def test_without_scripts_everything_stands_side_by_side(chromium, page):
    chromium.open(page(SLID, WIPED, scripts=False))
    assert chromium.script(SEEN) == 5
    tops = chromium.script("[...document.querySelectorAll('.panels')].map(e => [...e.querySelectorAll('.panels-panel')].map(p => p.offsetTop))")
    assert all(len(set(one)) == 1 for one in tops)


def test_a_figure_is_enlarged_by_mouse_and_keys_and_closed_by_escape(chromium, page):
    chromium.open(page(LABELLED))
    opened, width = "!!document.querySelector('dialog[open]')", "document.querySelector('dialog .panels-frame img').clientWidth"
    small = chromium.script("document.querySelector('.panels-frame img').clientWidth")
    chromium.script("document.querySelector('.figure-enlarge').focus()")
    press(chromium, "Enter", 13)
    assert chromium.script(opened) and chromium.script(width) > small
    assert chromium.script("document.querySelector('dialog').getAttribute('aria-label')") == "Enlarged figure"
    press(chromium, "Escape", 27)
    assert not chromium.script(opened)
    chromium.script("document.querySelector('.panels').click()")
    assert chromium.script(opened)
    chromium.script("document.querySelector('.figure-close').click()")
    assert not chromium.script(opened)


@pytest.mark.parametrize(("drawn", "width", "scrolls"), [(430, 390, False), (700, 390, True), (700, 1280, False)])
def test_a_drawing_much_wider_than_its_column_scrolls_there(chromium, page, tmp_path, drawn, width, scrolls):
    class Drawing:
        def html(self):
            return '<a class="image-reference" href="drawing.svg"><img src="drawing.svg" alt="A drawing." style="max-width: 100%"></a>'

    (tmp_path / "drawing.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawn}" height="90"><rect width="{drawn}" height="90"/></svg>')
    chromium.open(page(Drawing()), width=width)
    box = "document.querySelector('.figure-scroll')"
    assert chromium.script("document.documentElement.scrollWidth") <= width
    assert chromium.script(f"[{box}.scrollWidth > {box}.clientWidth, {box}.tabIndex === 0]") == [scrolls] * 2
    assert chromium.script("document.querySelector('img').clientWidth") == (drawn if scrolls or width > drawn else width - 32)
    chromium.script("document.querySelector('.figure-enlarge').click()")
    assert chromium.script("!!document.querySelector('dialog[open] > img')") and chromium.complaints() == []


@pytest.mark.parametrize("width", [390, 1280])
def test_panels_wrap_and_their_text_is_the_page_s(chromium, page, width):
    chromium.open(page(LABELLED, SLID, WIPED), width=width)
    assert chromium.script("document.documentElement.scrollWidth") <= width
    sizes = "[...document.querySelectorAll('.panels-title, .panels-frame span, .panels-key span')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert min(chromium.script(sizes)) >= 16
    across = "new Set([...document.querySelector('.panels-row').children].map(e => e.offsetLeft)).size"
    assert chromium.script(across) == (2 if width == 390 else 6)


def test_each_panel_says_what_it_shows(chromium, page):
    chromium.open(page(LABELLED))
    alts = chromium.script("[...document.querySelectorAll('img')].map(e => e.alt)")
    assert alts[0] == "Labels, the labels: house 25% of the picture" and all(len(alt.split()) >= 4 for alt in alts)
