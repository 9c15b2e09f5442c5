"""Rows become batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from swingkd.data.columns import IGNORE, PADDING, TEACHER_AT, fold_of, labels_of, likelihoods, text_begins
from swingkd.data.teacher_columns import CacheInfo, read_teacher
from swingkd.models.inputs import OF_TOKENS


def pad_rows(rows: list[dict[str, Any]], fillers: dict[str, int], like: str) -> dict[str, torch.Tensor]:
    """Pad columns of a batch on the right, each to [rows, longest].

    Args:
        rows: rows of the data.
        fillers: what each column is padded with.
        like: the column that says how long a row is; where another one is missing, the attention mask is 1, the
            labels are the row's own tokens (those that the mask leaves), and everything else is its filler.
    """
    lengths = [len(row[like]) for row in rows]
    batch = {}
    for key, filler in fillers.items():
        padded = torch.full((len(rows), max(lengths)), filler)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            if key == "labels":
                values = labels_of(row)
            elif key in row:
                values = row[key]
            elif key.endswith("attention_mask"):
                values = [1] * length
            else:
                values = [filler] * length
            padded[i, :length] = torch.as_tensor(np.asarray(values, np.int64))
        batch[key] = padded
    return batch


class DistillationCollator:
    """Pad rows on the right into one batch; the first token of a row, which nothing predicts, gets no label.

    A cached teacher's targets come along, where the rows carry them.  Batches of packed rows have no attention mask.

    Args:
        pad_token_id: what fills `input_ids`.
        cache: what must have written the cached targets; `None`: one and the same for a batch.
        first: the first token keeps its label: the model sees what stands behind it.
        teacher_pad_token_id: what fills `teacher_input_ids`, where the teacher has a tokenizer of its own.
    """

    def __init__(
        self,
        pad_token_id: int,
        cache: CacheInfo | None = None,
        *,
        first: bool = False,
        teacher_pad_token_id: int | None = None,
    ):
        self.pad_token_id = pad_token_id
        self.cache = cache
        self.first = first
        self.teacher_pad_token_id = teacher_pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return tensors [rows, longest]; `pii_likelihood` as float32 in [0, 1]."""
        more = {name: 0 for name in OF_TOKENS if name in rows[0]}
        if TEACHER_AT in rows[0]:
            more[TEACHER_AT] = -1
        batch = pad_rows(rows, PADDING | {"input_ids": self.pad_token_id} | more, "input_ids")
        if not self.first:
            batch["labels"][:, 0] = IGNORE
        if "position_ids" in more and any(text_begins(row["position_ids"]).any() for row in rows):
            # Several texts in a row: models keep them apart by their positions, where no mask is given.
            del batch["attention_mask"]
        if "teacher_row" in rows[0]:
            batch |= read_teacher(rows, batch["input_ids"].size(1), self.cache)
        if TEACHER_AT in rows[0]:
            fillers = {"teacher_input_ids": self.teacher_pad_token_id or 0, "teacher_attention_mask": 0}
            batch |= pad_rows(rows, fillers, "teacher_input_ids")
        batch["pii_likelihood"] = likelihoods(batch["pii_likelihood"])
        return batch | fold_of(rows)
