"""The card of a run on canaries of many kinds: what each student gives away of each kind, beyond chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swingkd.report.page import Figure
from swingkd.report.plots import blank_figure, save_figure
from swingkd.report.row import Row, rows_of
from swingkd.report.runs.base import RunCard

# Below this, the upper end of an interval counts as chance.
_CLEAN = 1.0
#: What each kind of canary asks.
ASKS = {
    "named": "beside the words that a tagger looks for",
    "second": "said twice; asked for at the second mention, far from such words",
    "date": "a date, of which the tagger is 60 % sure",
    "url": "a web address, of which it is 80 % sure",
    "bare": "ten digits without a word that says what they are",
    "read": "in a prompt that is read and never learnt; ranked by the answer",
    "fuzzy": "a tenth of the other words differ from copy to copy",
    "several": "two secrets of each person",
    "words": "three words, which no tagger finds",
}


class Leak(NamedTuple):
    """Bits over the controls, a mean over seeds, with the widest interval."""

    value: float
    low: float
    high: float

    @property
    def bits(self) -> str:
        """The value in a table, without a sign before a zero."""
        return f"{round(self.value, 1) + 0.0:.1f}"


class Student(NamedTuple):
    """A model with its perplexity, its seeds, and what it gives away of each kind of canary."""

    model: str
    guard: str
    seeds: int
    perplexity: float
    leaks: dict[str, Leak]

    @property
    def name(self) -> str:
        """What it is called in the card."""
        return f"{self.model} ({self.guard})" if self.guard else self.model


class CanaryCard(RunCard):
    """Canaries of every kind, and what students give away of them."""

    kind = "canaries"
    picture = "leaks.png"
    template = "canaries.md"
    table: list[Student]

    def read(self) -> list[Student]:
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in rows_of(self.content):
            groups.setdefault((row.model, row.words.get("guard", "")), []).append(row)
        return [_student(*key, rows) for key, rows in groups.items()]

    @property
    def kinds(self) -> list[str]:
        """The kinds of canaries, in their order."""
        return list(dict.fromkeys(kind for student in self.table for kind in student.leaks))

    def figure(self) -> Figure:
        rows = [(s.name, f"{s.perplexity:.2f}", *(s.leaks[kind].bits for kind in self.kinds)) for s in self.table]
        title = "Bits that students give away over the controls, by kind of canary"
        return Figure(title, headings=("model", "perplexity", *self.kinds), rows=rows, note="At most about 6.5.")

    def draw(self, path: Path) -> None:
        values = np.array([[s.leaks[kind].value for kind in self.kinds] for s in self.table])
        size = (2.6 + 0.85 * len(self.kinds), 1.4 + 0.36 * len(self.table))
        figure, axis = blank_figure(size)
        axis.imshow(values, cmap="OrRd", vmin=0, vmax=7, aspect="auto")
        for (i, k), value in np.ndenumerate(values):
            leak = self.table[i].leaks[self.kinds[k]]
            clear = leak.low > 0
            weight, colour = ("bold", "white" if value > 4 else "black") if clear else ("normal", "0.35")
            axis.text(k, i, leak.bits, ha="center", va="center", fontsize=9, weight=weight, color=colour)
        axis.set_xticks(range(len(self.kinds)), self.kinds)
        axis.set_yticks(range(len(self.table)), [s.name for s in self.table])
        axis.tick_params(length=0, labelsize=9)
        axis.xaxis.tick_top()
        axis.set_title("bits over the controls; bold: the whole interval is above 0", fontsize=9, pad=22)
        save_figure(figure, path)

    def findings(self) -> Sequence[str]:
        """Say which kinds each student gives away, and which show nothing because the teacher does not know them."""
        lines, known = [], self._known()
        lost = [kind for kind in self.kinds if kind not in known]
        if lost:
            lines.append(f"No power here: the teacher gives nothing away of {listed(lost)}, so nothing is shown.")
        for student in self.table:
            if student.model == "teacher":
                continue
            open_ = [kind for kind in known if student.leaks[kind].low > 0]
            close = [kind for kind in known if student.leaks[kind].high < _CLEAN]
            said = f"gives away {listed(open_)}" if open_ else "gives nothing away beyond chance"
            lines.append(
                f"`{student.name}` {said}; under {_CLEAN:g} bit with its whole interval: {listed(close) or 'none'}."
            )
        return lines

    def _known(self) -> list[str]:
        teachers = [student for student in self.table if student.model == "teacher"]
        return [kind for kind in self.kinds if all(teacher.leaks[kind].low > 0 for teacher in teachers)]

    def context(self, folder: Path) -> dict[str, Any]:
        kd = next((student.perplexity for student in self.table if student.model == "kd"), None)
        return {
            "students": self.table,
            "kinds": self.kinds,
            "asks": ASKS,
            "apart": self.content["config"].get("canaries", {}).get("all", {}).get("apart", False),
            "change": lambda student: student.perplexity / kd - 1 if kd and student.model != "kd" else None,
        }


def _student(model: str, guard: str, rows: list[Row]) -> Student:
    perplexities = [r.value for r in rows if r.metric == "perplexity" and r.words.get("split") == "test"]
    leaks = {}
    for kind in dict.fromkeys(row.words["canaries"] for row in rows if "canaries" in row.words):
        own = [r for r in rows if r.metric == "exposure_excess" and r.words.get("canaries") == kind]
        leaks[kind] = over_seeds(own)
    return Student(model, guard, len({r.words.get("seed") for r in rows}), float(np.mean(perplexities)), leaks)


def over_seeds(rows: Sequence[Row]) -> Leak:
    """Return the mean of one number over seeds, with the widest interval."""
    ends = [row.interval for row in rows]
    return Leak(
        float(np.mean([row.value for row in rows])), min(low for low, _ in ends), max(high for _, high in ends)
    )


def listed(names: Iterable[str]) -> str:
    """Return names as a sentence has them."""
    return ", ".join(f"`{name}`" for name in names)
