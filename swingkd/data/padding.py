"""Rows that somebody tokenised: padding is taken off, and what TRL says in columns of its own is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from swingkd.data.columns import IGNORE, PADDING, flat, in_parts
from swingkd.models.inputs import OF_TOKENS

#: What a row of a language model says of each of its tokens.
OF_EACH_TOKEN = (*PADDING, *OF_TOKENS)


def unpadded(
    dataset: Dataset | IterableDataset, names: list[str], columns: tuple[str, ...], prefix: str = ""
) -> Dataset | IterableDataset:
    """Return rows without the tokens that their attention mask leaves out.

    A model that learns from the left would else learn to begin with padding, and one that masks words would mask none
    of a row that begins with it.

    Args:
        dataset: tokenised rows.
        names: of its columns.
        columns: those with one value for each token.
        prefix: of the columns' names: "teacher_" for those that the teacher reads.

    Raises:
        ValueError: a mask leaves out tokens between others, which is no padding.
    """
    mask, own = f"{prefix}attention_mask", [f"{prefix}{name}" for name in columns if f"{prefix}{name}" in names]
    if mask not in names or (isinstance(dataset, Dataset) and not _leaves_out(dataset, mask)):
        return dataset
    return dataset.map(_unpad, batched=True, fn_kwargs={"mask": mask, "columns": own})


def _leaves_out(dataset: Dataset, mask: str) -> bool:
    for column in in_parts(dataset, mask):
        values = flat(column)
        counts = pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)
        # What is no list of numbers is refused where all columns are looked at.
        if pa.types.is_nested(column.type) and counts and pc.any(pc.equal(values.cast(pa.int64()), 0)).as_py():
            return True
    return False


def _unpad(batch: dict[str, list], mask: str, columns: list[str]) -> dict[str, list]:
    out: dict[str, list[Any]] = {name: list(batch[name]) for name in columns}
    for i, row in enumerate(batch[mask]):
        kept = np.asarray(row) != 0
        if not kept.ndim or any(not hasattr(values[i], "__len__") for values in out.values()):
            continue
        if any(len(values[i]) != len(kept) for values in out.values()) or kept.all():
            continue
        places = np.flatnonzero(kept)
        if len(places) and len(places) <= places[-1] - places[0]:
            raise ValueError(
                f"A row's {mask} leaves out tokens between others. Only padding, before or behind the text, may be "
                "left out: drop those tokens from the row."
            )
        for values in out.values():
            values[i] = np.asarray(values[i])[kept]
    return out


def as_here(dataset: Dataset | IterableDataset, names: list[str], settings: Any) -> Dataset | IterableDataset:
    """Return rows of a language model with TRL's columns as labels and positions.

    `assistant_masks` says which tokens are learnt, `completion_mask` too (unless all are to be), and `seq_lengths` how
    long the texts of a packed row are.

    Args:
        dataset: tokenised rows.
        names: of its columns.
        settings: `completion_only_loss`.
    """
    masks = [name for name in ("assistant_masks", "completion_mask") if name in names]
    if settings.completion_only_loss is False:
        masks = [name for name in masks if name != "completion_mask"]
    lengths = "seq_lengths" in names and "position_ids" not in names
    if not masks and not lengths:
        return dataset
    return dataset.map(_as_here, batched=True, fn_kwargs={"masks": masks, "lengths": lengths})


def _as_here(batch: dict[str, list], masks: list[str], lengths: bool) -> dict[str, list]:
    out: dict[str, list[Any]] = {}
    if masks:
        labels = [np.array(row) for row in batch.get("labels", batch["input_ids"])]
        for name in masks:
            labels = [np.where(np.asarray(mask), row, IGNORE) for row, mask in zip(labels, batch[name], strict=True)]
        out["labels"] = labels
    if lengths:
        out["position_ids"] = [np.concatenate([np.arange(length) for length in row]) for row in batch["seq_lengths"]]
    return out
