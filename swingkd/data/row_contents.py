"""What stands in a row: what is learnt from it, by which it is known again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset, Image, Value

from swingkd.data.columns import FOLD

# What trainers read of a row by themselves: the first of these that is there whole.
CHATS = (("messages",), ("conversations",))
#: What a language model learns before it learns a text.
BEFORE_TEXT = (*CHATS, ("prompt", "completion"))
_READ = (
    *BEFORE_TEXT,
    ("text",),
    ("sentence1", "sentence2"),
    ("tokens",),
    ("input_ids",),
    ("image",),
    ("pixel_values",),
)


def read_columns(dataset: Dataset, group_by: str | None, columns: Sequence[str] | None) -> tuple[str, ...]:
    """Return what of rows is looked at: what is learnt, else what is text in them, or all where nothing is."""
    named = {"group_by": [group_by] if group_by is not None else [], "columns": columns or []}
    for setting, names in named.items():
        for name in names:
            if name not in dataset.column_names:
                raise ValueError(f"{setting}={name!r} is no column of the rows ({', '.join(dataset.column_names)}).")
    own = [name for name in dataset.column_names if name not in (group_by, FOLD)]
    learnt = tuple(columns or next((names for names in _READ if set(names) <= set(own)), ()))
    # Whatever it is called, a name beside it says nothing of an image.
    learnt = learnt or tuple(name for name in own if isinstance(dataset.features[name], Image))
    return learnt or tuple(name for name in own if holds_text(dataset.features[name])) or tuple(own)


def people_of(dataset: Dataset, group_by: str) -> list[str]:
    """Return what each row's person is called; "" where the row names nobody."""
    nobody = (None, "")
    return ["" if name in nobody or name != name else repr(name) for name in dataset.with_format(None)[group_by]]


def holds_text(feature: Any) -> bool:
    if isinstance(feature, dict):
        return any(map(holds_text, feature.values()))
    if isinstance(feature, Value):
        return feature.dtype in ("string", "large_string")
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return inner is not None and holds_text(inner)


def contents_of(dataset: Dataset, columns: tuple[str, ...]) -> Iterator[str]:
    """Yield what stands in each row: all its text, without case and in single blanks; where there is none, all of it.

    Args:
        dataset: the rows.
        columns: what of them is looked at.
    """
    rows = dataset.with_format(None).select_columns(list(columns))
    text = [name for name in columns if holds_text(rows.features[name])]
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    for row in rows:
        yield plain(" ".join(_strings(row))) if text else repr([_value(row[name]) for name in columns])


def _value(value: Any) -> Any:
    """Return what stands in a column; of an image file a digest of its bytes alone, wherever it lies."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        content = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
        return xxhash.xxh3_128_hexdigest(content)
    return value


def plain(text: str) -> str:
    """Return a text without case and in single blanks."""
    return " ".join(text.casefold().split())


def keys_of(contents: Iterable[str]) -> np.ndarray:
    # Without blanks: where parts of a row are joined, there may be one or none.
    contents = (text.replace(" ", "") for text in contents)
    return np.array([xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) for text in contents], np.uint64)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
