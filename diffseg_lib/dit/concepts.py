"""Concepts beside the prompt: words that read a picture in a joint transformer and are never read by it (ConceptAttention, Helbling et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .attention import Finished, Seen, watch_attention
from .calls import Calls


@contextmanager
def watch_concepts(
    transformer: nn.Module,
    concepts: Float[Tensor, "1 k d"],
    rows: Sequence[int],
    blocks: Collection[int],
    calls: Calls,
    image_tokens: Callable[[], int],
    see: Callable[[int, Float[Tensor, "n c"], Float[Tensor, "k c"]], None],
) -> Iterator[None]:
    """While the ``with`` block runs, carry concepts through the blocks beside the prompt, and hand over what attention gives the image and them.

    In every block a second call puts the concepts in the text's place, with the text's weights: they attend to themselves and to the image, their stream goes
    on, and what that call says of the image is thrown away. So the model's own call changes nowhere. The ``with`` block ends after the last wanted block.

    Args:
        transformer: A transformer of diffusers whose blocks hold two streams: Stable Diffusion 3's, Qwen-Image's, or Flux's double blocks.
        concepts: Embeddings of the concepts, one token each, as the transformer reads them.
        rows: Places in the text at which the concepts stand, where the transformer turns its queries and keys by them.
        blocks: Numbers of the blocks that are wanted.
        calls: How the family is called.
        image_tokens: Function that tells the number of image tokens of the running call.
        see: Function that is given a block's number and attention's outputs, heads side by side, of the image and of the concepts.

    Raises:
        ValueError: On a block that has no two streams, or where the text's ends.
    """
    double = list(transformer.transformer_blocks)
    usable = [i for i, block in enumerate(double) if not getattr(block, "context_pre_only", False)]
    if missing := sorted(set(blocks) - set(usable)):
        raise ValueError(f"blocks {', '.join(map(str, missing))}: concepts are carried through blocks with a stream of text, {usable[0]} to {usable[-1]}")
    names, stream = {f"transformer_blocks.{i}.attn": i for i in sorted(blocks)}, [concepts]
    kept: dict[str, Any] = {}

    def beside(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not kept:
            stream[0] = calls.embed_text(transformer, concepts.to(kwargs["hidden_states"]))
        given = kwargs | {"encoder_hidden_states": stream[0]}
        if kwargs.get("image_rotary_emb") is not None:
            given["image_rotary_emb"] = calls.turn(kwargs["image_rotary_emb"], rows, image_tokens())
        kept["beside"] = True
        stream[0] = block.forward(*args, **given)[0]
        kept["beside"] = False

    def split(seen: Seen) -> None:
        if kept["beside"]:
            assert seen.text_output is not None  # a joint layer's
            kept["concepts"] = seen.text_output
            return
        number = names[seen.layer]
        see(number, *(one[0].transpose(0, 1).flatten(1) for one in (seen.output, kept["concepts"])))
        if number == max(names.values()):
            raise Finished

    with watch_attention(transformer, tuple(names), calls.text_first, image_tokens, split), ExitStack() as stack:
        for block in double:
            stack.callback(block.register_forward_pre_hook(beside, with_kwargs=True).remove)
        yield
