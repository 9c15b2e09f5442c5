"""The rows of a run side by side: students in a setting, over seeds, and paired differences between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from swingkd.privacy.accounting import said_guarantee
from swingkd.report.row import Row, words_of

# Words of a setting that say which of a student's numbers it is, not which student.
_OF_A_NUMBER = ("seed", "scope", "unit", "neighbours", "records", "attack", "client")
_TEACHER = "teacher_data"
# Students that learn from no private data at all.
_WITHOUT_TEACHER = ("self_learning", "public_teacher")


class Difference(NamedTuple):
    """A paired difference over seeds, with its 95 % t interval; without one where there is one seed."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def __str__(self) -> str:
        points = f"{100 * self.mean:+.2f} points"
        if self.low is None or self.high is None:
            return f"{points} (one seed)"
        return f"{points} [{100 * self.low:+.2f}, {100 * self.high:+.2f}] over {self.seeds} seeds"


class RunTable:
    """The rows of a run, by student: a model in a setting, apart from its seed."""

    def __init__(self, rows: list[Row]):
        self._rows: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            self._rows.setdefault((row.model, row.bare(_OF_A_NUMBER)), []).append(row)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._rows)

    def students(self, table: str) -> list[tuple[str, str]]:
        """Return the models and settings of one table."""
        return [key for key in self._rows if words_of(key[1]).get("table") == table]

    def values(self, student: tuple[str, str], metric: str, **words: str) -> dict[str, float]:
        """Return a number of each seed."""
        return {
            row.words.get("seed", "0"): row.value
            for row in self._rows.get(student, [])
            if row.metric == metric and words.items() <= row.words.items()
        }

    def mean(self, student: tuple[str, str], metric: str) -> float | None:
        """Return the mean over seeds; `None` where it was not measured."""
        values = self.values(student, metric)
        return float(np.mean(list(values.values()))) if values else None

    def promised(self, student: tuple[str, str], scope: str = _TEACHER) -> str:
        """Say which epsilon holds for the teacher's data, or for synthetic labels, the largest over seeds."""
        promises = [row for row in self._rows[student] if row.metric == "epsilon" and row.words["scope"] == scope]
        if not promises:
            return "no private teacher" if student[0] in _WITHOUT_TEACHER else "none"
        worst = max(promises, key=lambda row: row.value)
        delta = max(self.values(student, "delta", scope=scope).values())
        unit, neighbours = worst.words["unit"], worst.words["neighbours"].replace("-", " ")
        return said_guarantee(worst.value, delta, unit, neighbours, in_table=True)

    def attacks(self, student: tuple[str, str], metric: str) -> dict[str, float]:
        """Return the mean over seeds of each attack's number."""
        numbers: dict[str, list[float]] = {}
        for row in self._rows.get(student, []):
            if row.metric == metric and "attack" in row.words:
                numbers.setdefault(row.words["attack"], []).append(row.value)
        return {attack: float(np.mean(values)) for attack, values in numbers.items()}

    def clients(self, student: tuple[str, str]) -> dict[str, float]:
        """Return the mean over seeds of each client's accuracy."""
        accuracies: dict[str, list[float]] = {}
        for row in self._rows.get(student, []):
            if row.metric == "client_accuracy":
                accuracies.setdefault(row.words["client"], []).append(row.value)
        return {client: float(np.mean(values)) for client, values in accuracies.items()}

    def difference(
        self, student: tuple[str, str], control: tuple[str, str], metric: str, **words: str
    ) -> Difference | None:
        """Compare two students seed by seed; `None` where they share none."""
        one, other = self.values(student, metric, **words), self.values(control, metric, **words)
        shared = sorted(one.keys() & other.keys())
        if not shared:
            return None
        return difference([one[seed] - other[seed] for seed in shared])

    def shares(self, table: str) -> list[str]:
        """Return the settings in which students of a table are to be compared, such as one share of public images."""
        return list(dict.fromkeys(setting for _, setting in self.students(table)))


def difference(gaps: Sequence[float], confidence: float = 0.95) -> Difference:
    """Return the mean of differences, one a seed, with its interval."""
    mean = float(np.mean(gaps))
    if len(gaps) < 2:
        return Difference(mean, None, None, len(gaps))
    if np.ptp(gaps) == 0:
        return Difference(mean, mean, mean, len(gaps))
    interval = stats.ttest_1samp(gaps, 0).confidence_interval(confidence)
    return Difference(mean, float(interval.low), float(interval.high), len(gaps))


def words(setting: str, *names: str) -> str:
    """Return what a setting says beside the table it is in, or only the named words."""
    pairs = words_of(setting).items()
    return ", ".join(f"{key} {value}" for key, value in pairs if key != "table" and (not names or key in names))


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share for a table."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Return lowest and highest, where there are several."""
    numbers = list(values)
    return f" ({percent(min(numbers), digits)} to {percent(max(numbers), digits)})" if len(numbers) > 1 else ""
