"""The columns that travel with a token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset

from swingkd.targets.facts import FACT_TYPES, TokenFacts

#: One column a fact about a token, and its type.
PII_COLUMNS = tuple(f"pii_{name}" for name in TokenFacts._fields)
PII_TYPES = FACT_TYPES


# Part of the cache's key, which knows a function's arguments but not its code: raise it when columns change meaning.
# Another fact is another key by itself.
VERSION = f"5 {' '.join(TokenFacts._fields)}"


#: The column that says which token of the teacher's own each token is, where it has another tokenizer; -1: none.
TEACHER_AT = "teacher_at"
#: The column that says in which fold a row is, so which teacher never saw it.
FOLD = "teacher_fold"
#: The fold of a row that no teacher saw.
UNSEEN = -1
# The label of a token that is not predicted.
IGNORE = -100
PADDING = {"input_ids": 0, "labels": IGNORE, "attention_mask": 0, **dict.fromkeys(PII_COLUMNS, 0)}
# A likelihood of 1, in a column.
_SURE = 255


def rows_of(batch: dict[str, list]) -> list[dict[str, Any]]:
    """Return the rows of a batch, as `Dataset.map` hands it over: a column each."""
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def add_facts(columns: dict[str, list], facts: TokenFacts) -> None:
    """Add to each of the columns about privacy what is known of one more row."""
    for name, values in zip(PII_COLUMNS, facts, strict=True):
        columns[name].append(values)


def in_parts(dataset: Dataset, column: str, rows: int = 10_000) -> Iterator[pa.ChunkedArray]:
    """Yield a column as Arrow keeps it, so many rows at a time."""
    for part in dataset.select_columns([column]).with_format("arrow").iter(rows):
        yield part[column]


def flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the numbers of a column: of all tokens, where it holds lists."""
    return pc.list_flatten(column) if pa.types.is_nested(column.type) else column


def row_lengths(dataset: Dataset, column: str = "input_ids") -> np.ndarray:
    """Return how many values each row of a column holds, [rows]; none where there is no list."""
    lengths = (pc.fill_null(pc.list_value_length(part), 0).to_numpy() for part in in_parts(dataset, column))
    return np.concatenate([np.zeros(0, np.int64), *lengths])


def labels_of(row: dict[str, Any]) -> Any:
    """Return what a row of tokens learns: its labels, or its own tokens, but for those that are padding.

    Where several texts stand in one row, nothing predicts the first token of each.
    """
    labels = row["labels"] if "labels" in row else row["input_ids"]
    if "labels" not in row and "attention_mask" in row:
        labels = np.where(np.asarray(row["attention_mask"]) == 0, IGNORE, np.asarray(labels))
    if "position_ids" in row and (begins := text_begins(row["position_ids"])).any():
        labels = np.where(begins, IGNORE, np.asarray(labels))
    return labels


def text_begins(positions: Any) -> np.ndarray:
    """Return where in a row another text begins, by its position ids [T]; not at the row's own start."""
    return np.append(False, np.diff(np.asarray(positions)) != 1)[: len(positions)]


def stored(likelihood: np.ndarray | float) -> np.ndarray:
    """Return likelihoods as a column keeps them, 0 to 255; rounded up: one above 0 stays above 0."""
    return np.ceil(np.asarray(likelihood) * _SURE).astype(np.int64)


def likelihoods(column: torch.Tensor) -> torch.Tensor:
    """Return what a column keeps as float32 in [0, 1]."""
    return column.to(torch.float32) / _SURE


def unseen(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Return rows that no teacher was trained on, such as those that are evaluated; those that were dealt stay so.

    Args:
        dataset: map-style or streaming.
    """
    if FOLD in (dataset.column_names or ()):
        return dataset
    if isinstance(dataset, Dataset):
        return dataset.add_column(FOLD, [UNSEEN] * len(dataset))  # type: ignore[call-arg]
    return dataset.map(lambda row: {FOLD: UNSEEN})


def fold_of(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the folds of a batch, [rows], where its rows carry them."""
    return {FOLD: torch.tensor([row[FOLD] for row in rows])} if FOLD in rows[0] else {}
