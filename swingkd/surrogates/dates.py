"""Dates, moved by one span of time in all of a record, so that the days between them stay as many.

The day that the latest becomes is drawn from many years, whenever it was: moved by a few years only, a date that is
said often could be told from the mean of what is made of it.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random

from swingkd.surrogates.shapes import by_shape

_MONTHS = {name.lower(): i for i in range(1, 13) for name in (calendar.month_name[i], calendar.month_abbr[i])}
_MONTHS["sept"] = 9
_YEAR_FIRST = re.compile(r"(?P<y>\d{4})([-/.])(?P<m>\d{1,2})\2(?P<d>\d{1,2})")
_YEAR_LAST = re.compile(r"(?P<a>\d{1,2})([-/.])(?P<b>\d{1,2})\2(?P<y>\d{4}|\d{2})")
_ONE_PIECE = re.compile(r"(?P<y>(?:19|20)\d{2})(?P<m>\d{2})(?P<d>\d{2})")
_WORD = rf"(?P<w>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\b\.?"
_DAY_IN_WORDS = re.compile(
    rf"(?P<d>\d{{1,2}})(?:st|nd|rd|th|\.)?(?:\sof)?[\s-]{_WORD}(?:,?[\s-](?P<y>\d{{4}}))?"
    rf"|{_WORD.replace('?P<w>', '?P<w2>')}\s(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s(?P<y2>\d{{4}}))?",
    re.IGNORECASE,
)
_MONTH_AND_YEAR = re.compile(rf"{_WORD},?[\s-](?P<y>\d{{4}})", re.IGNORECASE)
_TIME = re.compile(r"(?P<h>\d{1,2}):(?P<i>\d{2})(?::(?P<s>\d{2}))?")
_TOKEN = re.compile(r"\d+|[^\W\d_]+")
_DAYS = frozenset(name.lower() for name in (*calendar.day_name, *calendar.day_abbr))
_ORDINALS = frozenset("st nd rd th".split())
_TELL_NOTHING = frozenset(
    "t z utc gmt am pm a p m of at on the to from and or until in by since before after last next this ago old born "
    "day days week weeks month months year years hour hours morning evening night noon o clock h de del di du der am "
    "le la el al den 年 月 日 년 월 일".split()
)
_LONE_YEAR = re.compile(r"(?<!\d)(?:1[89]\d\d|20\d\d|21[0-4]\d|2150)(?!\d)")
# In which a date without one is counted on.
_NO_YEAR = 2001
#: The latest date of a record is made one of these, the first and the last year.
YEARS = (1950, 2025)


def draw_move(values: Iterable[str], years: tuple[int, int], rng: Random) -> timedelta:
    """Draw by how much the dates of a record move: its latest one becomes any day of some years, at any time of it.

    Args:
        values: the record's dates, as they stand there; those without a year do not count where others have one.
        years: the first and the last.
        rng: where the draw comes from.
    """
    first, last = datetime(years[0], 1, 1), datetime(years[1] + 1, 1, 1)
    chosen = first + timedelta(days=rng.randrange((last - first).days), seconds=rng.randrange(86_400))
    return chosen - max((when for value in values for when in _dated(value)), default=datetime(_NO_YEAR, 1, 1))


def _dated(value: str) -> Iterator[datetime]:
    """Yield the days of a value that say a year, the middle of it where they say no more."""
    place = 0
    for start in [*_starts(value), len(value)]:
        yield from (datetime(int(year[0]), 7, 1) for year in _LONE_YEAR.finditer(value, place, start))
        place = start
        places = _date_in(value[start:])
        if "y" in places:
            place = start + max(end for _, end in places.values())
            # What is no day is figures, and says nothing.
            with suppress(ValueError):
                yield _when(value[start:], places)


def moved(value: str, move: timedelta, rng: Random) -> str:
    """Return a value with every date in it moved, and what else says when changed, written in the same way.

    Args:
        value: as it stands in the text.
        move: see `draw_move`; a date without a time moves by its whole days.
        rng: for what is no date that can be read.
    """

    def later(when: datetime, timed: bool) -> datetime:
        return when + (move if timed else timedelta(days=move.days))

    starts = _starts(value)
    made = [_others(value[: starts[0]] if starts else value, move, rng)]
    for start, end in pairwise([*starts, len(value)]):
        part = value[start:end]
        pieces = _pieces(part, _date_in(part), later)
        # A date that is none is figures and words.
        place = 0
        for first, last, new in pieces or []:
            made += [_others(part[place:first], move, rng), new]
            place = last
        made.append(_others(part[place:], move, rng))
    return "".join(made)


def is_date(value: str) -> bool:
    """Tell whether a value is a whole date in figures, whatever somebody took it for: 1987-03-14, 14.3.1987."""
    found = _YEAR_FIRST.fullmatch(value) or _YEAR_LAST.fullmatch(value)
    return found is not None and _pieces(value, _date_in(value), lambda when, timed: when) is not None


_PATTERNS = (_YEAR_FIRST, _YEAR_LAST, _DAY_IN_WORDS, _ONE_PIECE, _MONTH_AND_YEAR)


def _starts(value: str) -> list[int]:
    """List where the dates of a value begin."""
    starts: list[int] = []
    place = 0
    while True:
        found = [match for pattern in _PATTERNS if (match := pattern.search(value, place))]
        if not found:
            return starts
        first = min(found, key=lambda match: (match.start(), -match.end()))
        starts.append(first.start())
        place = first.end()


def _date_in(value: str) -> dict[str, tuple[int, int]]:
    """Return where year, month and day of the date stand with which a value begins; nothing where there is none."""
    for pattern in _PATTERNS:
        found = pattern.match(value)
        places = _places(found) if found is not None else None
        if places:
            return places
    return {}


def _others(text: str, move: timedelta, rng: Random) -> str:
    """Return what stands around dates with its figures and words changed, but for those that tell nothing."""

    def other(token: re.Match[str]) -> str:
        own = token[0].casefold()
        if _LONE_YEAR.fullmatch(own):
            return _moved_year(own, move, rng)
        if own[0].isdecimal():
            return _alike(token[0], rng)
        if own in _ORDINALS:
            return "th"
        if own in _TELL_NOTHING:
            return token[0]
        if own in _MONTHS:
            return _named(token[0], rng.randint(1, 12))
        if own in _DAYS:
            return _cased_as(rng.choice(list(calendar.day_abbr if len(own) < 5 else calendar.day_name)), token[0])
        return by_shape(token[0], rng)

    return _TOKEN.sub(other, text)


def _places(found: re.Match[str]) -> dict[str, tuple[int, int]] | None:
    """Return where year, month and day stand in a date; nothing where it is none."""
    groups = {name: found.span(name) for name, text in found.groupdict().items() if text is not None}
    if "a" in groups:
        first, second = int(found["a"]), int(found["b"])
        day_first = first > 12 or (found[2] != "/" and second <= 12)
        one, other = groups.pop("a"), groups.pop("b")
        groups["d"], groups["m"] = (one, other) if day_first else (other, one)
    return {name[0]: place for name, place in groups.items()} if groups else None


def _pieces(
    value: str, places: dict[str, tuple[int, int]], later: Callable[[datetime, bool], datetime]
) -> list[tuple[int, int, str]] | None:
    """Return the parts of a value that are another date now, (start, end, new) in order; `None` where it is no date.

    Args:
        value: that begins with a date.
        places: where its parts stand.
        later: returns the new date for the old one, which may have a time.
    """
    if not places:
        return None

    time = _TIME.search(value, max(end for _, end in places.values()))
    try:
        hour, minute, second = [int(part or 0) for part in time.group("h", "i", "s")] if time else [0, 0, 0]
        before = _when(value, places).replace(hour=hour, minute=minute, second=second)
        after = later(before, time is not None)
    except (ValueError, OverflowError):
        return None
    new = {"y": after.year, "m": after.month, "d": after.day}
    # A day of one figure shows that none is written with a 0 before it.
    bare = "w" in places or any(end - start == 1 for start, end in places.values())
    pieces = [
        (*places[name], _figures(value[slice(*places[name])], new[name], bare)) for name in new if name in places
    ]
    if "w" in places:
        pieces.append((*places["w"], _named(value[slice(*places["w"])], after.month)))
    if time:
        for name, number in (("h", after.hour), ("i", after.minute), ("s", after.second)):
            if time[name] is not None:
                pieces.append((*time.span(name), _figures(time[name], number, len(time["h"]) == 1 and name == "h")))
    return sorted(pieces)


def _when(value: str, places: dict[str, tuple[int, int]]) -> datetime:
    """Return the day of a date.

    Raises:
        ValueError: there is none.
    """

    def figure(name: str, otherwise: int) -> int:
        return int(value[slice(*places[name])]) if name in places else otherwise

    month = _MONTHS[value[slice(*places["w"])].lower()] if "w" in places else figure("m", 1)
    year = figure("y", _NO_YEAR)
    if "y" in places and places["y"][1] - places["y"][0] == 2:
        year += 1900 if year > 30 else 2000
    return datetime(year, month, figure("d", 1))


def _figures(before: str, number: int, bare: bool) -> str:
    """Write a number as another one was written: with as many figures, or `bare`, without a 0 before it."""
    written = str(number) if bare and not before.startswith("0") else str(number).zfill(len(before))
    return written[-2:] if len(before) == 2 else written


def _named(before: str, month: int) -> str:
    short = len(before) <= 4 and before.lower() not in ("may", "june", "july")
    return _cased_as(calendar.month_abbr[month] if short else calendar.month_name[month], before)


def _cased_as(made: str, before: str) -> str:
    return made.upper() if before.isupper() else made.lower() if before.islower() else made


def _moved_year(year: str, move: timedelta, rng: Random) -> str:
    try:
        return str((datetime(int(year), 7, 1) + move).year).zfill(4)
    except OverflowError:
        return by_shape(year, rng)


def _alike(figures: str, rng: Random) -> str:
    """Return a number that may stand in the same place of a date or a time."""
    number = int(figures)
    for highest in (12, 23, 31, 59):
        if len(figures) <= 2 and number <= highest:
            return str(rng.randint(min(number, 1), highest)).zfill(len(figures))[-max(len(figures), 1) :]
    return str(rng.randint(10 ** (len(figures) - 1), 10 ** len(figures) - 1))
