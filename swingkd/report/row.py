"""One number that a run measured: of which model, in which setting."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from swingkd.files import read_as
from swingkd.guards import check_finite


@dataclass(frozen=True)
class Row:
    """A row of metrics.json, checked when it is made.

    Args:
        model: what was measured, such as `swing`.
        setting: words that name the model's setting and what was measured on it, such as `transfer=A split=test`.
        metric: such as `exposure`.
        value: the number.
        low, high: its interval, where there is one.
        n: how many things it is a mean of.

    Raises:
        ValueError: the setting is not made of such words, a name holds a blank or a sign of Markdown, or a number is
            not finite.
    """

    model: str
    setting: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        for what, name in (("model", self.model), ("metric", self.metric), ("setting", self.setting)):
            if what != "setting" and (not name or any(map(str.isspace, name))):
                raise ValueError(f"{what}={name!r} is no name: names have no blanks. Write _ or - in their place.")
            # They stand in tables of Markdown.
            if not name.isprintable() or set(name) & set("<>|`\\") or "](" in name:
                raise ValueError(f"{what}={name!r} holds a sign that Markdown or HTML would read. Leave it out.")
        for what in ("value", "low", "high"):
            check_finite(f"{what} of {self.metric}", getattr(self, what))
        _ = self.words

    @cached_property
    def words(self) -> dict[str, str]:
        """The words of the setting."""
        return words_of(self.setting)

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high.

        Raises:
            ValueError: it was measured without an interval.
        """
        if self.low is None or self.high is None:
            raise ValueError(f"{self.metric} of {self.model} ({self.setting}) has no interval.")
        return self.low, self.high

    def bare(self, left_out: Iterable[str]) -> str:
        """Return the setting without the words of these names."""
        names = set(left_out)
        return " ".join(f"{name}={value}" for name, value in self.words.items() if name not in names)

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in metrics.json, without what it does not have."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def words_of(setting: str) -> dict[str, str]:
    """Return the words of a setting by their names.

    Raises:
        ValueError: one of them is not name=value, or a name comes twice.
    """
    words: dict[str, str] = {}
    for word in setting.split():
        name, sign, value = word.partition("=")
        if not sign or not name or name in words:
            why = "comes twice" if sign and name in words else "is not name=value"
            raise ValueError(
                f"setting={setting!r}: {word!r} {why}. A setting is words such as transfer=A seed=0, with blanks "
                "between them and none inside; write _ or - there."
            )
        words[name] = value
    return words


def rows_of(metrics: dict[str, Any]) -> list[Row]:
    """Return the rows of what stands in a metrics.json.

    Raises:
        ValueError: one of them is no row.
    """
    known = {field.name for field in fields(Row)}
    rows = [{name: value for name, value in row.items() if name in known} for row in metrics["rows"]]
    return read_as(list[Row], json.dumps(rows), "The rows of metrics.json")
