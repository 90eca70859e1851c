"""What the paper's tables cost at Stable Diffusion's size: measured seconds, and counted operations, times images and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PEAK, REACHED = 312.0, (0.1, 0.4)  # TFLOP a second of an A100 in half precision, by its data sheet; the shares of it that are assumed


@dataclass(frozen=True)
class Command:
    """A command over one split.

    Args:
        text: The command, in short.
        images: Images of the split.
        classes: Classes asked for an image, assumed.
        timesteps: Timesteps that are averaged.
    """

    text: str
    images: int
    classes: float
    timesteps: int = 1


COMMANDS = (
    Command("evaluate --dataset voc", 1449, 1.5),
    Command("evaluate --dataset context", 5105, 5),
    Command("evaluate --dataset object", 5000, 3),
    Command("evaluate --profile mine.yaml --split train", 1464, 1.5, 4),
    Command("pseudo --split trainaug", 10582, 1.5),
)


def cpu_hours(command: Command, speed: Mapping[str, Any]) -> float:
    """Hours on the machine of the kept timings: its measured seconds of one encoding and of one class, times images, classes and timesteps.

    Args:
        command: The command.
        speed: The kept timings, ``data/results/speed.json``.
    """
    one_class = speed["full"]["time"]["1"]["bare"]["seconds"]["median"] * speed["time_ratio"]["1"]["median"]
    return float(command.images * (speed["full"]["stages"]["VAE"]["median"] + command.classes * command.timesteps * one_class) / 3600)


def costs_markup(speed: Mapping[str, Any]) -> str:
    """The commands with their hours as a table in MyST.

    Args:
        speed: The kept timings, ``data/results/speed.json``.
    """
    from benchmarks.goals import hours

    ratio = speed["time_ratio"]["1"]["median"]
    lines = [
        f"| command | images | classes an image (assumed) | {speed['machine'].replace('_', ' ')}, float32 | one GPU, 10 to 40 % of {PEAK:.0f} TFLOP/s |",
        "|---|---|---|---|---|",
    ]
    for one in COMMANDS:
        card = [hours(one.images, one.classes * one.timesteps, ratio, PEAK, share) for share in reversed(REACHED)]
        steps = f", {one.timesteps} timesteps" if one.timesteps > 1 else ""
        lines.append(f"| `{one.text}` | {one.images:,} | {one.classes:g}{steps} | {_told(cpu_hours(one, speed))} | {_told(card[0])} to {_told(card[1])} |")
    return "\n".join(lines)


def _told(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 2 else f"{60 * hours:.0f} min" if 60 * hours >= 1 else f"{3600 * hours:.0f} s"
