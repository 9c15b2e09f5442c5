"""What a tagger is, and how its characters become tokens.

A tagger reads raw text and gives every *character* a likelihood of being private.  Characters are the common
ground of regular expressions, models with another tokenizer and human annotation; `align` carries the result to the
tokens of any fast tokenizer.

    >>> import numpy as np
    >>> align(np.array([0, 0, 1, 1], dtype=np.float32), np.array([[0, 2], [2, 3], [3, 4], [4, 4]]))
    array([0., 1., 1., 0.], dtype=float32)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from swingkd.tagging.threshold import is_private


class CharTags(NamedTuple):
    """Tags of one text: `likelihood` [chars] float32 in [0, 1] and `labels` [chars] int16 ids (0 = nothing)."""

    likelihood: np.ndarray
    labels: np.ndarray


@runtime_checkable
class Tagger(Protocol):
    """Anything that rates the characters of a text."""

    def char_likelihood(self, texts: list[str]) -> list[np.ndarray]:
        """Return one float32 array in [0, 1] per text, one value per character."""
        ...


@runtime_checkable
class LabelledTagger(Tagger, Protocol):
    """A tagger that also says *what* it found; population targets group by it."""

    labels: tuple[str, ...]

    def char_labels(self, texts: list[str]) -> list[np.ndarray]:
        """Return one int16 array per text: ids into `labels`, 0 = nothing found."""
        ...


class BaseTagger(ABC):
    """A labelled tagger that finds likelihood and label in one go.

    Subclasses set `labels` (its entry 0 is the empty string: nothing found) and implement `tag`.
    """

    labels: tuple[str, ...] = ("",)

    @abstractmethod
    def tag(self, texts: list[str]) -> list[CharTags]:
        """Tag each text: likelihood and label of every character."""

    def char_likelihood(self, texts: list[str]) -> list[np.ndarray]:
        """Return one float32 array in [0, 1] per text, one value per character."""
        return [tags.likelihood for tags in self.tag(texts)]

    def char_labels(self, texts: list[str]) -> list[np.ndarray]:
        """Return one int16 array per text: ids into `labels`, 0 = nothing found."""
        return [tags.labels for tags in self.tag(texts)]


def empty_tags(text: str) -> CharTags:
    """Return tags for `text` in which nothing is private."""
    return CharTags(np.zeros(len(text), np.float32), np.zeros(len(text), np.int16))


def paint(tags: CharTags, start: int, end: int, likelihood: float, label: int) -> None:
    """Mark characters start..end in place; where something likelier stands already, it stays."""
    weaker = tags.likelihood[start:end] < likelihood
    tags.likelihood[start:end][weaker] = likelihood
    tags.labels[start:end][weaker] = label


def label_spans(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """List the runs of one label as (start, end, label), end exclusive; 0 is no label.

    >>> label_spans(np.array([0, 2, 2, 1, 0]))
    [(1, 3, 2), (3, 4, 1)]
    """
    if not len(labels):
        return []
    edges = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
    runs = zip(pairwise(edges), labels[edges[:-1]].tolist(), strict=True)
    return [(start, end, label) for (start, end), label in runs if label]


def private_spans(tags: CharTags, threshold: float) -> list[tuple[int, int, int]]:
    """List what is at least so likely private as (start, end, label), end exclusive; label 0 where it has none."""
    found = tags.likelihood >= threshold
    # Most texts have little in them, many nothing.
    if not found.any():
        return []
    return [(start, end, label - 1) for start, end, label in label_spans(np.where(found, tags.labels + 1, 0))]


def named_spans(tags: CharTags, labels: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """List what is at least so likely private as {"start", "end", "label"}, the label by its name."""
    return [
        {"start": start, "end": end, "label": labels[label]} for start, end, label in private_spans(tags, threshold)
    ]


def tagger_labels(tagger: Tagger) -> tuple[str, ...]:
    """Return what the ids of `tag_texts` stand for."""
    return getattr(tagger, "labels", ("", "PRIVATE"))


def tag_texts(tagger: Tagger, texts: list[str]) -> list[CharTags]:
    """Tag texts with any tagger; one that knows no labels files everything it finds likely under label 1.

    Raises:
        ValueError: if the tagger's arrays do not fit the texts or leave [0, 1].
    """
    if isinstance(tagger, BaseTagger):
        tagged = tagger.tag(texts)
    else:
        likelihoods = tagger.char_likelihood(texts)
        if isinstance(tagger, LabelledTagger):
            labels = tagger.char_labels(texts)
        else:
            labels = [is_private(np.asarray(s)).astype(np.int16) for s in likelihoods]
        tagged = [
            CharTags(np.asarray(s, np.float32), np.asarray(g, np.int16))
            for s, g in zip(likelihoods, labels, strict=True)
        ]
    for text, tags in zip(texts, tagged, strict=True):
        if len(tags.likelihood) != len(text) or len(tags.labels) != len(text):
            raise ValueError(
                f"{type(tagger).__name__} returned {len(tags.likelihood)} likelihoods and {len(tags.labels)} labels "
                f"for a text of {len(text)} characters. A tagger must return one value per character."
            )
        if len(text) and not (tags.likelihood.min() >= 0 and tags.likelihood.max() <= 1):
            raise ValueError(
                f"{type(tagger).__name__} returned likelihoods in [{tags.likelihood.min()}, {tags.likelihood.max()}]. "
                "A likelihood must lie in [0, 1]: scale or clip it inside the tagger."
            )
    return tagged


def align(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the largest value among each token's characters.

    Args:
        values: [chars] one number per character.
        offsets: [tokens, 2] character offsets, end exclusive; empty ones (special tokens) get 0.
    """
    if len(offsets) == 0 or len(values) == 0:
        return np.zeros(len(offsets), values.dtype)
    starts, ends = offsets[:, 0], offsets[:, 1]
    padded = np.append(values, values.dtype.type(0))
    # reduceat takes index pairs: even results are the tokens, odd ones the gaps between them.
    largest = np.maximum.reduceat(padded, np.stack([starts, ends], axis=1).ravel())[::2]
    return np.where(ends > starts, largest, values.dtype.type(0))


def dilate(values: np.ndarray, tokens: int) -> np.ndarray:
    """Spread each value to the neighbouring `tokens` positions on both sides (the largest wins)."""
    spread = values.copy()
    for shift in range(1, min(tokens, len(values) - 1) + 1):
        np.maximum(spread[shift:], values[:-shift], out=spread[shift:])
        np.maximum(spread[:-shift], values[shift:], out=spread[:-shift])
    return spread


def token_characters(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the characters of each token: (character index, token index), both [characters covered].

    Args:
        offsets: [tokens, 2] character offsets, end exclusive; empty ones cover nothing.
    """
    lengths = offsets[:, 1] - offsets[:, 0]
    tokens = np.repeat(np.arange(len(offsets)), lengths)
    first = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - first[tokens] + offsets[tokens, 0], tokens
