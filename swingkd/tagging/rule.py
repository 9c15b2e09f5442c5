"""A rule, and what several rules ask of the text around a candidate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

# How far from a value a word such as "account" still explains it, in characters.
_CONTEXT_BEFORE, _CONTEXT_AFTER = 60, 24
# The words that must not stand right before such a word are no longer.
_LOOK_BEHIND = 12
#: What a judge says of a candidate of which no part is private either.
NOTHING = -1.0
# How far from its digits a value of figures begins and ends: "date of birth: " stands before some.
_REACH = 40
_DIGITS, _WORD_END = re.compile(r"\d+"), re.compile(r"(?!\w)")
# More parts are no single value that something else stands beside.
_MOST_PARTS = 14


# Letters of scripts that put blanks between words: Latin, Greek, Cyrillic, Hebrew, Arabic, those of India and their
# neighbours.  Of the others (Chinese, Japanese, Korean, Thai), a letter beside a number is no part of it.
_WORD = "0-9A-Za-z_\u00aa\u00b5\u00ba\u00c0-\u0dff\u10a0-\u10ff\u1e00-\u1fff"
_AROUND = re.compile(r"\(\?<?[=!](?:\\.|\[(?:\\.|[^\]\\])*\]|[^()\\\[])*\)")
_IN_CLASS = re.compile(r"\[(?:\\.|[^\]\\])*\]")


def edged(pattern: str, flags: int = 0) -> re.Pattern[str]:
    r"""Compile a pattern in which `\w` of what may stand around a value is a letter of a script with blanks.

    Args:
        pattern: as for `re.compile`; only its lookarounds are changed, `\w` and `[^\W_]` in them.
        flags: as for `re.compile`.
    """

    def around(match: re.Match[str]) -> str:
        text = match[0].replace(r"[^\W_]", f"[{_WORD.replace('_', '', 1)}]")
        text = _IN_CLASS.sub(lambda inside: inside[0].replace(r"\w", _WORD), text)
        return text.replace(r"\w", f"[{_WORD}]")

    return re.compile(_AROUND.sub(around, pattern), flags)


#: Keys, numbers of vehicles and wallets have such a word in them; several rules ask for it, and it is looked for once.
LONG_WORD = re.compile("[A-Za-z0-9_/+-]{15}")


class Reading:
    """A text that many rules read, and what several of them ask of it.

    Args:
        text: as `plain` returns it.
    """

    def __init__(self, text: str):
        self.text, self.lowered = text, text.lower()
        # By identity: to hash a pattern takes longer than to look for many of them.
        self._held: dict[int, bool] = {}

    @cached_property
    def near_digits(self) -> list[tuple[int, int]]:
        """The parts of the text within 40 characters of a digit."""
        return near_digits(self.text)

    def holds(self, needs: re.Pattern[str] | tuple[str | re.Pattern[str], ...]) -> bool:
        """Tell whether one of several words or patterns stands in the text."""
        lowered = self.lowered
        for need in needs if isinstance(needs, tuple) else (needs,):
            if need in lowered if isinstance(need, str) else self._matches(need):
                return True
        return False

    def _matches(self, pattern: re.Pattern[str]) -> bool:
        held = self._held.get(id(pattern))
        if held is None:
            held = self._held[id(pattern)] = pattern.search(self.text) is not None
        return held


@dataclass(frozen=True)
class Rule:
    """One kind of private text.

    Args:
        label: what is found, in the names that Presidio uses.
        pattern: candidates; compiled with the flags it needs.  Of one with a group `value`, that is what is private.
        judge: called with the match; returns the likelihood of this candidate (0: not one; below: no part of it is).
        needs: a cheap test on the text; the pattern is tried only where it holds: another pattern, or several patterns
            and words in small letters of which one must stand there.  A pattern is cheap where it begins with one
            character, or a class of few: all others are passed over at once.
        parts: where the judge says 0, try the candidate's parts, the longest first: what stands beside a card number
            may look like more of it.
        sizes: how many letters and digits a part has, at least and at most.
        apart: it is no candidate where an earlier rule is as sure of some of its characters.
        digits: every candidate has a digit near each of its ends (`near_digits`): only there is it looked for.
    """

    label: str
    pattern: re.Pattern[str]
    judge: Callable[[re.Match[str]], float]
    needs: re.Pattern[str] | tuple[str | re.Pattern[str], ...]
    parts: bool = False
    sizes: tuple[int, int] = (1, 100)
    apart: bool = False
    digits: bool = False

    def find(self, text: str | Reading) -> Iterator[tuple[int, int, float]]:
        """Yield what the rule finds, as (start, end, likelihood).

        Args:
            text: as `plain` returns it.
        """
        reading = text if isinstance(text, Reading) else Reading(text)
        if not reading.holds(self.needs):
            return
        for first, last in reading.near_digits if self.digits else [(0, len(reading.text))]:
            place = first
            while match := self.pattern.search(reading.text, place, last):
                likelihood = self.judge(match)
                if likelihood == 0 and self.parts:
                    match, likelihood = self._part(match)
                if likelihood > 0:
                    start, end = match.span("value" if "value" in self.pattern.groupindex else 0)
                    yield start, end, likelihood
                place = max(match.end(), place + 1)

    def _part(self, match: re.Match[str]) -> tuple[re.Match[str], float]:
        """Return the longest part of a candidate that is one by itself, or the candidate."""
        text, (first, last) = match.string, match.span()
        gaps = [gap.span() for gap in re.finditer(r"[^0-9A-Za-z+(]+", text[first:last])]
        if not 0 < len(gaps) <= _MOST_PARTS:
            return match, 0.0
        starts = [first, *(first + end for _, end in gaps)]
        ends = [*(first + start for start, _ in gaps), last]
        # Of each place, how many letters and digits stand before it.
        before = list(accumulate((c.isalnum() for c in text[first:last]), initial=0))
        least, most = self.sizes
        pairs = [
            (start, end)
            for start in starts
            for end in ends
            if start < end
            and (start, end) != (first, last)
            and least <= before[end - first] - before[start - first] <= most
        ]
        # On one line before across lines, then the longest, then the first.
        for start, end in sorted(pairs, key=lambda pair: (text.count("\n", *pair), pair[0] - pair[1], pair[0])):
            part = self.pattern.fullmatch(text, start, end)
            likelihood = self.judge(part) if part else 0.0
            if part is not None and likelihood > 0:
                return part, likelihood
        return match, 0.0


def near_digits(text: str) -> list[tuple[int, int]]:
    """Return the parts of a text within 40 characters of a digit, up to the end of a word, (start, end) in order."""
    parts: list[tuple[int, int]] = []
    for run in _DIGITS.finditer(text):
        start, end = max(run.start() - _REACH, 0), run.end() + _REACH
        if parts and start <= parts[-1][1]:
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
    # An end within a word would look like the end of a value.
    return [(start, _WORD_END.search(text, min(end, len(text))).start()) for start, end in parts]  # type: ignore[union-attr]


def digits_of(text: str) -> str:
    """Return the digits in a text."""
    return "".join(filter(str.isdigit, text))


def beside(match: re.Match[str], words: re.Pattern[str]) -> bool:
    """Tell whether one of the words stands near the match, in its line or the one above; no table's heading is.

    Args:
        match: a candidate.
        words: in small letters: without regard to case, a pattern of many words takes twice as long.
    """
    start, end = match.span()
    text, first = match.string, max(0, start - _CONTEXT_BEFORE)
    line = text.rfind("\n", first, start) + 1
    if line:
        above = max(text.rfind("\n", 0, line - 1) + 1, line - 200)
        first = line if _is_heading(text[above : line - 1]) else max(first, above)
    return _stands(words, text, first, start) or _stands(words, text, end, end + _CONTEXT_AFTER)


def _stands(words: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Tell whether one of the words stands in this part of a text, in any case."""
    before = text[max(start - _LOOK_BEHIND, 0) : start].lower()
    return words.search(before + text[start:end].lower(), len(before)) is not None


def alone(match: re.Match[str]) -> bool:
    """Tell whether a match is all that stands in its line."""
    before = match.string[max(match.start() - 1, 0) : match.start()]
    return before in ("", "\n") and match.string[match.end() : match.end() + 1] in ("", "\n", "\r")


def is_cell(match: re.Match[str]) -> bool:
    """Tell whether a match fills a cell between commas, semicolons, bars or tabs."""
    before = match.string[max(match.start() - 1, 0) : match.start()].strip("\"'")
    after = match.string[match.end() : match.end() + 2].strip("\"'")
    ends = (not before or before in ",;|\t\n") and (not after or after[0] in ",;|\t\r\n")
    # A comma with a blank behind it is a sentence's.
    return ends and (before in tuple(",;|\t") or (after[:1] in tuple(",;|\t") and after[1:] != " "))


def column_heading(match: re.Match[str]) -> str:
    """Return what the first line of a table calls the column that a match stands in; nothing outside of one."""
    text = match.string
    heading = text[: text.find("\n")] if 0 < text.find("\n", 0, 500) < match.start() else ""
    if not is_cell(match) or not _is_heading(heading):
        return ""
    cells = re.split(r"[,;|\t]", heading)
    place = len(re.findall(r"[,;|\t]", text[text.rfind("\n", 0, match.start()) + 1 : match.start()]))
    return cells[place] if place < len(cells) else ""


def valid(check: Callable[[str], bool], text: str) -> bool:
    """Tell whether a checksum library takes a number for one; whatever it stumbles over is none."""
    try:
        return bool(check(text))
    except (ValueError, LookupError, TypeError, ArithmeticError):
        return False


def always(likelihood: float) -> Callable[[re.Match[str]], float]:
    """Return a judge that believes every candidate."""
    return lambda match: likelihood


def _is_heading(line: str) -> bool:
    """Tell whether a line names the columns of a table: a few words in each cell, and no number."""
    cells = re.split(r"[,;|\t]", line)
    return len(cells) > 1 and not re.search(r"\d|[,;] ", line) and all(len(cell.split()) <= 3 for cell in cells)


_NEAR = 200
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def in_table(match: re.Match[str]) -> bool:
    """Tell whether a number stands among others: in a line of several, without words, or in a column of them."""
    text, (start, end) = match.string, match.span()
    # Of a line without end, what stands near.
    top = max(text.rfind("\n", max(start - _NEAR, 0), start) + 1, start - _NEAR, 0)
    bottom = text.find("\n", end, end + _NEAR)
    bottom = min(len(text), end + _NEAR) if bottom < 0 else bottom
    before, after = text[top:start], text[end:bottom]
    others = before + " " + after
    if _LETTERS.search(others):
        # A sentence; or a list of numbers with a name, such as a row of CSV or an array in a program.
        return len(_NUMBER.findall(others)) >= 4 * max(len(_LETTERS.findall(others)), 1)
    if len(_NUMBER.findall(others)) >= 2:
        return True
    above = text[max(top - _NEAR, 0) : max(top - 1, 0)].rpartition("\n")[2]
    below = text[bottom + 1 : bottom + _NEAR].partition("\n")[0]
    return any(_NUMBER.search(line) and not _LETTERS.search(line) for line in (above, below))
