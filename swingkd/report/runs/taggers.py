"""The card of a run on taggers: how many private characters each of them finds, and whether a likelihood is one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from swingkd.report.metrics import MetricsFile
from swingkd.report.page import Figure, write_figure_page
from swingkd.report.plots import COLOURS, MARKERS
from swingkd.report.render import render_card
from swingkd.report.table import RunTable

_LIMITS = (
    "Where a tagger finds nothing, nothing is protected: recall is what counts.",
    "It was tried on text like that of its training. Try it on yours (swingkd tag).",
)


def is_tagger_run(metrics: dict[str, Any]) -> bool:
    """Tell whether a run's rows are those of taggers."""
    return any("table=taggers" in row["setting"].split() for row in metrics["rows"])


def write_tagger_card(metrics: str | os.PathLike, output_dir: str | os.PathLike) -> Path:
    """Write README.md, report.html, recall.png and metrics.json of a run on taggers into a folder.

    Args:
        metrics: the run's metrics.json.
        output_dir: where they go.

    Returns:
        The path of the card.
    """
    content, folder = MetricsFile(metrics).read(), Path(output_dir)
    table = RunTable(content["rows"])
    folder.mkdir(parents=True, exist_ok=True)
    found = table.students("taggers")

    def share(tagger: tuple[str, str], metric: str) -> str:
        return f"{100 * (table.mean(tagger, metric) or 0):.1f}"

    rows = [(each[0], _data(each[1]), share(each, "recall"), share(each, "precision")) for each in found]
    headings = ("tagger", "data", "recall", "precision")
    title = "Private characters: recall and precision, in percent"
    figure = Figure(title, headings=headings, rows=rows, note="At a likelihood of 1/2.")
    run = content["run"]
    write_figure_page(folder / "recall.png", run, lambda path: _figure(table, run, path), figure, (), _LIMITS)
    return render_card(
        "taggers.md",
        metrics,
        content,
        folder,
        t=table,
        found=found,
        data=_data,
        names=list(dict.fromkeys(name for name, _ in found)),
        sets=list(dict.fromkeys(where for _, where in found)),
        calibration=table.students("calibration"),
        limits=_LIMITS,
    )


def _data(setting: str) -> str:
    return next(word.partition("=")[2] for word in setting.split() if word.startswith("data="))


def _figure(table: RunTable, run: str, path: Path) -> None:
    """Draw recall against precision, one panel a data set."""
    found = table.students("taggers")
    sets, names = (list(dict.fromkeys(part)) for part in zip(*[(where, name) for name, where in found], strict=True))
    size = (1.8 + 3.6 * len(sets), 4.0)
    figure, axes = plt.subplots(1, len(sets), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, where in zip(axes[0], sets, strict=True):
        for i, name in enumerate(names):
            recall, precision = (table.mean((name, where), metric) for metric in ("recall", "precision"))
            if recall is not None and precision is not None:
                axis.plot(
                    100 * precision,
                    100 * recall,
                    marker=MARKERS[i % 8],
                    color=COLOURS[i % 8],
                    linestyle="none",
                    label=name,
                    clip_on=False,
                )
        axis.set(title=_data(where), xlabel="precision, %", xlim=(0, 100), ylim=(0, 100))
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("recall, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(f"{run}: private characters found")
    figure.savefig(path, dpi=130)
    plt.close(figure)
