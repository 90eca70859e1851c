"""A page of overlays to look through, by class, with the keyboard: one HTML file beside its pictures, which needs no network and no server."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from ..support.files import write_text
from ..support.images import PALETTE

SHOWN = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")  # what a browser can show of photos


@dataclass(frozen=True)
class Card:
    """One photo on the page.

    Args:
        name: Name of the photo.
        photo: Place of the photo.
        thumb: Path of the small overlay, relative to the page.
        large: Path of the large overlay, relative to the page.
        size: Width and height of the photo, px.
        shares: The share of the photo that each class takes, in [0, 1], of those that were found.
    """

    name: str
    photo: Path
    thumb: str
    large: str
    size: tuple[int, int]
    shares: Mapping[str, float]


def write_sheet(path: str | Path, title: str, cards: Iterable[Card], classes: Sequence[str], failed: Mapping[str, str]) -> Path:
    """Write the page; returns its path.

    Args:
        path: Place of the page, ``index.html`` in the folder that the pictures lie in.
        title: Title of the page.
        cards: Photos, in the order in which they are shown.
        classes: Names of the classes, in the order of their colours.
        failed: Photos that have no overlay, and why.
    """
    path, counts, figures = Path(path), Counter[str](), []
    for card in cards:
        counts.update(["", *card.shares])
        figures.append(_figure(card, classes, path.parent))
    buttons = [_button(0, "all", counts[""], "")]
    buttons += [_button(i, name, counts[name], _colour(i)) for i, name in enumerate(classes, start=1)]
    told = "".join(f"<li><b>{escape(name)}</b> {escape(error)}</li>" for name, error in failed.items())
    lost = f'<details open id="failed"><summary>{len(failed)} failed</summary><ul>{told}</ul></details>' if failed else ""
    parts = {"TITLE": escape(title), "BUTTONS": "\n".join(buttons), "FAILED": lost, "FIGURES": "\n".join(figures)}
    text = PAGE
    for name in ("TITLE", "BUTTONS", "FAILED", "FIGURES"):  # the names of photos come last, and are not looked into again
        text = text.replace(f"@{name}@", parts[name])
    return write_text(path, text)


def _colour(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*PALETTE[(label - 1) % (len(PALETTE) - 1) + 1])


def _swatch(colour: str) -> str:
    return f'<i style="background:{colour}"></i>' if colour else ""


def _button(label: int, name: str, count: int, colour: str) -> str:
    key = f" <kbd>{label}</kbd>" if label < 10 else ""
    pressed = "true" if label == 0 else "false"
    return f'<button data-c="{label}" aria-pressed="{pressed}">{_swatch(colour)}{escape(name)} <b>{count}</b>{key}</button>'


def _figure(card: Card, classes: Sequence[str], folder: Path) -> str:
    numbers = [classes.index(name) + 1 for name in card.shares]
    told = ", ".join(f"<s>{_swatch(_colour(i))}{escape(name)} {share:.1%}</s>" for i, (name, share) in zip(numbers, card.shares.items(), strict=True))
    photo = _link(card.photo, folder) if card.photo.suffix.lower() in SHOWN else ""
    width, height = card.size
    marks = f'data-c=" {" ".join(map(str, numbers))} " data-large="{escape(quote(card.large))}" data-photo="{escape(photo)}"'
    image = f'<img loading="lazy" decoding="async" src="{escape(quote(card.thumb))}" width="{width}" height="{height}" alt="overlay of {escape(card.name)}">'
    return f"<figure {marks}><button>{image}</button><figcaption><b>{escape(card.name)}</b> {told or 'nothing found'}</figcaption></figure>"


def _link(photo: Path, folder: Path) -> str:
    """A photo's address from a page's folder, relative where it can be, so that both may be moved together."""
    try:
        return quote(Path(os.path.relpath(photo, folder.absolute())).as_posix())
    except ValueError:  # another drive
        return photo.absolute().as_uri()


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; --ground: #fff; --text: #1b1b1f; --faint: #5b5b66; --line: #d4d4dc; --on: #1b1b1f; --on-text: #fff; }
@media (prefers-color-scheme: dark) { :root { --ground: #16161a; --text: #ececf1; --faint: #a9a9b5; --line: #3a3a44; --on: #ececf1; --on-text: #16161a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
header { position: sticky; top: 0; z-index: 1; background: var(--ground); border-bottom: 1px solid var(--line); padding: .6rem 1rem; }
h1 { font-size: 1.1rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .4rem; max-height: 30vh; overflow: auto; }
nav button { font: inherit; color: inherit; background: none; border: 1px solid var(--line); border-radius: 1rem; padding: .15rem .7rem; cursor: pointer; }
nav button[aria-pressed=true] { background: var(--on); color: var(--on-text); border-color: var(--on); }
i { display: inline-block; width: .75em; height: .75em; border-radius: 50%; margin-right: .3em; border: 1px solid #fff8; }
kbd { font: .75em ui-monospace, monospace; opacity: .7; }
.faint, figcaption { color: var(--faint); font-size: .85rem; }
.faint { margin: .4rem 0 0; }
details { margin: .8rem 1rem; border: 1px solid #c33; border-radius: .4rem; padding: .4rem .8rem; overflow: auto; max-height: 40vh; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(220px, 42vw), 1fr)); gap: 1rem; padding: 1rem; }
figure { margin: 0; content-visibility: auto; contain-intrinsic-size: 220px 260px; overflow-wrap: anywhere; }
figure[hidden] { display: none; }
figure button { display: block; width: 100%; padding: 0; border: 0; background: none; cursor: zoom-in; border-radius: .3rem; }
figure img { width: 100%; height: auto; display: block; border-radius: .3rem; background: var(--line); }
figcaption s, dialog s { text-decoration: none; white-space: nowrap; }
figcaption b { display: block; color: var(--text); font-weight: 600; }
:focus-visible { outline: 3px solid #0077bb; outline-offset: 2px; }
dialog { width: 100vw; height: 100vh; max-width: none; max-height: none; border: 0; padding: 0; background: #111; color: #eee; }
dialog[open] { display: flex; flex-direction: column; }
dialog img { flex: 1; min-height: 0; width: 100%; object-fit: contain; }
dialog p { margin: 0; padding: .5rem 1rem; display: flex; gap: .4rem 1rem; flex-wrap: wrap; align-items: center; }
dialog p span { flex: 1; min-width: 12rem; overflow-wrap: anywhere; }
dialog button { font: inherit; color: inherit; background: #333; border: 1px solid #666; border-radius: .3rem; padding: .2rem .8rem; cursor: pointer; }
</style>
</head>
<body>
<header>
<h1>@TITLE@</h1>
<nav aria-label="classes">
@BUTTONS@
</nav>
<p class="faint"><span id="count" role="status"></span> Keys: 0–9 a class, Enter opens, ← → turn the page, O overlay or photo, Esc closes.</p>
</header>
@FAILED@
<main>
@FIGURES@
</main>
<dialog aria-label="photo">
<img alt="">
<p><span></span><button data-go="-1">←</button><button data-go="1">→</button><button data-go="o">overlay / photo</button><button data-go="x">close</button></p>
</dialog>
<script>
const figures = [...document.querySelectorAll('figure')], buttons = [...document.querySelectorAll('nav button')];
const dialog = document.querySelector('dialog'), picture = dialog.querySelector('img'), told = dialog.querySelector('span');
let shown = figures, at = 0, plain = false;
const choose = label => {
  if (!buttons[label]) return;
  buttons.forEach(b => b.setAttribute('aria-pressed', b.dataset.c === String(label)));
  shown = figures.filter(f => label === 0 || f.dataset.c.includes(` ${label} `));
  const wanted = new Set(shown);
  figures.forEach(f => { f.hidden = !wanted.has(f); });
  document.getElementById('count').textContent = `${shown.length} of ${figures.length} photos.`;
  location.replace(label ? `#${label}` : '#');
};
const show = () => {
  const f = shown[at], original = f.dataset.photo;
  picture.src = plain && original ? original : f.dataset.large;
  picture.alt = f.querySelector('img').alt;
  told.innerHTML = f.querySelector('figcaption').innerHTML;
  dialog.querySelector('[data-go=o]').disabled = !original;
};
const open = f => { at = shown.indexOf(f); plain = false; show(); dialog.showModal(); };
const go = way => {
  if (way === 'x') dialog.close();
  else if (way === 'o') { plain = !plain; show(); }
  else { at = (at + Number(way) + shown.length) % shown.length; show(); }
};
buttons.forEach(b => b.addEventListener('click', () => choose(Number(b.dataset.c))));
figures.forEach(f => f.querySelector('button').addEventListener('click', () => open(f)));
dialog.addEventListener('close', () => shown[at] && shown[at].querySelector('button').focus());
dialog.querySelectorAll('button').forEach(b => b.addEventListener('click', () => go(b.dataset.go)));
document.addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
  if (dialog.open) {
    if (step) go(step);
    else if (e.key === 'o' || e.key === 'O') go('o');
    else return;
  } else if (/^[0-9]$/.test(e.key)) choose(Number(e.key));
  else if (step && shown.length) {
    const now = shown.indexOf(document.activeElement.closest('figure'));
    shown[Math.max(0, Math.min(shown.length - 1, now + step))].querySelector('button').focus();
  } else return;
  e.preventDefault();
});
choose(Number(location.hash.slice(1)) || 0);
</script>
</body>
</html>
"""
