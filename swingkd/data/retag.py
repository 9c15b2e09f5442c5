"""Rows that somebody tokenised and that still have their text: it is tagged, and the tags find their tokens again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from swingkd.data.columns import PII_COLUMNS, add_facts, rows_of
from swingkd.data.spans import token_facts
from swingkd.tagging import Tagger, tag_texts


def offsets_of(
    row: Sequence[int], ids: Sequence[int], offsets: np.ndarray, special: np.ndarray, number: int | None = None
) -> np.ndarray:
    """Return where in its text each token of a row stands, [T, 2]; special tokens have empty spans.

    Args:
        row: [T] ids, perhaps cut at either end, with special tokens wherever they are.
        ids: [n] of the text as the tokenizer makes them.
        offsets: [n, 2] of those.
        special: ids that are no text.
        number: of the row, for the error.

    Raises:
        ValueError: the row's tokens are not those of its text.
    """
    own = np.flatnonzero(~np.isin(row, special))
    kept = ~np.isin(ids, special)
    text, places = np.asarray(ids)[kept], np.asarray(offsets, np.int64).reshape(-1, 2)[kept]
    content, count = np.asarray(row)[own], len(own)
    if count and np.array_equal(content, text[:count]):
        places = places[:count]
    elif count and np.array_equal(content, text[-count:]):
        places = places[-count:]
    elif count:
        raise ValueError(
            f"The input_ids of row {number} are not the tokens of the text that stands beside them, so the tagger's "
            "findings cannot be placed. Drop the column input_ids to have the text tokenised here, or tag the rows "
            "before you cut or join them."
        )
    out = np.zeros((len(row), 2), np.int64)
    if count:
        # A special token stands where the text before it ends.
        before = np.searchsorted(own, np.arange(len(row)), side="right") - 1
        out[:] = np.where(before >= 0, places[before.clip(0), 1], places[0, 0])[:, None]
        out[own] = places
    return out


def tag_tokenised(
    batch: dict[str, list],
    indices: list[int],
    read: Any,
    tokenizer: PreTrainedTokenizerBase,
    tagger: Tagger,
    settings: Any,
    version: str,
) -> dict[str, list]:
    """Return the columns about privacy of rows that have their tokens and their text.

    Args:
        batch, indices: the rows, and their numbers.
        read: makes the text of a row.
        tokenizer: the one that made the tokens.
        tagger: what rates the characters.
        settings: `dilation`.
        version: part of the cache's key.
    """
    texts = [read(row).text for row in rows_of(batch)]
    out: dict[str, list] = {name: [] for name in PII_COLUMNS}
    every = placed(batch["input_ids"], texts, tokenizer, indices)
    for text, tags, offsets in zip(texts, tag_texts(tagger, texts), every, strict=True):
        add_facts(out, token_facts(text, tags, offsets, settings.dilation))
    return out


def placed(
    rows: list[list[int]], texts: list[str], tokenizer: PreTrainedTokenizerBase, indices: Sequence[int]
) -> list[np.ndarray]:
    """Return where the tokens of each row stand in its text, see `offsets_of`."""
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
    special = special_ids(tokenizer)
    known = zip(rows, encoded["input_ids"], encoded["offset_mapping"], indices, strict=True)
    return [offsets_of(row, ids, np.array(at), special, number) for row, ids, at, number in known]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the ids that stand for no text; an unknown word is text."""
    return np.array([i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id])
