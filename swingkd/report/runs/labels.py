"""The card of a run on classifiers of texts or words: what each student is worth, and which records it gives away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from swingkd.audit import Interval
from swingkd.report.metrics import SCOPES
from swingkd.report.page import Figure
from swingkd.report.plots import blank_figure, look, save_figure
from swingkd.report.row import Row, rows_of
from swingkd.report.runs.base import RunCard
from swingkd.report.table import RunTable, difference, percent, spread, words

Student = tuple[str, str]
_SCORES = ("macro_f1", "f1")
# Words of a setting that say which of a student's numbers it is.
_OF_A_NUMBER = ("seed", "split", "records", "attack")
# Beyond chance; below this, plain distillation gives too little away for a share of it to say anything.
_LEAST = 0.05


class LabelTable(RunTable):
    """The rows of a run on classifiers.

    Args:
        rows: of metrics.json, in the order in which students stand in tables.
    """

    def __init__(self, rows: list[Row]):
        super().__init__(rows)
        self.rows = rows
        measured = {row.metric for row in rows}
        #: How a student's worth is counted.
        self.score = next((name for name in _SCORES if name in measured), "")
        if not self.score:
            raise ValueError(f"The run has no rows of {' or '.join(_SCORES)}, by which students are compared.")
        self.kinds = list(dict.fromkeys(row.words["records"] for row in rows if "records" in row.words))
        self.main = list(dict.fromkeys((row.model, row.bare(_OF_A_NUMBER)) for row in rows if "split" in row.words))

    def worth(self, student: Student, metric: str | None = None) -> dict[str, float]:
        """Return a number of each seed on the test split."""
        return self.values((student[0], f"{student[1]} split=test"), metric or self.score)

    def rates(self, student: Student, kind: str, metric: str) -> dict[str, float]:
        """Return a number of each attack on one kind of record, the mean over seeds."""
        numbers: dict[str, list[float]] = {}
        for row in self._about(student, kind, metric):
            numbers.setdefault(row.words["attack"], []).append(row.value)
        return {attack: float(np.mean(values)) for attack, values in numbers.items()}

    def _about(self, student: Student, kind: str, metric: str) -> Iterator[Row]:
        for row in self.rows:
            fits = row.metric == metric and row.words.get("records") == kind
            if fits and (row.model, row.bare(_OF_A_NUMBER)) == student:
                yield row

    def strongest(self, kind: str) -> str:
        """Return the attack that finds most of plain distillation's records."""
        rates = self.rates(self.plain, kind, "tpr_at_1_fpr")
        return max(rates, key=lambda attack: rates[attack])

    @property
    def plain(self) -> Student:
        """Plain distillation.

        Raises:
            ValueError: it was not measured.
        """
        measured = [student for student in self.main if student[0] == "kd"]
        if not measured:
            raise ValueError(
                "The run has no rows of `kd`, plain distillation, to compare the others with. Measure it first."
            )
        return measured[0]

    def excess(self, student: Student, kind: str) -> float:
        """Return how many records are found beyond chance, by the attack that is strongest against `kd`."""
        attack = self.strongest(kind)
        chance = self.rates(self.plain, kind, "tpr_at_1_fpr_chance")[attack]
        return self.rates(student, kind, "tpr_at_1_fpr")[attack] - chance

    def cut(self, student: Student, kind: str) -> float | None:
        """Return which share of plain distillation's excess is gone; `None` where that is below 5 %."""
        plain = self.excess(self.plain, kind)
        if student == self.plain or plain < _LEAST:
            return None
        return min(1 - self.excess(student, kind) / plain, 1.0)

    def areas(self, student: Student, kind: str, *, together: bool = False) -> dict[str, Interval]:
        """Return the AUC of each attack, with an interval over seeds.

        Args:
            student: whose records.
            kind: of records.
            together: the intervals of all attacks hold together with 95 %, not each alone.
        """
        rows_by_attack: dict[str, list[Row]] = {}
        for row in self._about(student, kind, "auc"):
            rows_by_attack.setdefault(row.words["attack"], []).append(row)
        confidence = 1 - 0.05 / max(len(rows_by_attack) if together else 1, 1)
        return {attack: _mean_area(rows, confidence) for attack, rows in rows_by_attack.items()}

    def worst(self, student: Student, kind: str) -> tuple[str, float]:
        """Return the attack that finds most of a student's own records, and how many."""
        rates = self.rates(student, kind, "tpr_at_1_fpr")
        attack = max(rates, key=lambda name: rates[name])
        return attack, rates[attack]

    def change(self, student: Student) -> str:
        """Say how a student's worth differs from plain distillation's, paired by seed."""
        if student == self.plain:
            return ""
        one, other = ((who[0], f"{who[1]} split=test") for who in (student, self.plain))
        gap = self.difference(one, other, self.score)
        if gap is None:
            return ""
        low, high = (None if value is None else 100 * value for value in (gap.low, gap.high))
        return f"{100 * gap.mean:+.1f}" + (f" [{low:+.1f}, {high:+.1f}]" if low is not None else "")


class LabelCard(RunCard):
    """Classifiers of texts or words: what each student is worth, and which records it gives away."""

    kind = "labels"
    picture = "leak.png"
    template = "labels.md"
    table: LabelTable

    def read(self) -> LabelTable:
        return LabelTable(rows_of(self.content))

    def figure(self) -> Figure:
        table = self.table
        headings = ("model", table.score, *(f"{kind}: TPR at 1 % FPR" for kind in table.kinds))
        rows = [
            (
                name(student),
                percent(float(np.mean(list(table.worth(student).values())))),
                *(f"{table.rates(student, kind, 'tpr_at_1_fpr')[table.strongest(kind)]:.3f}" for kind in table.kinds),
            )
            for student in table.main
        ]
        note = "The best students stand at the upper left: useful and silent. The dotted line is chance."
        return Figure("Worth against leak", headings=headings, rows=rows, note=note)

    def draw(self, path: Path) -> None:
        _figure(self.table, self.run, path)

    def promises(self) -> list[str]:
        return promises(self.table)

    def findings(self) -> list[str]:
        return findings(self.table)

    def context(self, folder: Path) -> dict[str, Any]:
        return {
            "t": self.table,
            "name": name,
            "percent": percent,
            "spread": spread,
            "promises": self.promises(),
            "canaries": self.content["config"]["canaries"],
            "kept": self.content["config"].get("about", ""),
        }


def promises(table: LabelTable) -> list[str]:
    """Say of each student what its ledger promises about which data set; without one, that nothing is."""
    lines = []
    for word, scope in SCOPES.items():
        covered = [student for student in table.main if table.values(student, "epsilon", scope=word)]
        about = scope.capitalize()
        lines += [f"{about}, `{name(student)}`: epsilon {table.promised(student, word)}." for student in covered]
        who = f"{about}{' of all others' if covered else ''}"
        lines.append(f"{who}: no differential privacy guarantee. Protections are heuristics, judged by audits.")
    return lines


def name(student: Student) -> str:
    """Return what a student is called in tables."""
    setting = words(student[1])
    return f"{student[0]} ({setting})" if setting else student[0]


def findings(table: LabelTable) -> list[str]:
    """Say where a student still gives records away, and where it is worth less than plain distillation."""
    lines = []
    for kind in table.kinds:
        attack = table.strongest(kind)
        if table.excess(table.plain, kind) < _LEAST:
            plain = table.rates(table.plain, kind, "tpr_at_1_fpr")[attack]
            lines.append(
                f"At 1 % false alarms `kd` gives too few {kind} records away ({percent(plain, 1)} %) to compare with."
            )
        teacher = next((student for student in table.main if student[0] == "teacher"), None)
        if teacher is not None and table.excess(teacher, kind) < _LEAST:
            lines.append(f"No power here: of {kind} records, {attack} does not even catch the teacher's.")
        for student in table.main:
            cut = table.cut(student, kind)
            if student[0] not in ("kd", "teacher") and cut is not None and cut < 0.8:
                gap = table.difference(student, table.plain, "tpr_at_1_fpr", records=kind, attack=attack)
                lines.append(
                    f"`{name(student)}` still gives {kind} records away: {percent(max(1 - cut, 0.0), 0)} % of what "
                    f"plain distillation does, beyond chance ({attack} attack; {gap} against `kd`)."
                )
        for student in table.main:
            if student[0] not in ("kd", "teacher"):
                lines += _told_apart(table, student, kind)
    for student in table.main:
        one, other = ((who[0], f"{who[1]} split=test") for who in (student, table.plain))
        gap = table.difference(one, other, table.score)
        if student[0] not in ("kd", "teacher") and gap is not None and gap.mean < -0.01:
            lost = gap.high is not None and gap.high < 0
            verdict = "is worth less than plain distillation" if lost else "is not shown to be worth as much"
            lines.append(f"`{name(student)}` {verdict}: {gap}.")
    return lines


def _told_apart(table: LabelTable, student: Student, kind: str) -> list[str]:
    """Say by which attack the records that were in differ, on average, from those that were not."""
    areas, lines = table.areas(student, kind), []
    together = table.areas(student, kind, together=True)
    attack, area = max(areas.items(), key=lambda pair: pair[1].low)
    if area.low > 0.5:
        # Chosen as the strongest of several: its interval allows for that.
        area = together[attack]
        doubt = "" if area.low > 0.5 else f"; with {len(areas)} attacks tried, that may be chance"
        lines.append(f"`{name(student)}`: on average {attack} tells {kind} records apart, AUC {_area(area)}{doubt}.")
    plain = table.areas(table.plain, kind)
    # What plain distillation does as well is not the protection's doing.
    own = {attack: area for attack, area in areas.items() if area.high < min(0.5, plain[attack].value)}
    if own:
        attack = min(own, key=lambda name: own[name].value)
        area = together[attack]
        doubt = "" if area.high < 0.5 else f"; with {len(areas)} attacks tried, that may be chance"
        turned = Interval(1 - area.value, 1 - area.high, 1 - area.low, area.n)
        lines.append(
            f"`{name(student)}` answers {kind} records in a way of its own: turned round, {attack} tells them apart, "
            f"AUC {_area(turned)}{doubt}."
        )
    return lines


def _mean_area(rows: list[Row], confidence: float) -> Interval:
    """Return an AUC, the mean over seeds with its t interval; of one seed with that seed's own."""
    if len(rows) == 1:
        return Interval(rows[0].value, *rows[0].interval, 1)
    gap = difference([row.value - 0.5 for row in rows], confidence)
    assert gap.low is not None
    assert gap.high is not None
    return Interval(0.5 + gap.mean, max(0.5 + gap.low, 0.0), min(0.5 + gap.high, 1.0), gap.seeds)


def _area(area: Interval) -> str:
    return f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}] over {area.n} seed{'s' if area.n > 1 else ''}"


def _figure(table: LabelTable, run: str, path: Path) -> None:
    """Draw worth against the true positive rate at 1 % false alarms, one panel a kind of record."""
    kinds = table.kinds
    size = (1.8 + 4.4 * len(kinds), 4.4)
    figure, axes = blank_figure(size, 1, len(kinds), squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        attack = table.strongest(kind)
        for i, model in enumerate(dict.fromkeys(model for model, _ in table.main)):
            students = [student for student in table.main if student[0] == model]
            scores = [100 * float(np.mean(list(table.worth(student).values()))) for student in students]
            rates = [100 * table.rates(student, kind, "tpr_at_1_fpr")[attack] for student in students]
            # Several settings of one model are a curve, with the value at each point.
            what, _, _ = words(students[-1][1]).partition(" ")
            label = f"{model}, by {what}" if what else model
            axis.plot(rates, scores, linewidth=1, label=label, **look(i))
            for student, rate, score in zip(students, rates, scores, strict=True):
                _, _, value = words(student[1]).partition(" ")
                axis.annotate(value, (rate, score), xytext=(5, 4), textcoords="offset points", fontsize=7)
        chance = 100 * table.rates(table.plain, kind, "tpr_at_1_fpr_chance")[attack]
        axis.axvline(chance, color="0.6", linestyle=":")
        axis.set(title=f"{kind} records, {attack} attack", xlabel="found at 1 % false alarms, % (lower is better)")
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel(f"{table.score}, % (higher is better)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(run)
    save_figure(figure, path)
