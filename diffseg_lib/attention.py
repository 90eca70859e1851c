"""Recording attention while a UNet runs, and leaving the UNet as it was.

The plain recorder stands beside each attention layer's own processor: the layer's output is computed by that processor, unchanged, and the maps are computed
next to it, only for the layers and tokens asked for. The optimized one takes both from the same probabilities, shares among the prompts what does not depend on
words, and stops after the last layer that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from threading import Lock, RLock, get_ident
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn, promote_types
from torch.nn.functional import scaled_dot_product_attention

from .optimizations import OPTIMIZATIONS, chunk_feed_forward, last_read_layer, share_stem
from .recording import Projections, Recording, RecordingOptions, resolution_pyramid, words_of

SELF_ATTENTION = ("finest", "all", "none")
TOKENS_AT_ONCE = 77  # of short prompts that are read together: a padded one's, so that their number costs no memory
STAGES = ("down_blocks", "mid_block", "up_blocks")  # of a UNet, in the order in which they run

_locks: WeakKeyDictionary[nn.Module, AbstractContextManager[Any]] = WeakKeyDictionary()
_locks_guard, _stance_lock = Lock(), RLock()  # whether torch.compile is obeyed holds for the whole process
_taken: WeakSet[nn.Module] = WeakSet()


class _Finished(Exception):
    """Everything that was asked for is recorded."""


class _Recorder:
    """An attention processor that runs another one, or does its work, and writes down what was attended to."""

    def __init__(self, name: str, inner: Any, recording: Recording, options: RecordingOptions) -> None:
        self.name, self.inner, self.recording, self.options = name, inner, recording, options

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        if self.recording.finest_size == (0, 0):  # a UNet goes from fine to coarse, so the first layer is of the finest
            self.recording.finest_size = self._size(hidden_states.shape[1])
        if ("self" if encoder_hidden_states is None else "cross") in self.options.projections:
            self._project(attn, hidden_states, words_of(encoder_hidden_states))
        wanted, same = self._wanted(encoder_hidden_states is not None, hidden_states.shape[1]), self.name in self.options.same
        if (wanted or same) and "reuse_probabilities" in self.options.optimizations and attention_mask is None and is_plain_attention(attn, self.inner):
            return self._record_and_compute(attn, hidden_states, encoder_hidden_states, wanted, same)
        if wanted:
            self._record_only(attn, hidden_states, words_of(encoder_hidden_states))
        if self.name == self.options.last:
            raise _Finished
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)

    def _wanted(self, cross: bool, count: int) -> bool:
        if not cross:
            return self.options.self_attention == "all" or (self.options.self_attention == "finest" and self._finest(count))
        if self.options.token_weights is None:
            return False
        size = self._size(count)
        return self.options.resolutions is None or any(size == resolution_pyramid(self.recording.size).get(stride) for stride in self.options.resolutions)

    def _finest(self, count: int) -> bool:
        return count == self.recording.finest_size[0] * self.recording.finest_size[1]

    def _size(self, count: int) -> tuple[int, int]:
        for size in resolution_pyramid(self.recording.size).values():
            if size[0] * size[1] == count:
                return size
        raise ValueError(f"{self.name} attends from {count} pixels, which no halving of {self.recording.size} latents gives")

    @torch.no_grad()
    def _record_only(self, attn: Any, hidden: Tensor, context: Tensor | None) -> None:
        query = _heads(attn.to_q(hidden), attn.heads)
        if context is not None:
            self._attend(attn, query, self._read_prompts(context))
        else:
            self._keep(query, _heads(attn.to_k(hidden), attn.heads))

    def _read_prompts(self, context: Tensor) -> Tensor:
        """The prompts whose maps are wanted: the side prompts, or else those that drive the UNet."""
        return context if self.options.side_prompts is None else self.options.side_prompts.to(context)

    @torch.no_grad()
    def _project(self, attn: Any, hidden: Tensor, context: Tensor | None) -> None:
        source = hidden if context is None else context
        query, key, value = (_heads(project(x), attn.heads) for project, x in ((attn.to_q, hidden), (attn.to_k, source), (attn.to_v, source)))
        self.recording.projections[self.name] = Projections(query, key, value, attn.to_out[0].weight, hidden, self._size(hidden.shape[1]))

    @torch.no_grad()
    def _record_and_compute(self, attn: Any, hidden: Tensor, context: Tensor | None, wanted: bool, same: bool) -> Tensor:
        rows = hidden[:1] if same else hidden
        source, last = rows if context is None else context, self.name == self.options.last
        query = _heads(attn.to_q(rows), attn.heads)
        value = None if last else _heads(attn.to_v(source), attn.heads)
        if context is not None and wanted and self.options.side_prompts is None:
            output = self._attend(attn, query, source, value)
        else:
            key = _heads(attn.to_k(source), attn.heads)
            if wanted and context is None:
                self._keep(query, key)
            elif wanted:
                self._attend(attn, query, self._read_prompts(source))
            output = None if value is None else scaled_dot_product_attention(query.expand(len(key), -1, -1, -1), key, value)
        if output is None:
            raise _Finished
        joined = rearrange(output, "b e n d -> b n (e d)")
        return attn.to_out[1](attn.to_out[0](joined)).expand(len(hidden), -1, -1)

    def _keep(self, query: Tensor, key: Tensor) -> None:
        kept = slice(0, 1) if self.options.first_only else slice(None)
        self.recording.queries[self.name], self.recording.keys[self.name] = query[kept], key[kept]

    def _attend(self, attn: Any, query: Tensor, prompts: Tensor, value: Tensor | None = None) -> Tensor | None:
        """Cross-attention, as many prompts at a time as have one padded one's tokens: the maps of their spans and, where there are values, the layer's output;
        probabilities in float32 at least."""
        size, each = self._size(query.shape[2]), torch.ones(prompts.shape[:2], device=query.device)
        wanted, counts = (each if given is None else given for given in (self.options.token_weights, self.options.side_counts))
        for what, given in {"token weights": wanted, "side counts": counts}.items():
            if (len(given), given.shape[-1]) != each.shape:
                raise ValueError(f"{what} of shape {tuple(given.shape)}: expected one weight a prompt and token, {tuple(each.shape)}")
        most = max(TOKENS_AT_ONCE if len(query) == 1 else 0, prompts.shape[1])
        whole = query.new_empty(query.shape[1] * most * query.shape[2], dtype=promote_types(query.dtype, torch.float32))
        token_weights = wanted.to(whole).reshape(len(prompts), -1, prompts.shape[1])  # prompts, classes of a prompt, tokens
        kept = [one.nonzero().flatten() for one in counts]
        maps, outputs = [], []
        for rows in _sections([len(one) for one in kept], most):
            read, often = (torch.cat([given[row, kept[row]] for row in rows]) for given in (prompts, counts))
            one, key = query[rows[0] if len(query) > 1 else 0].to(whole), rearrange(attn.to_k(read), "l (e d) -> e l d", e=attn.heads).to(whole)
            scores = whole[: len(one) * len(read) * one.shape[1]].view(len(one), len(read), one.shape[1])
            if value is None and len(query) == 1:
                torch.baddbmm(scores.new_zeros(()), key, one.mT, beta=0, alpha=attn.scale, out=scores)
                of_heads = _sums_of_softmax(scores, [(token_weights[row][:, kept[row]], counts[row, kept[row]]) for row in rows])
                maps.append(of_heads if self.options.heads else of_heads.mean(1))
                continue
            torch.baddbmm(often.to(whole).log()[:, None], key, one.mT, alpha=attn.scale, out=scores)
            for row, part in zip(rows, scores.split([len(kept[row]) for row in rows], 1), strict=True):
                torch.softmax(part, 1, out=part)  # heads l n
                of_heads = (token_weights[row][:, kept[row]] @ part).movedim(1, 0)  # classes heads n
                maps.append(of_heads if self.options.heads else of_heads.mean(1))
                if value is not None:
                    outputs.append(part.mT.to(value) @ value[row])
        name, found = self.name if self.options.layers else f"{size[0]} x {size[1]}", torch.cat(maps).unflatten(-1, size)
        self.recording.added[name] += 1
        mean = self.recording.cross.setdefault(name, found)
        self.recording.cross[name] = mean + (found - mean) / self.recording.added[name]
        return torch.stack(outputs) if outputs else None


def _sums_of_softmax(scores: Float[Tensor, "heads l n"], prompts: Sequence[tuple[Float[Tensor, "_ _"], Float[Tensor, " _"]]]) -> Float[Tensor, "_ heads n"]:
    """Weighted sums over each prompt's own softmax, of prompts whose scores stand one under the other; the scores are used up.

    One exponential serves all prompts, each less the largest of its own scores; two products sum it up by prompt.

    Args:
        scores: Scores of all prompts' tokens.
        prompts: Of each prompt, the weights of its tokens in c maps, and how often each token counts.
    """
    for part in scores.split([len(counts) for _, counts in prompts], 1):
        part.sub_(part.amax(1, keepdim=True))
    scores.exp_()
    weights = torch.block_diag(*[each * counts for each, counts in prompts]).to(scores)
    wholes = torch.block_diag(*[counts.expand(len(each), -1) for each, counts in prompts]).to(scores)
    return ((weights @ scores) / (wholes @ scores)).movedim(1, 0)


def _sections(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of prompts that follow each other and have so many tokens together at most."""
    found: list[list[int]] = [[]]
    for row, length in enumerate(lengths):
        if length + sum(lengths[i] for i in found[-1]) > most:
            found.append([])
        found[-1].append(row)
    return found


def _heads(projected: Tensor, heads: int) -> Tensor:
    return rearrange(projected, "b n (e d) -> b e n d", e=heads)


def is_plain_attention(attn: Any, processor: Any) -> bool:
    """Whether a layer is attention as in the textbook, so that its output may be taken from the probabilities that are recorded."""
    extras = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "residual_connection", "added_kv_proj_dim", "fused_projections")
    known = type(processor).__name__ in ("AttnProcessor2_0", "AttnProcessor")
    return known and not any(getattr(attn, extra, None) for extra in extras) and getattr(attn, "rescale_output_factor", 1) == 1


def _running_order(names: Collection[str]) -> list[str]:
    """Layers in the order in which a UNet runs them: down, middle, up."""
    return sorted(names, key=lambda name: STAGES.index(name.split(".")[0]))


def unwrapped(model: nn.Module) -> nn.Module:
    """The UNet in a model that wraps or compiles it: the module that owns the blocks.

    Raises:
        ValueError: If no module has them.
    """
    for module in model.modules():
        if {"down_blocks", "up_blocks"} <= module._modules.keys():
            return module
    raise ValueError(f"{type(model).__name__} has no attention layers in down_blocks and up_blocks: expected a UNet2DConditionModel, or a module around one")


def attention_layers(unet: nn.Module) -> dict[str, Any]:
    """The attention layers of a UNet, by their names in the module that owns the blocks, whatever wraps it.

    Raises:
        ValueError: If there are no blocks, or none of them attends.
    """
    named = unwrapped(unet).named_modules()
    layers = {name: m for name, m in named if name.startswith(STAGES) and hasattr(m, "set_processor") and hasattr(m, "to_q")}
    if not layers:
        raise ValueError(f"{type(unet).__name__} has no attention layers in its blocks: expected a UNet2DConditionModel")
    return layers


def unet_lock(model: nn.Module) -> AbstractContextManager[Any]:
    """The lock that a thread holds while it calls a UNet or has replaced its processors; a thread may hold it several times."""
    with suppress(ValueError):
        model = unwrapped(model)
    with _locks_guard:
        return _locks.setdefault(model, RLock())


def _is_compiled(module: nn.Module) -> bool:
    function = hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    return function or type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None


@contextmanager
def replaced_processors(unet: nn.Module, make: Callable[[str, Any, Any], Any]) -> Iterator[dict[str, Any]]:
    """Give each attention layer a processor, and its own one back on leaving, whatever happens.

    Until then the UNet is this thread's: others wait, also in :meth:`~diffseg_lib.backbone.Backbone.predict_noise`. A compiled UNet runs as if it were not.

    Args:
        unet: A ``UNet2DConditionModel``, or a module around one.
        make: From the name of a layer, the layer and its own processor to the processor that it is to have.

    Yields:
        The layers by name, as :func:`attention_layers` finds them.

    Raises:
        ValueError: As :func:`attention_layers`.
        RuntimeError: If this thread has replaced the processors of the UNet already.
    """
    owner, layers = unwrapped(unet), attention_layers(unet)
    with ExitStack() as stack:
        stack.enter_context(unet_lock(owner))
        if owner in _taken:
            raise RuntimeError("the attention of this UNet is being recorded or edited already: leave the outer with block first")
        _taken.add(owner)
        stack.callback(_taken.discard, owner)
        if any(_is_compiled(module) for module in unet.modules()):
            stack.enter_context(_stance_lock)
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, layer in layers.items():
            processor = layer.processor
            stack.callback(layer.set_processor, processor)
            layer.set_processor(make(name, layer, processor))
        yield layers


@contextmanager
def record_attention(
    unet: nn.Module,
    token_weights: Float[Tensor, "b *c l"] | None,
    *,
    self_attention: str = "finest",
    heads: bool = False,
    optimizations: Collection[str] = (),
    resolutions: Collection[int] | None = None,
    first_only: bool = False,
    side_prompts: Float[Tensor, "s l d"] | None = None,
    projections: Collection[str] = (),
    layers: bool = True,
    side_counts: Float[Tensor, "_ _"] | None = None,
) -> Iterator[Recording]:
    """Record one call of `unet` made inside the ``with`` block, by the thread that entered it; other threads wait for the end of the block.

    Args:
        unet: A ``UNet2DConditionModel``, or a module around one (a compiled one runs as if it were not); its processors are put back on leaving, whatever
            happens. Of an IP-Adapter's attention the words' is recorded.
        token_weights: Weight of each token in a recorded map, b l, a row a prompt (1/m at each of a class's m sub-tokens gives their mean), or b c l for c maps
            of each prompt; None records no cross-attention.
        self_attention: What is kept of self-attention: queries and keys of the layers at the "finest" resolution, of "all" layers, or of "none".
        heads: Whether every head's cross map is kept rather than their mean.
        optimizations: Savings, any of :data:`OPTIMIZATIONS`; maps equal the plain ones to rounding. "reuse_probabilities": Probabilities are computed once, for
            the layer's output and for the recording. "share_stem": What comes before the first text is done once for all prompts (where the latents are one
            row, expanded). "early_stop": The ``with`` block ends after the last layer that is read, so the UNet's output is not to be had.
            "chunk_feed_forward": The finest feed-forward layers take a quarter of the pixels at a time.
        resolutions: Strides relative to the latents whose cross maps are wanted; None takes all.
        first_only: Whether self-attention is kept for the first prompt alone.
        side_prompts: Embeddings of other prompts, s l d, whose keys the queries are held against, without any effect on the UNet's output (OVAM, Marcos-Manchon
            et al. 2024); the recorded cross maps and `token_weights` are theirs then. The queries are those of the prompt that drives the UNet, which is one.
        projections: Kinds of attention, "self" or "cross", of which every layer's :class:`~diffseg_lib.recording.Projections` are kept.
        layers: Whether every layer's cross maps are kept, rather than their mean over the layers of a resolution (under its height and width, "16 x 16").
        side_counts: How often the softmax counts each token of the side prompts, s l, as if it stood there so many times; 0 leaves it out. None: once.

    Raises:
        ValueError: On an unknown choice, if the model has no attention layers, or if `token_weights` does not fit the prompts.
        RuntimeError: On a block inside another one on the same UNet, a second call of the UNet, or its call by another thread.
    """
    if self_attention not in SELF_ATTENTION or not set(optimizations) <= set(OPTIMIZATIONS):
        raise ValueError(
            f"self_attention {self_attention!r}, optimizations {tuple(optimizations)}: expected one of {', '.join(SELF_ATTENTION)}, "
            f"and any of {', '.join(OPTIMIZATIONS)}"
        )
    options = RecordingOptions(token_weights, heads, self_attention, resolutions, first_only, optimizations, side_prompts, projections, layers, side_counts)
    recording = Recording()
    with ExitStack() as stack:
        found = stack.enter_context(replaced_processors(unet, lambda name, layer, inner: _Recorder(name, inner, recording, options)))
        unet = unwrapped(unet)
        _note_call(unet, recording, options, stack)
        names = _running_order(found)
        if "early_stop" in optimizations:
            options.last = last_read_layer(names, len(list(unet.get_submodule("down_blocks").children())), options)
            stack.enter_context(suppress(_Finished))
        if "share_stem" in optimizations:
            share_stem(unet, names[0], options, stack)
        if "chunk_feed_forward" in optimizations:
            chunk_feed_forward(unet, names[0], stack)
        yield recording


def _note_call(unet: nn.Module, recording: Recording, options: RecordingOptions, stack: ExitStack) -> None:
    thread = get_ident()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if get_ident() != thread:
            raise RuntimeError("another thread records this UNet: call it by Backbone.predict_noise, which waits until that is done")
        if options.prompts:
            raise RuntimeError("a recording is of one UNet call, and this is the second: open another with block for it")
        sample = args[0] if args else kwargs["sample"]
        recording.size, options.prompts = (sample.shape[-2], sample.shape[-1]), len(sample)

    stack.callback(unet.register_forward_pre_hook(note, with_kwargs=True).remove)
