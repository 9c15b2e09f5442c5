"""Ask a classifier of any kind for logits."""

from __future__ import annotations

import torch
from torch import nn


class NoLogitsError(ValueError):
    """What a model returns are no logits."""


def logits_of(model: nn.Module, inputs: torch.Tensor | dict[str, torch.Tensor], *, dims: int = 2) -> torch.Tensor:
    """Ask a classifier, [n, classes] float32 (or float64, if that is what it computes in).

    Args:
        model: an `AutoModelForImageClassification`, one of text, or a module that returns logits; or logits first and
            others behind, as some do in training alone.
        inputs: [n, channels, height, width] or the like; or arguments by name.
        dims: 3 of a model that answers at each token, [n, T, classes].

    Raises:
        NoLogitsError: what it returns are none.
    """
    if isinstance(inputs, dict):
        outputs = model(**inputs)
    else:
        dtype = next((p.dtype for p in model.parameters()), inputs.dtype)
        outputs = model(inputs.to(dtype) if inputs.is_floating_point() else inputs)
    logits = outputs if isinstance(outputs, torch.Tensor) else getattr(outputs, "logits", None)
    if logits is None and isinstance(outputs, tuple | list) and outputs:
        logits = outputs[0]
    if not isinstance(logits, torch.Tensor) or logits.ndim != dims:
        wanted = "[n, classes]: give a classifier" if dims == 2 else "[n, T, classes]: give a language model"
        raise NoLogitsError(f"{type(model).__name__} returned {type(outputs).__name__}, no logits {wanted}.")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
