"""One value, written in many ways: "+49 (0)30 123-456" is "0049 30 123456", and no part of "+49 30 123-4567".

What a separator means depends on the value: in a telephone number it means nothing, in an address on the net it parts
the numbers, in a name it parts words.
"""

from __future__ import annotations

import calendar
import ipaddress
import re
import unicodedata
from contextlib import suppress

# Digits, Latin, Greek, Cyrillic, Armenian, Hebrew and Arabic, in small letters: written with blanks between words.
WITH_BLANKS = r"0-9a-z\u00df-\u024f\u0370-\u0586\u05d0-\u05ea\u0620-\u06d3"
# Marks belong to their letter: vowels of India's and Thailand's scripts are marks.
MARKS = "".join(chr(c) for c in range(0x300, 0x2000) if unicodedata.category(chr(c)).startswith("M"))
# Letters and digits, up to where another way of writing begins.
RUN = re.compile(rf"[{WITH_BLANKS}{MARKS}]+|(?:[^\W_{WITH_BLANKS}]|[{MARKS}])+")
_LETTER = re.compile(rf".[{MARKS}]*", re.DOTALL)
_EMAIL = re.compile(r"(?:mailto:)?([^\s@]+)\s?@\s?([\w-]+(?:\.[\w-]+)+)")
_URL = re.compile(r"(?:https?://)?(?:www\.)?([a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,24}(?::\d+)?(?:/\S+?)?)/?")
# Of a machine, perhaps; to ask the library about every value would take longer than all the rest.
_ADDRESS = re.compile(r"\d+(?:\.\d+){3}|[0-9a-f.]*:[0-9a-f:.]*(?:%\S+)?")
_MAC = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}")
_DATE = re.compile(
    r"(\d{4})\s?[-./年]\s?(\d{1,2})\s?[-./月]\s?(\d{1,2})日?|(\d{1,2})\s?[-./]\s?(\d{1,2})\s?[-./]\s?(\d{4})"
)
_DATE_IN_WORDS = re.compile(
    r"(\d{1,2})(?:st|nd|rd|th|\.)?(?: of)?[ -]([a-z]{3,9})\.?,?[ -](\d{4})"
    r"|([a-z]{3,9})\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})"
)
_MONTHS = {name.lower(): i for i in range(1, 13) for name in (calendar.month_name[i], calendar.month_abbr[i])}
_MONTHS["sept"] = 9
_NUMBER = re.compile(r"(?:tel:)?\+?[\d\s()./\u00b7\u2010-\u2014-]+")
# With fewer digits, a separator may part two numbers.
_LONG_NUMBER = 7
# What parts the groups of an account's number, and means nothing; it has so many letters and digits at least.
_GROUPED, _LONG_CODE = re.compile(r"[a-z0-9]+(?:[ -][a-z0-9]+)*"), 12
# What stands before a value and belongs to it.
SIGNS = "@$€£#"


def folded_with_places(text: str) -> tuple[str, list[int] | range]:
    """Return a text as `fold` does, and where each of its characters stands in the text.

    Args:
        text: any.
    """
    if text.isascii():
        return text.casefold(), range(len(text))
    folded: list[str] = []
    places: list[int] = []
    # A letter and the marks on it may be one character, or several.
    for letter in _LETTER.finditer(text):
        folded.append(fold(letter[0]))
        places += [letter.start()] * len(folded[-1])
    return "".join(folded), places


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
    if _MAC.fullmatch(folded):
        return folded.replace("-", ":")
    if _ADDRESS.fullmatch(folded):
        with suppress(ValueError):
            return str(ipaddress.ip_address(folded))
    date = _date(folded)
    if date:
        return date
    if _NUMBER.fullmatch(folded):
        folded = folded.removeprefix("tel:")
        digits = re.sub(r"\D", "", re.sub(r"^((?:\+|00)[\d\s]{1,5})\(0\)", r"\1", folded))
        if len(digits) >= _LONG_NUMBER:
            abroad = folded.startswith("+") or digits.startswith("00")
            return "+" + digits.removeprefix("00") if abroad else digits
        return "-".join(RUN.findall(folded)) or folded
    runs = RUN.findall(folded)
    code = _GROUPED.fullmatch(folded) and sum(map(len, runs)) >= _LONG_CODE and any(c.isdigit() for c in folded)
    joined = "".join(_between(runs[i - 1][-1], run[0], bool(code)) + run if i else run for i, run in enumerate(runs))
    return joined or folded


def _between(one: str, other: str, code: bool) -> str:
    """Return what stands between two runs: between words a blank, between numbers a mark, unless they are one code."""
    if one.isdigit() and other.isdigit():
        return "" if code else "-"
    return " " if not one.isdigit() and not other.isdigit() else ""


def fold(text: str) -> str:
    """Return a text without case, compatibility forms, foreign digits and invisible characters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():
        return folded
    return "".join(str(unicodedata.digit(c, c)) for c in folded if unicodedata.category(c) != "Cf")


def written_as_date(value: str) -> bool:
    """Tell whether a value is a date, of which other spellings share no more than figures."""
    return _date(fold(value).strip()) is not None


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


def other_spellings(key: str) -> list[str]:
    """Return further ways to write a value that may stand in a text: a number called from abroad, a date."""
    if key.startswith("+"):
        # With the zero that is left out, as "+49 (0)30", after a country's code of one to three digits.
        return [f"00{key[1:]}", *(f"{key[:n]} 0{key[n:]}" for n in (2, 3, 4))]
    if found := re.fullmatch(r"(\d{1,2})-(\d{1,2})-(\d{4})", key):
        day, month, year = found.groups()
        names = [name for name, number in _MONTHS.items() if number == int(month)]
        figures = [f"{d}-{m}-{year}" for d in {day, day.zfill(2)} for m in {month, month.zfill(2)}]
        turned = [f"{year}-{m}-{d}" for d in {day, day.zfill(2)} for m in {month, month.zfill(2)}]
        ends = ("", "st", "nd", "rd", "th")
        words = [
            part for name in names for e in ends for part in (f"{day}{e} {name} {year}", f"{name} {day}{e} {year}")
        ]
        return [*figures, *turned, *words, *(f"{day}{e} of {name} {year}" for name in names for e in ends)]
    return []
