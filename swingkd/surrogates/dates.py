"""Dates, moved by one span of time in all of a record, so that the days between them stay as many."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random

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
_TIME = re.compile(r"(?P<h>\d{1,2}):(?P<i>\d{2})(?::(?P<s>\d{2}))?")
_FIGURE = re.compile(r"\d+")
# A few months at least, and few enough that a child stays a child.
_NEAREST, _FURTHEST = 60, 1000


def draw_move(rng: Random) -> timedelta:
    """Draw by how much the dates of a record move: 60 to 1,000 days to either side, and some time of the day."""
    days = rng.choice((-1, 1)) * rng.randint(_NEAREST, _FURTHEST)
    return timedelta(days=days, seconds=rng.randint(0, 86_399))


def moved(value: str, move: timedelta, rng: Random) -> str:
    """Return a date, or a date and a time, moved and written in the same way.

    Args:
        value: as it stands in the text.
        move: see `draw_move`; a date without a time moves by its whole days.
        rng: for figures that are no date that can be read.
    """
    places = _date_in(value)
    made = _rendered(value, places, lambda when, timed: when + (move if timed else timedelta(days=move.days)))
    return made if made is not None else _FIGURE.sub(lambda figure: _alike(figure[0], rng), value)


def redrawn(value: str, year: int, rng: Random) -> str | None:
    """Return another date written in the same way, of which nothing depends on the value; `None`: it is no date.

    Args:
        value: as it stands in the text.
        year: of the new date.
        rng: where its day and time come from.
    """
    # Whichever of two figures the month is: both can be one.
    drawn = datetime(year, rng.randint(1, 12), rng.randint(1, 12)) + timedelta(seconds=rng.randint(0, 86_399))
    return _rendered(value, _date_in(value), lambda when, timed: drawn)


def is_date(value: str) -> bool:
    """Tell whether a value is a whole date in figures, whatever somebody took it for: 1987-03-14, 14.3.1987."""
    found = _YEAR_FIRST.fullmatch(value) or _YEAR_LAST.fullmatch(value)
    return found is not None and _rendered(value, _date_in(value), lambda when, timed: when) is not None


def _date_in(value: str) -> dict[str, tuple[int, int]]:
    """Return where year, month and day of the first date in a value stand; nothing where there is none."""
    for pattern in (_YEAR_FIRST, _YEAR_LAST, _DAY_IN_WORDS, _ONE_PIECE):
        found = pattern.search(value)
        places = _places(found) if found is not None else None
        if places:
            return places
    return {}


def _places(found: re.Match[str]) -> dict[str, tuple[int, int]] | None:
    """Return where year, month and day stand in a date; nothing where it is none."""
    groups = {name: found.span(name) for name, text in found.groupdict().items() if text is not None}
    if "a" in groups:
        first, second = int(found["a"]), int(found["b"])
        day_first = first > 12 or (found[2] != "/" and second <= 12)
        one, other = groups.pop("a"), groups.pop("b")
        groups["d"], groups["m"] = (one, other) if day_first else (other, one)
    return {name[0]: place for name, place in groups.items()} if groups else None


def _rendered(
    value: str, places: dict[str, tuple[int, int]], later: Callable[[datetime, bool], datetime]
) -> str | None:
    """Return a value with another date, written alike; `None` where it is no date.

    Args:
        value: with a date.
        places: where its parts stand.
        later: returns the new date for the old one, which may have a time.
    """
    if not places:
        return None

    def figure(name: str, otherwise: int) -> int:
        return int(value[slice(*places[name])]) if name in places else otherwise

    month = _MONTHS[value[slice(*places["w"])].lower()] if "w" in places else figure("m", 1)
    year = figure("y", 2001)
    century = 0
    if "y" in places and places["y"][1] - places["y"][0] == 2:
        century = 1900 if year > 30 else 2000
    time = _TIME.search(value, max(end for _, end in places.values()))
    try:
        hour, minute, second = [int(part or 0) for part in time.group("h", "i", "s")] if time else [0, 0, 0]
        before = datetime(year + century, month, figure("d", 1), hour, minute, second)
        after = later(before, time is not None)
    except (ValueError, OverflowError):
        return None
    new = {"y": after.year, "m": after.month, "d": after.day}
    # A day of one figure shows that none is written with a 0 before it.
    bare = "w" in places or any(end - start == 1 for start, end in places.values())
    pieces = [(places[name], _figures(value[slice(*places[name])], new[name], bare)) for name in new if name in places]
    if "w" in places:
        pieces.append((places["w"], _named(value[slice(*places["w"])], after.month)))
    if time:
        for name, number in (("h", after.hour), ("i", after.minute), ("s", after.second)):
            if time[name] is not None:
                pieces.append((time.span(name), _figures(time[name], number, len(time["h"]) == 1 and name == "h")))
    for (start, end), written in sorted(pieces, reverse=True):
        value = value[:start] + written + value[end:]
    return value


def _figures(before: str, number: int, bare: bool) -> str:
    """Write a number as another one was written: with as many figures, or `bare`, without a 0 before it."""
    written = str(number) if bare and not before.startswith("0") else str(number).zfill(len(before))
    return written[-2:] if len(before) == 2 else written


def _named(before: str, month: int) -> str:
    short = len(before) <= 4 and before.lower() not in ("may", "june", "july")
    name = calendar.month_abbr[month] if short else calendar.month_name[month]
    return name.upper() if before.isupper() else name.lower() if before.islower() else name


def _alike(figures: str, rng: Random) -> str:
    """Return a number that may stand in the same place of a date or a time."""
    number = int(figures)
    if len(figures) == 4 and 1800 <= number <= 2150:
        return str(number + rng.choice((-3, -2, -1, 1, 2, 3)))
    for highest in (12, 23, 28, 59):
        if len(figures) <= 2 and number <= highest:
            return str(rng.randint(min(number, 1), highest)).zfill(len(figures))[-max(len(figures), 1) :]
    return str(rng.randint(10 ** (len(figures) - 1), 10 ** len(figures) - 1))
