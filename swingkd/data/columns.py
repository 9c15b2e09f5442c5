"""The columns that travel with a token."""

from __future__ import annotations

from swingkd.targets.facts import FACT_TYPES, TokenFacts

#: One column a fact about a token, and its type.
PII_COLUMNS = tuple(f"pii_{name}" for name in TokenFacts._fields)
PII_TYPES = FACT_TYPES


# Part of the cache's key, which knows a function's arguments but not its code: raise it when columns change meaning.
VERSION = 4


# The label of a token that is not predicted.
IGNORE = -100
PADDING = {"input_ids": 0, "labels": IGNORE, "attention_mask": 0, **dict.fromkeys(PII_COLUMNS, 0)}
