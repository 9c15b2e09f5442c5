"""The made-up values of one record: one for each real value, however it is written, and its parts."""

from __future__ import annotations

import re
from collections.abc import Container
from datetime import timedelta
from random import Random

from swingkd.surrogates.dates import YEARS, draw_move, is_date, moved
from swingkd.surrogates.kinds import kind_of
from swingkd.surrogates.names import DRAWS, WORD, People, Pools, untaken
from swingkd.surrogates.shapes import PUBLIC_HOSTS, by_shape, host, made_words, network_address, number
from swingkd.surrogates.template import letters

_WORD_OR_NUMBER = re.compile(r"[^\W_]+")
_STATES = tuple(
    "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR "
    "PA RI SC SD TN TX UT VT VA WA WV WI WY DC".split()
)
# Where the post of the forces goes.
_FORCES = ("AA", "AE", "AP")
_ABROAD = re.compile(r"\s*(?:\+|00)(?:1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|\d{3})|\s*\(?0+")
# With fewer letters and digits, an ending is no sign of the same value.
_ENDING = 7
# So far is a date moved that by chance would stay the one that it is: to another year, month and day.
_AWAY = timedelta(days=400)


class Record:
    """What stands for the values of one record.

    Args:
        rng: the record's own; nothing that is drawn depends on a value.
        locale: of the names.
        avoid: letters and digits of values that must not be made up.
        home: lists of names of the same kind of text; `None`: those of the locale alone.
        years: the first and the last that its latest date may be of.
    """

    def __init__(
        self,
        rng: Random,
        locale: str,
        avoid: Container[str],
        home: Pools | None = None,
        years: tuple[int, int] = YEARS,
    ):
        self.rng, self.locale, self.avoid, self.years = rng, locale, avoid, years
        self.people = People(locale, rng, self._taken, home)
        self._own: set[str] = set()
        self._made: dict[str, str] = {}
        self._sites: dict[str, str] = {}

    def read(self, values: list[tuple[str, str]]) -> None:
        """Look at all values of the record: none is made up, whole names come before their parts, dates have a last.

        Args:
            values: each with its label.
        """
        for value, label in values:
            self._own.add(letters(value))
            if kind_of(label) in ("person", "street"):
                self._own.update(word.casefold() for word in WORD.findall(value))
        dates = [value for value, label in values if kind_of(label) == "date" or is_date(value)]
        self.move = draw_move(dates, self.years, self.rng)
        people = [value for value, label in values if kind_of(label) == "person"]
        for value in sorted(people, key=lambda value: -len(WORD.findall(value))):
            self.people.name(value)

    def surrogate(self, value: str, label: str) -> str:
        """Return what stands for a value, written as the value is.

        Args:
            value: as it stands in the text.
            label: what it is.
        """
        kind = "date" if is_date(value) else kind_of(label)
        if kind == "person":
            return self._other(value, self.people.name(value))
        if kind == "date":
            made = moved(value, self.move, self.rng)
            if letters(made) == letters(value):
                # The same in all mentions, which one drawn anew were not.
                made = moved(value, self.move + _AWAY, self.rng)
            return self._other(value, made)
        part = self.people.known(value)
        if part is not None:
            return part
        same = self._laid(value, kind)
        if same is not None:
            return same
        sites = self._sites
        for _ in range(DRAWS):
            self._sites = dict(sites)
            made = self._draw(value, label, kind)
            if not self._taken(letters(made)):
                break
        self._made[letters(value)] = self._other(value, made)
        return self._made[letters(value)]

    def _other(self, value: str, made: str) -> str:
        """Return a made value, or one of the same shape where by chance or by its kind it is still the real one."""
        for _ in range(DRAWS):
            if letters(made) != letters(value):
                break
            made = by_shape(value, self.rng)
        return made

    def _taken(self, name: str) -> bool:
        return name in self._own or name in self.avoid

    def _draw(self, value: str, label: str, kind: str) -> str:
        rng = self.rng
        lists = self.people.lists(value) if kind in ("city", "company", "street") else None
        if lists is not None and any(c.isalpha() for c in value):
            if kind == "street":
                return self._address(value, lists)
            return _cased(rng.choice(lists.city if kind == "city" else lists.company), value)
        if kind == "mail":
            return self._mail(value)
        if kind == "host":
            return host(value, rng, self._sites)
        if kind == "machine":
            return network_address(value, rng, self._sites)
        if kind == "phone":
            start = _country(value)
            return value[:start] + by_shape(value[start:], rng)
        return number(value, label, rng)

    def _mail(self, value: str) -> str:
        name, at, site = value.rpartition("@")
        if not at:
            return by_shape(value, self.rng)
        scheme, colon, rest = name.rpartition(":")
        if scheme.lower() == "mailto":
            name = rest
        else:
            scheme = colon = ""
        # The names of the record's people; anything else by its shape.
        made = WORD.sub(lambda word: self.people.known(word[0]) or made_words(word[0], self.rng), name)
        made = re.sub(r"\d+", lambda digits: by_shape(digits[0], self.rng), made)
        made = made.lower() if name.islower() else made
        if site.lower() not in PUBLIC_HOSTS:
            site = host(site, self.rng, self._sites)
        return scheme + colon + made + at + site

    def _address(self, value: str, lists: Pools) -> str:
        """Return an address of the same build: other names and numbers, the words that all addresses share stay."""
        words = list(_WORD_OR_NUMBER.finditer(value))
        made, place, name_before = [], 0, False
        for word, following in zip(words, [*words[1:], None], strict=True):
            if word[0].casefold() in lists.of_place or (name_before and word[0].casefold() in lists.behind):
                other, name_before = word[0], False
            else:
                other, name_before = self._of_address(word[0], following, lists), word[0].isalpha()
            made += [value[place : word.start()], other]
            place = word.end()
        return "".join(made) + value[place:]

    def _of_address(self, word: str, following: re.Match[str] | None, lists: Pools) -> str:
        for codes in (_STATES, _FORCES):
            if word in codes:
                return self.rng.choice(codes)
        if not word.isalpha() or word.isupper():
            return by_shape(word, self.rng)
        # A street's name stands before "Street" or "Square", a city's before nothing of that kind.
        named = following is not None and lists.names_place(following[0])
        names = lists.street if named else lists.town
        return _cased(untaken(lambda: self.rng.choice(names), self._taken), word)

    def _laid(self, value: str, kind: str) -> str | None:
        """Return a made value that stands for this one already, in this one's shape."""
        key = letters(value)
        made = self._made.get(key)
        if made is not None and kind in ("city", "company", "street", "mail", "host"):
            return _cased(made, value)
        if made is None and len(key) >= _ENDING and key[-_ENDING:].isdigit():
            # With a country's number before it, or without.
            made = next((m for known, m in self._made.items() if known[-_ENDING:] == key[-_ENDING:]), None)
        if made is None:
            return None
        source = [c for c in made if c.isalnum()]
        # The country's number, or the 0 in its place, is part of how it is written.
        begin = _country(value) if kind == "phone" else 0
        places = [i for i in range(begin, len(value)) if value[i].isalnum()]
        out = list(value)
        for i, c in zip(reversed(places), reversed(source), strict=False):
            out[i] = c.upper() if value[i].isupper() else c.lower() if value[i].islower() else c
        for i in places[: max(len(places) - len(source), 0)]:
            out[i] = by_shape(value[i], self.rng)
        return "".join(out)


def _country(value: str) -> int:
    """Return where a telephone number begins behind its country's number, or behind the 0 in the place of that.

    Digits in one piece may be any number: a 0 before them says as much as every other digit.
    """
    abroad = None if value.isdigit() else _ABROAD.match(value)
    return abroad.end() if abroad else 0


def _cased(made: str, value: str) -> str:
    """Return a made value in capitals or in small letters, where all of the real one is."""
    return made.upper() if value.isupper() and len(value) > 3 else made.lower() if value.islower() else made
