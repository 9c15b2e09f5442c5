"""Rows of a data set: where their private values stand, and their texts with others in the place of these."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from swingkd.tagging import THRESHOLD, CharTags, Tagger, private_spans, tag_texts
from swingkd.tagging.base import empty_tags, paint, tagger_labels
from swingkd.tagging.known_values import KnownValues
from swingkd.tagging.propagation import spread
from swingkd.tagging.spelling import written_alike

if TYPE_CHECKING:
    from swingkd.surrogates.surrogates import Surrogates

#: The column that says where they stand, between finding and replacing them.
FOUND = "found_private_values"
# The texts of a row are read as one: what is found in one turn of a chat is private in all of them.
_BETWEEN = "\n\n"


def find_values(
    batch: dict[str, list], indices: list[int], tagger: Tagger | None, columns: list[str], version: str
) -> dict[str, list]:
    """Return where the private values of rows stand, for each of their texts, and whether it is sure.

    Args:
        batch, indices: the rows, and their numbers.
        tagger: finds them; `None`: the column `spans` says so.
        columns: the texts of a row.
        version: of this code and of the tagger's: `datasets` takes what an older one made for its own otherwise.

    Raises:
        ValueError: a row has no text.
    """
    rows = list(zip(*(batch[name] for name in columns), strict=True))
    for texts, row in zip(rows, indices, strict=True):
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"Row {row} has no text in {' or '.join(columns)} (None, or no string). Drop such rows.")
    if tagger is None:
        return {
            FOUND: [
                [_given(text, spans or [], row)]
                for (text,), spans, row in zip(rows, batch["spans"], indices, strict=True)
            ]
        }
    labels = tagger_labels(tagger)
    whole = tag_texts(tagger, [_BETWEEN.join(texts) for texts in rows])
    return {FOUND: [_of_each(texts, tags, labels) for texts, tags in zip(rows, whole, strict=True)]}


def _given(text: str, spans: list[dict[str, Any]], row: int) -> list[dict[str, Any]]:
    """Return the spans that a row came with, and every further mention of what they name."""
    labels = ("", *dict.fromkeys(span.get("label") or "" for span in spans))
    tags = empty_tags(text)
    for span in spans:
        start, end = span["start"], span["end"]
        if not 0 <= start < end <= len(text):
            raise ValueError(f"Row {row}: {outside(text, start, end)}")
        paint(tags, start, end, 1.0, labels.index(span.get("label") or "", 1))
    return _of_each((text,), spread(text, tags, labels), labels)[0]


def outside(text: str, start: int, end: int) -> str:
    """Say that a span does not lie in its text."""
    return (
        f"A span {start}..{end} does not lie in its text of {len(text)} characters. Give character offsets, end "
        "exclusive."
    )


def _of_each(texts: tuple[str, ...], tags: CharTags, labels: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """Return the spans of each text of a row, of tags of all of them."""
    starts = np.cumsum([0, *(len(text) + len(_BETWEEN) for text in texts)]).tolist()
    spans = private_spans(tags, THRESHOLD)
    return [
        [
            {
                "start": max(start - first, 0),
                "end": min(end - first, len(text)),
                "label": labels[label],
                "sure": bool(tags.likelihood[start:end].max() == 1),
            }
            for start, end, label in spans
            if start - first < len(text) and end > first
        ]
        for text, first in zip(texts, starts, strict=False)
    ]


class Everywhere:
    """Values that are private wherever they stand; what looks for them is made once, not for each batch of rows.

    Args:
        labels: what each of them is.
    """

    def __init__(self, labels: dict[str, str]):
        self.labels = labels

    def __reduce__(self) -> Any:
        # Part of the key of a cache, which does not depend on what was made of it by then.
        return Everywhere, (self.labels,)

    @cached_property
    def _known(self) -> tuple[KnownValues, dict[str, str]]:
        return KnownValues(self.labels), {written_alike(value): label for value, label in self.labels.items()}

    def spans(self, text: str) -> list[dict[str, Any]]:
        """Return where they stand in a text, as {"start", "end", "label"}."""
        if not self.labels:
            return []
        known, labels = self._known
        return [{"start": m.start, "end": m.end, "label": labels[m.key]} for m in known.mentions(text)]


def replace_values(
    batch: dict[str, list],
    indices: list[int],
    surrogates: Surrogates,
    columns: list[str],
    everywhere: Everywhere,
    version: str,
) -> dict[str, list]:
    """Return the texts of rows with made-up values, their `spans`, and how many there are.

    Args:
        batch, indices: the rows with what was found in them, and their numbers.
        surrogates: makes the values.
        columns: the texts of a row.
        everywhere: values that are private in every row.
        version: as for `find_values`.
    """
    out: dict[str, list] = {name: [] for name in (*columns, "spans", "surrogates")}
    for *texts, found, row in zip(*(batch[name] for name in columns), batch[FOUND], indices, strict=True):
        spans = [[*own, *everywhere.spans(text)] for own, text in zip(found, texts, strict=True)]
        made = surrogates.replace_parts(texts, spans, row)
        for name, one in zip(columns, made, strict=True):
            out[name].append(one.text)
        out["spans"].append(made[0].spans)
        out["surrogates"].append(sum(len(one.spans) for one in made))
    if len(columns) > 1:
        del out["spans"]
    return out
