"""The card of a run on images: students side by side, over seeds, with what was claimed, promised and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swingkd.privacy.accounting import said_epsilon
from swingkd.report.page import Figure
from swingkd.report.plots import blank_figure, look, save_figure
from swingkd.report.row import rows_of
from swingkd.report.runs.base import RunCard
from swingkd.report.table import RunTable, percent, spread, words


class ImageCard(RunCard):
    """Students on images side by side, over seeds, with what was claimed, promised and measured."""

    kind = "images"
    picture = "accuracy.png"
    table: RunTable

    def read(self) -> RunTable:
        table = RunTable(rows_of(self.content))
        # Of students without any image, or of those that choose some.
        self.template = "data_free.md" if table.students("data_free") else "images.md"
        return table

    def figure(self) -> Figure:
        main = self.table.students("data_free") or self.table.students("headline")
        rows = [(model, words(where), percent(self.table.mean((model, where), "accuracy"))) for model, where in main]
        return Figure("Accuracy of every student", headings=("model", "setting", "test accuracy, %"), rows=rows)

    def draw(self, path: Path) -> None:
        _figure(self.table, self.run, path)

    def findings(self) -> list[str]:
        return findings(self.table)

    def context(self, folder: Path) -> dict[str, Any]:
        table = self.table
        audited = [student for student in table if table.attacks(student, "auc")]
        size = next((table.mean(student, "parameters") for student in table.students("headline")), None)
        teachers = [student for student in table.students("teachers") if student[0] == "teacher"]
        whole = table.mean(teachers[0], "parameters") if teachers else None
        chance = [table.attacks(student, "tpr_at_1_fpr_chance")["loss"] for student in audited]
        return {
            "t": table,
            "words": words,
            "percent": percent,
            "spread": spread,
            "said_epsilon": said_epsilon,
            "promised": table.promised,
            "audited": audited,
            "attacks": list(table.attacks(audited[0], "auc")) if audited else [],
            "fewer": 1 - size / whole if size and whole else None,
            "student_parameters": size,
            "helped": helped(table),
            "grids": sorted(path.stem for path in folder.glob("grid-*.png")),
            "chance": f"{max(chance):.3f}" if chance else "",
        }


def findings(table: RunTable) -> list[str]:
    """Say of each teaching whether it beat the same steps on public labels."""
    lines = []
    for setting in table.shares("headline"):
        control = ("self_learning", setting)
        for model, where in table.students("headline"):
            gap = table.difference((model, where), control, "accuracy") if where == setting else None
            if model == "self_learning" or gap is None:
                continue
            steps, own = table.mean(control, "queries"), table.mean((model, where), "queries")
            if steps != own:
                lines.append(
                    f"`{model}` ({words(setting)}) took {own:.0f} steps, `self_learning` {steps:.0f}: not compared."
                )
                continue
            verdict = "the teacher's answers helped"
            if gap.mean <= 0:
                verdict = "the teacher's answers did not help: the public labels alone do as well"
            elif gap.low is None or gap.low <= 0:
                verdict = "not shown to be above zero"
            lines.append(f"`{model}` minus `self_learning` ({words(setting)}): {gap}; {verdict}.")
    return lines


def helped(table: RunTable) -> bool | None:
    """Tell whether the published method was anywhere shown to beat the labels alone; `None` where it did not run."""
    gaps = [
        table.difference((model, where), ("self_learning", where), "accuracy")
        for model, where in table.students("headline")
        if model == "published"
    ]
    return any(gap is not None and gap.low is not None and gap.low > 0 for gap in gaps) if any(gaps) else None


def _figure(table: RunTable, run: str, path: Path) -> None:
    """Draw the accuracy of every student, one panel a setting, one mark a seed."""
    main = "data_free" if table.students("data_free") else "headline"
    settings = table.shares(main)
    # A model looks the same in every panel.
    known = list(dict.fromkeys(model for model, _ in table.students(main)))
    panels = max(len(settings), 1)
    figure, axes = blank_figure((1.5 + 4.2 * panels, 4.2), 1, panels, squeeze=False)
    for axis, setting in zip(axes[0], settings, strict=False):
        models = [model for model, where in table.students(main) if where == setting]
        for place, model in enumerate(models):
            values = [100 * value for value in table.values((model, setting), "accuracy").values()]
            axis.plot(values, [place] * len(values), linestyle="none", **look(known.index(model)))
        axis.set_yticks(range(len(models)), models)
        axis.invert_yaxis()
        axis.margins(y=0.15)
        axis.set(title=words(setting), xlabel="test accuracy, %")
        axis.grid(axis="x", alpha=0.25)
    figure.suptitle(run)
    save_figure(figure, path)
