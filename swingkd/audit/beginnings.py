"""What a model keeps of a text, so that several texts that begin alike go on from it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from swingkd.audit.scores import evaluating


def keeps_beginnings(model: PreTrainedModel) -> bool:
    """Tell whether a model reads a beginning once and goes on from it with several texts."""
    inputs = torch.zeros(1, 2, dtype=torch.int64, device=model.device)
    with evaluating(model):
        return can_repeat(getattr(model(input_ids=inputs, use_cache=True), "past_key_values", None))


def can_repeat(kept: Any) -> bool:
    """Tell whether what a model keeps can be repeated over a batch: keys and values; a recurrent state cannot."""
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return isinstance(kept, DynamicCache) and all(type(layer) in kinds for layer in kept.layers)


def chosen_rows(kept: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """Return some rows of what a model keeps, as often as asked for; no copy of the whole is made, and it stays.

    Args:
        kept: of a batch.
        rows: their numbers in it, int64 [n].
    """
    own = copy.copy(kept)
    own.layers = [copy.copy(layer) for layer in kept.layers]
    own.batch_select_indices(rows)
    return own
