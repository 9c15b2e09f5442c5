"""Rendered texts with made-up values in the place of private ones, and what was known of each character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.utils.data import get_worker_info

from swingkd.data.rendering import Rendered
from swingkd.surrogates import Surrogates
from swingkd.tagging import THRESHOLD, CharTags, align
from swingkd.tagging.base import empty_tags, named_spans


class MadeUp:
    """A text with surrogates.

    Args:
        text: as it was.
        tags: what is private in it.
        labels: what the tags' labels stand for.
        surrogates: makes the values.
        row: the record's number.
        threshold: from which likelihood on something is private.
    """

    def __init__(
        self,
        text: str,
        tags: CharTags,
        labels: Sequence[str],
        surrogates: Surrogates,
        row: int,
        threshold: float = THRESHOLD,
    ):
        spans = named_spans(tags, labels, threshold)
        self.origin_text = text
        #: The new text.
        self.text, made = surrogates.replace(text, spans, row)
        #: Its tags: what is made up is surely private, as far as the teacher is concerned, and nothing else is.
        self.tags = empty_tags(self.text)
        #: What was replaced, (start, end, its new text, number of its label), in the old text's order.
        self.values: list[tuple[int, int, str, int]] = []
        known = {label: number for number, label in reversed(list(enumerate(labels)))}
        # Where each character of the new text comes from: those of a made-up value from the real one's first.
        self._origin = np.zeros(len(self.text), np.int64)
        place = shift = 0
        for old, new in zip(surrogates.spans_of(text, spans), made, strict=True):
            start, end, label = new["start"], new["end"], known[new["label"]]
            self.values.append((old[0], old[1], self.text[start:end], label))
            self._origin[place:start] = np.arange(place, start) - shift
            self._origin[start:end] = old[0]
            self.tags.likelihood[start:end] = 1
            self.tags.labels[start:end] = label
            place, shift = end, end - old[1]
        self._origin[place:] = np.arange(place, len(self.text)) - shift

    def carried(self, values: np.ndarray) -> np.ndarray:
        """Return values of the old text's characters [old] for those of the new text [new]."""
        return values[self._origin]

    def parted(self, at: int) -> tuple[str, str]:
        """Return the new text before and behind a character of the old one, which no value holds."""
        place = int(np.flatnonzero(self._origin == at)[0])
        return self.text[:place], self.text[place + 1 :]

    def words(self, words: Sequence[str]) -> tuple[list[str], CharTags]:
        """Return the old text's words with made-up values in them, as many as there were, and the tags of these.

        Args:
            words: of the old text, which blanks join.
        """
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        starts = ends - [len(word) for word in words]
        characters, labels = list(self.origin_text), np.zeros(len(words), np.int16)
        replaced = np.zeros(len(words), np.float32)
        for start, end, made, label in self.values:
            held = [number for number in np.flatnonzero((starts < end) & (ends > start)).tolist() if words[number]]
            for number, piece in zip(held, _pieces(made, len(held)), strict=True):
                first, last = max(start, int(starts[number])), min(end, int(ends[number]))
                characters[first:last] = [piece, *[""] * (last - first - 1)]
                labels[number], replaced[number] = label, 1
        new = ["".join(characters[start:end]) for start, end in zip(starts, ends, strict=True)]
        lengths, size = [len(word) + 1 for word in new], len(" ".join(new))
        return new, CharTags(np.repeat(replaced, lengths)[:size], np.repeat(labels, lengths)[:size])


def _pieces(value: str, count: int) -> list[str]:
    """Return a value in so many pieces; what is too short begins again, what is too long stays together at the end."""
    pieces = value.split() or [value]
    if len(pieces) > count:
        return [*pieces[: count - 1], " ".join(pieces[count - 1 :])][:count]
    return [pieces[number % len(pieces)] for number in range(count)]


def made_up(
    texts: Sequence[str],
    tags: Sequence[CharTags],
    indices: Sequence[int],
    labels: Sequence[str],
    surrogates: Surrogates,
    threshold: float,
    breaks: Sequence[int] = (),
) -> list[MadeUp]:
    """Return the texts of rows with surrogates.

    Args:
        texts: one a row.
        tags: what is private in them.
        indices: the rows' numbers.
        labels: what the tags' labels stand for.
        surrogates: makes the values.
        threshold: from which likelihood on something is private.
        breaks: in each text, a character that joins two parts of it: no value reaches across.
    """
    whole = [_broken(own, at) for own, at in zip(tags, breaks, strict=True)] if breaks else tags
    rows = zip(texts, whole, (_of_worker(row) for row in indices), strict=True)
    return [MadeUp(text, own, labels, surrogates, row, threshold) for text, own, row in rows]


def _of_worker(row: int) -> int:
    """Return a row's number, told from that of another worker, which counts the rows of its own shards of a stream."""
    worker = get_worker_info()
    return row if worker is None else row + ((worker.id + 1) << 40)


def _broken(tags: CharTags, at: int) -> CharTags:
    likelihood = tags.likelihood.copy()
    likelihood[at] = 0
    return CharTags(likelihood, tags.labels)


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
