"""A scene for the attention explorer: recorded at several timesteps, packed into few bytes, and the page's arithmetic in Python.

Self-attention is what makes a recording large: 1,024 x 1,024 numbers a class and timestep at 32 x 32 pixels. It is packed as what it once came from, a softmax
of queries times keys: 16 numbers a pixel for each, a byte a number, fitted so that the mean over layers and heads is met (:func:`factorise`).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ...evaluation.fusion_search import short_name as name_of_layer
from ...recording import Recording
from ...scoremaps import fuse, label, upsample
from ...support.images import to_numpy
from ..plots.colours import class_colours

if TYPE_CHECKING:
    from ...segmenter import DiffSegmenter

LARGEST = 600_000  # bytes of a packed scene
TIMESTEPS = (20, 100, 300, 600)  # that are recorded beside the configuration's own
LONG_SIDE = 256  # of the page's picture and labels, px
GRID = 32  # pixels on the long side of a packed self-attention map
RANK = 16  # numbers a pixel of a packed self-attention map
STEPS = 40  # of the fit


@dataclass(frozen=True)
class SceneRecording:
    """What the explorer shows of one picture.

    Args:
        title: Name of the scene.
        picture: Picture at the page's size, H W 3, uint8.
        classes: Names of the classes, in the order of the labels.
        recordings: Timestep to recording, all layers, cross maps by head.
        defaults: Timesteps whose mean the library takes.
        weights: Fusion weights by stride that the library takes.
        threshold: Background threshold that the library takes.
        iterations: Rounds of completion that the library takes.
        scale: Scaling before fusion, "minmax" or "none".
        final_norm: Whether min-max comes "after" or "before" upsampling.
        labels: The library's labels at the page's size, H W.
        model: Name of the profile.
    """

    title: str
    picture: np.ndarray
    classes: tuple[str, ...]
    recordings: Mapping[int, Recording]
    defaults: tuple[int, ...]
    weights: Mapping[int, float]
    threshold: float
    iterations: int
    scale: str
    final_norm: str
    labels: np.ndarray
    model: str


@dataclass(frozen=True)
class Replay:
    """What the page computes from a packed scene at its default settings.

    Args:
        fused: Fused maps, k h w.
        completed: Completed maps, k h w, at the side of the packed self-attention.
        labels: Labels at the page's size, H W.
        agreement: Share of pixels whose label is the library's, in [0, 1].
    """

    fused: Tensor
    completed: Tensor
    labels: np.ndarray
    agreement: float


def record_scene(
    segmenter: DiffSegmenter, image: np.ndarray, classes: Sequence[str], *, timesteps: Sequence[int] = TIMESTEPS, title: str = "scene"
) -> SceneRecording:
    """Record one picture at several timesteps, every layer and head, all classes in one call.

    Args:
        segmenter: Segmenter whose configuration the page starts with.
        image: Picture, H W 3, uint8 RGB.
        classes: Names of the classes, in the order of the labels.
        timesteps: Timesteps to choose from in the page, 0 to 999; the configuration's own are recorded too.
        title: Name of the scene.

    Raises:
        ValueError: On classes that the segmenter refuses.
    """
    prompts = segmenter.prompts(classes, image)
    latents, (embeddings, token_weights) = segmenter.encode(image), segmenter.embed(prompts)
    noise, steps = segmenter.noise(image, latents), sorted({*timesteps, *segmenter.timesteps})
    recordings = {step: segmenter.attend(latents, noise, step, embeddings, token_weights, "all", heads=True) for step in steps}
    first = {step: recording if segmenter.config.share_self_attention else None for step, recording in recordings.items()}
    completed = torch.stack([segmenter.score(recordings[step], first[step])[1] for step in segmenter.timesteps]).mean(0)
    picture = _page_picture(image)
    labels = label(upsample(completed, picture.shape[:2], segmenter.config.final_norm), segmenter.threshold)
    own = (tuple(segmenter.timesteps), dict(segmenter.weights), segmenter.threshold, segmenter.config.iterations, segmenter.config.scale)
    named = tuple(prompt.name for prompt in prompts)
    return SceneRecording(title, picture, named, recordings, *own, segmenter.config.final_norm, to_numpy(labels), segmenter.backbone.profile.name)


def _page_picture(image: np.ndarray) -> np.ndarray:
    h, w = image.shape[:2]
    times = max(1.0, max(h, w) / LONG_SIDE)
    size = (max(1, round(w / times)), max(1, round(h / times)))
    return image if times == 1 else np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def pooled_attention(
    queries: Sequence[Float[Tensor, "heads n d"]], keys: Sequence[Float[Tensor, "heads n d"]], size: tuple[int, int], cell: int
) -> Float[Tensor, "m m"]:
    """The mean over layers and heads of softmax(Q K^T / sqrt d) between cells of cell x cell pixels: the mean over asking pixels, the sum over asked ones.

    Rows of the n x n matrix are made some at a time, so that it never stands in memory.

    Args:
        queries: Queries of the layers of one resolution, of one class, heads n d each.
        keys: Keys of the same layers.
        size: Height and width at which the layers attend, n = h * w.
        cell: Pixels on a cell's side; the last cells are smaller where the sides are not divisible.
    """
    of_pixel, cells = _cells(size, cell)
    total = torch.zeros(cells, cells)
    for query, key in zip(queries, keys, strict=True):
        query, key = query.float().cpu(), key.float().cpu()
        for rows in torch.arange(query.shape[1]).split(512):
            mean = (query[:, rows] @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(0)
            total.index_add_(0, of_pixel[rows], torch.zeros(len(rows), cells).index_add_(1, of_pixel, mean))
    return total / (torch.bincount(of_pixel, minlength=cells)[:, None] * len(queries))


def _cells(size: tuple[int, int], cell: int) -> tuple[Int[Tensor, " n"], int]:
    """The cell of each pixel, and how many cells there are."""
    h, w = (math.ceil(side / cell) for side in size)
    rows, columns = torch.arange(size[0]) // cell, torch.arange(size[1]) // cell
    return (rows[:, None] * w + columns).flatten(), h * w


def factorise(attention: Float[Tensor, "n m"], rank: int = RANK, steps: int = STEPS) -> tuple[Float[Tensor, "n r"], Float[Tensor, "m r"]]:
    """Queries X and keys Y of `rank` numbers a pixel, so that softmax(X Y^T) is close to rows of probabilities.

    A singular value decomposition of the logarithms is the start; Adam then lowers the cross-entropy, in which large probabilities count most.

    Args:
        attention: Rows of probabilities, n m.
        rank: Numbers a pixel, at most n and m.
        steps: Steps of Adam.
    """
    rank = min(rank, *attention.shape)
    logs = (attention + 1e-7).log()
    left, values, right = torch.linalg.svd(logs - logs.mean(1, keepdim=True), full_matrices=False)
    with torch.enable_grad():
        x, y = ((side[:, :rank] * values[:rank].sqrt()).clone().requires_grad_() for side in (left, right.mT))
        optimiser = torch.optim.Adam([x, y], lr=0.05)
        for _ in range(steps):
            optimiser.zero_grad()
            loss = -(attention * torch.log_softmax(x @ y.mT, 1)).sum(1).mean()
            loss.backward()
            optimiser.step()
    y = y.detach()
    return x.detach(), y - y.mean(0)  # what is the same for all keys changes no probability


# -- bytes ----------------------------------------------------------------------------------------


class _Packer:
    """Arrays one behind the other, each from a multiple of four bytes, and where they lie."""

    def __init__(self) -> None:
        self.blob, self.places = bytearray(), dict[str, list[Any]]()

    def add(self, name: str, array: np.ndarray) -> None:
        self.blob.extend(bytes(-len(self.blob) % 4))
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        self.places[name] = [array.dtype.name, len(self.blob), list(array.shape)]
        self.blob.extend(little.tobytes())

    def maps(self, name: str, maps: Tensor, kind: type[np.unsignedinteger]) -> None:
        """Maps, ... h w, each stretched to all values of an unsigned type; their bounds go to ``NAME.range``, ... 2."""
        values = to_numpy(maps.float())
        low, high = values.min((-2, -1), keepdims=True), values.max((-2, -1), keepdims=True)
        span = np.where(high > low, high - low, 1)
        self.add(name, np.rint((values - low) / span * np.iinfo(kind).max).astype(kind))
        self.add(f"{name}.range", np.concatenate([low[..., 0], high[..., 0]], -1).astype(np.float32))

    def factors(self, name: str, factors: Tensor) -> None:
        """Factors, n r, as signed bytes; the units of the columns go to ``NAME.unit``."""
        values = to_numpy(factors)
        unit = np.maximum(np.abs(values).max(0) / 127, 1e-12).astype(np.float32)
        self.add(name, np.rint(values / unit).astype(np.int8))
        self.add(f"{name}.unit", unit)


def explorer_data(scene: SceneRecording) -> bytes:
    """A recorded scene as the page reads it: the length of a JSON header (four bytes, little end first), the header, the arrays.

    Self-attention is kept for each class; where that takes too much, as the mean over classes, first at the timesteps that are not the library's own, then at
    all; heads' cross maps are then kept smaller, too. What was done to make it small, and how many labels are still the library's, stands in the header and is
    told by the page.

    Raises:
        ValueError: If it is larger than :data:`LARGEST` even so.
    """
    everywhere, defaults, nowhere = frozenset(scene.recordings), frozenset(scene.defaults), frozenset[int]()
    fitted: dict[tuple[int, bool], list[tuple[str, Tensor]]] = {}
    for own, heads_side in ((everywhere, 64), (defaults, 64), (defaults, 16), (nowhere, 16), (nowhere, 8)):
        if _estimate(scene, own, heads_side) > LARGEST:
            continue
        for i, step in enumerate(scene.recordings):
            if (i, step in own) not in fitted:
                fitted[i, step in own] = _self_attention(scene, i, step in own)
        packed = _pack(scene, [one for i, step in enumerate(scene.recordings) for one in fitted[i, step in own]], own, heads_side)
        if len(packed) <= LARGEST:
            return packed
    raise ValueError(
        f"{len(scene.classes)} classes at {len(scene.recordings)} timesteps take more than the {LARGEST // 1000} kB of a scene: ask for fewer of either"
    )


def _resolutions(recording: Recording) -> list[tuple[tuple[int, int], int]]:
    """Height and width of each recorded resolution, fine to coarse, and the side of its cells."""
    sizes = sorted(recording.self_attention(), reverse=True)
    return [(size, max(1, math.ceil(max(size) / GRID))) for size in sizes]


def _estimate(scene: SceneRecording, own: Set[int], heads_side: int) -> int:
    """Bytes that the arrays take, nearly."""
    recording, k = next(iter(scene.recordings.values())), len(scene.classes)
    factors = sum(2 * RANK * _cells(size, cell)[1] for size, cell in _resolutions(recording))
    heads = sum(maps.shape[1] * k * math.prod(math.ceil(side / _shrink(maps, heads_side)) for side in maps.shape[-2:]) for maps in recording.cross.values())
    means = sum(2 * maps.numel() for maps in recording.by_resolution().values())
    return len(scene.recordings) * (heads + means) + factors * sum(k if step in own else 1 for step in scene.recordings)


def _shrink(maps: Tensor, side: int) -> int:
    return max(1, math.ceil(max(maps.shape[-2:]) / side))


def _self_attention(scene: SceneRecording, i: int, own: bool) -> list[tuple[str, Tensor]]:
    """Factors of one timestep, of every resolution and class (of their mean, if not each its own), by the names under which the page finds them."""
    recording, found = list(scene.recordings.values())[i], []
    groups = recording.self_attention()
    for j, (size, cell) in enumerate(_resolutions(recording)):
        queries, keys = recording.finest(scene.weights) if size == recording.finest_size else groups[size]
        of_class = [pooled_attention([q[c] for q in queries], [k[c] for k in keys], size, cell) for c in range(len(scene.classes))]
        for c, matrix in enumerate(of_class if own else [torch.stack(of_class).mean(0)]):
            found += list(zip((f"self/{i}/{j}/{c}/x", f"self/{i}/{j}/{c}/y"), factorise(matrix), strict=True))
    return found


def _pack(scene: SceneRecording, factors: list[tuple[str, Tensor]], own: Set[int], heads_side: int) -> bytes:
    packer, first = _Packer(), next(iter(scene.recordings.values()))
    for name, values in factors:
        packer.factors(name, values)
    shrunk = {name: _shrink(maps, heads_side) for name, maps in first.cross.items()}
    for i, recording in enumerate(scene.recordings.values()):
        for stride, maps in recording.by_resolution().items():
            packer.maps(f"mean/{i}/{stride}", maps, np.uint16)
        for j, (name, maps) in enumerate(recording.cross.items()):
            packer.maps(f"heads/{i}/{j}", avg_pool2d(maps.float(), shrunk[name], ceil_mode=True), np.uint8)
    packer.add("library", scene.labels.astype(np.uint8))
    file = io.BytesIO()
    Image.fromarray(scene.picture).save(file, "PNG" if max(scene.picture.shape) <= 128 else "JPEG", quality=88)
    packer.add("picture", np.frombuffer(file.getvalue(), np.uint8))
    header = {
        "title": scene.title,
        "model": scene.model,
        "classes": scene.classes,
        "colours": [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in class_colours(scene.classes).values()],
        "size": scene.picture.shape[:2],
        "timesteps": list(scene.recordings),
        "defaults": scene.defaults,
        "unit": first.unit,
        "strides": sorted(first.by_resolution()),
        "weights": {stride: scene.weights.get(stride, 0.0) for stride in first.by_resolution()},
        "threshold": scene.threshold,
        "iterations": scene.iterations,
        "scale": scene.scale,
        "final_norm": scene.final_norm,
        "finest": first.finest_size,
        "resolutions": [{"size": size, "cell": cell, "stride": round(first.size[0] / size[0])} for size, cell in _resolutions(first)],
        "layers": [{"name": short_name(name), "stride": first.stride(name), "shrunk": shrunk[name]} for name in first.cross],
        "own": [step in own for step in scene.recordings],
        "arrays": packer.places,
    }
    found = replay(_joined(header, packer.blob))
    return _joined(header | {"agreement": found.agreement}, packer.blob)


def _joined(header: Mapping[str, Any], blob: bytes | bytearray) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return len(text).to_bytes(4, "little") + text + bytes(blob)


def short_name(layer: str) -> str:
    """A layer's name as the page shows it.

    >>> short_name("down_blocks.1.attentions.0.transformer_blocks.0.attn2"), short_name("mid_block.attentions.0.transformer_blocks.3.attn2")
    ('down 1.0', 'middle 0.3')
    >>> short_name("transformer_blocks.5.attn")
    'block 5'
    """
    parts = layer.split(".")
    if parts[0].endswith("transformer_blocks"):
        return name_of_layer(layer)
    numbers = [part for part in parts if part.isdigit()]
    stage, inner = {"down_blocks": "down", "up_blocks": "up"}.get(parts[0], "middle"), numbers[-1]
    return f"{stage} " + ".".join(numbers[:-1] + ([inner] if inner != "0" else []))


# -- the page's arithmetic, by the library's own functions ---------------------------------------------


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a packed scene, maps and factors in their units.

    Args:
        data: Packed scene, as :func:`explorer_data` gives it.
    """
    start = 4 + int.from_bytes(data[:4], "little")
    header = json.loads(data[4:start])
    raw = {}
    for name, (kind, offset, shape) in header["arrays"].items():
        raw[name] = np.frombuffer(data, np.dtype(kind).newbyteorder("<"), math.prod(shape), start + offset).reshape(shape)
    arrays = dict[str, np.ndarray]()
    for name, values in raw.items():
        if f"{name}.range" in raw:
            low, high = np.split(raw[f"{name}.range"][..., None], 2, -2)
            values = (low + values.astype(np.float32) / np.iinfo(values.dtype).max * (high - low)).astype(np.float32)
        elif f"{name}.unit" in raw:
            values = values.astype(np.float32) * raw[f"{name}.unit"]
        arrays[name] = values
    return header, arrays


def replay(data: bytes) -> Replay:
    """Compute from a packed scene what the page shows when it is opened: the arithmetic of :mod:`diffseg_lib.scoremaps` on the packed arrays.

    Args:
        data: Packed scene, as :func:`explorer_data` gives it.
    """
    header, arrays = unpack(data)
    indices = [header["timesteps"].index(step) for step in header["defaults"]]
    each = [_replay_at(header, arrays, i) for i in indices]
    fused, completed = (torch.stack(maps).mean(0) for maps in zip(*each, strict=True))
    labels = to_numpy(label(upsample(completed, tuple(header["size"]), header["final_norm"]), header["threshold"]))
    return Replay(fused, completed, labels, float((labels == arrays["library"]).mean()))


def _replay_at(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], i: int) -> tuple[Tensor, Tensor]:
    cross = {stride: torch.from_numpy(arrays[f"mean/{i}/{stride}"]) for stride in header["strides"]}
    fused = fuse(cross, {int(stride): weight for stride, weight in header["weights"].items()}, tuple(header["finest"]), header["scale"])
    if not header["iterations"]:
        return fused, fused
    maps = avg_pool2d(fused[None], header["resolutions"][0]["cell"], ceil_mode=True)[0]
    vectors = maps.flatten(1)[..., None]
    factors = [[torch.from_numpy(arrays[f"self/{i}/0/{c if header['own'][i] else 0}/{side}"]) for side in "xy"] for c in range(len(maps))]
    matrices = torch.stack([torch.softmax(x @ y.mT, 1) for x, y in factors])
    for _ in range(header["iterations"]):
        vectors = matrices @ vectors
    return fused, vectors.reshape(maps.shape)
