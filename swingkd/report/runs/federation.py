"""The card of a federation: methods side by side, over seeds, client by client, with what they cost and give away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from swingkd.report.page import Figure
from swingkd.report.plots import COLOURS, blank_figure, save_figure
from swingkd.report.row import rows_of
from swingkd.report.runs.base import RunCard
from swingkd.report.table import RunTable, percent, spread, words

Student = tuple[str, str]
# Below this, half a point, SD-Dist is said to be worse than the plain mean.
_MARGIN = -0.005
# Points beyond which the figure's axis is logarithmic.
_WIDE = 40


class FederationCard(RunCard):
    """Clients: methods side by side, over seeds, with what they cost and give away."""

    kind = "federation"
    picture = "clients.png"
    template = "federation.md"
    table: RunTable

    def read(self) -> RunTable:
        return RunTable(rows_of(self.content))

    @property
    def drawn(self) -> bool:
        """Whether another method stands beside learning alone."""
        return any(gains(self.table, student) for student in self.table.students("main") if student[0] != "local")

    def figure(self) -> Figure:
        main = self.table.students("main")
        rows = [(model, percent(self.table.mean((model, setting), "accuracy"))) for model, setting in main]
        return Figure("What each client gains", headings=("method", "accuracy, %"), rows=rows)

    def draw(self, path: Path) -> None:
        _figure(self.table, self.run, path)

    def findings(self) -> list[str]:
        return findings(self.table)

    def context(self, folder: Path) -> dict[str, Any]:
        return {
            "t": self.table,
            "words": words,
            "percent": percent,
            "spread": spread,
            "drops": drops(self.table),
            "megabytes": megabytes,
            "changed": changed,
            "perplexities": perplexities(self.table),
            "drawn": self.drawn,
            "about": self.content["config"].get("about"),
        }


def federation_table(accuracies: dict[str, float]) -> Table:
    """Return what a terminal shows: each client, and their mean.

    Args:
        accuracies: of each client's model, on examples of its own.
    """
    table = Table(box=box.SIMPLE)
    table.add_column("client")
    table.add_column("accuracy, %", justify="right")
    for client, value in accuracies.items():
        table.add_row(Text(client), percent(value))
    if accuracies:
        table.add_section()
        table.add_row("mean", percent(float(np.mean(list(accuracies.values())))))
    return table


def megabytes(table: RunTable, student: Student) -> str:
    """Return what went to and from all clients, for a table."""
    traffic = [table.mean(student, way) for way in ("sent", "received")]
    return "" if None in traffic else " / ".join(f"{value / 1e6:.1f}" for value in traffic if value is not None)


def gains(table: RunTable, student: Student) -> list[float]:
    """Return what each client gains over learning alone, its mean over seeds."""
    alone = next((table.clients(s) for s in table.students("main") if s[0] == "local"), {})
    return [value - alone[client] for client, value in table.clients(student).items() if client in alone]


def changed(table: RunTable, student: Student) -> str:
    """Return how many clients gain and how many lose, for a table."""
    differences = gains(table, student) if student[0] != "local" else []
    return f"{sum(gain > 0 for gain in differences)} / {sum(gain < 0 for gain in differences)}" if differences else ""


def perplexities(table: RunTable) -> dict[Student, str]:
    """Return the perplexity of each method, its mean over seeds; nothing where the clients are no language models."""
    found = {student: table.mean(student, "perplexity") for student in table.students("main")}
    shown = {student: "" if value is None else f"{value:.2f}" for student, value in found.items()}
    return shown if any(shown.values()) else {}


def findings(table: RunTable) -> list[str]:
    """Say of each comparison that was asked for how it ended."""
    lines = []
    students = {model: (model, where) for model, where in table.students("main")}
    for model, other, lost, shown in (
        ("sd_dist", "fedmd", "the selection is worse than the plain mean", "to be as good, within half a point"),
        ("sd_dist", "local", "learning from each other did harm", "to help"),
        (
            "sd_dist",
            "local_and_reference",
            "learning the labels of the reference examples alone is better",
            "to be better",
        ),
    ):
        if model not in students or other not in students:
            continue
        gap = table.difference(students[model], students[other], "accuracy")
        if gap is None:
            continue
        bar, line = _MARGIN if other == "fedmd" else 0.0, f"`{model}` minus `{other}`: {gap}"
        held = gap.low is not None and gap.low >= bar
        if gap.high is not None and gap.high < 0:
            lines.append(f"{line}; {lost}{', by less than half a point' if held else ''}.")
        else:
            lines.append(f"{line}." if held else f"{line}; not shown {shown}.")
    lines += blended(table)
    texts, compared = perplexities(table), ("sd_dist", "sd_dist_labels", "local", "local_and_reference", "fedmd")
    told = [f"`{model}` {texts[students[model]]}" for model in compared if texts.get(students.get(model, ("", "")))]
    if len(told) > 1 and "sd_dist" in students:
        lines.append(f"Perplexity: {', '.join(told)}.")
    return lines


def blended(table: RunTable) -> list[str]:
    """Say what the others add to the reference labels, setting by setting; best with these in the targets too."""
    lines = []
    known = {model for name in ("main", "scarce", "noisy") for model, _ in table.students(name)}
    best = "sd_dist_labels" if "sd_dist_labels" in known else "sd_dist"
    for name in ("main", "scarce", "noisy"):
        for setting in table.shares(name):
            gap = table.difference((best, setting), ("local_and_reference", setting), "accuracy")
            # Of SD-Dist as it is, the main table was told of before.
            if gap is None or (best, name) == ("sd_dist", "main"):
                continue
            where = f" ({words(setting)})" if words(setting) else ""
            sure = gap.low is not None and gap.low > 0
            verdict = "" if sure else "; the labels alone are better" if (gap.high or 0) < 0 else "; not shown to add"
            lines.append(f"`{best}` minus `local_and_reference`{where}: {gap}{verdict}.")
    return lines


def drops(table: RunTable) -> list[tuple[str, dict[str, float]]]:
    """Return by how much each method's accuracy falls where data are scarce or labels wrong, setting by setting."""
    whole = {model: (model, where) for model, where in table.students("main")}
    rows = []
    for name in ("scarce", "noisy"):
        for setting in table.shares(name):
            fallen = {}
            for model, where in table.students(name):
                # Of the seeds that both have.
                gap = table.difference(whole[model], (model, where), "accuracy") if model in whole else None
                if where == setting and gap is not None:
                    fallen[model] = gap.mean
            rows.append((words(setting), fallen))
    return rows


def _figure(table: RunTable, run: str, path: Path) -> None:
    """Draw what each client gains over learning alone: a mark a client, its mean over seeds."""
    students = [s for s in table.students("main") if table.clients(s)]
    shown = [s for s in students if s[0] not in ("local", "majority_class")]
    figure, axis = blank_figure((7.5, 1.2 + 0.42 * max(len(shown), 1)))
    for place, student in enumerate(shown):
        points = [100 * gain for gain in gains(table, student)]
        spots = place + 0.24 * (np.arange(len(points)) % 5 - 2) / 2
        axis.plot(points, spots, "o", alpha=0.55, markersize=4, color=COLOURS[place % len(COLOURS)])
        if points:
            axis.plot([float(np.mean(points))] * 2, [place - 0.35, place + 0.35], color="black", linewidth=1.5)
    axis.axvline(0, color="grey", linewidth=0.8)
    label = "points gained over learning alone; one mark a client, the bar is their mean"
    if max(map(abs, axis.get_xlim())) > _WIDE:
        # A method that fails would leave no room for the others.
        axis.set_xscale("symlog", linthresh=10, linscale=2)
        ticks = [
            tick
            for tick in (-100, -30, -10, -5, 0, 5, 10, 30, 100)
            if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]
        ]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        label += "\nlogarithmic beyond 10 points"
    axis.set_yticks(range(len(shown)), [model for model, _ in shown])
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.25)
    axis.set(title=run, xlabel=label)
    save_figure(figure, path)
