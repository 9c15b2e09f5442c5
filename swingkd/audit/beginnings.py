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


def with_room(kept: DynamicCache, tokens: int) -> DynamicCache:
    """Return what a model keeps with room for all tokens to come: otherwise each of them copies the whole.

    Args:
        kept: of a batch; it may be empty.
        tokens: those it holds and those to come.
    """
    own = copy.copy(kept)
    own.layers = [_roomy(layer, tokens) if type(layer) is DynamicLayer else layer for layer in kept.layers]
    return own


class _Roomy(DynamicLayer):
    """Keys and values, [rows, heads, tokens, width], in front of room for further tokens."""

    def __init__(self, tokens: int):
        super().__init__()
        self.tokens = tokens
        self.rooms: tuple[torch.Tensor, ...] = ()

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Append keys and values; return all of them."""
        start, more = self.get_seq_length(), key_states.size(-2)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms = tuple(t.new_empty(*t.shape[:2], self.tokens, t.size(3)) for t in (key_states, value_states))
        for whole, states in zip(self.rooms, (key_states, value_states), strict=True):
            whole.narrow(2, start, more).copy_(states)
        self.keys, self.values = (whole.narrow(2, 0, start + more) for whole in self.rooms)
        return self.keys, self.values


def _roomy(layer: DynamicLayer, tokens: int) -> _Roomy:
    roomy = _Roomy(tokens)
    if layer.get_seq_length():
        roomy.update(layer.keys, layer.values)
    return roomy
