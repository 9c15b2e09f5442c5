"""The card of an audit: every attack on every model of a run, from its metrics.json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from swingkd.report.page import Figure
from swingkd.report.plots import blank_figure, look, save_figure
from swingkd.report.row import Row, rows_of, words_of
from swingkd.report.runs.base import RunCard

_KINDS = {
    "canary_secrets": "canaries, their secrets",
    "canary_records": "canaries, whole sentences",
    "dialogues": "ordinary records",
}
# Why a way to protect lets an attack through, where it does; each is shown in docs/audits.md.
_WHY = {
    "teacher": "it was trained on the records, without protection.",
    "kd": "plain distillation teaches what the teacher remembers, and its hard labels are the records.",
    "drop": "tokens that are not flagged are learnt as they are.",
    "surrogate": "the text between made-up values is learnt from the private teacher.",
    "swing": "a softened target still ranks the teacher's tokens, and tokens that are not flagged are learnt as they "
    "are.",
    "mollify": "tokens that are not flagged are learnt from the private teacher.",
    "population": "its averages are made of the records' own values and lean a little towards each of them, and "
    "tokens that are not flagged are learnt from the private teacher.",
}


class AuditTable:
    """The rows of a run, to be looked up by model, kind of record, attack and metric."""

    def __init__(self, rows: list[Row]):
        self._rows = {(row.model, frozenset(row.words.items()), row.metric): row for row in rows}
        self.models = list(dict.fromkeys(row.model for row in rows))
        self.kinds = list(dict.fromkeys(row.words["records"] for row in rows if "records" in row.words))
        self.attacks = list(dict.fromkeys(row.words["attack"] for row in rows if "attack" in row.words))

    def row(self, model: str, setting: str, metric: str) -> Row | None:
        """Return one row, or None where it was not measured."""
        return self._rows.get((model, frozenset(words_of(setting).items()), metric))

    def cell(self, model: str, setting: str, metric: str, form: str = "{:.2f}", interval: bool = True) -> str:
        """Return a number for a table, with its interval."""
        row = self.row(model, setting, metric)
        if row is None:
            return ""
        value = form.format(row.value)
        if not interval or row.low is None:
            return value
        low, high = map(form.format, row.interval)
        return f"{value} [{low}, {high}]"


class AuditCard(RunCard):
    """Audits: every attack on every model of a run."""

    kind = "audit"
    picture = "audit.png"
    template = "audit.md"
    table: AuditTable

    def read(self) -> AuditTable:
        return AuditTable(rows_of(self.content))

    def figure(self) -> Figure:
        table = self.table
        rows = [
            (model, _KINDS.get(kind, kind), attack, table.cell(model, where, "auc", "{:.3f}"))
            for model in table.models
            for kind in table.kinds
            for attack in table.attacks
            if table.row(model, where := f"records={kind} attack={attack}", "auc")
        ]
        return Figure("Who was in the training data?", headings=("model", "records", "attack", "AUC"), rows=rows)

    def draw(self, path: Path) -> None:
        _figure(self.table, self.run, path)

    def findings(self) -> list[str]:
        return findings(self.table)

    def context(self, folder: Path) -> dict[str, Any]:
        canaries = self.content["config"]["canaries"]
        return {
            "t": self.table,
            "kinds": _KINDS,
            "copies": canaries["repetitions"][0],
            "maximum": canaries["length"] * math.log2(10),
        }


def findings(table: AuditTable) -> list[str]:
    """Say which attacks get through to which model, and why."""
    lines = []
    for model in table.models:
        for kind in table.kinds:
            through, name = _through(table, model, kind), _KINDS.get(kind, kind)
            if through:
                lines.append(f"`{model}`, {name}: found by {', '.join(through)}; {_WHY.get(model, 'unexplained.')}")
            elif model != "teacher" and "teacher" in table.models and not _through(table, "teacher", kind):
                lines.append(f"`{model}`, {name}: no power here: no attack catches the teacher either.")
            else:
                lines.append(f"`{model}`, {name}: no attack is above chance at 1 % false alarms.")
    return lines


def _through(table: AuditTable, model: str, kind: str) -> list[str]:
    """List the attacks that get through: at 5 % for all together where p-values were written, else by intervals."""
    through = []
    for attack in table.attacks:
        where = f"records={kind} attack={attack}"
        found, family = table.row(model, where, "p_value"), table.row(model, where, "p_value_family")
        rate = table.row(model, where, "tpr_at_1_fpr")
        epsilon = table.row(model, where, "epsilon_lower")
        chance = table.row(model, where, "tpr_at_1_fpr_chance")
        if found and family:
            above = found.value < 0.05 / family.value
        else:
            above = bool(rate and rate.interval[0] > (chance.value if chance else 0.01))
        if above or (epsilon and epsilon.value > 0.5):
            through.append(attack)
    return through


def _figure(table: AuditTable, run: str, path: Path) -> None:
    """Draw the AUC of every attack on every model, one panel a kind of record; 0.5 is chance."""
    figure, axes = blank_figure(
        (1.6 + 3.6 * len(table.kinds), 1.2 + 0.62 * len(table.attacks)),
        1,
        len(table.kinds),
        sharey=True,
        squeeze=False,
    )
    for axis, kind in zip(axes[0], table.kinds, strict=True):
        axis.axvline(0.5, color="0.6", linestyle=":")
        for m, model in enumerate(table.models):
            for a, attack in enumerate(table.attacks):
                area = table.row(model, f"records={kind} attack={attack}", "auc")
                if area is None:
                    continue
                height = a + (m - (len(table.models) - 1) / 2) * 0.12
                axis.plot([area.low, area.high], [height, height], color=look(m)["color"], linewidth=1.6)
                axis.plot(
                    area.value, height, **look(m), markersize=4.5, linestyle="none", label=model if a == 0 else None
                )
        axis.set(title=_KINDS.get(kind, kind), xlabel="AUC (0.5: chance)", xlim=(0.41, 1.01))
        axis.set_yticks(range(len(table.attacks)), table.attacks)
        axis.grid(axis="x", alpha=0.25)
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(f"{run}: who was in the training data?")
    save_figure(figure, path)
