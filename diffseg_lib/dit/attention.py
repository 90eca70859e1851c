"""Watching the attention of a diffusion transformer, whatever its layers are called and however they make queries and keys.

A layer's queries and keys are taken where attention is computed of them, after their normalisation and rotation, from the very call of
``scaled_dot_product_attention`` that the model makes; no processor is replaced, and no output can change. In a joint layer text and image are one sequence, and
softmax(Q K^T / sqrt d) has four quarters. Image to text says where a word is; image to image, divided by its rows' sums, is what completes shapes. Neither is
formed: the first is attention with the words' weights for values, of the second queries and keys are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

STACKS = ("transformer_blocks", "single_transformer_blocks")  # of blocks, in the order in which they run


@dataclass(frozen=True)
class Seen:
    """What one layer's attention was computed of, and what it gave; image tokens and text tokens apart.

    Args:
        layer: Name of the layer in its transformer.
        query: Queries of the image tokens, b heads n d.
        key: Keys of the image tokens, b heads n d; None where a layer attends to text alone.
        text_key: Keys of the text tokens, b heads l d; None where a layer attends to the image alone.
        mask: What was added to the scores of the text tokens, b heads 1 l, or, as truth values, which of them were attended to; or None.
        output: Attention's output at the image tokens, b heads n d.
        text_output: Attention's output at the text tokens, b heads l d; None where the text does not attend.
    """

    layer: str
    query: Float[Tensor, "b heads n d"]
    key: Float[Tensor, "b heads n d"] | None
    text_key: Float[Tensor, "b heads l d"] | None
    mask: Tensor | None
    output: Float[Tensor, "b heads n d"]
    text_output: Float[Tensor, "b heads l d"] | None


def blocks_of(transformer: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks of a transformer by name, in the order in which they run: a block's number is its place here.

    Raises:
        ValueError: If the model has none.
    """
    found = [(f"{stack}.{i}", block) for stack in STACKS for i, block in enumerate(getattr(transformer, stack, ()))]
    if not found:
        raise ValueError(f"{type(transformer).__name__} has no blocks in {' or '.join(STACKS)}: expected a diffusion transformer of diffusers")
    return found


def layers_of(transformer: nn.Module) -> dict[str, nn.Module]:
    """The attention layers of a transformer's blocks by name, in the order in which they run."""
    return {
        f"{name}.{inner}": layer
        for name, block in blocks_of(transformer)
        for inner in ("attn", "attn1", "attn2")
        if isinstance(layer := getattr(block, inner, None), nn.Module)
    }


def block_number(transformer: nn.Module, layer: str) -> int:
    """The number of the block that a layer is in, from 0: Flux's single blocks follow its double ones."""
    return next(i for i, (name, _) in enumerate(blocks_of(transformer)) if layer.startswith(f"{name}."))


class Finished(Exception):
    """Everything that was asked for has been seen: raised by whoever sees, it ends the ``with`` block."""


class _Watch(TorchFunctionMode):
    """Hands what a layer's attention is computed of, and its output, to whoever asked for it, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Callable[[Tensor, Tensor, Tensor | None, Tensor], None] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        output = func(*args, **given)
        if self.asked is not None and func is scaled_dot_product_attention:
            query, key = (args[i] if len(args) > i else given[name] for i, name in enumerate(("query", "key")))
            self.asked(query, key, args[3] if len(args) > 3 else given.get("attn_mask"), output)
        return output


@contextmanager
def watch_attention(
    transformer: nn.Module, wanted: Collection[str], text_first: bool, image_tokens: Callable[[], int], see: Callable[[Seen], None]
) -> Iterator[None]:
    """While the ``with`` block runs, hand over what each wanted layer's attention computed with; the model is not touched.

    Args:
        transformer: A transformer of diffusers.
        wanted: Names of the layers, of :func:`layers_of`.
        text_first: Whether the text's tokens stand before the image's in a joint layer.
        image_tokens: Function that tells the number of image tokens of the running call.
        see: Function that is given what was seen; by :class:`Finished` it ends the model's call and the ``with`` block.

    Raises:
        RuntimeError: On a wanted layer that computes its attention in another way than by torch's own function.
    """
    watch, layers = _Watch(), layers_of(transformer)

    def begin(name: str, cross: bool) -> None:
        def split(query: Tensor, key: Tensor, mask: Tensor | None, output: Tensor) -> None:
            watch.asked = None
            n = image_tokens()
            text = query.shape[2] - n
            image, words = (slice(text, None), slice(0, text)) if text_first else (slice(0, n), slice(n, None))
            if cross:
                see(Seen(name, query, None, key, mask, output, None))
            elif text:
                hidden = None if mask is None else mask[..., words]
                see(Seen(name, query[:, :, image], key[:, :, image], key[:, :, words], hidden, output[:, :, image], output[:, :, words]))
            else:
                see(Seen(name, query, key, None, mask, output, None))

        watch.asked = split

    def end(name: str) -> None:
        if watch.asked is not None:
            watch.asked = None
            raise RuntimeError(f"{name} did not call scaled_dot_product_attention: set the transformer's attention backend to 'native'")

    with suppress(Finished), ExitStack() as stack:
        for name in wanted:
            layer, crosses = layers[name], name.endswith(".attn2") and getattr(layers[name], "is_cross_attention", False)
            stack.callback(layer.register_forward_pre_hook(lambda *_, name=name, cross=crosses: begin(name, cross)).remove)
            stack.callback(layer.register_forward_hook(lambda *_, name=name: end(name)).remove)
        stack.enter_context(watch)
        yield


def word_maps(seen: Seen, token_weights: Float[Tensor, "b c l"]) -> Float[Tensor, "b heads n c"]:
    """Image to text: weighted sums over the text's columns of softmax(Q K^T / sqrt d) over *all* the layer's keys, Eq. (4), in float32 at least.

    The rows of the quarter do not sum to 1, since an image token spends most of its attention on the image. Attention is asked for the sums directly, with
    the weights as values of the text tokens and zeros as those of the image's, so no matrix is ever formed.

    Args:
        seen: What a layer computed with.
        token_weights: Weights of the text tokens in each of c maps of a row; the layer may know more tokens (they weigh nothing), or fewer of the last.
    """
    query, text_key = _precise(seen.query), _precise(seen.text_key)
    b, heads, _, d = query.shape
    key = text_key if seen.key is None else torch.cat([text_key, _precise(seen.key)], dim=2)
    weights = token_weights[..., : text_key.shape[2]].to(query)
    values = pad(weights.mT, (0, 0, 0, key.shape[2] - weights.shape[-1]))  # b keys c
    mask = seen.mask if seen.mask is None or seen.mask.dtype == torch.bool else seen.mask.to(query)
    mask = mask if mask is None else pad(mask, (0, key.shape[2] - text_key.shape[2]), value=mask.dtype == torch.bool)  # the image's keys are seen
    parts = []
    for columns in values.split(d, dim=-1):
        value = pad(columns, (0, d - columns.shape[-1]))[:, None].expand(b, heads, -1, d)
        parts.append(scaled_dot_product_attention(query, key, value, mask)[..., : columns.shape[-1]])
    return torch.cat(parts, dim=-1)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
