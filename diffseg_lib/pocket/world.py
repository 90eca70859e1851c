"""The pocket world: small scenes rendered from a seed, with exact label maps and captions.

A scene is first *composed* (which objects, where, in which colours, on which ground), and then
three independent functions read that one specification:

- :func:`paint` draws the picture;
- :func:`describe` writes a caption from a small grammar;
- :func:`trace` draws the exact label map.

Training uses the first two only, so no trained model has ever seen a mask.

Label ids: 0 is never used by :func:`trace` (every pixel is an object or a ground); objects are
``1..16`` in the order of :data:`CLASSES`, grounds follow in the order of :data:`GROUNDS`.

>>> scene = compose("test", 0)
>>> paint(scene).shape, trace(scene).shape
((128, 128, 3), (128, 128))
>>> bool((paint(scene) == paint(compose("test", 0))).all())
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # pixels a side of a scene
WORLD_SEED = 0  # the seed of the shipped models' training, validation and test scenes
SPLITS = {"train": 0, "val": 1, "test": 2}

Colour = tuple[int, int, int]
Points = Iterable[tuple[float, float]]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (240, 134, 32),
    "yellow": (245, 214, 50),
    "green": (44, 150, 66),
    "blue": (38, 84, 206),
    "purple": (132, 52, 172),
    "pink": (240, 138, 182),
    "brown": (120, 74, 38),
    "white": (240, 240, 236),
    "black": (34, 34, 40),
}

_WINDOW, _TIMBER, _CREAM, _STEEL, _LEAF = (168, 218, 240), (96, 60, 34), (238, 222, 188), (150, 154, 160), (58, 124, 48)
_INK, _CHALK, _FLAME, _BEAK = (20, 20, 24), (250, 250, 250), (255, 170, 40), (236, 150, 40)


# -- parts ---------------------------------------------------------------------------------------
#
# Every class is a function from (main colour, accent colour) to parts, back to front. A part is a
# polygon in the object's own frame: x to the right, y down, the object inside [-1, 1] x [-1, 1].

Part = tuple[list[tuple[float, float]], Colour]


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> list[tuple[float, float]]:
    turns = np.radians(np.linspace(start, end, 29))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in turns]


def _box(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _eye(x: float, y: float, r: float) -> list[Part]:
    return [(_ellipse(x, y, r, r), _CHALK), (_ellipse(x, y, r * 0.55, r * 0.55), _INK)]


def _house(main: Colour, accent: Colour) -> list[Part]:
    return [
        (_box(-0.74, -0.15, 0.74, 0.95), main),
        ([(-0.98, -0.1), (0, -0.98), (0.98, -0.1)], accent),
        (_box(-0.5, 0.3, -0.08, 0.95), _TIMBER),
        (_box(0.14, 0.12, 0.56, 0.5), _WINDOW),
    ]


def _fish(main: Colour, accent: Colour) -> list[Part]:
    return [
        ([(0.35, 0), (0.98, -0.6), (0.98, 0.6)], accent),
        ([(-0.3, -0.4), (0.1, -0.85), (0.35, -0.3)], accent),
        (_ellipse(-0.2, 0, 0.78, 0.52), main),
        ([(-0.1, 0.1), (0.25, 0.3), (-0.1, 0.38)], accent),
        *_eye(-0.6, -0.12, 0.15),
    ]


def _mushroom(main: Colour, accent: Colour) -> list[Part]:
    return [
        ([(-0.3, 0), (0.3, 0), (0.38, 0.95), (-0.38, 0.95)], _CREAM),
        (_ellipse(0, 0.12, 0.96, 1.05, 180, 360), main),
        (_ellipse(-0.45, -0.25, 0.2, 0.18), accent),
        (_ellipse(0.12, -0.55, 0.2, 0.18), accent),
        (_ellipse(0.52, -0.12, 0.18, 0.16), accent),
    ]


def _boat(main: Colour, accent: Colour) -> list[Part]:
    return [
        (_box(-0.07, -0.98, 0.07, 0.4), _TIMBER),
        ([(0.12, -0.9), (0.9, 0.22), (0.12, 0.22)], accent),
        ([(-0.12, -0.7), (-0.75, 0.22), (-0.12, 0.22)], _CHALK),
        ([(-0.98, 0.32), (0.98, 0.32), (0.62, 0.9), (-0.62, 0.9)], main),
    ]


def _cat(main: Colour, accent: Colour) -> list[Part]:
    return [
        ([(-0.88, -0.98), (-0.8, 0.1), (-0.1, -0.4)], main),
        ([(0.88, -0.98), (0.8, 0.1), (0.1, -0.4)], main),
        ([(-0.76, -0.72), (-0.7, -0.2), (-0.35, -0.42)], accent),
        ([(0.76, -0.72), (0.7, -0.2), (0.35, -0.42)], accent),
        (_ellipse(0, 0.17, 0.92, 0.78), main),
        (_ellipse(0, 0.52, 0.42, 0.3), _CREAM),
        ([(-0.14, 0.34), (0.14, 0.34), (0, 0.52)], (232, 110, 140)),
        *[part for x in (-0.4, 0.4) for part in [(_ellipse(x, 0.02, 0.19, 0.17), (190, 226, 70)), (_ellipse(x, 0.02, 0.07, 0.15), _INK)]],
    ]


def _car(main: Colour, accent: Colour) -> list[Part]:
    wheels = [part for x in (-0.52, 0.52) for part in [(_ellipse(x, 0.5, 0.28, 0.28), _INK), (_ellipse(x, 0.5, 0.12, 0.12), _STEEL)]]
    return [
        ([(-0.62, -0.05), (-0.38, -0.62), (0.34, -0.62), (0.66, -0.05)], accent),
        ([(-0.46, -0.08), (-0.3, -0.48), (-0.05, -0.48), (-0.05, -0.08)], _WINDOW),
        ([(0.05, -0.08), (0.05, -0.48), (0.28, -0.48), (0.5, -0.08)], _WINDOW),
        ([(-0.98, -0.02), (-0.9, -0.1), (0.82, -0.1), (0.98, 0.1), (0.98, 0.5), (-0.98, 0.5)], main),
        *wheels,
    ]


def _flower(main: Colour, accent: Colour) -> list[Part]:
    petals = [(_ellipse(0.42 * math.cos(a), -0.36 + 0.42 * math.sin(a), 0.27, 0.27), main) for a in np.radians(range(0, 360, 60))]
    return [
        (_box(-0.07, 0.1, 0.07, 0.98), _LEAF),
        (_ellipse(0.32, 0.68, 0.3, 0.13), _LEAF),
        (_ellipse(-0.32, 0.62, 0.3, 0.13), _LEAF),
        *petals,
        (_ellipse(0, -0.36, 0.27, 0.27), accent),
    ]


def _tree(main: Colour, accent: Colour) -> list[Part]:
    fruit = [(_ellipse(x, y, 0.12, 0.12), accent) for x, y in [(-0.4, -0.12), (0.1, -0.6), (0.45, -0.1), (0.0, 0.02)]]
    return [
        (_box(-0.16, 0.2, 0.16, 0.98), _TIMBER),
        (_ellipse(-0.44, -0.06, 0.46, 0.42), main),
        (_ellipse(0.44, -0.06, 0.46, 0.42), main),
        (_ellipse(0, -0.46, 0.52, 0.5), main),
        *fruit,
    ]


def _cup(main: Colour, accent: Colour) -> list[Part]:
    return [
        (_ellipse(0.6, 0.1, 0.38, 0.42), accent),
        ([(-0.82, -0.62), (0.58, -0.62), (0.42, 0.92), (-0.66, 0.92)], main),
        ([(-0.76, 0.06), (0.51, 0.06), (0.47, 0.4), (-0.72, 0.4)], accent),
        (_ellipse(-0.12, -0.64, 0.7, 0.22), _TIMBER),
    ]


def _ball(main: Colour, accent: Colour) -> list[Part]:
    band = _ellipse(0, 0, 0.92, 0.92, -18, 18) + _ellipse(0, 0, 0.92, 0.92, 162, 198)
    return [
        (_ellipse(0, 0, 0.92, 0.92), main),
        (band, accent),
        (_ellipse(0, 0, 0.24, 0.3), accent),
        (_ellipse(-0.34, -0.52, 0.17, 0.13), _CHALK),
    ]


def _bird(main: Colour, accent: Colour) -> list[Part]:
    return [
        (_box(-0.16, 0.4, -0.08, 0.95), _BEAK),
        (_box(0.12, 0.4, 0.2, 0.95), _BEAK),
        ([(0.35, 0.05), (0.98, -0.35), (0.9, 0.2), (0.4, 0.4)], accent),
        ([(-0.75, -0.5), (-0.99, -0.28), (-0.7, -0.22)], _BEAK),
        (_ellipse(0.04, 0.14, 0.62, 0.48), main),
        (_ellipse(-0.48, -0.42, 0.36, 0.34), main),
        (_ellipse(0.14, 0.14, 0.38, 0.24), accent),
        *_eye(-0.56, -0.48, 0.12),
    ]


def _rocket(main: Colour, accent: Colour) -> list[Part]:
    return [
        ([(-0.22, 0.55), (0.22, 0.55), (0, 0.99)], _FLAME),
        ([(-0.3, 0.1), (-0.75, 0.72), (-0.3, 0.6)], accent),
        ([(0.3, 0.1), (0.75, 0.72), (0.3, 0.6)], accent),
        (_box(-0.36, -0.45, 0.36, 0.6), main),
        ([(-0.36, -0.44), (0, -0.99), (0.36, -0.44)], accent),
        (_ellipse(0, -0.12, 0.22, 0.22), _WINDOW),
    ]


def _umbrella(main: Colour, accent: Colour) -> list[Part]:
    return [
        (_box(-0.06, -0.2, 0.06, 0.8), _TIMBER),
        (_ellipse(0.16, 0.8, 0.22, 0.18, 0, 180), _TIMBER),
        (_ellipse(0, 0.1, 0.98, 1.05, 180, 360), main),
        (_ellipse(0, 0.1, 0.34, 1.05, 180, 360), accent),
    ]


def _snail(main: Colour, accent: Colour) -> list[Part]:
    return [
        ([(-0.98, 0.82), (-0.9, 0.1), (-0.6, 0.1), (-0.5, 0.5), (0.8, 0.5), (0.98, 0.82)], _CREAM),
        (_box(-0.94, -0.35, -0.86, 0.15), _CREAM),
        (_box(-0.7, -0.35, -0.62, 0.15), _CREAM),
        (_ellipse(-0.9, -0.36, 0.09, 0.09), _INK),
        (_ellipse(-0.66, -0.36, 0.09, 0.09), _INK),
        (_ellipse(0.22, 0.0, 0.68, 0.66), main),
        (_ellipse(0.26, 0.02, 0.42, 0.4), accent),
        (_ellipse(0.28, 0.04, 0.18, 0.17), main),
    ]


def _robot(main: Colour, accent: Colour) -> list[Part]:
    return [
        (_box(-0.05, -0.98, 0.05, -0.6), _STEEL),
        (_ellipse(0, -0.9, 0.1, 0.1), (230, 60, 60)),
        (_box(-0.92, 0.06, -0.5, 0.24), _STEEL),
        (_box(0.5, 0.06, 0.92, 0.24), _STEEL),
        (_box(-0.42, 0.6, -0.14, 0.98), _STEEL),
        (_box(0.14, 0.6, 0.42, 0.98), _STEEL),
        (_box(-0.56, -0.02, 0.56, 0.68), accent),
        (_box(-0.62, -0.66, 0.62, 0.0), main),
        (_ellipse(-0.28, -0.36, 0.15, 0.15), (250, 240, 90)),
        (_ellipse(0.28, -0.36, 0.15, 0.15), (250, 240, 90)),
        (_box(-0.3, -0.16, 0.3, -0.08), _INK),
        (_box(-0.28, 0.18, 0.28, 0.46), main),
    ]


def _butterfly(main: Colour, accent: Colour) -> list[Part]:
    return [
        *[(_ellipse(x, 0.42, 0.4, 0.4), accent) for x in (-0.4, 0.4)],
        *[(_ellipse(x, -0.3, 0.48, 0.5), main) for x in (-0.5, 0.5)],
        *[(_ellipse(x, -0.34, 0.2, 0.22), accent) for x in (-0.55, 0.55)],
        ([(-0.04, -0.5), (-0.36, -0.96), (0.03, -0.6)], _INK),
        ([(0.04, -0.5), (0.36, -0.96), (-0.03, -0.6)], _INK),
        (_ellipse(0, 0.05, 0.13, 0.72), _INK),
    ]


@dataclass(frozen=True)
class ObjectClass:
    """A class of object.

    Args:
        name: Its canonical name.
        plural: The plural of its name.
        synonyms: Other names, each with its plural.
        parts: From the main and the accent colour to its parts, back to front.
        turn: The largest rotation, degrees.
    """

    name: str
    plural: str
    synonyms: tuple[tuple[str, str], ...]
    parts: Callable[[Colour, Colour], list[Part]]
    turn: float = 20.0  # largest rotation, degrees


CLASSES: tuple[ObjectClass, ...] = (
    ObjectClass("house", "houses", (("cottage", "cottages"),), _house),
    ObjectClass("fish", "fish", (), _fish),
    ObjectClass("mushroom", "mushrooms", (("toadstool", "toadstools"),), _mushroom),
    ObjectClass("boat", "boats", (("sailboat", "sailboats"),), _boat),
    ObjectClass("cat", "cats", (("kitten", "kittens"),), _cat),
    ObjectClass("car", "cars", (("automobile", "automobiles"),), _car, 12),
    ObjectClass("flower", "flowers", (("blossom", "blossoms"),), _flower),
    ObjectClass("tree", "trees", (), _tree, 12),
    ObjectClass("cup", "cups", (("mug", "mugs"),), _cup),
    ObjectClass("ball", "balls", (), _ball, 180),
    ObjectClass("bird", "birds", (), _bird),
    ObjectClass("rocket", "rockets", (("spaceship", "spaceships"),), _rocket, 40),
    ObjectClass("umbrella", "umbrellas", (("parasol", "parasols"),), _umbrella, 30),
    ObjectClass("snail", "snails", (), _snail),
    ObjectClass("robot", "robots", (), _robot, 12),
    ObjectClass("butterfly", "butterflies", (), _butterfly, 40),
)
CLASS_NAMES: tuple[str, ...] = tuple(c.name for c in CLASSES)


# -- grounds -------------------------------------------------------------------------------------


def _field(rng: np.random.Generator, size: int, across: int, down: int) -> np.ndarray:
    """Smooth unit-variance noise with `across` x `down` cells over 128 px; size x size, float32."""
    nx, ny = max(2, round(across * size / SIZE)), max(2, round(down * size / SIZE))
    coarse = Image.fromarray(rng.standard_normal((ny, nx)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _tint(base: Colour, *layers: tuple[np.ndarray, Colour]) -> np.ndarray:
    picture = np.empty((*layers[0][0].shape, 3), np.float32)
    picture[:] = base
    for amount, step in layers:
        picture += amount[..., None] * np.asarray(step, np.float32)
    return picture


def _grass(rng: np.random.Generator, size: int) -> np.ndarray:
    return _tint((92, 146, 56), (_field(rng, size, 6, 6), (6, 8, 4)), (_field(rng, size, 32, 12), (9, 12, 6)))


def _sand(rng: np.random.Generator, size: int) -> np.ndarray:
    return _tint((222, 194, 140), (_field(rng, size, 3, 9), (9, 8, 7)), (_field(rng, size, 40, 40), (4, 4, 4)))


def _sky(rng: np.random.Generator, size: int) -> np.ndarray:
    clouds = np.clip(_field(rng, size, 5, 7) - 0.2, 0, 1.2)
    fall = np.linspace(-1, 1, size, dtype=np.float32)[:, None].repeat(size, 1)
    return _tint((128, 184, 236), (fall, (12, 8, 3)), (clouds, (70, 42, 12)))


def _water(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size].astype(np.float32)
    phase = 2 * np.pi * rng.random() + 1.2 * _field(rng, size, 4, 4)
    wave = np.sin(y * 2 * np.pi / rng.uniform(9, 13) + np.sin(x * 2 * np.pi / 40) + phase)
    return _tint((28, 96, 142), (wave, (10, 16, 18)), (_field(rng, size, 8, 16), (4, 6, 6)))


def _brick(rng: np.random.Generator, size: int) -> np.ndarray:
    height, width = int(rng.integers(11, 15)), int(rng.integers(22, 30))
    y, x = np.mgrid[:size, :size] + np.array([int(rng.integers(height)), int(rng.integers(width))])[:, None, None]
    row = y // height
    shifted = x + (row % 2) * (width // 2)
    mortar = (y % height < 2) | (shifted % width < 2)
    tone = rng.standard_normal((size // height + 3, size // width + 4)).astype(np.float32)[row, shifted // width]
    picture = _tint((168, 82, 64), (tone, (10, 7, 6)), (_field(rng, size, 24, 24), (3, 3, 3)))
    picture[mortar] = (206, 192, 178)
    return picture


def _snow(rng: np.random.Generator, size: int) -> np.ndarray:
    return _tint((226, 234, 244), (_field(rng, size, 4, 6), (9, 6, 2)), (_field(rng, size, 24, 24), (3, 3, 2)))


def _wood(rng: np.random.Generator, size: int) -> np.ndarray:
    width = int(rng.integers(18, 28))
    x = np.arange(size) + int(rng.integers(width))
    tone = rng.standard_normal(size // width + 2).astype(np.float32)[x // width][None, :].repeat(size, 0)
    picture = _tint((158, 110, 62), (tone, (11, 9, 6)), (_field(rng, size, 30, 4), (8, 6, 4)))
    picture[:, x % width < 1] = (96, 64, 36)
    return picture


@dataclass(frozen=True)
class Ground:
    """A textured ground.

    Args:
        name: Its name.
        phrases: Phrases that place an object on it, the plain one first.
        clashes: Names of the colours that are lost on it.
        texture: From a generator and a side in px to a picture of it, side x side x 3.
    """

    name: str
    phrases: tuple[str, ...]
    clashes: frozenset[str]
    texture: Callable[[np.random.Generator, int], np.ndarray]


GROUNDS: tuple[Ground, ...] = (
    Ground("grass", ("on grass", "on green grass"), frozenset({"green"}), _grass),
    Ground("sand", ("on sand", "on the sand"), frozenset({"yellow"}), _sand),
    Ground("sky", ("in the sky", "against a blue sky"), frozenset({"blue"}), _sky),
    Ground("water", ("in water", "on the water"), frozenset({"blue"}), _water),
    Ground("brick", ("against brick", "in front of a brick wall"), frozenset({"red", "brown"}), _brick),
    Ground("snow", ("on snow", "in the snow"), frozenset({"white"}), _snow),
    Ground("wood", ("on wood", "on a wood floor"), frozenset({"brown", "orange"}), _wood),
)
GROUND_NAMES: tuple[str, ...] = tuple(g.name for g in GROUNDS)
GROUND_OFFSET = len(CLASSES) + 1  # label id of the first ground
_SKY, _HORIZON_UNDER = 2, (0, 1, 3, 5)  # grounds that may lie under a strip of sky


# -- composing -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """One object of a scene.

    Args:
        kind: Its class, an index into :data:`CLASSES`.
        colour: Name of its main colour.
        accent: Name of its second colour.
        x: Place of its centre from the left, px.
        y: Place of its centre from the top, px.
        half: Half its side, px.
        turn: Its rotation, degrees.
        flip: Whether it is mirrored.
    """

    kind: int
    colour: str
    accent: str
    x: float
    y: float
    half: float
    turn: float
    flip: bool

    def polygons(self, zoom: int) -> list[tuple[list[tuple[float, float]], Colour]]:
        """The parts as polygons in pixels of a canvas `zoom` times the scene."""
        cos, sin = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        sign, parts = (-1 if self.flip else 1), CLASSES[self.kind].parts(COLOURS[self.colour], COLOURS[self.accent])

        def place(x: float, y: float) -> tuple[float, float]:
            x *= sign
            return (
                zoom * (self.x + self.half * (cos * x - sin * y)) - 0.5,
                zoom * (self.y + self.half * (sin * x + cos * y)) - 0.5,
            )

        return [([place(x, y) for x, y in points], colour) for points, colour in parts]


@dataclass(frozen=True)
class Scene:
    """What a scene holds; pictures, captions and label maps are functions of it.

    Args:
        size: Side of the scene, px.
        ground: Index of the ground in :data:`GROUNDS`.
        horizon: Height of the sky above the ground, px; 0 is none.
        objects: The objects, back to front.
        light: A gradient over the picture as (gain, slope across, slope down).
        noise: Deviation of the sensor noise, grey levels.
        seed: Seed of texture, noise and captions.
    """

    size: int
    ground: int
    horizon: int
    objects: tuple[Placed, ...]
    light: tuple[float, float, float]
    noise: float
    seed: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the object classes present, in the order of :data:`CLASSES`."""
        return tuple(CLASS_NAMES[k] for k in sorted({o.kind for o in self.objects}))

    @property
    def grounds(self) -> tuple[str, ...]:
        """The names of the grounds present."""
        names = (GROUND_NAMES[self.ground],)
        return (*names, "sky") if self.horizon else names


# Half an object's side as a share of the scene's, by the number of objects.
_HALF = {1: (0.24, 0.42), 2: (0.19, 0.3), 3: (0.17, 0.24), 4: (0.15, 0.2)}
_HALF_SMALL = {1: (0.36, 0.5), 2: (0.26, 0.34)}


def _rng(seed: tuple[int, ...], stream: int) -> np.random.Generator:
    return np.random.default_rng([*seed, stream])


def compose(split: str, index: int, seed: int = WORLD_SEED, size: int = SIZE) -> Scene:
    """Compose scene `index` of a split.

    Args:
        split: The split, "train", "val" or "test"; splits share no scene.
        index: Number of the scene, from 0; every index is a scene of its own.
        seed: Seed of the world; the shipped models were trained on seed 0, split "train".
        size: Side of the scene, px; 64 gives one or two objects at the scale they have in a scene of 128.

    Raises:
        ValueError: On an unknown split, a negative index or seed, or a size that the models cannot take.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if size % 32 or size < 32:
        raise ValueError(f"scene size {size}: expected a multiple of 32 (the UNet halves its latents three times)")
    if index < 0 or seed < 0:
        raise ValueError(f"index {index} and seed {seed} must be 0 or more")
    key = (seed, SPLITS[split], index, size)
    rng = _rng(key, 0)
    ground = int(rng.integers(len(GROUNDS)))
    horizon = int(rng.integers(size // 5, size // 2)) if ground in _HORIZON_UNDER and rng.random() < 0.3 else 0
    clashes = GROUNDS[ground].clashes | (GROUNDS[_SKY].clashes if horizon else frozenset())
    small = size < 96
    count = int(rng.choice([1, 2], p=[0.7, 0.3]) if small else rng.choice([1, 2, 3, 4], p=[0.3, 0.4, 0.2, 0.1]))
    low, high = _HALF_SMALL[count] if small else _HALF[count]
    objects: list[Placed] = []
    for _ in range(60 * count):
        if len(objects) == count:
            break
        if objects and rng.random() < 0.15:
            kind, colour = objects[-1].kind, objects[-1].colour
        else:
            kind = int(rng.integers(len(CLASSES)))
            colour = str(rng.choice([c for c in COLOURS if c not in clashes]))
        accent = str(rng.choice([c for c in COLOURS if c != colour and c not in clashes]))
        half = float(rng.uniform(low, high)) * size
        x, y = (float(v) for v in rng.uniform(half * 0.95, size - half * 0.95, 2))
        turn = float(rng.uniform(-1, 1)) * CLASSES[kind].turn
        if all(math.hypot(x - o.x, y - o.y) > 0.78 * (half + o.half) for o in objects):
            objects.append(Placed(kind, colour, accent, x, y, half, turn, bool(rng.random() < 0.5)))
    light = (float(rng.uniform(0.88, 1.08)), float(rng.uniform(-0.1, 0.1)), float(rng.uniform(-0.1, 0.1)))
    return Scene(size, ground, horizon, tuple(objects), light, float(rng.uniform(1.0, 3.0)), key)


# -- pictures, label maps, captions --------------------------------------------------------------


def paint(scene: Scene) -> np.ndarray:
    """The picture: size x size x 3, uint8 RGB, anti-aliased. Same scene, same bytes."""
    rng, n = _rng(scene.seed, 1), scene.size
    picture = GROUNDS[scene.ground].texture(rng, n)
    if scene.horizon:
        picture[: scene.horizon] = GROUNDS[_SKY].texture(rng, n)[: scene.horizon]
    canvas = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).resize((2 * n, 2 * n), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    for placed in scene.objects:
        for points, colour in placed.polygons(2):
            pen.polygon(points, fill=colour)
    picture = np.asarray(canvas.reduce(2), dtype=np.float32)
    gain, across, down = scene.light
    ramp = np.linspace(-1, 1, n, dtype=np.float32)
    picture = picture * (gain + across * ramp[None, :, None] + down * ramp[:, None, None])
    picture += scene.noise * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def trace_instances(scene: Scene) -> np.ndarray:
    """The visible pixels of each object: size x size, uint8; 0 ground, i = the i-th object painted."""
    instances = np.zeros((scene.size, scene.size), np.uint8)
    for i, placed in enumerate(scene.objects, start=1):
        canvas = Image.new("L", (2 * scene.size, 2 * scene.size))
        pen = ImageDraw.Draw(canvas)
        for points, _ in placed.polygons(2):
            pen.polygon(points, fill=255)
        instances[np.asarray(canvas.reduce(2)) >= 128] = i
    return instances


def trace(scene: Scene) -> np.ndarray:
    """The exact label map: size x size, uint8; objects 1..16, grounds from :data:`GROUND_OFFSET`."""
    labels = np.full((scene.size, scene.size), GROUND_OFFSET + scene.ground, np.uint8)
    labels[: scene.horizon] = GROUND_OFFSET + _SKY
    instances = trace_instances(scene)
    kinds = np.array([0, *(o.kind + 1 for o in scene.objects)], np.uint8)
    return np.where(instances > 0, kinds[instances], labels)


_NUMBERS = ("", "a", "two", "three", "four")
_OPENINGS = ("a photograph of", "a photograph of", "a photo of", "a picture of")


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def describe(scene: Scene, draw: int | None = None) -> str:
    """A caption of the scene, every object named.

    Args:
        scene: The scene.
        draw: None for the plain caption (canonical names, colours, ground); a number for one of the
            grammar's many variants: colours, ground and opening dropped, synonyms, other orders.

    >>> describe(compose("test", 3)).startswith("a photograph of")
    True
    """
    rng = None if draw is None else _rng(scene.seed, 2 + draw)

    def chance(p: float) -> bool:
        return rng is not None and bool(rng.random() < p)

    bare = chance(0.3)
    groups: dict[tuple[int, str | None], int] = {}
    for placed in scene.objects:
        colour = None if bare or chance(0.3) else placed.colour
        groups[placed.kind, colour] = groups.get((placed.kind, colour), 0) + 1
    phrases = []
    for (kind, colour), count in groups.items():
        names = [(CLASSES[kind].name, CLASSES[kind].plural), *CLASSES[kind].synonyms]
        other = rng is not None and len(names) > 1 and chance(0.2)
        name, plural = names[int(rng.integers(1, len(names)))] if rng is not None and other else names[0]
        noun = " ".join(filter(None, [colour, name if count == 1 else plural]))
        phrases.append(_article(noun) if count == 1 else f"{_NUMBERS[count]} {noun}")
    if rng is not None:
        phrases = [phrases[i] for i in rng.permutation(len(phrases))]
    text = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    opening = _OPENINGS[0] if rng is None else _OPENINGS[int(rng.integers(len(_OPENINGS)))]
    text = text if chance(0.1) else f"{opening} {text}"
    if not (bare or chance(0.25)):
        phrase = GROUNDS[scene.ground].phrases[1 if chance(0.3) else 0]
        text += f" {phrase}" + (" under the sky" if scene.horizon else "")
    return text
