"""What private values look like, counted once, with noise: what is drawn from it is differentially private.

For each kind of value: which digits and letters stand at which place; of names and towns, how often each of a public
list is one; of dates, their years.  The values of one unit (a record, or a person) weigh no more than 1 together, in
Euclidean norm, and every cell of the table gets Gaussian noise, whether a value fell into it or not.  Weights are not
negative, so two units differ by sqrt(2) at most: that is the sensitivity where a unit's values are *changed* (our
derivation).

What is covered are the values, given their kinds, templates (which kinds of signs stand where) and places, and which
of them, or of their words, are equal: those of a surrogate are the real one's.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from random import Random, SystemRandom

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from swingkd.files import written_whole
from swingkd.guards import check_finite
from swingkd.surrogates.names import name_words, pools

#: By how much the values of one unit can move the table, in Euclidean norm, where they are changed.
SENSITIVITY = math.sqrt(2)
_PLACES, _DIGITS, _LETTERS = 16, "0123456789", "abcdefghijklmnopqrstuvwxyz"
_SYMBOLS = _DIGITS + _LETTERS
_YEARS = tuple(map(str, range(1900, 2051)))
_YEAR = re.compile(r"(?<!\d)(?:19\d\d|20[0-4]\d|2050)(?!\d)")
# With less than so many deviations of noise, a cell or a sum of cells tells nothing.
_CLEAR = 3.0


class ValueTable:
    """A noised table of what private values look like.

    Args:
        labels: the kinds, in the order of the table; what else there is counts as the last one.
        locale: whose lists of names, see `Surrogates`.
        cells: [cells] noised weights.
        noise: standard deviation of the noise in each cell.
        about: what was counted, so that it is not taken for something else.

    Raises:
        ValueError: there are more or fewer cells than the kinds and lists have.
    """

    def __init__(self, labels: Sequence[str], locale: str, cells: np.ndarray, noise: float, about: str = ""):
        self.labels, self.locale, self.cells, self.noise, self.about = tuple(labels), locale, cells, noise, about
        self._domain = _Domain.of(self.labels, locale)
        self._sums: dict[tuple[int, int], list[float]] = {}
        if len(cells) != self._domain.size:
            raise ValueError(f"The table has {len(cells)} cells, and these kinds and lists have others.")

    @classmethod
    def measured(
        cls,
        units: Iterable[Iterable[tuple[str, str]]],
        labels: Sequence[str],
        locale: str,
        noise_multiplier: float,
        about: str = "",
    ) -> ValueTable:
        """Count the values of units, with noise of the system's randomness.

        Args:
            units: the values of each, with their labels.
            labels: all kinds that a value may be of: they must not depend on the values.
            locale: see `Surrogates`.
            noise_multiplier: in units of the sensitivity.
            about: see the class.

        Raises:
            ValueError: the noise is no positive number.
        """
        check_finite("noise_multiplier", noise_multiplier)
        if noise_multiplier <= 0:
            raise ValueError(
                f"noise_multiplier={noise_multiplier} must be positive: without noise nothing is private."
            )
        domain = _Domain.of(tuple(labels), locale)
        cells = np.zeros(domain.size)
        for values in units:
            at, weights = domain.contribution(values)
            cells[at] += weights
        draw, noise = SystemRandom().gauss, noise_multiplier * SENSITIVITY
        cells += [draw(0.0, noise) for _ in range(domain.size)]
        return cls(labels, locale, cells, noise, about)

    def symbol(self, label: str, place: int, like: str, rng: Random) -> str:
        """Draw a digit or a letter for a place of a value.

        Args:
            label: what the value is.
            place: among its digits and letters, from 0.
            like: the character in whose place it stands: a digit for a digit, a letter for a letter in its case.
            rng: where the draw comes from.
        """
        symbols = _DIGITS if like.isdecimal() else _LETTERS
        start = self._domain.of_symbol(label, place, symbols[0])
        drawn = symbols[self._chosen(start, len(symbols), rng)]
        return drawn.upper() if like.isupper() else drawn

    def year(self, rng: Random) -> int:
        """Draw the year of a date."""
        return int(_YEARS[self._chosen(self._domain.years, len(_YEARS), rng)])

    def name(self, kind: str, rng: Random) -> str | None:
        """Draw a name of a person, "first" or "last", or a "town", as often as it is one; `None`: one of no list.

        Args:
            kind: which.
            rng: where the draw comes from.
        """
        start, listed = self._domain.lists[kind]
        return [*listed, None][self._chosen(start, len(listed) + 1, rng)]

    def _chosen(self, start: int, size: int, rng: Random) -> int:
        """Draw one of some cells by their weights; evenly, where they hold nothing but noise."""
        key = (start, size)
        if key not in self._sums:
            cells = self.cells[start : start + size]
            # What noise alone hardly gives stands out; what is left of the sum is shared out evenly.
            clear = cells > _CLEAR * self.noise
            left = max(float(cells.sum() - cells[clear].sum()), 0.0)
            if cells.sum() < _CLEAR * self.noise * math.sqrt(size):
                clear[:], left = False, 1.0
            weights = np.where(clear, cells, left / max(int((~clear).sum()), 1))
            self._sums[key] = list(accumulate(weights.tolist()))
        sums = self._sums[key]
        return min(bisect(sums, rng.random() * sums[-1]), size - 1)

    def save(self, path: Path) -> None:
        """Write the table as safetensors that only the owner may read."""
        known = {"labels": json.dumps(self.labels), "locale": self.locale, "noise": repr(self.noise)}
        known["about"] = self.about
        with written_whole(path, owner_only=True) as part:
            save_file({"cells": self.cells}, part, metadata=known)

    @classmethod
    def load(cls, path: Path) -> ValueTable:
        """Read a table that `save` wrote."""
        with safe_open(path, "numpy") as file:
            known = file.metadata()
            labels, cells = json.loads(known["labels"]), file.get_tensor("cells")
            return cls(labels, known["locale"], cells, float(known["noise"]), known["about"])

    def __reduce__(self):
        return ValueTable, (self.labels, self.locale, self.cells, self.noise, self.about)


class _Domain:
    """Which cell is about what; public: labels and lists of names."""

    def __init__(self, labels: tuple[str, ...], locale: str):
        self.labels = {label: number for number, label in enumerate(labels)}
        size = (len(labels) + 1) * _PLACES * len(_SYMBOLS)
        self.years = size
        size += len(_YEARS)
        public = pools(locale)
        self.lists: dict[str, tuple[int, list[str]]] = {}
        for kind in ("first", "last", "town"):
            listed = sorted(set(getattr(public, kind)))
            self.lists[kind] = size, listed
            size += len(listed) + 1
        self.place = {
            kind: {name.casefold(): start + i for i, name in enumerate(listed)}
            for kind, (start, listed) in self.lists.items()
        }
        self.size = size

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, labels: tuple[str, ...], locale: str) -> _Domain:
        return cls(labels, locale)

    def of_symbol(self, label: str, place: int, symbol: str) -> int:
        kind = self.labels.get(label, len(self.labels))
        return (kind * _PLACES + min(place, _PLACES - 1)) * len(_SYMBOLS) + _SYMBOLS.index(symbol)

    def contribution(self, values: Iterable[tuple[str, str]]) -> tuple[list[int], np.ndarray]:
        """Return which cells a unit's values fall into, and with which weights; their norm is 1 at most."""
        cells: dict[int, float] = {}
        for value, label in set(values):
            for cell in self._cells_of(value, label):
                cells[cell] = cells.get(cell, 0.0) + 1.0
        weights = np.array(list(cells.values()))
        return list(cells), weights / max(float(np.linalg.norm(weights)), 1.0)

    def _cells_of(self, value: str, label: str) -> Iterable[int]:
        known = (c for c in value.casefold() if c.isalnum())
        for place, symbol in enumerate(known):
            if symbol in _SYMBOLS:
                yield self.of_symbol(label, place, symbol)
        for year in _YEAR.findall(value):
            yield self.years + _YEARS.index(year)
        words = [word[0] for word in name_words(value) if len(word[0]) > 1]
        for number, word in enumerate(words):
            kind = "last" if number and number == len(words) - 1 else "first"
            for name in (kind, "town"):
                start, listed = self.lists[name]
                yield self.place[name].get(word.casefold(), start + len(listed))
