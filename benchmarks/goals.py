"""The goals for speed and memory, each met or missed by its figure; and what whole data sets would cost, estimated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffseg_lib.support.paths import data_dir

from .parts import gigaflops

# Images of the usual split, and classes asked for an image: assumed, near what the true labels come to.
DATASETS: Mapping[str, tuple[int, float]] = {"VOC 2012 val": (1449, 1.5), "Context val": (5105, 5.0), "COCO-Object val": (5000, 3.0)}


@dataclass(frozen=True)
class Goal:
    """what: is measured; wanted: in words; figure: measured (None: not); met."""

    what: str
    wanted: str
    figure: float | None
    met: bool | None


def committed_speed() -> dict[str, Any]:
    """The kept run at Stable Diffusion's size: ``data/results/speed.json``."""
    return json.loads((data_dir() / "results" / "speed.json").read_text())


def goals(facts: Mapping[str, Any]) -> list[Goal]:
    """Goals and figures of a benchmark's JSON, in their order; a median decides."""

    def judge(what: str, wanted: str, figure: float | None, least: float | None = None, most: float | None = None) -> Goal:
        met = None if figure is None else (least is None or figure >= least) and (most is None or figure <= most)
        return Goal(what, wanted, figure, met)

    found = []
    for classes, ratio in facts["time_ratio"].items():
        what = f"time against the bare UNet forward of the same batch, C = {classes}"
        found.append(judge(what, "at most 1.05", ratio["median"], most=1.05))
        found.append(judge(what, "stretch: at most 1.00", ratio["median"], most=1.0))
    found.append(judge("peak memory above the bare forward, C = 1, MiB", "at most 64", facts["extra_mib"].get("1"), most=64))
    speedups = {classes: one["median"] for classes, one in facts["speedup_vs_released"].items()}
    found.append(judge("times faster than the released recipe, C = 1", "at least 6", speedups.get("1"), least=6))
    for classes in [name for name in speedups if name != "1"]:
        found.append(judge(f"times faster than the released recipe, C = {classes}", "more than at C = 1", speedups[classes], least=speedups["1"]))
    if grown := facts.get("full", {}).get("classes"):
        for classes, most in (("60", 1.2), ("171", 1.5)):
            figure = grown["rows"][classes]["side prompts"]["ratio"]["median"]
            found.append(judge(f"{classes} classes by side prompts, time against the bare forward of one row", f"at most {most}", figure, most=most))
        for name, mib in grown["mib_over_one_row"].items():
            if name.startswith("side"):
                found.append(judge(f"{name.rpartition(' ')[2]} classes by side prompts, peak memory above one row's, MiB", "at most 64", mib, most=64))
    found.append(judge("times less extra memory than the released recipe, C = 1", "at least 50", facts["memory_vs_released"], least=50))
    return found


def vae_gigaflops(size: int = 512) -> float:
    """Of encoding one image of size x size px with an autoencoder of Stable Diffusion 1.5's size, by torch's counter."""
    import torch
    from diffusers import AutoencoderKL
    from torch.utils.flop_counter import FlopCounterMode

    from .models import vae_config

    with torch.device("meta"):
        vae = AutoencoderKL(**vae_config())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            vae.encode(torch.empty(1, 3, size, size))
    return counter.get_total_flops() / 1e9


def hours(images: int, classes: float, ratio: float, teraflops: float, utilisation: float, devices: int = 1) -> float:
    """Hours for a data set, estimated: counted operations over what the devices are assumed to do.

    Args:
        images: of the data set.
        classes: asked for an image, one row of the UNet's batch each.
        ratio: of the whole segmentation's time to the bare UNet forward's, measured.
        teraflops: a second, the device's peak.
        utilisation: share of the peak that is reached, in (0, 1].
        devices: that share the images evenly.
    """
    operations = images * (classes * ratio * gigaflops() + vae_gigaflops()) * 1e9
    return operations / (teraflops * 1e12 * utilisation * devices) / 3600
