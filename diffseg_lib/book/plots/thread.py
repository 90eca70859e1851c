"""The whole method as one drawing, with the place of each chapter marked in it, and the UNet with its attention layers: SVG, the same on every machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

# Station: place in the grid (column, row), its name, and its symbol with its shape.
STATIONS: Mapping[str, tuple[tuple[int, int], str, str]] = {
    "picture": ((0, 0), "picture", "128×128×3"),
    "latents": ((1, 0), "latents z₀", "32×32×4"),
    "noise": ((2, 0), "noisy zₜ", "32×32×4"),
    "words": ((0, 1), "words", "one per class"),
    "prompt": ((1, 1), "prompts e", "tokens×128"),
    "attention": ((2, 1), "attention A", "4×4 … 32×32"),
    "labels": ((0, 2), "labels", "128×128"),
    "completed": ((1, 2), "completed M′", "32×32"),
    "fused": ((2, 2), "fused M", "32×32"),
    "uses": ((0, 3), "what follows: pseudo-labels, networks, edits", ""),
}
ARROWS = (
    ("picture", "latents"),
    ("latents", "noise"),
    ("noise", "attention"),
    ("words", "prompt"),
    ("prompt", "attention"),
    ("attention", "fused"),
    ("fused", "completed"),
    ("completed", "labels"),
    ("labels", "uses"),
)
EVERYTHING = tuple(name for name in STATIONS if name != "uses")
PLACES: Mapping[str, Sequence[str]] = {  # drawing to the stations that its chapter is about
    "whole": EVERYTHING,
    "models": ("latents", "noise", "prompt"),
    "attention": ("attention",),
    "fusion": ("fused",),
    "completion": ("completed",),
    "words": ("words",),
    "prompts": ("prompt",),
    "timesteps": ("noise",),
    "elbo": ("noise", "prompt", "labels"),
    "ablation": ("prompt", "fused", "completed"),
    "maps": ("completed", "labels"),
    "labels": ("labels",),
    "uses": ("uses",),
    "unet": ("noise", "attention", "completed"),
}
WIDTH, STEP, ROW, BOX, TALL = 720, 244, 112, 212, 80
INK, LINE, HERE, FILL = "#1f2933", "#5a6b7b", "#b3450b", "#eef2f6"
FONT = "font-family='Helvetica, Arial, sans-serif'"


def _svg(height: int, title: str, parts: Sequence[str], shown: int = 480) -> str:
    """A drawing with a ground of its own, so that dark pages can carry it; `shown` is its width on a page, px."""
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{shown}' height='{round(height * shown / WIDTH)}' role='img' {FONT}>"
    tip = "<marker id='tip' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7' orient='auto'>"
    defs = f"<defs>{tip}<path d='M0 0 10 5 0 10z' fill='{LINE}'/></marker></defs>"
    ground = f"<rect width='{WIDTH}' height='{height}' rx='12' fill='#ffffff'/>"
    return "\n".join([head, f"<title>{escape(title)}</title>", defs, ground, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, words: str, size: int, weight: str = "normal", colour: str = INK, anchor: str = "middle") -> str:
    return f"<text x='{x:g}' y='{y:g}' font-size='{size}' font-weight='{weight}' fill='{colour}' text-anchor='{anchor}'>{escape(words)}</text>"


def _box(x: float, y: float, w: float, h: float, fill: str, edge: str, line: float = 2) -> str:
    return f"<rect x='{x:g}' y='{y:g}' width='{w:g}' height='{h:g}' rx='10' fill='{fill}' stroke='{edge}' stroke-width='{line:g}'/>"


def _arrow(x0: float, y0: float, x1: float, y1: float, dashed: bool = False) -> str:
    dashes = " stroke-dasharray='7 6'" if dashed else ""
    return f"<line x1='{x0:g}' y1='{y0:g}' x2='{x1:g}' y2='{y1:g}' stroke='{LINE}' stroke-width='3' marker-end='url(#tip)'{dashes}/>"


def _corner(station: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of a station's box."""
    (column, row), _, shape = STATIONS[station]
    return 10 + column * STEP, 30 + row * ROW, BOX if shape else WIDTH - 20, TALL if shape else 52


def thread(here: Collection[str]) -> str:
    """The method from picture and words to labels, with the stations `here` marked, as an SVG's text.

    Raises:
        ValueError: If a station is unknown.
    """
    unknown = sorted(set(here) - set(STATIONS))
    if unknown:
        raise ValueError(f"stations {unknown}: expected some of {', '.join(STATIONS)}")
    parts, marked = [], set(here) != set(EVERYTHING)
    for a, b in ARROWS:
        (ax, ay, aw, ah), (bx, by, bw, bh) = _corner(a), _corner(b)
        if ay == by:
            forward = bx > ax
            parts.append(_arrow(ax + aw * forward, ay + ah / 2, bx + bw * (not forward), by + bh / 2))
        else:
            parts.append(_arrow(ax + BOX / 2, ay + ah, ax + BOX / 2, by))
    for name, (_, title, shape) in STATIONS.items():
        x, y, w, h = _corner(name)
        chosen = marked and name in here
        parts.append(_box(x, y, w, h, "#ffe3c7" if chosen else FILL, HERE if chosen else LINE, 5 if chosen else 2))
        parts.append(_text(x + w / 2, y + 34, title, 25, "bold" if chosen or shape else "normal"))
        parts.append(_text(x + w / 2, y + 64, shape, 23))
    if marked:
        first = next(name for name in STATIONS if name in here)
        (x, y, _, _), (column, row) = _corner(first), STATIONS[first][0]
        anchor = ("middle" if row == 0 or column < 2 else "end") if first != "uses" else "start"  # beside the arrow that comes from above
        shift = {"middle": 0, "end": -14, "start": 14}[anchor]
        parts.append(_text(x + BOX / 2 + shift, y - 8, "you are here", 22, "bold", HERE, anchor))
    names = ", ".join(STATIONS[name][1] for name in STATIONS if name in here)
    return _svg(30 + 3 * ROW + 62, f"The method from picture and words to labels; marked: {names}", parts)


def unet_drawing(levels: Sequence[tuple[int, int, int]], middle: tuple[int, int]) -> str:
    """Where a UNet attends, as an SVG's text: down on the left, up on the right, one row for each resolution.

    Args:
        levels: Height of the maps, and the number of pairs of attention layers on the way down and on the way up, fine to coarse.
        middle: The same of the block in between: height of its maps, number of pairs.
    """
    parts, top = [_text(180, 34, "noisy latents in", 25, "bold"), _text(540, 34, "guessed noise out", 25, "bold")], 62

    def block(x: float, y: float, pairs: int, side: int) -> None:
        parts.append(_box(x, y, 320, 124, "#ffffff", LINE))
        parts.append(_text(x + 160, y + 30, f"{side}×{side}", 25, "bold"))
        if not pairs:
            parts.append(_text(x + 160, y + 84, "convolutions alone", 24))
            return
        for i, (name, fill) in enumerate((("conv", FILL), ("self", "#cfe3f7"), ("cross", "#ffe3c7"))):
            parts.append(_box(x + 12 + 100 * i, y + 42, 94, 40, fill, LINE, 1.5))
            parts.append(_text(x + 59 + 100 * i, y + 70, name, 24))
        parts.append(_text(x + 160, y + 112, f"{pairs} block{'s' * (pairs > 1)}", 23))

    for i, (side, down, up) in enumerate(levels):
        y = top + 160 * i
        block(20, y, down, side)
        block(380, y, up, side)
        parts.append(_arrow(340, y + 62, 380, y + 62, dashed=True))
        parts.append(_arrow(180, y + 124, 180, y + 160))
        parts.append(_arrow(540, y + 160, 540, y + 124))
    parts += [_arrow(180, 42, 180, top), _arrow(540, top, 540, 42)]
    y = top + 160 * len(levels)
    block(200, y, middle[1], middle[0])
    parts.append(f"<path d='M180 {y} V{y + 62} H200 M520 {y + 62} H540 V{y}' fill='none' stroke='{LINE}' stroke-width='3'/>")
    y += 160
    for i, (name, fill, words) in enumerate(
        (
            ("self", "#cfe3f7", "each pixel asks all pixels: which are like me?"),
            ("cross", "#ffe3c7", "each pixel asks all tokens: which are about me?"),
        )
    ):
        parts.append(_box(20, y + 52 * i, 94, 40, fill, LINE, 1.5))
        parts.append(_text(67, y + 28 + 52 * i, name, 24))
        parts.append(_text(128, y + 28 + 52 * i, words, 24, anchor="start"))
    return _svg(y + 112, "A UNet with its attention layers, from noisy latents to guessed noise", parts, shown=640)


def levels_of(config: Mapping[str, object], layers: Collection[str]) -> tuple[list[tuple[int, int, int]], tuple[int, int]]:
    """What :func:`unet_drawing` draws, from a UNet's configuration and the names of its cross-attention layers.

    Args:
        config: The configuration's ``sample_size`` and ``down_block_types``.
        layers: Names of the layers, as ``up_blocks.1.attentions.0.transformer_blocks.0.attn2``.
    """
    size, kinds = config["sample_size"], config["down_block_types"]
    assert isinstance(size, int) and isinstance(kinds, (list, tuple))
    last = len(kinds) - 1

    def count(block: str) -> int:
        return sum(name.startswith(f"{block}.") and name.endswith("attn2") for name in layers)

    levels = [(size >> i, count(f"down_blocks.{i}"), count(f"up_blocks.{last - i}")) for i in range(last + 1)]
    return levels, (size >> last, count("mid_block"))


def draw_thread(folder: Path) -> list[Path]:
    """Draw the method once for each place in :data:`PLACES`, and the pocket UNet, into a folder; returns the paths."""
    import json

    from ...attention import attention_layers
    from ...loading import load_backbone
    from ...support.files import write_text

    backbone = load_backbone("pocket")
    config = json.loads(backbone.unet.to_json_string())
    drawn = {name: thread(here) for name, here in PLACES.items()}
    drawn["where-attention-sits"] = unet_drawing(*levels_of(config, attention_layers(backbone.unet)))
    for name, text in drawn.items():
        write_text(folder / f"{name}.svg", text)
    return [folder / f"{name}.svg" for name in drawn]
