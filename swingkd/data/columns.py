"""The columns that travel with a token."""

from __future__ import annotations

import numpy as np

PII_COLUMNS = ("pii_likelihood", "pii_group", "pii_shape", "pii_span")


PII_TYPES = (np.uint8, np.int32, np.int64, np.int64)


# Part of the cache's key, which knows a function's arguments but not its code: raise it when columns change meaning.
VERSION = 3


# The label of a token that is not predicted.
IGNORE = -100
PADDING = {"input_ids": 0, "labels": IGNORE, "attention_mask": 0, **dict.fromkeys(PII_COLUMNS, 0)}
