"""DeepLabV2 (Chen et al. 2018): a network trained on masks, drawn or not (Table 3, Wang et al. 2023).

A ResNet of transformers whose last two stages keep their resolution and are dilated instead, and four atrous
convolutions whose outputs are summed. ``python -m diffseg_lib.deeplab train | test`` trains and measures one. What an
update sees follows from (seed, its number), so that a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from ..data import Dataset
from ..data.samples import VOID
from ..evaluation.metrics import confusion
from ..profiles import local_folder
from ..support.files import claim, write_json, write_text
from ..support.identity import describe_code, model_key
from ..support.images import to_numpy
from ..support.settings import PLAIN, Count, NotNegative, Positive, Seed, one_of, settings
from ..weights.parts import Part, find_part
from .crf import Crf, refine

RATES = (6, 12, 18, 24)  # of the four atrous convolutions
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures, in [0, 1]
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)  # of the multi-scale test
# Settings of the ResNet: a small one for the pocket world, and ResNet-101.
NETS: Mapping[str, Mapping[str, Any]] = {
    "small": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "layer_type": "basic"},
    "101": {"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 23, 3], "layer_type": "bottleneck"},
}


@settings
class Recipe:
    """How a network is trained; the defaults are the paper's for ResNet-101.

    Args:
        net: The network, of :data:`NETS`.
        iterations: Updates in all.
        batch: Crops in an update.
        crop: Side of a crop, px.
        lr: Learning rate of the backbone; the head's is ten times that, and both fall as (1 - i / iterations)^power.
        momentum: Momentum of the gradient descent, 0 or more and below 1.
        decay: Weight decay, 0 or more.
        power: Exponent by which the learning rates fall, 0 or more.
        scales: The least and the greatest factor by which a picture is resized before it is cropped.
        balanced: Weigh each class by one over the root of its share of the pixels.
        rates: Dilations of the atrous convolutions, px of the features.
        seed: Seed of weights, crops and their order.

    Raises:
        ValueError: On another net, counts below 1, a learning rate of 0 or less, scales out of order, values of another type, or an unknown name.
    """

    net: Annotated[str, one_of(NETS)] = "101"
    iterations: Count = 20_000
    batch: Count = 10
    crop: Count = 321
    lr: Positive = 2.5e-4
    momentum: Annotated[float, Field(ge=0, lt=1), PLAIN] = 0.9
    decay: NotNegative = 5e-4
    power: NotNegative = 0.9
    scales: Annotated[tuple[Positive, Positive], Field(description="two numbers above 0, the least first"), PLAIN] = (0.5, 1.5)
    balanced: bool = False
    rates: Annotated[tuple[Count, ...], Field(min_length=1, description="a list of at least one integer of at least 1"), PLAIN] = RATES
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.scales[0] > self.scales[1]:
            raise ValueError(f"scales {self.scales}: expected two numbers above 0, the least first")

    def rate(self, update: int) -> float:
        """The backbone's learning rate at an update, 0 to iterations - 1."""
        return self.lr * (1 - update / self.iterations) ** self.power


POCKET = Recipe("small", iterations=5000, batch=8, crop=112, lr=0.003, scales=(0.75, 1.5), rates=(1, 2, 4, 6))


class DeepLabV2(nn.Module):
    """DeepLabV2's logits of the classes, at an eighth of the picture's sides.

    Args:
        classes: The number of classes, the background included.
        config: Settings of ``transformers.ResNetConfig``.
        rates: Dilations of the atrous convolutions, px of the features.
    """

    def __init__(self, classes: int, config: Mapping[str, Any], rates: Sequence[int] = RATES) -> None:
        from transformers import ResNetConfig, ResNetModel

        super().__init__()
        self.backbone = ResNetModel(ResNetConfig(**config))
        for stage, dilation in ((2, 2), (3, 4)):
            dilate(self.backbone.encoder.stages[stage], dilation)
        width = config["hidden_sizes"][-1]
        self.head = nn.ModuleList(nn.Conv2d(width, classes, 3, padding=rate, dilation=rate) for rate in rates)
        for branch in self.head:
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)

    def forward(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Logits of normalised pictures, the sum over the atrous convolutions: h and w are an eighth of H and W."""
        features = self.backbone(pixels).last_hidden_state
        return torch.stack([branch(features) for branch in self.head]).sum(0)


def dilate(stage: nn.Module, dilation: int) -> None:
    """Let a stage of a ResNet keep its input's resolution: no stride, and its 3 x 3 convolutions so far apart."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)


def normalise_image(image: np.ndarray) -> Float[Tensor, "3 H W"]:
    """A picture (H W 3, uint8) as the network reads it."""
    values = (image.astype(np.float32) / 255 - MEAN) / DEVIATION
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32))


def augment(image: np.ndarray, mask: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its mask resized, flipped and cropped at random; what lies outside the picture is its mean colour, and void.

    Args:
        image: The picture, H W 3, uint8.
        mask: The mask, H W, labels or 255 for void.
        recipe: The recipe whose crop and scales are used.
        rng: The generator that scale, flip and place are drawn from.

    Returns:
        The crop of the picture, crop crop 3, uint8, and that of the mask, crop crop, uint8.
    """
    scale, size = rng.uniform(*recipe.scales), recipe.crop
    h, w = (max(1, round(side * scale)) for side in mask.shape)
    image = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    mask = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((w, h), Image.Resampling.NEAREST))
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    canvas = np.full((max(h, size), max(w, size), 3), np.round(255 * np.array(MEAN)), np.uint8)
    labels = np.full(canvas.shape[:2], VOID, np.uint8)
    canvas[:h, :w], labels[:h, :w] = image, mask
    y, x = (int(rng.integers(side - size + 1)) for side in labels.shape)
    return canvas[y : y + size, x : x + size], labels[y : y + size, x : x + size]


def class_weights(dataset: Dataset, images: int = 500) -> Float[Tensor, " c"]:
    """One over the root of each class's share of the pixels of the first images, the mean over classes one; a class that is nowhere weighs nothing."""
    counts = sum(np.bincount(dataset.load(name).truth.ravel(), minlength=256)[: len(dataset.names)] for name in dataset.ids[:images])
    share = np.asarray(counts, float) / max(1, int(np.sum(counts)))
    weights = np.divide(1, np.sqrt(share), out=np.zeros_like(share), where=share > 0)
    return torch.tensor(weights / weights[weights > 0].mean(), dtype=torch.float32)


def _batch(dataset: Dataset, recipe: Recipe, update: int, process: int) -> tuple[Float[Tensor, "b 3 s s"], Int[Tensor, "b s s"]]:
    """What an update sees on one process: a function of (seed, update, process) alone."""
    rng = np.random.default_rng([recipe.seed, update, process])
    pairs = []
    for i in rng.integers(len(dataset), size=recipe.batch):
        sample = dataset.load(dataset.ids[i])
        pairs.append(augment(sample.image, sample.truth, recipe, rng))
    return torch.stack([normalise_image(image) for image, _ in pairs]), torch.from_numpy(np.stack([mask for _, mask in pairs]).astype(np.int64))


def train(
    dataset: Dataset,
    recipe: Recipe,
    out: str | Path,
    *,
    initial: str = "",
    every: int = 500,
    progress: Callable[[int, float], Any] = lambda update, loss: None,
    device: str = "",
) -> Path:
    """Train a network on a data set's masks; go on from the last checkpoint in `out`, bit for bit on a processor.

    ``accelerate launch -m diffseg_lib.deeplab train ...`` runs it on several cards, each with a batch of its own.

    Args:
        dataset: Pictures and masks.
        recipe: How it is trained.
        out: Folder of checkpoints, ``curve.csv`` and, at the end, ``model.safetensors`` with ``model.json``.
        initial: Folder or hub id of a ResNet trained on ImageNet's labels; without it weights are random.
        every: Updates between checkpoints.
        progress: Called with the number of updates done and the loss.
        device: Device that it runs on, "cpu", "cuda" and so on; "" leaves the choice to accelerate, which takes a card where there is one.

    Returns:
        The folder `out`.

    Raises:
        ValueError: If the ResNet is damaged or not the network's, or a device is named although ``accelerate launch`` gives each of several processes its own.
        RunError: If `out` is of another recipe, data set or masks.
    """
    from accelerate import Accelerator
    from safetensors.torch import save_model

    accelerator, top = Accelerator(device_placement=not device), Path(out)
    if device and accelerator.num_processes > 1:
        raise ValueError(f"device {device!r}: accelerate gives each of the {accelerator.num_processes} processes a card of its own; leave the device out")
    place = torch.device(device) if device else accelerator.device
    facts = {"recipe": asdict(recipe), "data": dataset.fingerprint(), "images": len(dataset), "names": list(dataset.names)}
    facts |= {"dataset": dataset.name, "split": dataset.split, "ids": list(dataset.ids)}
    trained = _initial(initial, NETS[recipe.net]) if initial else None
    facts |= {"initial": model_key(initial) if initial else "", "code": describe_code("applications.deeplab")}
    facts["notes"] = [*dataset.notes, *(trained.notes if trained else ())]  # say whose masks they are
    claim(top, facts)
    if (top / "model.json").is_file():
        return top
    torch.manual_seed(recipe.seed)
    network = DeepLabV2(len(dataset.names), NETS[recipe.net], recipe.rates)
    if trained:
        network.backbone.load_state_dict(trained.load(torch.float32).state_dict())
    network.to(place)
    head = list(network.head.parameters())
    groups = [{"params": list(network.backbone.parameters())}, {"params": head}]
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.decay)
    model, optimizer = accelerator.prepare(network, optimizer)
    network = accelerator.unwrap_model(model)
    weights = class_weights(dataset).to(place) if recipe.balanced else None
    done, losses = _restore(top, network, optimizer)
    model.train()
    for update in range(done, recipe.iterations):
        for group, times in zip(optimizer.param_groups, (1, 10), strict=True):
            group["lr"] = recipe.rate(update) * times
        pixels, masks = (part.to(place) for part in _batch(dataset, recipe, update, accelerator.process_index))
        logits = interpolate(model(pixels), size=masks.shape[1:], mode="bilinear", align_corners=False)
        loss = cross_entropy(logits, masks, weights, ignore_index=VOID)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
        progress(update + 1, losses[-1])
        if (update + 1) % every == 0 and accelerator.is_main_process:
            _keep(top, network, optimizer, losses)
    if accelerator.is_main_process:
        write_text(top / "curve.csv", "update,loss\n" + "".join(f"{i},{value!r}\n" for i, value in enumerate(losses, start=1)))
        save_model(network, str(top / "model.partial"))
        (top / "model.partial").replace(top / "model.safetensors")
        write_json(top / "model.json", facts)
    accelerator.wait_for_everyone()
    return top


_BACKBONE = ("embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_act", "downsample_in_first_stage", "downsample_in_bottleneck")


def _initial(initial: str, config: Mapping[str, Any]) -> Part:
    """The ResNet of a source, whole and of a network's settings; nothing is loaded."""
    from transformers import ResNetConfig

    folder = local_folder(initial)
    try:
        if folder is None or not folder.is_dir():
            raise FileNotFoundError("it is not on this machine")
        found = find_part("resnet", folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no ResNet at {initial!r} ({error}): expected a folder that save_pretrained wrote, or a hub id whose files are on this machine"
        ) from error
    wanted = ResNetConfig(**config)
    other = [f"{key} {getattr(found.config, key)}, not {getattr(wanted, key)}" for key in _BACKBONE if getattr(found.config, key) != getattr(wanted, key)]
    if other:
        raise ValueError(f"the ResNet at {initial!r} is not the network's ({'; '.join(other)}): name one of these settings, or another --net")
    return found


def _named(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, statistics and momenta by name."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    state = {f"momentum.{names[p]}": kept["momentum_buffer"] for p, kept in optimizer.state.items() if kept.get("momentum_buffer") is not None}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in ({f"model.{k}": v for k, v in network.state_dict().items()} | state).items()}


def _keep(top: Path, network: nn.Module, optimizer: torch.optim.Optimizer, losses: Sequence[float]) -> None:
    from safetensors.torch import save_file

    raw = getattr(optimizer, "optimizer", optimizer)
    partial, target = top / "checkpoint.partial", top / f"checkpoint-{len(losses):07d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file(_named(network, raw), str(partial / "state.safetensors"))
    write_json(partial / "losses.json", losses)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    for old in sorted(top.glob("checkpoint-*"))[:-1]:
        shutil.rmtree(old, ignore_errors=True)


def _restore(top: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[float]]:
    """Updates done and their losses, the last checkpoint loaded if there is one."""
    from safetensors.torch import load_file

    found = sorted(top.glob("checkpoint-*"))
    if not found:
        return 0, []
    state = load_file(str(found[-1] / "state.safetensors"))
    network.load_state_dict({name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")})
    raw = getattr(optimizer, "optimizer", optimizer)
    for name, parameter in network.named_parameters():
        if f"momentum.{name}" in state:
            raw.state[parameter]["momentum_buffer"] = state[f"momentum.{name}"].to(parameter)
    losses = json.loads((found[-1] / "losses.json").read_text())
    return len(losses), losses


# -- measured ------------------------------------------------------------------------------------


def load(folder: str | Path, device: str = "cpu") -> tuple[DeepLabV2, dict[str, Any]]:
    """A trained network and its facts (``model.json``).

    Raises:
        FileNotFoundError: If its training is not done.
    """
    from safetensors.torch import load_model

    top = Path(folder)
    if not (top / "model.json").is_file():
        raise FileNotFoundError(f"{top} holds no trained network: expected model.json and model.safetensors, as the end of a training writes them")
    facts = json.loads((top / "model.json").read_text())
    network = DeepLabV2(len(facts["names"]), NETS[facts["recipe"]["net"]], facts["recipe"]["rates"])
    load_model(network, str(top / "model.safetensors"))
    return network.eval().requires_grad_(False).to(device), facts


@torch.no_grad()
def predict(network: DeepLabV2, image: np.ndarray, scales: Sequence[float] = (1.0,), flip: bool = False, crf: Crf | None = None) -> Float[np.ndarray, "c H W"]:
    """Probabilities of the classes, the mean over scales and flips, refined by a field if one is given.

    Args:
        network: A trained network.
        image: The picture, H W 3, uint8.
        scales: Factors by which the picture is resized.
        flip: Whether the picture is read mirrored as well.
        crf: Settings of a dense CRF, or None.
    """
    h, w = image.shape[:2]
    pixels = normalise_image(image)[None].to(next(network.parameters()).device)
    total = pixels.new_zeros(())
    for scale in scales:
        size = (max(8, round(h * scale)), max(8, round(w * scale)))
        scaled = pixels if size == (h, w) else interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        for turned in (False, True) if flip else (False,):
            logits = network(scaled.flip(-1) if turned else scaled)
            logits = logits.flip(-1) if turned else logits
            total = total + interpolate(logits, size=(h, w), mode="bilinear", align_corners=False).softmax(1)
    found = to_numpy((total / (len(scales) * (1 + flip)))[0])
    return found if crf is None else refine(image, found / found.sum(0), crf)


def confusions(network: DeepLabV2, dataset: Dataset, scales: Sequence[float] = (1.0,), flip: bool = False, crf: Crf | None = None) -> np.ndarray:
    """The confusion matrix of every image: images C C."""
    rows = []
    for sample in dataset:
        rows.append(confusion(sample.truth, predict(network, sample.image, scales, flip, crf).argmax(0), len(dataset.names)))
    return np.stack(rows)


# -- command line --------------------------------------------------------------------------------
