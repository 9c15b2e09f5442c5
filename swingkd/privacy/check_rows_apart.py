"""Does a row's loss depend on what stands beside it?  No gradient shows it where that was detached.

A mean over the batch that is detached, experts with room for so many tokens, a buffer that remembers: through each of
them one record moves the others' clipped gradients, and no clip bounds that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

# A row alone is padded otherwise than in a batch; half precision has three digits.
_ALLOWED, _LOOSE = 3e-5, 0.03
# Nats: a loss that is nearly 0 is the rounding of its parts.
_LEAST = 3.0


def check_rows_apart(
    model: nn.Module, losses: Callable[[torch.Tensor], torch.Tensor], rows: int, *, loose: bool = False
) -> None:
    """Compare the loss of a row alone with its loss among others, and what the model remembers before and after.

    Args:
        model: in training mode; its dropout is left out for the while.
        losses: of the rows with these numbers, [n].
        rows: how many rows there are to try.
        loose: it is computed in less than single precision.

    Raises:
        ValueError: they differ.
    """
    before = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    every = torch.arange(rows)
    with _without_dropout(model), torch.no_grad():
        together, again = losses(every), losses(every)
        alone = torch.stack([losses(every[i : i + 1])[0] for i in (0, rows - 1)])
    for name, buffer in model.named_buffers():
        known = before.get(name)
        # One that grew holds what it held, and more.
        if known is not None and known.shape == buffer.shape and not torch.equal(known, buffer.to(known.device)):
            raise ValueError(
                f"{name} changes while the model reads: it remembers rows, and no noise covers that. Freeze it, or "
                "train without differential privacy."
            )
    if not torch.equal(together, again):
        return  # It draws numbers of its own: nothing can be compared.
    among = together[[0, rows - 1]]
    if not bool(((among - alone).abs() <= (_LOOSE if loose else _ALLOWED) * alone.abs().clamp_min(_LEAST)).all()):
        raise ValueError(
            f"A row's loss is {float(alone[0]):.4g} alone and {float(among[0]):.4g} among {rows} rows (the last one's "
            f"{float(alone[1]):.4g} and {float(among[1]):.4g}): rows move each other's gradients, and no clip bounds "
            "that. Look for means over the batch, and for experts with a capacity; or train without differential "
            "privacy."
        )


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Leave out what is drawn: dropout by its rate, as modules and configurations of transformers name it."""
    changed: list[tuple[object, str, float]] = []
    for module in model.modules():
        for owner in (module, getattr(module, "config", None)):
            for name, value in list(vars(owner).items()) if owner is not None else []:
                is_rate = "drop" in name or (name == "p" and isinstance(module, nn.modules.dropout._DropoutNd))
                if is_rate and isinstance(value, float) and value:
                    changed.append((owner, name, value))
                    setattr(owner, name, 0.0)
    try:
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)
