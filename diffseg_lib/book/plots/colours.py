"""One colour a class, across the whole book."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

BACKGROUND, VOID_COLOUR = "#dcdcdc", "#ffffff"
# Chosen one after the other as far as possible from those before and from the background, in CIE Lab, also as seen without red or green cones.
THINGS = {
    "house": "#e10f00",
    "fish": "#0078b4",
    "mushroom": "#782d3c",
    "boat": "#ffc300",
    "cat": "#ff963c",
    "car": "#002dc3",
    "flower": "#f02d78",
    "tree": "#4bd278",
    "cup": "#f0b4ff",
    "ball": "#960078",
    "bird": "#6987ff",
    "rocket": "#c33c3c",
    "umbrella": "#2da5c3",
    "snail": "#782d0f",
    "robot": "#3ca596",
    "butterfly": "#003ca5",
}
GROUNDS = {"grass": "#b9c98f", "sand": "#e6d9b0", "sky": "#cfe3f2", "water": "#9fb9cf", "brick": "#d3a794", "snow": "#f7f7fa", "wood": "#b59a7a"}


def class_colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of each class, as #rrggbb: a class of the pocket world has its own everywhere, any other one that its name decides.

    Of two names in one picture that would share a colour the later one takes the next that is free; more names than colours share again.

    Args:
        names: Names of the classes that are shown together.

    >>> class_colours(["house", "zebra"])["house"] == class_colours(["fish", "house"])["house"]
    True
    """
    own = THINGS | GROUNDS
    given = {name: own[name] for name in names if name in own}
    palette = list(THINGS.values())
    for name in names:
        if name in given:
            continue
        start = crc32(name.encode()) % len(palette)
        order = palette[start:] + palette[:start]
        given[name] = next((colour for colour in order if colour not in given.values()), order[0])
    return {name: given[name] for name in names}


def text_colour(colour: str) -> str:
    """Black or white, whichever stands out more on a colour #rrggbb.

    >>> text_colour("#ffffff"), text_colour("#000000")
    ('#000000', '#ffffff')
    """
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#000000" if 0.2126 * r**2.2 + 0.7152 * g**2.2 + 0.0722 * b**2.2 > 0.18 else "#ffffff"
