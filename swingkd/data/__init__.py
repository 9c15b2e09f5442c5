"""Rows of a user become batches: what is private about each token stands in columns beside the ids."""

from swingkd.data.collate import DistillationCollator, pad_rows
from swingkd.data.columns import IGNORE, PII_COLUMNS, PII_TYPES, VERSION
from swingkd.data.prepare import (
    DataSettings,
    column_names,
    has_transform,
    prepare_dataset,
    ready,
    retagged,
    tagged_map,
    unformatted,
)
from swingkd.data.spans import token_facts
from swingkd.data.teacher_columns import TEACHER_COLUMNS, CacheInfo, read_teacher

__all__ = [
    "IGNORE",
    "PII_COLUMNS",
    "PII_TYPES",
    "TEACHER_COLUMNS",
    "VERSION",
    "CacheInfo",
    "DataSettings",
    "DistillationCollator",
    "column_names",
    "has_transform",
    "pad_rows",
    "prepare_dataset",
    "read_teacher",
    "ready",
    "retagged",
    "tagged_map",
    "token_facts",
    "unformatted",
]
