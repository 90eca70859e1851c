"""Time and memory of one image as the number of classes grows: a row a class, a row a sentence that names several, and side prompts of one row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from diffseg_lib.backbone import Backbone
from diffseg_lib.config import Config
from diffseg_lib.optimizations import OPTIMIZATIONS
from diffseg_lib.profiles import PAPER_WEIGHTS
from diffseg_lib.prompts import thin_padding
from diffseg_lib.scoremaps import label_rows
from diffseg_lib.segmenter import DiffSegmenter

from .cases import TIMESTEP, bare
from .measure import interleaved_timings, summary
from .models import inputs

CLASSES = (1, 4, 20, 60, 171)
WAYS = ("a row a class", "a row a sentence", "side prompts")
TEXT_TOKENS = 8  # start, "a photograph of a", a class of two tokens, end


def classes_of_a_sentence(tokens: int = 77, each: int = 2) -> int:
    """How many classes of so many tokens "a photograph of a X and a Y and a Z ..." names, within the tokens of a prompt; start and end take one each.

    >>> classes_of_a_sentence(), classes_of_a_sentence(each=1)
    (18, 24)
    """
    return (tokens - 2 - len("a photograph of a".split()) + len("and a".split())) // (each + len("and a".split()))


def case(backbone: Backbone, way: str, classes: int, size: tuple[int, int]) -> Callable[[], Any]:
    """From latents and embeddings to labels at the image's size, by one of :data:`WAYS`; all classes are of one call."""
    given = inputs(backbone, classes, size)
    segmenter = DiffSegmenter(backbone, Config(weights=PAPER_WEIGHTS))
    embeddings, weights = given["embeddings"], given["token_weights"]
    resolutions = [stride for stride, weight in segmenter.weights.items() if weight]

    def run() -> None:
        drive, read, side = embeddings, weights, {}
        if way == "a row a sentence":
            drive, read = embeddings[:1], weights[None]
        elif way == "side prompts":
            thin, counts = thin_padding(embeddings, [min(TEXT_TOKENS, embeddings.shape[1])] * classes)
            drive, read, side = embeddings[:1], weights[:, : thin.shape[1]], {"side_prompts": thin, "side_counts": counts}
        options = {"optimizations": OPTIMIZATIONS, "resolutions": resolutions, "layers": False}
        _, completed = segmenter.score(segmenter.attend(given["latents"], given["noise"], TIMESTEP, drive, read, **options, **side))
        factor = backbone.latent_factor if backbone.vae is not None else 8
        label_rows(completed, (factor * size[0], factor * size[1]), 0.5)

    return run


def calls_of(way: str, classes: int, sentence: int) -> tuple[int, int]:
    """Number of classes of the case that is measured, and how many such cases the asked number of classes takes."""
    if way == "side prompts":
        return classes, 1
    return (1, classes) if way == "a row a class" else (sentence, -(-classes // sentence))


def by_classes(backbone: Backbone, size: tuple[int, int], repeats: int, classes: Sequence[int] = CLASSES) -> dict[str, Any]:
    """Ratios to the bare forward of one row, all measured in the same rounds, by number of classes and way; and what a prompt costs to encode, once.

    What takes many like calls is one of them, and its time so many times, as ``calls`` tells. On a processor time is the process's own, which other programs
    on the machine do not lengthen.

    Args:
        backbone: The model.
        size: Height and width of the latents.
        repeats: Number of rounds.
        classes: Numbers of classes.
    """
    sentence = classes_of_a_sentence(inputs(backbone, 1, size)["embeddings"].shape[1])
    needed = {(way, calls_of(way, number, sentence)[0]) for way in WAYS for number in classes}
    runs: dict[str, Callable[[], Any]] = {"bare": partial(bare, backbone, inputs(backbone, 1, size))}
    runs |= {f"{way}, {number}": case(backbone, way, number, size) for way, number in sorted(needed)}
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    seconds = interleaved_timings(runs, repeats, warm=False, clock=clock)
    rows: dict[str, Any] = {}
    for number in classes:
        rows[str(number)] = {}
        for way in WAYS:
            measured, times = calls_of(way, number, sentence)
            ratios = [times * a / b for a, b in zip(seconds[f"{way}, {measured}"], seconds["bare"], strict=True)]
            rows[str(number)][way] = {"ratio": summary(ratios), "measured": measured, "calls": times}
    found = {"rows": rows, "bare_seconds": summary(seconds["bare"]), "sentence": sentence, "clock": clock.__name__, "latents": list(size)}
    return found | ({"text": text_seconds(backbone, repeats)} if backbone.text_encoder is not None else {})


def text_seconds(backbone: Backbone, repeats: int, batch: int = 8) -> dict[str, Any]:
    """Seconds that a prompt takes to encode, alone and in a batch; it is encoded once, for all images."""
    config = backbone.text_encoder.config
    ids = torch.randint(0, config.vocab_size, (batch, config.max_position_embeddings), generator=torch.Generator().manual_seed(0)).to(backbone.device)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    with torch.no_grad():
        runs = {"alone": lambda: backbone.text_encoder(ids[:1]), f"of {batch}": lambda: backbone.text_encoder(ids)}
        seconds = interleaved_timings(runs, repeats, clock=clock)
    return {name: summary([one / (1 if name == "alone" else batch) for one in values], 4) for name, values in seconds.items()}


def extra_over_one_row(peaks: Mapping[str, float | None]) -> dict[str, float | None]:
    """MiB of each case above a row of one class."""
    one = peaks.get("a row a class, 1")
    return {name: None if peak is None or one is None else round(peak - one, 1) for name, peak in peaks.items()}
