"""Several rows in one: fewer blocks that are mostly padding.

With "bfd" and "bfd_split" (best fit decreasing, as TRL names them) a block holds whole rows, each numbers its
positions anew, and a model reads each of them as if it stood alone; with "wrapped" rows are cut anywhere and see each
other.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from swingkd.data.columns import FOLD, text_begins

#: How rows become blocks, as TRL names it.
PackingStrategy = Literal["bfd", "bfd_split", "wrapped"]


def pack(batch: dict[str, list], strategy: PackingStrategy, length: int, first: int = 0) -> dict[str, list]:
    """Return the rows of a batch as blocks; rows of different folds share none.

    Args:
        batch: columns with one value a token, and perhaps `teacher_fold`.
        strategy: how.
        length: of a block, in tokens.
        first: the number of a row's first position.

    Raises:
        ValueError: a row's columns differ in length: joined, they would shift in silence.
    """
    if FOLD in batch:
        return _fold_by_fold(dict(batch), strategy, length, first)
    _check_lengths(batch)
    rows = {key: [np.asarray(row) for row in values] for key, values in batch.items()}
    if strategy == "wrapped":
        joined = {key: np.concatenate(values) if values else np.zeros(0, np.int64) for key, values in rows.items()}
        return {key: [one[i : i + length] for i in range(0, len(one), length)] for key, one in joined.items()}
    parts = [
        (row, slice(start, min(start + length, end)))
        for row, begin, end in _texts(rows)
        for start in range(begin, end if strategy == "bfd_split" else min(end, begin + length), length)
    ]
    lengths = [len(rows["input_ids"][row][part]) for row, part in parts]
    blocks = [[parts[i] for i in block] for block in best_fit(lengths, length)]
    packed: dict[str, list[Any]] = {
        key: [np.concatenate([values[row][part] for row, part in block]) for block in blocks]
        for key, values in rows.items()
    }
    # What goes on in another block is read there as a text of its own.
    packed["position_ids"] = [
        np.concatenate([first + np.arange(len(rows["input_ids"][row][part])) for row, part in block])
        for block in blocks
    ]
    return packed


def _fold_by_fold(batch: dict[str, list], strategy: PackingStrategy, length: int, first: int) -> dict[str, list]:
    folds = np.array(batch.pop(FOLD), np.int64)
    packed: dict[str, list] = {}
    for fold in np.unique(folds).tolist():
        own = np.flatnonzero(folds == fold)
        blocks = pack({key: [values[i] for i in own] for key, values in batch.items()}, strategy, length, first)
        blocks[FOLD] = [fold] * len(blocks["input_ids"])
        for key, values in blocks.items():
            packed.setdefault(key, []).extend(values)
    return packed or {key: [] for key in (*batch, FOLD)}


def _texts(rows: dict[str, list[np.ndarray]]) -> Iterator[tuple[int, int, int]]:
    """Yield the texts of rows, as row, beginning and end: a row that is packed already holds several."""
    for row, ids in enumerate(rows["input_ids"]):
        inner = np.flatnonzero(text_begins(rows["position_ids"][row])) if "position_ids" in rows and len(ids) else ()
        ends = [0, *inner, len(ids)]
        yield from ((row, int(begin), int(end)) for begin, end in pairwise(ends))


def best_fit(lengths: list[int], length: int) -> list[list[int]]:
    """Return which rows share a block: the longest first, each where it leaves the least room.

    Args:
        lengths: of the rows, none longer than a block.
        length: of a block.
    """
    blocks: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, the block), sorted
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(room, (lengths[row], -1))
        if at < len(room):
            left, block = room.pop(at)
        else:
            left, block = length, len(blocks)
            blocks.append([])
        blocks[block].append(row)
        if left > lengths[row]:
            insort(room, (left - lengths[row], block))
    return blocks


def _check_lengths(batch: dict[str, list]) -> None:
    for key, rows in batch.items():
        for row, ids in zip(rows, batch["input_ids"], strict=True):
            if row is None or ids is None or np.shape(row) != np.shape(ids):
                own, needed = (np.shape(values) for values in (row, ids))
                raise ValueError(
                    f"A row's {key} cannot be packed: its shape is {own}, that of input_ids {needed}. Give one value "
                    "for each token, or drop the row."
                )
