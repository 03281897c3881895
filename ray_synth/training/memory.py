"""A computation on torch's device `meta` in, the bytes that would be alive at its peak on a GPU out: without a GPU.

Tensors of `meta` have shapes and no memory, so forward and backward passes of any size take a second or two; what they
make and drop is what they would on a GPU. Beside it stands what kernels take for themselves, which nobody sees here.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

# What torch's autocast computes in bfloat16 on a GPU, and what in float32, of what denoisers, autoencoders and text
# encoders call. autocast itself passes over tensors of `meta`.
ATTENTION = "scaled_dot_product_attention"
LOWER = frozenset({ATTENTION, "conv2d", "linear", "matmul", "__matmul__", "bmm", "baddbmm", "addmm"})
FLOAT32 = frozenset({"group_norm", "layer_norm", "interpolate", "softmax", "exp", "pow", "__pow__", "sum", "norm"})


class Peak(TorchDispatchMode):
    """Inside, bytes of new tensors are counted while they are alive; `bytes` is the most at once.

    there: tensors that are there already, and do not count.
    """

    def __init__(self, there: Iterable[torch.Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.now = 0
        # By their address; what is there is held, so that nothing else gets it.
        self.there = {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in there)}
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self.there or address in self.seen:
            return
        self.seen.add(address)
        self.now += size
        self.bytes = max(self.bytes, self.now)
        weakref.finalize(storage, self._gone, address, size)

    def _gone(self, address: int, size: int) -> None:
        self.seen.discard(address)
        self.now -= size


class AsOnGpu(TorchFunctionMode):
    """Inside, what a module computes has the types, and keeps the tensors, that it would on a GPU.

    half: under autocast to bfloat16. fused: attention keeps no matrix of all tokens by all, as flash and
    memory-efficient kernels do; elsewhere it does.
    """

    def __init__(self, *, half: bool, fused: bool):
        super().__init__()
        self.half, self.fused = half, fused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if self.half and (name in LOWER or name in FLOAT32):
            dtype = torch.float32 if name in FLOAT32 else torch.bfloat16
            args = [_cast(value, dtype) for value in args]
            kwargs = {key: _cast(value, dtype) for key, value in kwargs.items()}
        if name == ATTENTION and self.fused:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            return _FusedAttention.apply(given["query"], given["key"], given["value"])  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)

    def again(self) -> AsOnGpu:
        """Another one, to be inside of while this one is."""
        return AsOnGpu(half=self.half, fused=self.fused)

    def checkpointed(self, module: Any, *args: Any) -> Any:
        """A module's call, computed a second time for its gradient, that time as on a GPU too."""
        contexts = lambda: (nullcontext(), self.again())  # noqa: E731
        return checkpoint(module.__call__, *args, use_reentrant=False, context_fn=contexts)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


class _FusedAttention(torch.autograd.Function):
    """What fused attention keeps: [B,H,N,D] each of query, key, value and output, and a number a row [B,H,N]."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])
