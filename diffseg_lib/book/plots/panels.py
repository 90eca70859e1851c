"""Figures of pictures, maps and labels: panels beside each other that wrap where the page is narrow.

A :class:`Panels` shows itself in a notebook as HTML, in which every panel is a picture of its own and all text is the page's
text, and as one JPEG where HTML is not read.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .colours import BACKGROUND, VOID_COLOUR, class_colours, text_colour

MAPS = "cividis"  # of every heat map: even in lightness, fit for colour-blind readers
LARGEST = 384  # px, of a panel's side
NAMED = 0.015  # of the picture: the least share of a class whose name is written on its region
COLUMN = 7.2  # inches: the width of a page's column
Limits = tuple[float, float]


@dataclass(frozen=True)
class Name:
    """A name written on a panel: its text, its place as shares of width and height, its colour, and that of its region, which rims it."""

    text: str
    x: float
    y: float
    colour: str
    rim: str

    def covers(self, other: Name) -> bool:
        """Whether two names would lie over each other, at the size that a panel has beside three others."""
        return abs(self.y - other.y) < 0.11 and abs(self.x - other.x) < _half(self.text) + _half(other.text)


@dataclass(frozen=True)
class Panel:
    """One picture of a figure.

    Args:
        pixels: What is shown, H W 3, uint8.
        title: Text below it.
        alt: What it shows, for those who do not see it.
        flat: Whether it has few colours with hard edges, which are kept, rather than a picture's.
        names: Names that are written on it.
        limits: Values of the darkest and the brightest colour of a map; None for a picture or labels.
        key: Colours (#rrggbb) by the name of the class that they stand for.
    """

    pixels: np.ndarray
    title: str
    alt: str
    flat: bool = False
    names: tuple[Name, ...] = ()
    limits: Limits | None = None
    key: Mapping[str, str] | None = None

    def source(self) -> str:
        """The picture as a data URI: PNG if it is flat, JPEG otherwise."""
        held, image = io.BytesIO(), Image.fromarray(self.pixels)
        if self.flat:
            image.quantize(256, dither=Image.Dither.NONE).save(held, "PNG", optimize=True)
        else:
            image.save(held, "JPEG", quality=80, optimize=True)
        return f"data:image/{'png' if self.flat else 'jpeg'};base64,{base64.b64encode(held.getvalue()).decode()}"


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """An array h w ... at another size, each value that of the nearest."""
    h, w = values.shape[:2]
    return values[np.arange(height) * h // height][:, np.arange(width) * w // width]


def _size(shape: Sequence[int], least: int = 0) -> tuple[int, int]:
    """The height and width that a panel is shown at: the long side at most :data:`LARGEST` and, enlarged by whole numbers, at least `least`."""
    longest = max(shape[:2])
    scale = LARGEST / longest if longest > LARGEST else max(1, -(-least // longest))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def picture(pixels: np.ndarray, title: str = "", alt: str = "") -> Panel:
    """A picture as it is: H W 3, uint8.

    Raises:
        ValueError: If the array has another shape.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"picture of shape {pixels.shape}: expected H x W x 3")
    height, width = _size(pixels.shape)
    shown = pixels if (height, width) == pixels.shape[:2] else np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    return Panel(shown, title, alt or f"Picture, as it is: {title or 'without a title'}")


def edges(mask: np.ndarray, width: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The outline of a mask H W as two masks: the line, `width` px inside it, and a thinner one outside it that sets it off."""
    from scipy.ndimage import binary_dilation, binary_erosion

    return mask & ~binary_erosion(mask, iterations=width, border_value=1), binary_dilation(mask) & ~mask


def heat(values: np.ndarray, title: str = "", inside: np.ndarray | None = None, limits: Limits | None = None, alt: str = "") -> Panel:
    """A map h w as colours, from dark to bright.

    Args:
        values: The map, of any range.
        title: Text below it.
        inside: Where the object is, H W, bool, in the size of the picture: its outline is drawn, and the means inside and outside are told.
        limits: Values of the darkest and the brightest colour; None takes the map's own least and greatest.
        alt: What it shows; "" says its range, or its means inside and outside.

    Raises:
        ValueError: If `values` is no single map, or is not finite.
    """
    import matplotlib

    if values.ndim != 2:
        raise ValueError(f"heat map of shape {values.shape}: expected one map h x w; index its class first")
    if not np.isfinite(values).all():
        raise ValueError("a heat map has values that are not finite: expected real numbers everywhere")
    low, high = limits or (float(values.min()), float(values.max()))
    height, width = _size(values.shape) if inside is None else _size(inside.shape, 256)
    shares = ((values - low) / (high - low) if high > low else np.zeros_like(values)).clip(0, 1)
    pixels = _resized((255 * matplotlib.colormaps[MAPS](shares)[..., :3]).round().astype(np.uint8), height, width)
    told = f"from {values.min():.2g} to {values.max():.2g}"
    if inside is not None and inside.any() and not inside.all():
        there = _resized(inside.astype(bool), *values.shape)
        if there.any() and not there.all():
            told += f"; mean {values[there].mean():.2g} inside the outline, {values[~there].mean():.2g} outside"
        line, shadow = edges(_resized(inside.astype(bool), height, width))
        pixels = np.where(shadow[..., None], np.uint8(0), np.where(line[..., None], np.uint8(255), pixels))
    return Panel(pixels, title, alt or f"Map, {title or 'one'}, {told}", True, limits=(low, high))


def labels(found: np.ndarray, names: Sequence[str], title: str = "", alt: str = "") -> Panel:
    """Labels H W as flat, opaque colours, one a class across the book, each class's name written on its largest region.

    Args:
        found: The labels; i is the i-th name, 0 the background (grey), and what lies above the number of names void (white).
        names: Names of the classes, in the order of the labels.
        title: Text below it.
        alt: What it shows; "" tells each class's share of the picture.

    Raises:
        ValueError: If `found` is no single map of labels.
    """
    if found.ndim != 2:
        raise ValueError(f"labels of shape {found.shape}: expected one map H x W")
    colours = class_colours(names)
    table = np.full((256, 3), _rgb(VOID_COLOUR), np.uint8)
    table[: len(names) + 1] = [_rgb(BACKGROUND), *(_rgb(colours[name]) for name in names)]
    there = {i: name for i, name in enumerate(names, start=1) if (found == i).any()}
    written: list[Name] = []
    for i, name in sorted(there.items(), key=lambda one: -int((found == one[0]).sum())):  # the largest first; what would cover another name is in the key alone
        one = _name(found == i, name, colours[name])
        if (found == i).mean() >= NAMED and not any(one.covers(other) for other in written):
            written.append(one)
    told = ", ".join(f"{name} {(found == i).mean():.0%}" for i, name in there.items()) or "nothing"
    shown = _resized(found, *_size(found.shape))
    return Panel(
        table[shown],
        title,
        alt or f"Labels, {title or 'one map'}: {told} of the picture",
        True,
        tuple(written),
        key={name: colours[name] for name in there.values()},
    )


def _half(text: str) -> float:
    """Half of a name's width as a share of a panel's."""
    return min(0.5, 0.037 * len(text))


def _name(region: np.ndarray, text: str, colour: str) -> Name:
    """A class's name at the point of its region that lies farthest from the region's edge, moved so that the text stays inside the panel."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    half = _half(text)
    return Name(text, min(max((x + 0.5) / region.shape[1], half), 1 - half), min(max((y + 0.5) / region.shape[0], 0.07), 0.93), text_colour(colour), colour)


def outlined(panel: Panel, region: np.ndarray) -> Panel:
    """A panel with the outline of a region (H W, bool, in the size of the picture): a white line inside it, set off by a black one."""
    line, shadow = edges(_resized(region.astype(bool), *panel.pixels.shape[:2]), 1)
    pixels = np.where(shadow[..., None], np.uint8(0), np.where(line[..., None], np.uint8(255), panel.pixels))
    return replace(panel, pixels=pixels, alt=f"{panel.alt}; outlined: {region.mean():.0%} of it")


def marked(panel: Panel, points: Mapping[str, tuple[float, float]]) -> Panel:
    """A panel with dots of the given colours (#rrggbb) at places (row, column, shares of height and width)."""
    height, width = _size(panel.pixels.shape, 256)
    pixels = _resized(panel.pixels, height, width).copy()
    rows, columns = np.mgrid[:height, :width]
    for colour, (y, x) in points.items():
        far = np.hypot(rows - y * height, columns - x * width)
        pixels[far < height / 22] = 255
        pixels[far < height / 30] = _rgb(colour)
    return replace(panel, pixels=pixels)


@cache
def _style() -> str:
    return "".join(line.strip() for line in (Path(__file__).parent / "panels.css").read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True)
class Panels:
    """A figure of panels in rows, with the key of its colours.

    Args:
        rows: The panels, row by row.
        row_titles: Text above each row; none leaves it out.
        way: How a page that runs scripts shows it: "grid" as it stands, "wipe" each row's second panel over its first under a slider,
            "slide" one column at a time under a slider. Without scripts every panel is shown.
        scale: What the colours of maps mean; "" tells their range, where all have the same, or that each has its own.
        columns: Panels beside each other at most; 0 is the longest row's length.
    """

    rows: Sequence[Sequence[Panel]]
    row_titles: Sequence[str] = ()
    way: str = "grid"
    scale: str = ""
    columns: int = 0

    def __repr__(self) -> str:
        return f"<{sum(map(len, self.rows))} panels in {len(self.rows)} rows>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        small = io.BytesIO()
        Image.open(io.BytesIO(self.png())).convert("RGB").save(small, "JPEG", quality=70, optimize=True)
        return {"text/plain": repr(self), "text/html": self.html(), "image/jpeg": base64.b64encode(small.getvalue()).decode()}

    def key(self) -> dict[str, str]:
        """Colours (#rrggbb) of the classes shown, by name."""
        return {name: colour for row in self.rows for panel in row for name, colour in (panel.key or {}).items()}

    def bar(self) -> tuple[str, str]:
        """What the darkest and the brightest colour of the maps mean; empty where there is no map."""
        found = {panel.limits for row in self.rows for panel in row if panel.limits}
        if not found:
            return "", ""
        [(low, high), *others] = found
        ends = ("each map's least value", "its greatest") if others else (f"{low:.2g}", f"{high:.2g}")
        return (ends[0], f"{ends[1]} ({self.scale})" if self.scale else ends[1])

    def html(self) -> str:
        """The figure as HTML that holds everything that it needs, its panels in a grid that wraps."""
        parts = [f'<div class="panels" data-way="{self.way}"><style>{_style()}</style>']
        for row, title in zip(self.rows, self.row_titles or [""] * len(self.rows), strict=True):
            head = f'<div class="panels-name">{escape(title)}</div>' if title else ""
            drawn = "".join(map(_panel_html, row))
            parts.append(f'<div class="panels-line">{head}<div class="panels-row" style="--n:{self.columns or len(row)}">{drawn}</div></div>')
        low, high = self.bar()
        legend = [f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in self.key().items()]
        if low:
            legend.append(f'<span>{escape(low)}<i class="bar" style="background:linear-gradient(90deg,{",".join(_ramp())})"></i>{escape(high)}</span>')
        if legend:
            parts.append(f'<div class="panels-key">{"".join(legend)}</div>')
        return "".join([*parts, "</div>"])

    def png(self, dpi: int = 72, size: float = 9) -> bytes:
        """The figure as one PNG, :data:`COLUMN` inches wide.

        Args:
            dpi: Dots an inch.
            size: Size of the text, points.
        """
        held = io.BytesIO()
        self.draw(size).savefig(held, dpi=dpi, metadata={"Software": None})
        return held.getvalue()

    def draw(self, size: float = 9) -> Figure:
        """The figure as one of matplotlib's, with text of `size` points."""
        import matplotlib
        from matplotlib.patches import Patch
        from matplotlib.patheffects import withStroke

        columns = self.columns or max(map(len, self.rows))
        lines = [
            (title, row[i : i + columns])
            for row, title in zip(self.rows, self.row_titles or [""] * len(self.rows), strict=True)
            for i in range(0, len(row), columns)
        ]
        side, line = COLUMN / columns, 1.3 * size / 72
        titles = [[_wrapped(panel.title, int(side / (0.0085 * size))) for panel in row] for _, row in lines]
        shapes = [[side * panel.pixels.shape[0] / panel.pixels.shape[1] for panel in row] for _, row in lines]
        low, high = self.bar()
        foot = line * (1.3 * -(-len(self.key()) // 6) + 1.3 * bool(low)) + 0.05
        spaces = [
            (1.2 * line * bool(head), line * (max(text.count("\n") + bool(text) for text in row) + 0.3)) for (head, _), row in zip(lines, titles, strict=True)
        ]
        heights = [above + max(sides) + below for (above, below), sides in zip(spaces, shapes, strict=True)]
        total = top = sum(heights) + foot
        figure = Figure((COLUMN, total), facecolor="white")
        for (head, row), texts, sides, (above, _), height in zip(lines, titles, shapes, spaces, heights, strict=True):
            figure.text(0.003, (top - 0.03) / total, head, size=size, weight="bold", va="top")
            for j, (panel, text, tall) in enumerate(zip(row, texts, sides, strict=True)):
                ax = figure.add_axes((j / columns + 0.002, (top - above - tall) / total, 0.97 / columns, 0.97 * tall / total))
                ax.imshow(panel.pixels, interpolation="nearest" if panel.flat else None, extent=(0, 1, 1, 0), aspect="auto")
                ax.axis("off")
                for name in panel.names:
                    ax.text(
                        name.x,
                        name.y,
                        name.text,
                        color=name.colour,
                        size=size,
                        weight="bold",
                        ha="center",
                        va="center",
                        path_effects=[withStroke(linewidth=3, foreground=name.rim)],
                    )
                ax.text(0, 1 + 0.15 * line / tall, text, size=size, va="top")
            top -= height
        handles = [Patch(facecolor=colour, edgecolor="#888888", label=name) for name, colour in self.key().items()]
        if handles:
            figure.legend(
                handles=handles, loc="lower left", bbox_to_anchor=(0, 1.3 * line * bool(low) / total), ncols=6, frameon=False, fontsize=size, borderaxespad=0.1
            )
        if low:
            ax = figure.add_axes((0.35, 0.25 * line / total, 0.2, 0.8 * line / total))
            ax.imshow(np.linspace(0, 1, 256)[None], cmap=matplotlib.colormaps[MAPS], aspect="auto", extent=(0, 1, 0, 1))
            ax.axis("off")
            ax.text(-0.03, 0.5, low, ha="right", va="center", size=size)
            ax.text(1.03, 0.5, high, va="center", size=size)
        return figure


def _wrapped(text: str, width: int) -> str:
    from textwrap import wrap

    return "\n".join(part for line in text.split("\n") for part in (wrap(line, max(4, width)) or [""]))


def _ramp() -> list[str]:
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(matplotlib.colormaps[MAPS](i / 8)) for i in range(9)]


def _panel_html(panel: Panel) -> str:
    names = "".join(
        f'<span aria-hidden="true" style="left:{one.x:.1%};top:{one.y:.1%};color:{one.colour};--c:{one.rim}">{escape(one.text)}</span>' for one in panel.names
    )
    height, width = panel.pixels.shape[:2]
    image = f'<img{" class=flat" if panel.flat else ""} src="{panel.source()}" width="{width}" height="{height}" alt="{escape(panel.alt)}">'
    title = f'<div class="panels-title">{escape(panel.title)}</div>'.replace("\n", "<br>") if panel.title else ""
    return f'<div class="panels-panel"><div class="panels-frame">{image}{names}</div>{title}</div>'
