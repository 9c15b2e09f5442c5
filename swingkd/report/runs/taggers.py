"""The card of a run on taggers: how many private characters each of them finds, and whether a likelihood is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swingkd.report.page import Figure
from swingkd.report.plots import blank_figure, look, save_figure
from swingkd.report.row import rows_of, words_of
from swingkd.report.runs.base import RunCard
from swingkd.report.table import RunTable

_COUNTS = ("recall", "precision", "false_flags")
_LIMITS = (
    "Where a tagger finds nothing, nothing is protected: recall is what counts.",
    "It was tried on text like that of its training. Try it on yours (swingkd tag).",
)


class TaggerCard(RunCard):
    """Taggers: how many private characters each of them finds, data set by data set."""

    kind = "taggers"
    picture = "recall.png"
    template = "taggers.md"
    table: RunTable

    def read(self) -> RunTable:
        return RunTable(rows_of(self.content))

    def figure(self) -> Figure:
        def share(tagger: tuple[str, str], metric: str) -> str:
            return f"{100 * (self.table.mean(tagger, metric) or 0):.1f}"

        pairs = self.table.students("taggers")
        rows = [(each[0], _data(each[1]), share(each, "recall"), share(each, "precision")) for each in pairs]
        headings = ("tagger", "data", "recall", "precision")
        title = "Private characters: recall and precision, in percent"
        return Figure(title, headings=headings, rows=rows, note="At a likelihood of 1/2.")

    def draw(self, path: Path) -> None:
        _figure(self.table, self.run, path)

    def findings(self) -> tuple[str, ...]:
        return _LIMITS

    def context(self, folder: Path) -> dict[str, Any]:
        pairs, thresholds = self.table.students("taggers"), self.table.students("threshold")[:1]
        return {
            "run_config": self.content["config"],
            "threshold": self.table.mean(thresholds[0], "threshold") if thresholds else None,
            "t": self.table,
            "found": pairs,
            "data": _data,
            "names": list(dict.fromkeys(name for name, _ in pairs)),
            "counts": [name for name in _COUNTS if any(self.table.mean(each, name) is not None for each in pairs)],
            "sets": list(dict.fromkeys(where for _, where in pairs)),
            "calibration": self.table.students("calibration"),
            "limits": _LIMITS,
        }


def _data(setting: str) -> str:
    return words_of(setting)["data"]


def _figure(table: RunTable, run: str, path: Path) -> None:
    """Draw recall against precision, one panel a data set."""
    pairs = table.students("taggers")
    sets, names = (list(dict.fromkeys(part)) for part in zip(*[(where, name) for name, where in pairs], strict=True))
    size = (1.8 + 3.6 * len(sets), 4.0)
    figure, axes = blank_figure(size, 1, len(sets), squeeze=False, sharey=True)
    for axis, where in zip(axes[0], sets, strict=True):
        for i, name in enumerate(names):
            recall, precision = (table.mean((name, where), metric) for metric in ("recall", "precision"))
            if recall is not None and precision is not None:
                axis.plot(100 * precision, 100 * recall, **look(i), linestyle="none", label=name, clip_on=False)
        axis.set(title=_data(where), xlabel="precision, %", xlim=(0, 100), ylim=(0, 100))
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("recall, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(f"{run}: private characters found")
    save_figure(figure, path)
