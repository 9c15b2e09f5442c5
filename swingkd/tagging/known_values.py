"""Values that are known, found in texts however they are written there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from swingkd.tagging.spelling import RUN, SIGNS, WITH_BLANKS, fold, folded_with_places, other_spellings, written_alike

_PARTED = re.compile(f"[{WITH_BLANKS}].*[{WITH_BLANKS}]|.", re.DOTALL)


class Mention(NamedTuple):
    """Where a known value stands: `start` and `end` in the text, the `key` that its spellings share, and `spelled`."""

    start: int
    end: int
    key: str
    spelled: str


class KnownValues:
    """Values to be found in texts, whatever stands around them.

    Args:
        values: in any spelling.
    """

    def __init__(self, values: Iterable[str]):
        #: By letters and digits alone: what the values share that are written with these, and the sign before them.
        self._keys: dict[str, set[tuple[str, str]]] = {}
        for value in dict.fromkeys(values):
            key, folded = written_alike(value), fold(value).strip()
            sign = folded[0] if folded[:1] in tuple(SIGNS) else ""
            for spelling in (folded, key, *other_spellings(key)):
                runs = RUN.findall(spelling)
                if runs:
                    self._keys.setdefault("".join(runs), set()).add((key, sign))
        self._beginnings = {compact[:end] for compact in self._keys for end in range(1, len(compact) + 1)}
        # With what one begins: most texts hold none of it, and are passed over.
        self._long = min(map(len, self._keys), default=1)
        self._heads = {compact[: self._long] for compact in self._keys}
        # Without blanks there are no runs to go by.
        self._unparted = [compact for compact in self._keys if not _PARTED.fullmatch(compact)]

    def mentions(self, text: str) -> Iterator[Mention]:
        """Yield where the values stand in a text; those in writing without blanks first, the others from its start.

        Args:
            text: any.
        """
        folded, places = folded_with_places(text)
        for start, end, key in self._found(folded):
            after = places[end] if end < len(places) else len(text)
            # Marks of the last letter are its own.
            yield Mention(places[start], max(after, places[end - 1] + 1), key, folded[start:end])

    def said(self, text: str) -> dict[str, str]:
        """Return the values that a text says, by what their spellings share, as they are written there."""
        found: dict[str, str] = {}
        for mention in self.mentions(text):
            found.setdefault(mention.key, mention.spelled)
        return found

    def _found(self, folded: str) -> Iterator[tuple[int, int, str]]:
        for compact in self._unparted:
            for match in re.finditer(re.escape(compact), folded):
                yield from ((*match.span(), key) for key, _ in self._keys[compact])
        words = RUN.findall(folded)
        whole, starts = "".join(words), accumulate(map(len, words), initial=0)
        first_runs = [i for i, start in enumerate(starts) if whole[start : start + self._long] in self._heads]
        if not first_runs:
            return
        runs = list(RUN.finditer(folded))
        for i in first_runs:
            first, compact = runs[i], ""
            for last in runs[i:]:
                compact += last[0]
                if compact not in self._beginnings:
                    break
                for key, sign in self._keys.get(compact, ()):
                    start = _start(folded, first.start(), last.end(), key, sign)
                    if start is not None:
                        yield start, last.end(), key


def _start(folded: str, start: int, end: int, key: str, sign: str) -> int | None:
    """Return where a value begins whose letters and digits stand here, if it does; a sign before it may be its own."""
    if sign:
        return start - 1 if folded[max(start - 1, 0) : start] == sign else None
    if folded[start:end] == key:
        return start
    return next((at for at in range(start, max(start - 3, -1), -1) if written_alike(folded[at:end]) == key), None)
