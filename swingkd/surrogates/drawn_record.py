"""The made-up values of one record, drawn from a noised table of what values look like, and from nothing else.

Of a value no more is looked at than its template (`template_of`), its label, and whether it, or a word of it, stands
in the record again: another value with the same of these has the same surrogate (tested as such).
"""

from __future__ import annotations

import calendar
import re
from random import Random

from swingkd.surrogates.kinds import kind_of
from swingkd.surrogates.names import locale_of, pools, spelled
from swingkd.surrogates.shapes import PUBLIC_HOSTS, by_shape
from swingkd.surrogates.template import letters, template_of
from swingkd.surrogates.value_table import ValueTable

_HOSTS = tuple(sorted(PUBLIC_HOSTS))
_WORD, _RUN = re.compile(r"[^\W\d_]+"), re.compile(r"0+|[^\W\d_]+")
_NAMED = ("person", "street", "city", "company")


class DrawnRecord:
    """One record's values by a table.

    Args:
        rng: where the draws come from.
        table: what values look like.
    """

    def __init__(self, rng: Random, table: ValueTable):
        self.rng, self.table = rng, table
        self._values: dict[str, str] = {}
        self._words: dict[str, str] = {}

    def read(self, values: list[tuple[str, str]]) -> None:
        """Look at nothing: what is made up does not depend on the values."""

    def surrogate(self, value: str, label: str) -> str:
        """Return what stands for a value: the same for each of its spellings in the record.

        Args:
            value: as it stands in the text; its template is used, and which values and words are equal.
            label: what it is.
        """
        template, key = template_of(value), letters(value)
        # Words keep their own names, in any case; what has figures is the same as before.
        if key not in self._values or ("0" not in template and kind_of(label) in _NAMED):
            words = [word.casefold() for word in _WORD.findall(value)]
            self._values[key] = self._drawn(template, label, words)
        return self._values[key]

    def _drawn(self, template: str, label: str, words: list[str]) -> str:
        kind = kind_of(label)
        if kind == "date":
            return self._date(template)
        if kind == "mail" and "@" in template:
            name = template.rpartition("@")[0]
            own = words[: len(_WORD.findall(name))]
            return f"{self._pieces(name, label, own, named=True)}@{self.rng.choice(_HOSTS)}"
        if kind == "host":
            _, sign, rest = template.rpartition("://")
            site, slash, path = rest.partition("/")
            front, dot, _ = site.rpartition(".")
            start = "https://" if sign else ""
            return start + self._by_table(front if dot else site, label) + ".com" + slash + self._by_table(path, label)
        return self._pieces(template, label, words, named=kind in _NAMED, place="town" if kind != "person" else None)

    def _pieces(self, template: str, label: str, words: list[str], *, named: bool, place: str | None = None) -> str:
        """Return names for the words of a template, and signs of the table for the rest of it."""
        if not named:
            return self._by_table(template, label)
        # A template loses marks, so its words are counted, not looked up.
        runs = [run for run in _RUN.finditer(template) if run[0][0] != "0"]
        own = words if len(words) == len(runs) else [f"{len(self._words)} {number}" for number in range(len(runs))]
        made, last = [], 0
        for number, (run, word) in enumerate(zip(runs, own, strict=True)):
            made += [
                self._by_table(template[last : run.start()], label),
                self._name(run[0], word, number, runs, place),
            ]
            last = run.end()
        return "".join(made) + self._by_table(template[last:], label)

    def _name(self, run: str, word: str, number: int, runs: list[re.Match[str]], place: str | None) -> str:
        if word not in self._words:
            lists = pools(locale_of(run, self.table.locale))
            kind = place or ("last" if number and number == len(runs) - 1 else "first")
            listed = {"first": lists.first, "last": lists.last, "town": lists.town}[kind]
            if len(run) == 1 and run.isascii():
                drawn = self.rng.choice("ABCDEFGHJKLMNPRSTW")
            elif run.isascii():
                drawn = self.table.name(kind, self.rng) or spelled(listed, self.rng)
            else:
                drawn = self.rng.choice(listed)
            self._words[word] = drawn
        made = self._words[word]
        return made.upper() if run.isupper() and len(run) > 1 else made.lower() if run.islower() else made

    def _date(self, template: str) -> str:
        """Return a date for a template: figures of four signs are a year, others fit a day, a month and an hour."""
        year = self.table.year(self.rng)

        def part(run: re.Match[str]) -> str:
            length = len(run[0])
            if run[0][0] != "0":
                if length < 3:
                    return {"a": "T", "A": "T"}.get(run[0], "th")
                months = calendar.month_abbr if length == 3 else calendar.month_name
                name = months[self.rng.randint(1, 12)]
                return name.upper() if run[0].isupper() else name.lower() if run[0].islower() else name
            if length == 4:
                return str(year)
            if length in (6, 8):
                return str(year)[-(length - 4) :] + "".join(f"{self.rng.randint(1, 12):02d}" for _ in range(2))
            if length <= 2:
                return str(self.rng.randint(1, 9)) if length == 1 else f"{self.rng.randint(1, 12):02d}"
            return by_shape(run[0].replace("0", "1"), self.rng)

        return _RUN.sub(part, template)

    def _by_table(self, template: str, label: str) -> str:
        """Return signs of the table for those of a template; beyond digits and Latin letters they are drawn evenly."""
        made, place = [], 0
        for sign in template:
            known = sign.isascii() and sign.isalnum()
            made.append(self.table.symbol(label, place, sign, self.rng) if known else by_shape(sign, self.rng))
            place += sign.isalnum()
        return "".join(made)
