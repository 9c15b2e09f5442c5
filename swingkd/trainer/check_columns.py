"""Checks of tokenised rows, all at once before the first step: lengths, missing values, types and ranges of columns.

Whoever brings ids of their own is told the column, the row and what is wrong there; nothing is guessed, cut or padded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel

from swingkd.data.columns import IGNORE, PII_COLUMNS, flat
from swingkd.data.prepare import column_names
from swingkd.models.inputs import first_position, takes, vocabulary_size
from swingkd.tasks import Task
from swingkd.trainer.check_models import positions
from swingkd.trainer.check_pixels import check_one_size

_AT_ONCE = 10_000
# Columns with one value for each token of another one; of the labels, where they are tokens of their own.
_OF_INPUT = ("attention_mask", "position_ids", "token_type_ids")
_OF_TEACHER = ("teacher_attention_mask", "teacher_token_type_ids", "teacher_labels")
_CACHED = ("teacher_log_probs", "teacher_tails")


@dataclass(frozen=True)
class Columns:
    """What tokenised rows may hold.

    Args:
        beside: a column, and the one that says how many values it has.
        ranges: a column, and the least and the largest whole number that it may hold, beside -100 for labels.
        lists: a column, and whether a row of it is a list of numbers, or one number.
        limits: a column, and how many values a row of it may have.
        floats: columns of numbers that may be -infinity (no target), never NaN.
    """

    beside: dict[str, str]
    ranges: dict[str, tuple[int, float]]
    lists: dict[str, bool]
    limits: dict[str, float]
    floats: tuple[str, ...] = field(default=_CACHED)

    @classmethod
    def of(cls, names: list[str], task: Task, models: dict[str, PreTrainedModel], tokenizer: Any) -> Columns:
        """Find out what the columns of a data set may hold.

        Args:
            names: of the columns.
            task: what the models are for.
            models: by their role, the student first.
            tokenizer: the student's, or its image processor.

        Raises:
            ValueError: the student reads a column that no batch would bring it.
        """
        _check_read(names, task, models["student"])
        apart = "teacher_input_ids" in names
        readers = [model for role, model in models.items() if not (apart and role == "teacher")]
        known = _vocabulary(readers)
        if task.predicts_tokens:
            # A head may have more places than there are tokens; nobody knows what they mean.
            known = min(known, vocabulary_size(tokenizer))
        answers = known if task.predicts_tokens else models["student"].config.num_labels
        types = [getattr(model.config, "type_vocab_size", None) or math.inf for model in readers]
        placed = [positions(model) or math.inf for model in readers]
        first = first_position(models["student"])
        ranges: dict[str, tuple[int, float]] = {
            "input_ids": (0, known - 1),
            "labels": (0, answers - 1),
            "attention_mask": (0, 1),
            "position_ids": (first, first + min(placed) - 1),
            "token_type_ids": (0, min(types) - 1),
            "pii_likelihood": (0, 255),
            "teacher_ids": (0, known - 1),
            **dict.fromkeys(PII_COLUMNS[1:], (-(2**63), math.inf)),
        }
        if apart and "teacher" in models:
            ranges |= {"teacher_input_ids": (0, _vocabulary([models["teacher"]]) - 1)}
            ranges |= {"teacher_attention_mask": (0, 1), "teacher_labels": (0, answers - 1)}
            kinds = getattr(models["teacher"].config, "type_vocab_size", None) or math.inf
            ranges["teacher_token_type_ids"] = (0, kinds - 1)
        beside = dict.fromkeys(_OF_INPUT, "input_ids") | dict.fromkeys(_OF_TEACHER, "teacher_input_ids")
        of_answers = "labels" if task.name == "text2text-generation" else "input_ids"
        beside |= dict.fromkeys(("labels", *PII_COLUMNS), of_answers)
        of_tokens = task.predicts_tokens or task.name == "token-classification"
        lists = dict.fromkeys(("labels", "teacher_labels", *PII_COLUMNS), of_tokens)
        more = "input_ids", *_OF_INPUT, "teacher_input_ids", *_OF_TEACHER[:2], *_CACHED
        lists |= dict.fromkeys(more, True)
        limits = {"labels": min(placed)} if of_answers == "labels" else {}
        if apart and "teacher" in models:
            limits["teacher_input_ids"] = positions(models["teacher"]) or math.inf
        return cls(
            {name: other for name, other in beside.items() if {name, other} <= set(names) and name != other},
            {name: ends for name, ends in ranges.items() if name in names},
            {name: nested for name, nested in lists.items() if name in names},
            {name: limit for name, limit in limits.items() if name in names},
            tuple(name for name in _CACHED if name in names),
        )

    @property
    def names(self) -> list[str]:
        """The columns that are looked at."""
        return sorted({*self.beside, *self.beside.values(), *self.ranges, *self.lists, *self.floats})

    def check(self, table: pa.Table, first: int = 0) -> None:
        """Refuse a part of the rows that holds something else.

        Args:
            table: the part, with these columns.
            first: number of its first row.

        Raises:
            ValueError: names the column, the row, and what to do.
        """
        for name in self.names:
            self._check_present(name, table[name], first)
        for name, nested in self.lists.items():
            if pa.types.is_nested(table[name].type) != nested:
                kinds = "one number", "a list of numbers"
                raise ValueError(
                    f"The column {name} holds {kinds[not nested]} a row, and {kinds[nested]} is needed"
                    f"{': one for each token' if nested else ''}."
                )
        for name, limit in self.limits.items():
            lengths = pc.list_value_length(table[name])
            if limit < math.inf and (pc.max(lengths).as_py() or 0) > limit:
                row = first + _first(pc.greater(lengths, limit))
                raise ValueError(
                    f"The column {name} has {pc.max(lengths)} values in row {row}; at most {limit:.0f} fit."
                )
        for name, (low, high) in self.ranges.items():
            self._check_range(name, table[name], low, high, first)
        for name, other in self.beside.items():
            if pa.types.is_nested(table[name].type) and pa.types.is_nested(table[other].type):
                _check_lengths(name, table[name], other, table[other], first)
        if {"labels", "teacher_labels"} <= self.lists.keys():
            _check_as_many(table["labels"], table["teacher_labels"], first)
        for name in self.floats:
            values = flat(table[name]).cast(pa.float32())
            wrong = pc.or_(pc.is_nan(values), pc.equal(values, math.inf))
            if pc.any(wrong).as_py():
                raise ValueError(f"The column {name} holds numbers that are not finite: cache the teacher again.")
            # Rounding apart.
            if name == "teacher_log_probs" and (pc.max(values).as_py() or 0) > 1e-3:
                raise ValueError(
                    f"The column {name} holds {pc.max(values)}, which is the logarithm of no probability: cache the "
                    "teacher again."
                )

    def _check_present(self, name: str, column: pa.ChunkedArray, first: int) -> None:
        missing = column.is_null()
        if pc.any(missing).as_py():
            raise ValueError(
                f"The column {name} has no value in row {first + _first(missing)} (None). Drop such rows, such as "
                f"dataset.filter(lambda row: row[{name!r}] is not None)."
            )
        if pa.types.is_nested(column.type) and flat(column).null_count:
            row = first + _row(column, flat(column).is_null())
            raise ValueError(f"The column {name} lacks a value within row {row} (None). Drop such rows.")

    def _check_range(self, name: str, column: pa.ChunkedArray, low: int, high: float, first: int) -> None:
        values = flat(column)
        if not (pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
            if name == "labels" and pa.types.is_string(values.type):
                return  # Classes by their names; the task knows them.
            if name == "pii_likelihood":
                raise ValueError(
                    "The pii_likelihood column holds no whole numbers. It counts from 0 (ordinary) to 255 (surely "
                    "private): write (likelihood * 255).round().astype('uint8')."
                )
            raise ValueError(
                f"The column {name} holds {values.type}, and whole numbers are needed: cast it, such as "
                f"dataset.cast_column({name!r}, List(Value('int64')))."
            )
        values = values.cast(pa.int64())
        wrong = pc.or_(pc.less(values, low), pc.greater(values, high)) if high < math.inf else pc.less(values, low)
        if name.endswith("labels"):
            wrong = pc.and_(wrong, pc.not_equal(values, IGNORE))
        if pc.any(wrong).as_py():
            value, row = values[_first(wrong)].as_py(), first + _row(column, wrong)
            besides = f", or {IGNORE} where nothing is learnt" if name.endswith("labels") else ""
            raise ValueError(
                f"The column {name} holds {value} in row {row}; it must lie between {low} and {high:.0f}{besides}."
            )


def check_columns(
    rows: Dataset | IterableDataset, task: Task, models: dict[str, PreTrainedModel], tokenizer: Any
) -> Dataset | IterableDataset:
    """Refuse rows that hold something else than the models read; a stream is looked at as it flows.

    Args:
        rows: tokenised.
        task: what the models are for.
        models: by their role, the student first.
        tokenizer: the student's, or its image processor.

    Returns:
        The rows.

    Raises:
        ValueError: names the column and the row.
    """
    # Once: of a stream, they are those of its first row.
    names = column_names(rows)
    columns = Columns.of(names, task, models, tokenizer)
    if "pixel_values" in names:
        rows = check_one_size(rows)
    if not columns.names:
        return rows
    if isinstance(rows, IterableDataset):
        return rows.map(_looked_at, batched=True, with_indices=True, fn_kwargs={"columns": columns})
    first = 0
    for table in rows.select_columns(columns.names).with_format("arrow").iter(_AT_ONCE):
        columns.check(table, first)
        first += len(table)
    return rows


def _looked_at(batch: dict[str, list], indices: list[int], columns: Columns) -> dict[str, list]:
    try:
        table = pa.table({name: batch[name] for name in columns.names})
    except pa.ArrowInvalid as error:
        raise ValueError(f"A row of the stream mixes types or lengths: {error}.") from None
    columns.check(table, indices[0])
    return {}


def _check_read(names: list[str], task: Task, student: PreTrainedModel) -> None:
    """Refuse a column that the student reads and no batch would bring it: it would be guessed, in silence."""
    lost = [name for name in names if takes(student, name) and name not in (*task.columns, "labels")]
    if lost:
        raise ValueError(
            f"The student reads the column {lost[0]}, and {task.name} does not hand it on. Drop it, where the model "
            f"works without (dataset.remove_columns({lost[0]!r})), or choose a model that does."
        )


def _vocabulary(models: list[PreTrainedModel]) -> int:
    # Images have no ids.
    embeddings: list[Any] = [_embeddings(model) for model in models]
    return min([e.weight.shape[0] for e in embeddings if hasattr(e, "num_embeddings")], default=2**62)


def _embeddings(model: PreTrainedModel) -> Any:
    try:
        return model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None


def _check_lengths(name: str, column: pa.ChunkedArray, other: str, beside: pa.ChunkedArray, first: int) -> None:
    lengths, needed = pc.list_value_length(column), pc.list_value_length(beside)
    wrong = pc.not_equal(lengths, needed)
    if pc.any(wrong).as_py():
        at = _first(wrong)
        raise ValueError(
            f"The column {name} has {lengths[at]} values in row {first + at}, {other} has {needed[at]}: one for each "
            "token is needed."
        )


def _check_as_many(labels: pa.ChunkedArray, teacher: pa.ChunkedArray, first: int) -> None:
    """Refuse rows of which the two models would be asked about different words."""
    own, theirs = (
        np.bincount(pc.list_parent_indices(column).to_numpy(), pc.not_equal(flat(column), IGNORE), len(column))
        for column in (labels, teacher)
    )
    if (own != theirs).any():
        row = int(np.argmax(own != theirs))
        raise ValueError(
            f"Row {first + row} has {own[row]:.0f} labels and {theirs[row]:.0f} teacher_labels. Both models must be "
            "asked about the same words."
        )


def _first(wrong: Any) -> int:
    return pc.index(wrong, True).as_py()


def _row(column: pa.ChunkedArray, wrong: Any) -> int:
    """Return the row that the first wrong value stands in."""
    at = _first(wrong)
    return pc.list_parent_indices(column)[at].as_py() if pa.types.is_nested(column.type) else at
