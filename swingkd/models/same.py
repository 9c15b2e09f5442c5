"""Are two models one?  By their names, as objects, or in every weight."""

from __future__ import annotations

import os

import torch
from torch import nn

Model = str | nn.Module | None


def same_source(one: Model, other: Model) -> bool:
    """Tell whether two models are one object, or two names one place."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return one is not None and one is other
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    # The Hub does not tell capitals apart.
    return one.strip("/").casefold() == other.strip("/").casefold()


def same_model(one: Model, other: Model) -> bool:
    """Tell whether two models are of one source, or copies: equal in every weight."""
    return same_source(one, other) or (
        isinstance(one, nn.Module) and isinstance(other, nn.Module) and _same_weights(one, other)
    )


def shared_weights(model: nn.Module, other: nn.Module) -> list[str]:
    """Name the weights of a model that are another's own, in one place of the memory."""
    held = {_place(p) for p in other.parameters() if not p.is_meta}
    return [name for name, p in model.named_parameters() if _place(p) in held]


def _place(parameter: torch.Tensor) -> int:
    # Quantised and sharded weights have a storage that cannot be asked.
    try:
        return parameter.untyped_storage().data_ptr() or id(parameter)
    except (NotImplementedError, RuntimeError):
        return id(parameter)


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    left, right = ({**dict(model.named_parameters()), **dict(model.named_buffers())} for model in (one, other))
    # What lies elsewhere (sharded, on no device) cannot be compared here.
    if not left or any(p.is_meta for p in (*left.values(), *right.values())):
        return False
    return left.keys() == right.keys() and all(
        p.shape == right[name].shape and torch.equal(p, right[name].to(p.device, p.dtype)) for name, p in left.items()
    )
