"""The made-up values of one record, drawn from a noised table of what values look like, and from nothing else."""

from __future__ import annotations

import re
from random import Random

from swingkd.surrogates.dates import is_date, redrawn
from swingkd.surrogates.names import WORD, People, Pools, spelled
from swingkd.surrogates.record import Record, kind_of
from swingkd.surrogates.shapes import PUBLIC_HOSTS, by_shape, network_address, with_checksum
from swingkd.surrogates.value_table import ValueTable

_HOSTS = tuple(sorted(PUBLIC_HOSTS))
_SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]*://)?(?:www\.)?", re.IGNORECASE)


class DrawnRecord(Record):
    """One record's values by a table: kinds, shapes and places are the real ones', and which of them are equal.

    Args:
        rng: where the draws come from.
        table: what they look like.
    """

    def __init__(self, rng: Random, table: ValueTable):
        super().__init__(rng, table.locale, ())
        self.table = table
        self.people = _DrawnPeople(rng, table)

    def surrogate(self, value: str, label: str) -> str:
        """See `Record.surrogate`."""
        if kind_of(label) != "date" and not is_date(value):
            return super().surrogate(value, label)
        known = self._laid(value, "shape")
        if known is None:
            known = redrawn(value, self.table.year(self.rng), self.rng) or self._by_table(value, label)
            self._keep(value, known)
        return known

    def _taken(self, name: str) -> bool:
        # That a value is not drawn would tell that it is real.
        return False

    def _draw(self, value: str, label: str, kind: str) -> str:
        if kind in ("city", "company", "street") and any(c.isalpha() for c in value):
            return super()._draw(value, label, kind)
        if kind == "mail" and "@" in value:
            name, _, _ = value.rpartition("@")
            made = WORD.sub(lambda word: self.people.known(word[0]) or self._by_table(word[0], label), name)
            made = re.sub(r"\d+", lambda digits: self._by_table(digits[0], label), made)
            return f"{made.lower() if name.islower() else made}@{self.rng.choice(_HOSTS)}"
        if kind == "host":
            start = _SCHEME.match(value)
            assert start is not None  # it may be empty
            name, slash, rest = value[start.end() :].partition("/")
            front, dot, _ = name.rpartition(".")
            site = self._by_table(front, label) + ".com" if dot else self._by_table(name, label)
            return start[0] + site + slash + self._by_table(rest, label)
        if kind == "machine":
            return network_address(value, self.rng)
        if kind == "phone":
            return self._by_table(value, label)
        return with_checksum(value, label, lambda shape: self._by_table(shape, label))

    def _city(self, lists: Pools) -> str:
        return self._town(lists)

    def _town(self, lists: Pools) -> str:
        return self.table.name("town", self.rng) or spelled(lists.town, self.rng)

    def _shaped(self, word: str) -> str:
        return self._by_table(word, "")

    def _by_table(self, value: str, label: str) -> str:
        """Return a value of the same shape; writing beyond digits and the Latin alphabet is drawn evenly."""
        made, place = [], 0
        for character in value:
            known = character.isascii() and character.isalnum()
            made.append(
                self.table.symbol(label, place, character, self.rng) if known else by_shape(character, self.rng)
            )
            place += character.isalnum()
        return "".join(made)


class _DrawnPeople(People):
    def __init__(self, rng: Random, table: ValueTable):
        super().__init__(table.locale, rng, lambda name: False)
        self.table = table

    def named(self, word: str, lists: Pools, is_last: bool) -> str:
        if not word.isascii():
            return super().named(word, lists, is_last)
        listed = lists.last if is_last else lists.first
        return self.table.name("last" if is_last else "first", self.rng) or spelled(listed, self.rng)
