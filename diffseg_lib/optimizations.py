"""Savings of a recording: nothing is computed twice, and nothing that is not read."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn

from .recording import Recording, RecordingOptions, resolution_pyramid, words_of

OPTIMIZATIONS = ("reuse_probabilities", "share_stem", "early_stop", "chunk_feed_forward", "pack_matrix")  # what a optimized recording saves
ROWS = 256  # of the n x n probabilities held at a time, so that they stay in a processor's cache
PACKED_FROM = 2048  # pixels from which a matrix that waits is packed


def add_rows(starts: Collection[int], scratch: Tensor, query: Tensor, turned: Tensor, value: Tensor | None, target: Tensor, output: Tensor | None) -> None:
    """For :data:`ROWS` rows from each start: the mean over heads of the probabilities into `target`, heads' outputs into `output`; `scratch` is for both."""
    heads, n, _ = query.shape
    with torch.no_grad():  # of each thread its own
        of_head, mean = scratch
        for start in starts:
            rows = slice(start, min(start + ROWS, n))
            scores, sums = of_head[: rows.stop - start], mean[: rows.stop - start]
            for head in range(heads):
                torch.mm(query[head, rows], turned[head], out=scores)
                torch.softmax(scores, -1, out=scores)
                sums.copy_(scores) if head == 0 else sums.add_(scores)
                if output is not None and value is not None:
                    torch.mm(scores, value[head], out=output[head, rows])
            target[:, rows].add_(sums, alpha=1 / heads)


@cache
def single_thread_workers(threads: int) -> ThreadPoolExecutor:
    """A pool of so many threads, each of which computes by itself.

    The rows take hundreds of short operations; were each spread over torch's threads, waking those would cost as much as half the arithmetic on a machine whose
    idle cores sleep.
    """
    pool, ready, before = ThreadPoolExecutor(threads), Barrier(threads), torch.get_num_threads()

    def alone() -> None:
        torch.set_num_threads(1)
        ready.wait()  # so that every thread of the pool takes one such call

    for done in [pool.submit(alone) for _ in range(threads)]:
        done.result()
    torch.set_num_threads(before)  # also what threads begin with that are started later
    return pool


def pack_matrix(recording: Recording) -> None:
    """Pack the matrix into 16 bits a number while coarser layers, which take the most memory, run: its square root, by row."""
    if recording.matrix is None or recording.matrix.shape[-1] < PACKED_FROM:
        return
    top = recording.matrix.amax(-1, keepdim=True)
    packed = torch.empty(recording.matrix.shape, dtype=torch.int16, device=top.device)
    for part, rows, largest in zip(packed.split(ROWS, 1), recording.matrix.split(ROWS, 1), top.split(ROWS, 1), strict=True):
        part.copy_((rows / largest).sqrt_().mul_(32767).round_())
    recording.matrix, recording.packed = None, (packed, top)


def unpack_matrix(recording: Recording) -> None:
    """Bring a matrix that :func:`pack_matrix` packed back to its own precision; without one, do nothing."""
    if recording.packed is None:
        return
    packed, top = recording.packed
    recording.matrix, recording.packed = top.new_empty(packed.shape), None
    for rows, part, largest in zip(recording.matrix.split(ROWS, 1), packed.split(ROWS, 1), top.split(ROWS, 1), strict=True):
        torch.mul(part.to(top.dtype).div_(32767).square_(), largest, out=rows)


def running_sum(recording: Recording, like: Tensor, rows: int) -> Tensor:
    """The matrix so far, with one more layer to come; zeros for as many prompts if there is none."""
    unpack_matrix(recording)
    if recording.matrix is None:
        recording.matrix = like.new_zeros(rows, like.shape[2], like.shape[2])
    recording.layers += 1
    return recording.matrix


def stride_of(name: str, levels: int) -> int:
    """The stride, relative to the latents, at which a layer of a UNet of so many levels runs."""
    stage, number = name.split(".")[:2]
    return 2 ** {"down_blocks": lambda: int(number), "up_blocks": lambda: levels - 1 - int(number)}.get(stage, lambda: levels - 1)()


def last_read_layer(names: list[str], levels: int, options: RecordingOptions) -> str:
    """The layer after which nothing is read: the last cross-attention of a resolution that is wanted, or the last finest self-attention."""
    strides = {name: stride_of(name, levels) for name in names}
    finest = min(strides.values())

    def read(name: str) -> bool:
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
