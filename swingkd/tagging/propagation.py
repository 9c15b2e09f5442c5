"""What was found once is private wherever it stands again: one mention that a tagger misses gives the value away.

A rule that needs the word "account" beside a number sees the first mention and not the second; a model sees "Ann
Smith" and not "Smith".  Found values are looked for again, however they are written there: in their own record all of
them, in every record those that are so long that they stand for one thing only, and names where that is asked for.

    >>> from swingkd.tagging.rules import RuleTagger
    >>> text = "my account number is 48213. " + "thank you. " * 20 + "so 48213 it is"
    >>> [int(tagger.tag([text])[0].likelihood[-8]) for tagger in (RuleTagger(), ConsistentTagger(RuleTagger()))]
    [0, 1]
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from swingkd.tagging.base import BaseTagger, CharTags, Tagger, paint, private_spans, tag_texts, tagger_labels
from swingkd.tagging.known_values import KnownValues
from swingkd.tagging.spelling import fold, written_alike, written_as_date
from swingkd.tagging.threshold import THRESHOLD

# Fewer letters and digits stand for many things: an hour, a word.
_LEAST, _LONG = 3, 7
_NAME_LABELS = re.compile("PER|NAME")
#: What is known of a value.
VALUE = ("text", "likelihood", "label", "is_name")
_GAPS, _YEAR = re.compile(r"[\W_]+"), re.compile(r"(?<!\d)\d{4}(?!\d)")
_WORDS_TOO = frozenset(
    "amber april art august autumn bill brook buck chance chase chip christian chuck clay cliff curt dale dawn dean "
    "dick don drew earnest faith flora forest frank gale gene grace grant guy hazel heath heather hope iris ivy jack "
    "jade jay jean jewel joy june lance laurel lily mark mason may melody mike miles nick norm olive page pat pearl "
    "penny peg pierce ray reed rich rob robin rose ruby rusty sandy scarlet skip sky stone sue summer victor violet "
    "wade ward warren will winter".split()
)
_PARTS = re.compile(r"[^\W\d_]{3,}")


class ConsistentTagger(BaseTagger):
    """A tagger that finds every mention of what it found once.

    Args:
        tagger: any.
        names: look for names in every record too, not in their own alone: two people may share one.
        threshold: from which likelihood on something was found.
    """

    def __init__(self, tagger: Tagger, *, names: bool = False, threshold: float = THRESHOLD):
        self.tagger, self.names, self.threshold = tagger, names, threshold
        #: How many mentions were tagged that the tagger alone had missed.
        self.added = 0
        self._everywhere: dict[str, _Value] = {}
        # What was found in the texts that were learnt: they are tagged once.
        self._found = _Remembered()
        # Made of these when the first text is tagged.
        self._known: KnownValues | None = None

    @classmethod
    def around(cls, tagger: Tagger, threshold: float = THRESHOLD, *, alone: bool = False) -> ConsistentTagger:
        """Return a consistent tagger of any, which may be one already: it learns more and leaves that one as it is.

        Args:
            tagger: any.
            threshold: from which likelihood on something was found; of two, the lower one.
            alone: know nothing yet of other records, whatever that one has learnt.
        """
        if not isinstance(tagger, cls):
            return cls(tagger, threshold=threshold)
        again = cls(tagger.tagger, names=tagger.names, threshold=min(tagger.threshold, threshold))
        again._everywhere = {} if alone else dict(tagger._everywhere)
        return again

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        """What it finds: as the tagger has it."""
        return tagger_labels(self.tagger)

    def learn(self, texts: Iterable[str]) -> list[str]:
        """Read texts for values that are private in every record; return all values that were found.

        Args:
            texts: of a corpus, before any of it is tagged.
        """
        return self.know(value for own in self.values(list(texts)) for value in own)

    def values(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        """Return the values of each text, as `know` takes them; what was found is remembered while it lasts."""
        every = []
        for text, tags in zip(texts, tag_texts(self.tagger, texts), strict=True):
            self._found.add(text, tags)
            own = _values(text, tags, self.labels, self.threshold, parts=False)
            every.append([{name: getattr(value, name) for name in VALUE} for value in own])
        return every

    def know(self, values: Iterable[dict[str, Any]]) -> list[str]:
        """Learn values that were found in a corpus; return all of them."""
        found = []
        for known in values:
            value = _Value(**known)
            found.append(value.text)
            if (value.likelihood == 1 and stands_for_one(value.text)) or (self.names and value.is_name):
                _keep(self._everywhere, value)
        self._known = None
        return found

    def tag(self, texts: list[str]) -> list[CharTags]:
        """Tag each text: likelihood and label of every character."""
        every = self._tagged(texts)
        if self._known is None:
            self._known = KnownValues(value.text for value in self._everywhere.values())
        known = (self._known, self._everywhere) if self._everywhere else None
        every_mention = [
            _spread(text, tags, self.labels, self.threshold, known) for text, tags in zip(texts, every, strict=True)
        ]
        self.added += sum(added for _, added in every_mention)
        return [tags for tags, _ in every_mention]

    def _tagged(self, texts: list[str]) -> list[CharTags]:
        known = [self._found.get(text) for text in texts]
        new = iter(tag_texts(self.tagger, [text for text, tags in zip(texts, known, strict=True) if tags is None]))
        return [tags if tags is not None else next(new) for tags in known]


class _Remembered:
    """What was found in texts, by their hash; up to so many places, and in this process alone."""

    def __init__(self, most: int = 2_000_000):
        self._left = most
        self._spans: dict[bytes, tuple[list[int], np.ndarray, np.ndarray]] = {}

    def __reduce__(self) -> Any:
        # The key of a cache, and a process beside this one, do not depend on what was read before.
        return _Remembered, ()

    def add(self, text: str, tags: CharTags) -> None:
        """Remember the tags of a text."""
        likelihood, labels = tags
        changes = (likelihood[1:] != likelihood[:-1]) | (labels[1:] != labels[:-1])
        starts = [0, *(np.flatnonzero(changes) + 1).tolist()][: len(text)]
        self._left -= len(starts)
        if self._left >= 0:
            self._spans[_key(text)] = starts, likelihood[starts], labels[starts]

    def get(self, text: str) -> CharTags | None:
        """Return the tags of a text, if they are known."""
        known = self._spans.get(_key(text))
        if known is None:
            return None
        starts, likelihood, labels = known
        lengths = [end - start for start, end in pairwise([*starts, len(text)])]
        return CharTags(np.repeat(likelihood, lengths), np.repeat(labels, lengths))


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).digest()


def spread(text: str, tags: CharTags, labels: tuple[str, ...]) -> CharTags:
    """Return tags in which every mention of what they name is private.

    Args:
        text: of one record.
        tags: of its characters.
        labels: what their labels stand for.
    """
    return _spread(text, tags, labels, THRESHOLD, None)[0]


def _spread(
    text: str,
    tags: CharTags,
    labels: tuple[str, ...],
    threshold: float,
    everywhere: tuple[KnownValues, dict[str, _Value]] | None,
) -> tuple[CharTags, int]:
    """Return the tags with all mentions, and how many were found that had not been."""
    values, added = _values(text, tags, labels, threshold, parts=True), 0
    again = _perhaps_again(text, values)
    own: dict[str, _Value] = {}
    for value in again:
        _keep(own, value)
    found = [(KnownValues(value.text for value in again), own)] if again else []
    for known, every in [*found, *([everywhere] if everywhere else [])]:
        for start, end, key, _ in known.mentions(text):
            value = every[key]
            if value.may_be(text[start:end]) and (tags.likelihood[start:end] < value.likelihood).any():
                added += not (tags.likelihood[start:end] >= threshold).all()
                tags = CharTags(tags.likelihood.copy(), tags.labels.copy())
                paint(tags, start, end, value.likelihood, value.label)
    return tags, added


class _Value:
    """A private value: its `text`, `likelihood`, `label`, and whether it `is_name`, or a `part` of one."""

    __slots__ = ("is_name", "label", "likelihood", "part", "text")

    def __init__(self, text: str, likelihood: float, label: int, is_name: bool, part: bool = False):
        self.text, self.likelihood, self.label, self.is_name, self.part = text, likelihood, label, is_name, part

    def may_be(self, written: str) -> bool:
        """Tell whether text that is spelled alike may be the value: some names are words too, in small letters."""
        word = self.part or (self.is_name and self.text[:1].isupper() and self.text.casefold() in _WORDS_TOO)
        return not word or written[:1].isupper() or written[:1].lower() == written[:1].upper()

    def __repr__(self) -> str:
        return f"_Value(<redacted>, likelihood={self.likelihood}, label={self.label})"


def _values(text: str, tags: CharTags, labels: tuple[str, ...], threshold: float, *, parts: bool) -> list[_Value]:
    """List the private values of a text, and the parts of its names."""
    values = []
    for start, end, label in private_spans(tags, threshold):
        written, likelihood = text[start:end], float(tags.likelihood[start:end].max())
        if sum(map(str.isalnum, written)) < _LEAST - _is_syllabic(written):
            continue
        is_name = bool(_NAME_LABELS.search(labels[label]))
        values.append(_Value(written, likelihood, label, is_name))
        if parts and is_name:
            own = [part for part in _PARTS.findall(written) if part[:1].isupper()]
            values += [_Value(part, likelihood, label, True, part=True) for part in own if part != written]
    return values


def _is_syllabic(text: str) -> bool:
    """Tell whether a text is written in syllables or words, beyond the alphabets of Europe and the Near East."""
    return all(c > "\u0e00" or not c.isalnum() for c in text)


def _perhaps_again(text: str, values: list[_Value]) -> list[_Value]:
    """Return the values that may stand in a text more often than they were found there; quick, and never too few."""
    if not values:
        return []
    whole = _letters(text)
    found = "\n".join(_letters(value.text) for value in values if not value.part)
    again = []
    for value in values:
        # However it is written, its last letters and digits are the same; those of a date are not.
        end = _letters(value.text)[-_LONG:]
        if whole.count(end) > found.count(end) or (_YEAR.search(value.text) and written_as_date(value.text)):
            again.append(value)
    return again


def _letters(text: str) -> str:
    return _GAPS.sub("", fold(text))


def _keep(values: dict[str, _Value], value: _Value) -> None:
    key = written_alike(value.text)
    known = values.get(key)
    # The whole before a part of the same name, then what is surer.
    if known is None or (known.part, -known.likelihood) > (value.part, -value.likelihood):
        values[key] = value


def stands_for_one(value: str) -> bool:
    """Tell whether a value is so long that the same letters and digits elsewhere are the same value."""
    distinct = any(map(str.isdigit, value)) or "@" in value
    return distinct and sum(map(str.isalnum, value)) >= _LONG
