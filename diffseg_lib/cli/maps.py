"""``diffseg maps``: the attention maps of a word in a photo, as a contact sheet and as arrays."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..support.files import atomic_write, write_json
from .exits import Exit
from .options import MODELS, PLACES, page, profile_of, segmenter_of, share, told
from .results import versions

if TYPE_CHECKING:
    from PIL import Image

    from ..baselines.attention_maps import AttentionMaps

ABOUT = """
Show where a word's cross-attention lies in a photo, by layer, head and timestep, also that of the start and end tokens. DIR gets
maps.png, a labelled contact sheet in one colour scale, maps.npz and result.json. In maps.npz every layer is an array by its name, whose axes
are those of `axes`: timestep, head, row, column; `timesteps` and `heads` name the places along the first two (a head of -1 is the mean).
"""
EXAMPLE = "diffseg maps data/pocket/samples/house-fish-umbrella.jpg --word house --layer up_blocks --out maps"
TILE, LINE = 128, 14  # px


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    page(parser, ABOUT, EXAMPLE, run=run, kept="nothing was written")
    module, owner = "baselines.attention_maps", "attention_maps"
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="The picture.")
    parser.add_argument("--word", required=True, help=told(module, owner, "word"))
    share(parser, "--out", required=True)
    parser.add_argument("--layer", nargs="+", default=[], metavar="PART", help=told(module, owner, "layers"))
    parser.add_argument("--head", nargs="+", type=int, default=[], metavar="N", help=told(module, owner, "heads"))
    parser.add_argument("--timestep", nargs="+", type=int, default=[], metavar="T", help=told(module, owner, "timesteps"))
    parser.add_argument("--token", default="word", metavar="word|start|end|N", help=told(module, owner, "token"))
    share(parser, "--profile", "--seed", *MODELS, *PLACES)


def run(o: argparse.Namespace) -> int:
    """Write the maps of one photo."""
    from ..baselines.attention_maps import attention_maps
    from ..evaluation.preflight import require
    from ..support.images import load_photo

    photo = load_photo(o.photo)
    segmenter = segmenter_of(o, require(profile_of(o)), seed=o.seed)
    found = attention_maps(segmenter, photo.pixels, o.word, layers=o.layer, heads=o.head, timesteps=o.timestep, token=o.token)
    drawn, highest = contact_sheet(found, o.word)
    o.out.mkdir(parents=True, exist_ok=True)
    (o.out / "result.json").unlink(missing_ok=True)
    with atomic_write(o.out / "maps.png") as file:
        drawn.save(file, "PNG")
    names: dict[str, Any] = {
        "axes": np.array(["timestep", "head", "row", "column"]),
        "timesteps": np.array(found.timesteps),
        "heads": np.array(found.heads or [-1]),
    }
    with atomic_write(o.out / "maps.npz") as file:
        np.savez_compressed(file, **(names | found.layers))
    facts = {"photo": o.photo.name, "word": o.word, "prompt": found.prompt.text, "token": o.token, "positions": list(found.positions), "seed": o.seed}
    facts |= {"timesteps": list(found.timesteps), "heads": list(found.heads) or "mean", "layers": {name: list(one.shape) for name, one in found.layers.items()}}
    write_json(o.out / "result.json", facts | {"highest": highest, "notes": photo.notes, "profile": segmenter.backbone.profile.name, "versions": versions()})
    print(
        f"{o.out}: {len(found.layers)} layers, probabilities up to {highest:.4f} at the tokens {', '.join(map(str, found.positions))} of {found.prompt.text!r}"
    )
    return Exit.OK


def contact_sheet(found: AttentionMaps, word: str) -> tuple[Image.Image, float]:
    """A row a layer, a tile each head of each timestep, all in one scale from 0 to the highest probability, which is returned, too."""
    from PIL import Image, ImageDraw

    highest = max(float(one.max()) for one in found.layers.values())
    columns = [(i, j) for i in range(len(found.timesteps)) for j in range(len(found.heads) or 1)]
    width = max(len(columns) * (TILE + 4), 620)
    sheet = Image.new("RGB", (width, 3 * LINE + len(found.layers) * (TILE + 2 * LINE)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((4, 2), f"{word!r}: cross-attention at the tokens {', '.join(map(str, found.positions))} of {found.prompt.text!r}", "black")
    pen.text((4, 2 + LINE), f"one scale: black is 0, then red, yellow; white is {highest:.4g}", "black")
    ramp = Image.fromarray(hot(np.linspace(0, 1, 120)[None].repeat(10, 0)))
    sheet.paste(ramp, (430, 4 + LINE))
    for row, (name, maps) in enumerate(found.layers.items()):
        top = 3 * LINE + row * (TILE + 2 * LINE)
        pen.text((4, top - 4), f"{name} ({maps.shape[2]} x {maps.shape[3]})", "black")
        for column, (i, j) in enumerate(columns):
            tile = Image.fromarray(hot(maps[i, j] / max(highest, 1e-12))).resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (column * (TILE + 4), top + 2 * LINE - 4))
            pen.text(
                (column * (TILE + 4) + 4, top + LINE - 4), f"t {found.timesteps[i]}, {f'head {found.heads[j]}' if found.heads else 'mean of heads'}", "black"
            )
    return sheet, highest


def hot(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as colours, from black over red and yellow to white: one more axis, uint8."""
    return (np.stack([3 * values, 3 * values - 1, 3 * values - 2], axis=-1).clip(0, 1) * 255).round().astype(np.uint8)
