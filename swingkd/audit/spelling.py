"""One value, written in many ways: "+49 (0)30 123-456" is "0049 30 123456", and no part of "+49 30 123-4567".

What a separator means depends on the value: in a telephone number it means nothing, in an address on the net it parts
the numbers, in a name it parts words.
"""

from __future__ import annotations

import calendar
import re
import unicodedata
from collections.abc import Iterable

_RUN = re.compile(r"[^\W_]+")
_EMAIL = re.compile(r"(?:mailto:)?([^\s@]+)\s?@\s?([\w-]+(?:\.[\w-]+)+)")
_URL = re.compile(r"(?:https?://(?:www\.)?|www\.)(\S+?)/?")
_NET = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}")
_DATE = re.compile(r"(\d{4})\s?[-./]\s?(\d{1,2})\s?[-./]\s?(\d{1,2})|(\d{1,2})\s?[-./]\s?(\d{1,2})\s?[-./]\s?(\d{4})")
_DATE_IN_WORDS = re.compile(
    r"(\d{1,2})(?:st|nd|rd|th|\.)?(?: of)? ([a-z]{3,9})\.?,? (\d{4})"
    r"|([a-z]{3,9})\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})"
)
_MONTHS = {name.lower(): i for i in range(1, 13) for name in (calendar.month_name[i], calendar.month_abbr[i])}
_NUMBER = re.compile(r"\+?[\d\s()./\u00b7\u2010-\u2014-]+")
# Digits, Latin, Greek, Cyrillic, Armenian, Hebrew and Arabic, in small letters: written with blanks between words.
_WITH_BLANKS = r"0-9a-z\u00df-\u024f\u0370-\u0586\u05d0-\u05ea\u0620-\u06d3"
# With fewer digits, a separator may part two numbers.
_LONG_NUMBER = 7
# The longest value that is looked for, in runs of letters and digits.
_MOST_RUNS = 12


def written_alike(value: str) -> str:
    """Return what all spellings of a value share, and no other value has.

    Case goes, and digits of any script become ASCII's.  Dates become day, month and year (the day first, where either
    could be), telephone and other long numbers lose their separators, URLs their scheme; everywhere else separators
    vanish beside digits only, and part words.
    """
    folded = fold(value).strip()
    if found := _EMAIL.fullmatch(folded):
        return f"{found[1]}@{found[2]}"
    if found := _URL.fullmatch(folded):
        return found[1]
    if _NET.fullmatch(folded):
        return folded
    date = _date(folded)
    if date:
        return date
    if _NUMBER.fullmatch(folded):
        digits = re.sub(r"\D", "", re.sub(r"^((?:\+|00)[\d\s]{1,5})\(0\)", r"\1", folded))
        if len(digits) >= _LONG_NUMBER:
            abroad = folded.startswith("+") or digits.startswith("00")
            return "+" + digits.removeprefix("00") if abroad else digits
        return "-".join(_RUN.findall(folded)) or folded
    runs = _RUN.findall(folded)
    joined = "".join(
        f" {run}" if i and run[0].isalpha() and runs[i - 1][-1].isalpha() else run for i, run in enumerate(runs)
    )
    return joined or folded


def fold(text: str) -> str:
    """Return a text without case, compatibility forms, foreign digits and invisible characters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():
        return folded
    return "".join(str(unicodedata.digit(c, c)) for c in folded if unicodedata.category(c) != "Cf")


def _date(folded: str) -> str | None:
    if found := _DATE.fullmatch(folded):
        year, month, day = found.group(1, 2, 3) if found[1] else found.group(6, 5, 4)
        day, month = int(day), int(month)
    elif found := _DATE_IN_WORDS.fullmatch(folded):
        day, month, year = found.group(1, 2, 3) if found[1] else found.group(5, 4, 6)
        day, month = int(day), _MONTHS.get(month, 0)
    else:
        return None
    if month > 12:
        day, month = month, day
    return f"{day}-{month}-{year}" if 1 <= month <= 12 and 1 <= day <= 31 else None


def mentions(text: str, value: str) -> int:
    """Return how often a value stands in a text on its own, however it is written there; once at least."""
    folded, key = fold(text), written_alike(value)
    between = r"[\W_]{0,3}"
    if _NUMBER.fullmatch(key) and sum(c.isdigit() for c in key) >= _LONG_NUMBER and not _date(key):
        pattern = between.join(re.findall(r"\d", key))
    elif _EMAIL.fullmatch(key) or _NET.fullmatch(key) or "/" in key:
        pattern = re.escape(key)
    else:
        pattern = between.join(map(re.escape, _RUN.findall(key))) or re.escape(key)
    spelled = re.escape(fold(value).strip())
    return max(1, *(len(re.findall(_whole(each), folded)) for each in (pattern, spelled)))


def _whole(pattern: str) -> str:
    """Return a pattern that begins and ends where a word does; writing without blanks has no such places."""
    return rf"(?<![{_WITH_BLANKS}])(?:{pattern})(?![{_WITH_BLANKS}])"


class KnownValues:
    """Values to be found in texts, whatever stands around them.

    Args:
        values: in any spelling.
    """

    def __init__(self, values: Iterable[str]):
        self._keys: dict[str, str] = {}
        for value in values:
            key = written_alike(value)
            for compact in ("".join(_RUN.findall(fold(value))), "".join(_RUN.findall(key))):
                if compact:
                    self._keys[compact] = key
        self._longest = max(map(len, self._keys), default=0)
        # Without blanks there are no runs to go by.
        self._unparted = [compact for compact in self._keys if not re.search(f"[{_WITH_BLANKS}]", compact)]

    def said(self, text: str) -> dict[str, str]:
        """Return the values that a text says, by what their spellings share, as they are written there."""
        folded = fold(text)
        runs = list(_RUN.finditer(folded))
        found = {self._keys[value]: value for value in self._unparted if value in folded}
        for i, first in enumerate(runs):
            compact = ""
            for last in runs[i : i + _MOST_RUNS]:
                compact += last[0]
                if len(compact) > self._longest:
                    break
                key = self._keys.get(compact)
                if key is None or key in found:
                    continue
                # A sign before it, or a bracket, may belong to it.
                for start in (first.start(), max(first.start() - 1, 0), max(first.start() - 2, 0)):
                    spelled = folded[start : last.end()]
                    if written_alike(spelled) == key:
                        found[key] = spelled
                        break
        return found
