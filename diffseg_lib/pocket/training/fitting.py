"""One training loop for every pocket model: resumable, averaged, annealed, with a curve on disk.

A run's folder holds ``state.safetensors`` (weights, their moving average, the optimiser's moments;
step, seconds and stage in its metadata) and ``curve.csv``. Every batch is a function of (seed, step), so
a run that was cut off goes on with the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...support.settings import PLAIN, Count, NotNegative, Positive, Seed, Share, one_of, settings


@settings
class Schedule:
    """How long and how fast to train. Training ends, annealed, when steps or minutes are used up.

    Args:
        steps: The largest number of updates, at least 1.
        minutes: Wall-clock budget over all resumed parts, minutes; 0 is no limit.
        lr: The peak learning rate, above 0.
        warmup: Share of training in which the learning rate rises to its peak, 0 or more and below 1.
        floor: The last learning rate as a share of the peak, 0 to 1.
        anneal: How the learning rate falls, "linear" or "cosine".
        ema: Decay of the moving average of the weights, 0 to 1.
        clip: The largest norm of the gradient, above 0.
        weight_decay: Weight decay of AdamW, 0 or more.
        seed: Seed of the batches, together with the step.

    Raises:
        ValueError: On values of another type or out of range, or an unknown name.
    """

    steps: Count
    minutes: NotNegative = 0.0
    lr: Positive = 1e-3
    warmup: Annotated[float, Field(ge=0, lt=1), PLAIN] = 0.02
    floor: Share = 0.02
    anneal: Annotated[str, one_of(("linear", "cosine"))] = "cosine"
    ema: Share = 0.999
    clip: Positive = 1.0
    weight_decay: NotNegative = 0.01
    seed: Seed = 0

    def progress(self, step: int, seconds: float) -> float:
        """The share of training that is done, in [0, 1]."""
        return min(1.0, max(step / self.steps, seconds / (60 * self.minutes) if self.minutes else 0.0))

    def rate(self, progress: float) -> float:
        """The learning rate at a share of training, 0 to 1."""
        if progress < self.warmup:
            return self.lr * max(progress / self.warmup, 0.01)
        left = 1 - (progress - self.warmup) / (1 - self.warmup)
        if self.anneal == "cosine":
            left = 0.5 - 0.5 * math.cos(math.pi * left)
        return self.lr * (self.floor + (1 - self.floor) * left)


def autocast(device: str) -> torch.autocast:
    """Bfloat16 where it is quicker: on a card, and on a processor with instructions for it; elsewhere nothing is cast.

    A convolution in bfloat16 on a processor without them is computed product by product, many times slower than in float32.
    """
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _save(path: Path, model: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer, facts: dict[str, str]) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in average.items()}
    for i, slot in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": v for k, v in slot.items()}
    partial = path.with_suffix(".partial")
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, partial, metadata=facts)
    partial.replace(path)


def _load(path: Path, model: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[str, str]:
    slots: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a dict)
            kind, rest = key.split(".", 1)
            if kind == "model":
                weights[rest] = file.get_tensor(key)
            elif kind == "ema":
                average[rest].copy_(file.get_tensor(key))
            else:
                slot, name = rest.split(".", 1)
                slots.setdefault(int(slot), {})[name] = file.get_tensor(key)
        facts = dict(file.metadata())
    model.load_state_dict(weights)
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return facts


def load_average(folder: Path, model: nn.Module) -> dict[str, str]:
    """Fill `model` with the moving average of the run in `folder`; returns the run's facts.

    Raises:
        FileNotFoundError: If there is no training state in the folder.
    """
    path = folder / "state.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"no training state at {path}: train this model first, or give the folder of its run")
    with safe_open(path, "pt") as file:
        model.load_state_dict({k[4:]: file.get_tensor(k) for k in file.keys() if k.startswith("ema.")})  # noqa: SIM118
        return dict(file.metadata())


def fit(
    model: nn.Module,
    loss: Callable[[torch.Generator, float], Tensor],
    schedule: Schedule,
    folder: Path,
    *,
    device: str = "cpu",
    save_seconds: float = 120.0,
    say: Callable[[str], None] = print,
) -> None:
    """Train `model` in place, going on from `folder` if a run was begun there; ends with its average.

    Args:
        model: The model whose parameters are trained and averaged.
        loss: Function from a generator seeded by the step, and the share of training that is done, to a scalar.
        schedule: How long and how fast to train.
        folder: The folder of ``state.safetensors`` and ``curve.csv``.
        device: Device to train on, "cpu" or "cuda"; the loss runs under :func:`autocast`.
        save_seconds: Time between checkpoints, seconds.
        say: Called with a line of progress now and then.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.safetensors"
    model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, betas=(0.9, 0.99), fused=True)
    copies: dict[int, Tensor] = {}  # tied weights keep one average between them
    average = {k: copies.setdefault(v.data_ptr(), v.detach().clone()) for k, v in model.state_dict().items()}
    trained = [p.detach() for p in model.parameters()]
    averaged = [average[k] for k, _ in model.named_parameters()]
    step, before = 0, 0.0
    if state.exists():
        facts = _load(state, model, average, optimiser)
        step, before = int(facts["step"]), float(facts["seconds"])
        say(f"going on from step {step} ({before / 60:.1f} min)")
    start = saved = told = time.perf_counter()
    running: list[float] = []
    seconds, progress = before, schedule.progress(step, before)
    while progress < 1:
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(progress)
        with autocast(device):
            value = loss(generator, progress)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimiser.step()
        step += 1
        decay = min(schedule.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, trained, 1 - decay)
        running.append(value.item())
        if not math.isfinite(running[-1]):
            raise FloatingPointError(f"the loss became {running[-1]} at step {step}: lower the learning rate (now {schedule.rate(progress):.2g})")
        now = time.perf_counter()
        seconds = before + now - start
        progress = schedule.progress(step, seconds)
        if now - told > 20 or progress >= 1:
            mean = sum(running) / len(running)
            left = seconds / max(progress, 1e-6) * (1 - progress) / 60
            say(f"step {step}  loss {mean:.4f}  {seconds / 60:.1f} min, {left:.1f} min left  lr {schedule.rate(progress):.2g}")
            new = not (folder / "curve.csv").exists()
            with open(folder / "curve.csv", "a", newline="") as file:
                rows = csv.writer(file)
                if new:
                    rows.writerow(["step", "seconds", "loss", "lr"])
                rows.writerow([step, round(seconds, 1), round(mean, 5), f"{schedule.rate(progress):.3g}"])
            told, running = now, []
        if now - saved > save_seconds or progress >= 1:
            _save(state, model, average, optimiser, {"step": str(step), "seconds": f"{seconds:.1f}"})
            saved = now
    model.load_state_dict(average)
    model.eval()
