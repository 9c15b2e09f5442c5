"""Rendered texts with made-up values in the place of private ones, and what was known of each character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from swingkd.data.rendering import Rendered
from swingkd.surrogates import Surrogates
from swingkd.tagging import THRESHOLD, CharTags, align, private_spans
from swingkd.tagging.base import empty_tags


class MadeUp:
    """A text with surrogates.

    Args:
        text: as it was.
        tags: what is private in it.
        labels: what the tags' labels stand for.
        surrogates: makes the values.
        row: the record's number.
    """

    def __init__(self, text: str, tags: CharTags, labels: Sequence[str], surrogates: Surrogates, row: int):
        spans = [
            {"start": start, "end": end, "label": labels[label]}
            for start, end, label in private_spans(tags, THRESHOLD)
        ]
        self.origin_text = text
        #: The new text.
        self.text, made = surrogates.replace(text, spans, row)
        #: Its tags: what is made up is surely private, as far as the teacher is concerned, and nothing else is.
        self.tags = empty_tags(self.text)
        known = {label: number for number, label in reversed(list(enumerate(labels)))}
        # Where each character of the new text comes from: those of a made-up value from the real one's first.
        self._origin = np.zeros(len(self.text), np.int64)
        place = shift = 0
        for old, new in zip(surrogates.spans_of(text, spans), made, strict=True):
            start, end = new["start"], new["end"]
            self._origin[place:start] = np.arange(place, start) - shift
            self._origin[start:end] = old[0]
            self.tags.likelihood[start:end] = 1
            self.tags.labels[start:end] = known[new["label"]]
            place, shift = end, end - old[1]
        self._origin[place:] = np.arange(place, len(self.text)) - shift

    def carried(self, values: np.ndarray) -> np.ndarray:
        """Return values of the old text's characters [old] for those of the new text [new]."""
        return values[self._origin]


def learnt_alike(row: Rendered, made: MadeUp, before: list, after: list) -> Rendered:
    """Return a row with its made-up text, of which the same parts are learnt.

    Args:
        row: as it was rendered.
        made: its text with made-up values.
        before, after: [tokens] offsets of the old text's tokens, and of the new one's.
    """
    old = np.arange(len(made.origin_text))
    new = np.flatnonzero(made.carried(old >= row.learn_from))
    start = (int(new[0]) if len(new) else len(made.text)) if row.learn_from else 0
    if row.learn is None:
        return replace(row, text=made.text, learn_from=start)
    marked = np.zeros(len(old), np.uint8)
    for (first, last), own in zip(before, row.learn, strict=True):
        marked[first:last] = np.maximum(marked[first:last], own)
    learn = align(made.carried(marked), np.array(after, np.int64).reshape(-1, 2))
    return replace(row, text=made.text, learn_from=start, learn=learn.tolist())
