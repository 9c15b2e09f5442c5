"""Cut long texts into overlapping token windows, in batches, for the taggers that run a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase


def check_fast_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a slow tokenizer: only fast ones know which characters a token came from.

    Raises:
        ValueError: the tokenizer is not a fast one.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is a slow tokenizer and cannot say which characters a token came from. "
            "Load the fast one: AutoTokenizer.from_pretrained(name, use_fast=True), or convert it with "
            "transformers.convert_slow_tokenizer."
        )


@dataclass(frozen=True)
class WindowBatch:
    """Some windows: model `inputs` [B, T], character `offsets` [B, T, 2] (special tokens and padding are empty)
    and the `text_index` [B] each window came from."""

    inputs: dict[str, torch.Tensor]
    offsets: np.ndarray
    text_index: list[int]


def token_windows(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, overlap: int, batch_size: int
) -> Iterator[WindowBatch]:
    """Yield every text as one or more windows of at most `max_length` tokens that share `overlap` tokens."""
    if not texts:
        return
    encoded = tokenizer(
        texts,
        truncation=True,
        max_length=max_length,
        stride=min(overlap, max_length // 4),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    owner = encoded.pop("overflow_to_sample_mapping")
    offsets = encoded.pop("offset_mapping")
    special = encoded.pop("special_tokens_mask")
    # Windows of similar length share a batch: little padding, whatever the order of the texts.
    order = sorted(range(len(owner)), key=lambda i: len(encoded["input_ids"][i]))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        longest = max(len(encoded["input_ids"][i]) for i in rows)
        if longest == 0:
            continue
        inputs = {
            key: torch.tensor(
                [encoded[key][i] + [pad if key == "input_ids" else 0] * (longest - len(encoded[key][i])) for i in rows]
            )
            for key in encoded
        }
        spans = np.zeros((len(rows), longest, 2), np.int64)
        for row, i in enumerate(rows):
            spans[row, : len(offsets[i])] = np.where(np.array(special[i])[:, None] == 1, 0, np.array(offsets[i]))
        yield WindowBatch(inputs, spans, [owner[i] for i in rows])
