"""Savings of a recording: nothing is computed twice, and nothing that is not read."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from .recording import RecordingOptions, resolution_pyramid, words_of

OPTIMIZATIONS = ("reuse_probabilities", "share_stem", "early_stop", "chunk_feed_forward")  # what an optimized recording saves


def stride_of(name: str, levels: int) -> int:
    """The stride, relative to the latents, at which a layer of a UNet of so many levels runs."""
    stage, number = name.split(".")[:2]
    return 2 ** {"down_blocks": lambda: int(number), "up_blocks": lambda: levels - 1 - int(number)}.get(stage, lambda: levels - 1)()


def last_read_layer(names: list[str], levels: int, options: RecordingOptions) -> str:
    """The layer after which nothing is read: the last cross-attention of a resolution that is wanted, or the last finest self-attention."""
    strides = {name: stride_of(name, levels) for name in names}
    finest = min(strides.values())

    def read(name: str) -> bool:
        if ("self" if name.endswith("attn1") else "cross") in options.projections:
            return True
        if name.endswith("attn1"):
            return options.self_attention == "all" or (options.self_attention != "none" and strides[name] == finest)
        return options.token_weights is not None and (options.resolutions is None or strides[name] in options.resolutions)

    return next((name for name in reversed(names) if read(name)), "")


def share_stem(unet: nn.Module, first: str, options: RecordingOptions, stack: ExitStack) -> None:
    """Run what comes before the first text-dependent layer on one row, where the prompts share their latents."""
    place, _, rest = first.partition(".transformer_blocks.")
    if not rest:
        return

    def one_row(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        sample = args[0] if args else None
        return ((sample[:1], *args[1:]), kwargs) if sample is not None and len(sample) > 1 and sample.stride(0) == 0 else None

    def all_rows(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rows = len(words_of(kwargs["encoder_hidden_states"]))
        if len(args[0]) == rows:
            return None
        options.same = (first, first.replace("attn1", "attn2"))
        return (_expand(args[0], rows), *args[1:]), kwargs

    def all_skips(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        skips, rows = kwargs["res_hidden_states_tuple"], len(kwargs["hidden_states"])
        return args, kwargs | {"res_hidden_states_tuple": tuple(_expand(skip, rows) for skip in skips)}

    hooks = [(unet, one_row), (unet.get_submodule(place), all_rows), *((block, all_skips) for block in unet.get_submodule("up_blocks").children())]
    for module, hook in hooks:
        stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


def _expand(rows: Tensor, count: int) -> Tensor:
    return rows.expand(count, *rows.shape[1:])


def chunk_feed_forward(unet: nn.Module, first: str, stack: ExitStack) -> None:
    """Run the feed-forward layers of the finest resolution on a quarter of the pixels at a time: their hidden width sets the peak of memory."""
    levels = len(list(unet.get_submodule("down_blocks").children()))
    finest = stride_of(first, levels)
    blocks = [m for name, m in unet.named_modules() if hasattr(m, "set_chunk_feed_forward") and stride_of(name, levels) == finest]

    def chunk(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        h, w = resolution_pyramid((sample.shape[-2], sample.shape[-1]))[finest]
        for block in blocks:
            block.set_chunk_feed_forward(h * w // 4 if h * w % 4 == 0 else None, 1)

    for block in blocks:
        stack.callback(block.set_chunk_feed_forward, block._chunk_size, block._chunk_dim)
    stack.callback(unet.register_forward_pre_hook(chunk, with_kwargs=True).remove)
