"""The card of a run on images: students side by side, over seeds, with what was claimed, promised and measured."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from swingkd.privacy.accounting import said_delta, said_epsilon
from swingkd.report.metrics import MetricsFile
from swingkd.report.plots import COLOURS, MARKERS
from swingkd.report.render import render_card

# Words of a setting that say which of a student's numbers it is, not which student.
_OF_A_NUMBER = ("seed", "scope", "unit", "neighbours", "records", "attack")
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


class ImageTable:
    """The rows of a run, by student: a model in a setting, apart from its seed."""

    def __init__(self, rows: list[dict[str, Any]]):
        self._rows: dict[tuple[str, str], list[tuple[dict[str, str], dict[str, Any]]]] = {}
        for row in rows:
            words = dict(word.split("=", 1) for word in row["setting"].split())
            bare = " ".join(f"{key}={value}" for key, value in words.items() if key not in _OF_A_NUMBER)
            self._rows.setdefault((row["model"], bare), []).append((words, row))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._rows)

    def students(self, table: str) -> list[tuple[str, str]]:
        """Return the models and settings of one table."""
        return [key for key in self._rows if f"table={table}" in key[1].split()]

    def values(self, student: tuple[str, str], metric: str, **words: str) -> dict[str, float]:
        """Return a number of each seed."""
        return {
            of.get("seed", "0"): row["value"]
            for of, row in self._rows.get(student, [])
            if row["metric"] == metric and words.items() <= of.items()
        }

    def mean(self, student: tuple[str, str], metric: str) -> float | None:
        """Return the mean over seeds; `None` where it was not measured."""
        found = self.values(student, metric)
        return float(np.mean(list(found.values()))) if found else None

    def promised(self, student: tuple[str, str], scope: str = _TEACHER) -> str:
        """Say which epsilon holds for the teacher's data, or for synthetic labels, the largest over seeds."""
        found = [(row, of) for of, row in self._rows[student] if row["metric"] == "epsilon" and of["scope"] == scope]
        if not found:
            return "no private teacher" if student[0] in _WITHOUT_TEACHER else "none"
        worst, of = max(found, key=lambda pair: pair[0]["value"])
        delta = max(self.values(student, "delta", scope=scope).values())
        at = f" at delta {said_delta(delta)}" if delta else ""
        neighbours = of["neighbours"].replace("-", " ")
        return f"{said_epsilon(worst['value'])}{at}, each {of['unit']} ({neighbours})"

    def attacks(self, student: tuple[str, str], metric: str) -> dict[str, float]:
        """Return the mean over seeds of each attack's number."""
        found: dict[str, list[float]] = {}
        for words, row in self._rows.get(student, []):
            if row["metric"] == metric and "attack" in words:
                found.setdefault(words["attack"], []).append(row["value"])
        return {attack: float(np.mean(values)) for attack, values in found.items()}

    def difference(self, student: tuple[str, str], control: tuple[str, str], metric: str) -> Difference | None:
        """Compare two students seed by seed; `None` where they share none."""
        one, other = self.values(student, metric), self.values(control, metric)
        shared = sorted(one.keys() & other.keys())
        if not shared:
            return None
        gaps = np.array([one[seed] - other[seed] for seed in shared])
        if len(gaps) < 2 or np.ptp(gaps) == 0:
            return Difference(float(gaps.mean()), None, None, len(gaps))
        interval = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
        return Difference(float(gaps.mean()), float(interval.low), float(interval.high), len(gaps))

    def shares(self, table: str) -> list[str]:
        """Return the settings in which students of a table are to be compared, such as one share of public images."""
        return list(dict.fromkeys(setting for _, setting in self.students(table)))


def write_image_card(metrics: str | os.PathLike, output_dir: str | os.PathLike) -> Path:
    """Write README.md, accuracy.png and metrics.json of a run on images into a folder.

    Args:
        metrics: the run's metrics.json.
        output_dir: where the three files go.

    Returns:
        The path of the card.
    """
    content, folder = MetricsFile(metrics).read(), Path(output_dir)
    table = ImageTable(content["rows"])
    folder.mkdir(parents=True, exist_ok=True)
    _figure(table, content["run"], folder / "accuracy.png")
    audited = [student for student in table if table.attacks(student, "auc")]
    size = next((table.mean(student, "parameters") for student in table.students("headline")), None)
    teachers = [student for student in table.students("teachers") if student[0] == "teacher"]
    whole = table.mean(teachers[0], "parameters") if teachers else None
    return render_card(
        "data_free.md" if table.students("data_free") else "images.md", metrics, content, folder, t=table,
        words=words, percent=percent, spread=spread,
        said_epsilon=said_epsilon, promised=table.promised, findings=findings(table), audited=audited,
        attacks=list(table.attacks(audited[0], "auc")) if audited else [],
        fewer=1 - size / whole if size and whole else None, student_parameters=size, helped=helped(table),
        grids=sorted(path.stem for path in folder.glob("grid-*.png")),
        chance=f"{max(table.attacks(s, 'tpr_at_1_fpr_chance')['loss'] for s in audited):.3f}" if audited else "",
    )  # fmt: skip


def is_image_run(metrics: dict[str, Any]) -> bool:
    """Tell whether a run's rows are those of students on images."""
    return any("table=teachers" in row["setting"].split() for row in metrics["rows"])


def words(setting: str, *names: str) -> str:
    """Return what a setting says beside the table it is in, or only the named words."""
    pairs = [word.split("=", 1) for word in setting.split()]
    return ", ".join(f"{key} {value}" for key, value in pairs if key != "table" and (not names or key in names))


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share for a table."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Return lowest and highest, where there are several."""
    found = list(values)
    return f" ({percent(min(found), digits)} to {percent(max(found), digits)})" if len(found) > 1 else ""


def findings(table: ImageTable) -> list[str]:
    """Say of each teaching whether it beat the same steps on public labels."""
    said = []
    for setting in table.shares("headline"):
        control = ("self_learning", setting)
        for model, where in table.students("headline"):
            gap = table.difference((model, where), control, "accuracy") if where == setting else None
            if model == "self_learning" or gap is None:
                continue
            steps, own = table.mean(control, "queries"), table.mean((model, where), "queries")
            if steps != own:
                said.append(
                    f"`{model}` ({words(setting)}) took {own:.0f} steps, `self_learning` {steps:.0f}: not compared."
                )
                continue
            verdict = "the teacher's answers helped"
            if gap.mean <= 0:
                verdict = "the teacher's answers did not help: the public labels alone do as well"
            elif gap.low is None or gap.low <= 0:
                verdict = "not shown to be above zero"
            said.append(f"`{model}` minus `self_learning` ({words(setting)}): {gap}; {verdict}.")
    return said


def helped(table: ImageTable) -> bool | None:
    """Tell whether the published method was anywhere shown to beat the labels alone; `None` where it did not run."""
    gaps = [
        table.difference((model, where), ("self_learning", where), "accuracy")
        for model, where in table.students("headline")
        if model == "published"
    ]
    return any(gap is not None and gap.low is not None and gap.low > 0 for gap in gaps) if any(gaps) else None


def _figure(table: ImageTable, run: str, path: Path) -> None:
    """Draw the accuracy of every student, one panel a setting, one mark a seed."""
    main = "data_free" if table.students("data_free") else "headline"
    settings = table.shares(main)
    # A model looks the same in every panel.
    looks = list(dict.fromkeys(model for model, _ in table.students(main)))
    figure, axes = plt.subplots(
        1, max(len(settings), 1), figsize=(1.5 + 4.2 * max(len(settings), 1), 4.2), squeeze=False, layout="constrained"
    )
    for axis, setting in zip(axes[0], settings, strict=False):
        models = [model for model, where in table.students(main) if where == setting]
        for place, model in enumerate(models):
            values = [100 * value for value in table.values((model, setting), "accuracy").values()]
            look = looks.index(model)
            axis.plot(
                values, [place] * len(values), marker=MARKERS[look % len(MARKERS)], linestyle="none",
                color=COLOURS[look % len(COLOURS)],
            )  # fmt: skip
        axis.set_yticks(range(len(models)), models)
        axis.invert_yaxis()
        axis.margins(y=0.15)
        axis.set(title=words(setting), xlabel="test accuracy, %")
        axis.grid(axis="x", alpha=0.25)
    figure.suptitle(run)
    figure.savefig(path, dpi=130)
    plt.close(figure)
