"""How surprising each token of a text is to a model, window by window, for taggers that ask one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from swingkd.tagging.windows import token_windows

#: Maps the inputs of some windows, and the text [B] that each came from, to a value [B, T - 1] of each later token.
Ask = Callable[[dict[str, torch.Tensor], list[int]], torch.Tensor]


def surprisal(model: nn.Module, inputs: dict[str, torch.Tensor], **known: Any) -> torch.Tensor:
    """Return -log p of each token but the first, given those before it, [B, T - 1] in nats.

    Args:
        model: a causal language model.
        inputs: `input_ids` and `attention_mask` [B, T].
        **known: other arguments of its forward.
    """
    device = next(model.parameters()).device
    ids, mask = inputs["input_ids"].to(device), inputs["attention_mask"].to(device)
    logits = model(input_ids=ids, attention_mask=mask, **known).logits[:, :-1]
    later = ids[:, 1:]
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), later.flatten(), reduction="none").view_as(later)


def asked(
    ask: Ask, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, overlap: int, batch_size: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield for each window the text that it came from, the tokens' characters [n, 2], and the values [n].

    Args:
        ask: gives the values.
        tokenizer: a fast one.
        texts: any.
        max_length: of a window, in tokens.
        overlap: tokens that a window repeats from the one before.
        batch_size: windows asked about at once.
    """
    for batch in token_windows(tokenizer, texts, max_length, overlap, batch_size):
        with torch.inference_mode():
            values = ask(batch.inputs, batch.text_index).cpu().numpy()
        for row, text in enumerate(batch.text_index):
            offsets = batch.offsets[row, 1:]
            real = offsets[:, 1] > offsets[:, 0]
            yield text, offsets[real], values[row][real]
