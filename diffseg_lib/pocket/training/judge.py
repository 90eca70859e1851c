"""A judge of drawings: a small network that says what is in a picture of the pocket world.

The other models learn from pictures and captions. The judge alone is told the truth, what a scene was composed of, and so
it must never teach: it only measures what the diffusion model draws. No label map is drawn for it either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, cross_entropy, interpolate, silu

from ...support.images import to_numpy
from ..world import CLASS_NAMES, COLOURS, Scene, compose
from .fitting import Schedule, fit
from .pictures import load_pictures

COUNTS = 5  # from no thing to four
COLOUR_NAMES = tuple(COLOURS)
WIDTHS = (16, 32, 64, 128)  # channels at a half, a quarter, an eighth and a sixteenth of the picture's side


@dataclass(frozen=True)
class Truth:
    """What there is in pictures.

    Args:
        present: Whether a class is there, n classes, bool.
        colours: Whether some thing of a class has a colour as its main one, n classes colours, bool.
        count: Number of things, n, int.
    """

    present: np.ndarray
    colours: np.ndarray
    count: np.ndarray

    @classmethod
    def stack(cls, parts: Sequence[Truth]) -> Truth:
        """The pictures of all parts, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def truth_of(scene: Scene) -> Truth:
    """What a scene was composed of, as one picture's.

    >>> truth_of(compose("test", 0)).count.shape
    (1,)
    """
    colours = np.zeros((1, len(CLASS_NAMES), len(COLOUR_NAMES)), bool)
    for placed in scene.objects:
        colours[0, placed.kind, COLOUR_NAMES.index(placed.colour)] = True
    return Truth(np.asarray(colours.any(-1)), colours, np.array([len(scene.objects)]))


class Verdict(NamedTuple):
    """What the judge says of pictures, as logits.

    Args:
        present: Logits of a class being there, b classes.
        colours: Logits of a class having a colour, b classes colours.
        count: Logits of the number of things, b counts.
    """

    present: Tensor
    colours: Tensor
    count: Tensor


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))


class Judge(nn.Module):
    """Convolutions to a sixteenth of the side; each class is sought at every place, and its colour read where it was found."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter, eighth, last = WIDTHS
        self.stem = nn.Sequential(
            nn.Conv2d(3, half, 3, stride=2, padding=1),
            nn.GroupNorm(4, half),
            nn.SiLU(),
            nn.Conv2d(half, quarter, 3, stride=2, padding=1),
            nn.GroupNorm(8, quarter),
            nn.SiLU(),
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
            _Residual(eighth),
        )
        self.deep = nn.Sequential(nn.Conv2d(eighth, last, 3, stride=2, padding=1), _Residual(last), nn.GroupNorm(8, last), nn.SiLU())
        self.where = nn.Conv2d(last, len(CLASS_NAMES), 1)
        self.colour = nn.Sequential(nn.Linear(last + eighth, eighth), nn.SiLU(), nn.Linear(eighth, len(COLOUR_NAMES)))
        self.count = nn.Sequential(nn.Conv2d(last, eighth, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(eighth, COUNTS))

    def forward(self, images: Tensor) -> Verdict:
        """What there is in pictures (b 3 h w in [-1, 1]), as logits."""
        shallow = self.stem(images)
        deep = self.deep(shallow)
        where = self.where(deep).flatten(2)
        features = torch.cat([deep, avg_pool2d(shallow, 2)], 1).flatten(2)
        found = torch.einsum("bkp,bcp->bkc", (3 * where).softmax(-1), features)
        return Verdict((where * where.softmax(-1)).sum(-1), self.colour(found), self.count(deep))


def worsen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur some pictures and roughen some, since drawings are never as clean as what is rendered: b 3 h w."""
    blurred = interpolate(avg_pool2d(images, 2), scale_factor=2, mode="bilinear", align_corners=False)
    share = torch.rand(len(images), 1, 1, 1, generator=generator) * (torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5)
    images = images + share * (blurred - images)
    rough = 0.08 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return images + rough * torch.randn(images.shape, generator=generator)


def train_judge(folder: Path, schedule: Schedule, device: str, pictures: int, batch: int = 32) -> None:
    """Teach the judge on rendered scenes and what they were composed of.

    Args:
        folder: Folder of the run, as :func:`~diffseg_lib.pocket.training.fitting.fit` takes it.
        schedule: How long and how fast to train.
        device: Device to train on, "cpu" or "cuda".
        pictures: Number of pictures, the first of the train split, 128 px.
        batch: Number of pictures in an update.
    """
    images = torch.from_numpy(np.array(load_pictures("train", pictures, 128).images))
    truth = Truth.stack([truth_of(compose("train", i)) for i in range(len(images))])
    present, colours = torch.from_numpy(truth.present).float(), torch.from_numpy(truth.colours).float()
    count = torch.from_numpy(truth.count).clamp(max=COUNTS - 1)
    torch.manual_seed(schedule.seed)
    model = Judge()

    def loss(generator: torch.Generator, progress: float) -> Tensor:
        rows = torch.randint(len(images), (batch,), generator=generator)
        views = images[rows].permute(0, 3, 1, 2).float() / 127.5 - 1
        mirrored = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
        views = worsen(torch.where(mirrored, views.flip(3), views), generator)
        said = model(views.to(device))
        there, painted = present[rows].to(device), colours[rows].to(device)
        seen = there.bool()
        classes = binary_cross_entropy_with_logits(said.present.float(), there)
        shades = binary_cross_entropy_with_logits(said.colours.float()[seen], painted[seen])
        return 4 * classes + 2 * shades + cross_entropy(said.count.float(), count[rows].to(device))

    fit(model, loss, schedule, folder, device=device)


def save_judge(model: Judge, models: Path) -> Path:
    """Write the judge beside the other models, half precision; returns its folder."""
    folder = models / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def load_judge(models: Path) -> Judge:
    """The judge that lies beside the other models.

    Raises:
        FileNotFoundError: If none does.
    """
    path = models / "judge" / "model.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"no judge at {path}: train it (diffseg pocket train judge) and ship it (diffseg pocket ship --models judge) first")
    model = Judge()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.eval()


@torch.no_grad()
def see(judge: Judge, images: np.ndarray) -> Truth:
    """What the judge sees in pictures (n h w 3, uint8).

    A colour is said of a class where it is more likely than not, and the likeliest one always.
    """
    said = judge(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    present, shades = to_numpy(said.present > 0), to_numpy(said.colours)
    colours = ((shades > 0) | (shades == shades.max(-1, keepdims=True))) & present[..., None]
    return Truth(present, colours, to_numpy(said.count.argmax(-1)))
