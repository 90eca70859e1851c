"""A card that a machine without one can pretend: tensors on it live in main memory, and whatever a real card would refuse is refused.

Inside :func:`pretend_card` the device :data:`CARD` can be used as "cuda" can. Its tensors cannot become arrays, operations that mix them with tensors in main
memory raise, and so does drawing on the card from a generator of the processor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

CARD = "card"
aten = torch.ops.aten
MIXED = {aten.copy_.default, aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._to_copy.default}  # that a real card allows


class OnCard(torch.Tensor):
    """A tensor of the pretended card; `inner` is the one in main memory that has its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnCard:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(CARD, 0),
            requires_grad=False,
        )
        made.inner = inner
        return made

    def __repr__(self, **_) -> str:
        return f"OnCard({self.inner})"

    def tolist(self):
        return self.inner.tolist()

    def data_ptr(self):
        return self.inner.data_ptr()

    def storage(self):
        return self.inner.storage()

    def untyped_storage(self):
        return self.inner.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


used: Counter[str] = Counter()  # operations on the card, by name


def run(func, args, kwargs):
    """An operation on tensors of which some are on the card."""
    flat, _ = tree_flatten((args, kwargs))
    on_card = [one for one in flat if isinstance(one, OnCard)]
    target = kwargs.get("device")
    to_card = target is not None and torch.device(target).type == CARD
    if not on_card and not to_card:
        return func(*args, **kwargs)
    used[func.__name__] += 1
    if func is aten._fused_sdp_choice.default:
        return 0  # the plain product, as another backend's kernels do not run in main memory
    others = [one for one in flat if isinstance(one, torch.Tensor) and not isinstance(one, OnCard) and one.ndim]
    if on_card and others and func not in MIXED:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} found some on the card and {len(others)} in main memory")
    generator = kwargs.get("generator")
    if to_card and generator is not None:
        raise RuntimeError("Expected a generator of the card, but found one of the processor")
    inside = tree_map(lambda one: one.inner if isinstance(one, OnCard) else one, (args, kwargs))
    given = inside[1] | ({"device": torch.device("cpu")} if to_card else {}) | ({"pin_memory": False} if kwargs.get("pin_memory") else {})
    found = func(*inside[0], **given)
    if func is aten._local_scalar_dense.default or func is aten.equal.default or (target is not None and not to_card):
        return found
    if func is aten.copy_.default and not isinstance(args[0], OnCard):
        return args[0]
    known = {id(one.inner): one for one in on_card}

    def placed(one):
        return one if not isinstance(one, torch.Tensor) else known[id(one)] if id(one) in known else OnCard(one)

    return tree_map(placed, found)


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


@contextmanager
def pretend_card() -> Iterator[Counter[str]]:
    """Let :data:`CARD` be a device of this machine; yields the operations that ran on it."""
    used.clear()
    if not hasattr(torch, CARD):
        _setup_privateuseone_for_python_backend(CARD, _Module())  # for good: run it in a process of its own
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=CARD) is a tensor in main memory first, and then an operation that moves it
    try:
        with _Factories():
            yield used
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
