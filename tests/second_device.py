"""A second device that is pretended: its tensors lie in memory like all others, and refuse to meet those of the CPU.

A tensor that is made on the wrong device fails on a GPU only, and most machines that run these tests have none.  Here
a device that torch knows by name and nobody has (`lazy`) is played: each of its tensors wraps one of the CPU, and each
operation checks its inputs as CUDA does, runs on what is wrapped, and wraps the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

AWAY = torch.device("lazy:0")

# CUDA's tensors may be indexed by the CPU's; the other way round is an error.
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
_COPIES = {"aten::_to_copy", "aten::copy_"}


class AwayTensor(torch.Tensor):
    """A tensor of the second device; `inner` holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=AWAY,
        )
        tensor.inner = inner
        return tensor

    def __repr__(self, **_: Any) -> str:
        return f"AwayTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


class _Pretend(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """What no operation shows: numbers that become tensors below all modes, and where a generator draws."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:
            _check_generator(kwargs["generator"], args, kwargs)
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == AWAY:
            return func(*args, **{**kwargs, "device": None}).to(AWAY)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], AwayTensor):
            where = args[1] if isinstance(args[1], tuple) else (args[1],)
            where = tuple(torch.tensor(part) if isinstance(part, list | np.ndarray) else part for part in where)
            args = (args[0], where, *args[2:])
        if func is torch.Tensor.tolist and isinstance(args[0], AwayTensor):
            return args[0].inner.tolist()
        return func(*args, **kwargs)


class _Generator(torch.Generator):
    """A generator of either device; both draw what the CPU's draws."""

    def __new__(cls, device: Any = "cpu"):
        generator = super().__new__(cls)
        generator.of = torch.device(device)
        return generator


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Let the second device exist, for as long as it is needed."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    autocast, enabled = torch.autocast.__init__, torch.is_autocast_enabled

    def known(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        """No half precision is known there: the CPU's takes its place, and changes nothing of the second device."""
        autocast(self, "cpu" if device_type == AWAY.type else device_type, *args, **kwargs)

    def in_half(*device_type: str) -> bool:
        return AWAY.type not in device_type and enabled(*device_type)

    apply = torch.nn.Module._apply

    def moved(self: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
        """A model that is there already keeps its parameters, with what others noted on them."""
        tensors = [*self.parameters(recurse), *self.buffers(recurse)]
        return self if all(fn(tensor) is tensor for tensor in tensors) else apply(self, fn, recurse)

    try:
        with ExitStack() as stack:
            stack.enter_context(patch.object(torch.nn.Module, "_apply", moved))
            stack.enter_context(patch.object(torch.autocast, "__init__", known))
            stack.enter_context(patch.object(torch, "is_autocast_enabled", in_half))
            stack.enter_context(patch.object(torch, "Generator", _Generator))
            stack.enter_context(_Pretend())
            stack.enter_context(_FromNumbers())
            yield AWAY
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _call(func, args, kwargs):
    """Run one operation: check where its tensors are, then do it on the CPU."""
    name, leaves = func.overloadpacket._qualified_op_name, tree_leaves((args, kwargs))
    away = [leaf for leaf in leaves if isinstance(leaf, AwayTensor)]
    asked = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if name not in _COPIES:
        _check(name, args, leaves, away)
    goes_away = asked == AWAY if asked is not None else bool(away)
    result = func(*tree_map(_unwrapped, args), **tree_map(_unwrapped, kwargs))
    if name == "aten::copy_":
        return args[0]
    if not goes_away:
        return result
    # What was changed in place stays the tensor that it was.
    own = {id(tensor.inner): tensor for tensor in away}

    def wrapped(leaf: Any) -> Any:
        return own[id(leaf)] if id(leaf) in own else AwayTensor(leaf) if _plain(leaf) else leaf

    return tree_map(wrapped, result)


def _check(name: str, args: tuple, leaves: list, away: list) -> None:
    # Numbers (tensors without a dimension) may meet tensors of every device.
    here = [leaf for leaf in leaves if _plain(leaf) and leaf.dim()]
    if not away or not here or (name in _INDEXING and isinstance(args[0], AwayTensor)):
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but {name} got some on {AWAY} "
        f"{[tuple(tensor.shape) for tensor in away]} and some on cpu {[tuple(tensor.shape) for tensor in here]}."
    )


def _check_generator(generator: torch.Generator, args: tuple, kwargs: dict) -> None:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    needed = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
    if generator.of.type != needed.type:
        raise RuntimeError(f"Expected a '{needed}' device type for generator but found '{generator.of}'")


def _plain(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and not isinstance(leaf, AwayTensor)


def _unwrapped(leaf: Any) -> Any:
    if isinstance(leaf, AwayTensor):
        return leaf.inner
    return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == AWAY.type else leaf
