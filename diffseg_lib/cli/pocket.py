"""``diffseg pocket write | train | measure | cards | ship``: the pocket world, and the models that are trained on it."""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

from ..support.paths import cache_dir, models_dir
from .exits import Exit
from .options import check_device, page, share, subcommands, told

LAYOUTS = ("voc", "context", "object")  # of pocket.layouts.LAYOUTS, SPLITS of pocket.world's, MODELS of pocket.training.train's and
SPLITS = ("train", "val", "test")  # MEASURES of pocket.training.measure's, which need not be loaded to say so
MODELS = ("vae", "decoder", "unet", "transformer", "clip", "blip", "judge")
OF_BOTH = ("diffusion", "choose", "grounding", "separation", "drawings")  # of the models that draw
MEASURES = ("vae", "clip", "blip", "absent", "judge", *OF_BOTH, *(f"transformer-{name}" for name in OF_BOTH))
SHIPPED = ("diffusion", "transformer", "clip", "blip", "judge")
WRITE_EXAMPLE = "diffseg pocket write --layout voc --split val --n 200 --out my-voc"
TRAIN_EXAMPLE = "diffseg pocket train unet --minutes 90"
MEASURE_EXAMPLE = "diffseg pocket measure grounding --n 300"
CARDS_EXAMPLE = "diffseg pocket cards"
SHIP_EXAMPLE = "diffseg pocket ship --models diffusion --out data/pocket/models"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its subcommands."""
    page(parser, "The pocket world as a data set on disk, and the models that are trained on it.", f"{WRITE_EXAMPLE}\n{TRAIN_EXAMPLE}")
    known = {
        "write": ("Write new scenes as a data set in a real one's layout.", declare_write),
        "train": ("Train a part of the models; the same command goes on where it was stopped.", declare_train),
        "measure": ("Measure a model on scenes that it was not trained on.", declare_measure),
        "cards": ("Write the model cards from what was measured.", declare_cards),
        "ship": ("Write the trained weights as from_pretrained reads them.", declare_ship),
    }
    subcommands(parser, known, "subcommand")


def declare_write(parser: argparse.ArgumentParser) -> None:
    """Give ``write`` its options."""
    about = "Write a tree of new scenes in the layout that a real data set has on disk: pictures, masks or annotations, lists, names of the classes."
    page(parser, about, WRITE_EXAMPLE, run=run_write, kept="scenes that are written are whole, but the split has no list yet")
    known = partial(told, "pocket.layouts", "write_layout")
    parser.add_argument("--layout", choices=LAYOUTS, required=True, help=known("layout"))
    share(parser, "--split", choices=SPLITS, help=known("split"))
    parser.add_argument("--n", type=int, default=200, metavar="N", help=known("n"))
    share(parser, "--seed", default=20261122, help=known("seed"))
    parser.add_argument("--captions", action="store_true", help=known("captions"))
    share(parser, "--out", required=True, help=known("out"))


def declare_train(parser: argparse.ArgumentParser) -> None:
    """Give ``train`` its options."""
    about = (
        "Train a part of the pocket models from nothing on rendered scenes and their captions; no label map is read. "
        "The judge alone is told what is in a scene. A run keeps its state every two minutes."
    )
    page(parser, about, TRAIN_EXAMPLE, run=run_train, kept="the training up to its last checkpoint is kept")
    known = partial(told, "pocket.training.train", "train_model")
    parser.add_argument("model", choices=MODELS, help="The part: decoder follows vae, unet and transformer follow both; judge stands alone.")
    parser.add_argument("--steps", type=int, metavar="N", help=known("steps"))
    parser.add_argument("--minutes", type=float, default=0.0, metavar="M", help=known("minutes"))
    parser.add_argument("--pictures", type=int, default=16_000, metavar="N", help=known("pictures"))
    parser.add_argument("--runs", type=Path, default=cache_dir() / "training", metavar="DIR", help="The folder of the runs.")
    parser.add_argument("--start", type=Path, metavar="MODELS", help=known("start"))
    parser.add_argument("--from-blip", action="store_true", help=known("from_blip"))
    parser.add_argument("--lr", type=float, metavar="RATE", help=known("lr"))
    parser.add_argument("--whole", action="store_true", help=known("whole"))
    share(parser, "--device", help="Where to train: cpu, cuda. Without it, a card if there is one.")


def declare_measure(parser: argparse.ArgumentParser) -> None:
    """Give ``measure`` its options."""
    about = (
        "Measure a model on test scenes (separation: on val scenes), or choose on train scenes its timestep, weights and threshold, "
        "or when a word counts as absent, and note the figures in measurements.json."
    )
    page(parser, about, MEASURE_EXAMPLE, run=run_measure, kept="nothing was written")
    parser.add_argument("name", choices=MEASURES, metavar="NAME", help=f"What to measure: {', '.join(MEASURES)}.")
    usual = "300; 200 generated ones; 120 to choose on, 200 for absent; 60 for separation"
    parser.add_argument("--n", type=int, metavar="N", help=f"Pictures or samples. Without it, {usual}.")
    parser.add_argument("--models", type=Path, default=models_dir(), metavar="DIR", help="The folder of the models.")


def declare_cards(parser: argparse.ArgumentParser) -> None:
    """Give ``cards`` its options."""
    page(parser, "Write the model cards; every figure in them is read from measurements.json and the runs' own records.", CARDS_EXAMPLE, run=run_cards)
    parser.add_argument("--models", type=Path, default=models_dir(), metavar="DIR", help="The folder of the models.")


def declare_ship(parser: argparse.ArgumentParser) -> None:
    """Give ``ship`` its options."""
    page(
        parser, "Write the averaged weights of the runs as from_pretrained reads them: float16 safetensors, with the curves beside.", SHIP_EXAMPLE, run=run_ship
    )
    parser.add_argument("--runs", type=Path, default=cache_dir() / "training", metavar="DIR", help="The folder of the runs.")
    parser.add_argument("--models", nargs="+", choices=SHIPPED, default=["diffusion", "clip", "blip"], help="Which models.")
    parser.add_argument("--start", type=Path, metavar="MODELS", help="Shipped models, for the autoencoder that a run of unet or transformer began from.")
    share(parser, "--out", default=Path("data/pocket/models"), help="The folder that receives a folder for each model.")


def run_write(o: argparse.Namespace) -> int:
    """Write a tree of scenes."""
    from ..pocket.layouts import write_layout

    write_layout(o.layout, o.split, o.n, o.seed, o.out, o.captions)
    print(f"{o.out}: {o.n} scenes of split {o.split}, seed {o.seed}, in the layout of {o.layout}; class names in classes.txt")
    return Exit.OK


def run_train(o: argparse.Namespace) -> int:
    """Train a part of the models."""
    import torch

    from ..pocket.training.train import train_model

    device = check_device(o.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = {"steps": o.steps, "minutes": o.minutes, "pictures": o.pictures, "start": o.start, "lr": o.lr}
    train_model(o.model, o.runs, device=device, from_blip=o.from_blip, whole=o.whole, **options)
    return Exit.OK


def run_measure(o: argparse.Namespace) -> int:
    """Measure, print the figures and note them."""
    from ..pocket.training.measure import MEASURES, record

    count = o.n or {"diffusion": 200, "choose": 120, "absent": 200, "separation": 60, "drawings": 200}.get(o.name.removeprefix("transformer-"), 300)
    started = time.perf_counter()
    figures = MEASURES[o.name](o.models, count)
    record(o.models, o.name, figures, f"python -m diffseg_lib pocket measure {o.name} --n {count}", time.perf_counter() - started)
    print(json.dumps(figures, indent=1))
    return Exit.OK


def run_cards(o: argparse.Namespace) -> int:
    """Write the cards."""
    from ..pocket.training.cards import write_cards

    for path in write_cards(o.models):
        print(path)
    return Exit.OK


def run_ship(o: argparse.Namespace) -> int:
    """Write the trained weights."""
    from ..pocket.training.train import ship

    ship(o.runs, o.out, o.models, o.start)
    print(o.out)
    return Exit.OK
