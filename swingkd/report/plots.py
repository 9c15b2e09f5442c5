"""Figures from metrics.json."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend

from swingkd.audit import Interval
from swingkd.files import written_whole
from swingkd.privacy import PrivacyLedger
from swingkd.report.summary import Summary, summarise

# Okabe and Ito's colours: told apart by colour-blind readers as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_FARTHEST = 20
MARKERS = "osD^vPX*"


def look(number: int) -> dict[str, Any]:
    """Return colour and marker of the n-th of several things that are drawn; no two of the first 64 are alike."""
    row, column = divmod(number, len(COLOURS))
    return {"color": COLOURS[column], "marker": MARKERS[(column + row) % len(MARKERS)]}


#: Inches of a figure on a narrow screen, a panel, and a line of a legend.
_NARROW, _PANEL, _LINE = 3.7, 2.9, 0.19
_stacked: ContextVar[bool] = ContextVar("stacked", default=False)


def blank_figure(size: tuple[float, float], rows: int = 1, columns: int = 1, **how: Any) -> tuple[Figure, Any]:
    """Return a figure of so many inches and its axes.

    Not pyplot's, which would choose for the whole process where figures are shown: in a notebook ours would switch
    its own off.

    Args:
        size: width and height.
        rows, columns, **how: as in `Figure.subplots`.
    """
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **how)


@contextmanager
def stacked() -> Iterator[None]:
    """Draw for a narrow screen: figures that are saved meanwhile have their panels and legends below each other."""
    token = _stacked.set(True)
    try:
        yield
    finally:
        _stacked.reset(token)


def _stack(figure: Figure) -> None:
    panels, lines = figure.axes, 0
    grid = GridSpec(len(panels), 1, figure=figure)
    for i, axis in enumerate(panels):
        axis.set_subplotspec(grid[i])
        axis.title.set_text(textwrap.fill(axis.title.get_text(), 40))
        # Panels side by side share what stands at the left of the first one.
        axis.tick_params(labelleft=True)
        axis.set_ylabel(axis.get_ylabel() or panels[0].get_ylabel())
        own = axis.get_legend()
        # A legend over the curves would hide them in half the room.
        lines += _legend_below(figure, own) if own is not None else 0
    for legend in list(figure.legends):
        lines += _legend_below(figure, legend) if legend.get_title().get_text() != _BELOW else 0
    title = figure.get_suptitle()
    if title:
        lines += len(wrapped := textwrap.wrap(title, 44))
        figure.suptitle("\n".join(wrapped), fontsize=9)
    figure.set_size_inches(_NARROW, max(_PANEL, figure.get_figheight() * 0.7) * len(panels) + _LINE * lines)


_BELOW = " "


def _legend_below(figure: Figure, legend: Legend) -> int:
    """Move a legend below its figure; return how many lines it takes."""
    handles: Any = list(legend.legend_handles)
    labels = [textwrap.shorten(text.get_text(), 60, placeholder="…") for text in legend.get_texts()]
    legend.remove()
    below = figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=2 if max(map(len, labels), default=0) < 20 else 1,
        fontsize=8,
        frameon=False,
        title=_BELOW,
        title_fontsize=1,
    )
    below.set_in_layout(True)
    return len(labels) + 1


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole, in the format that its name ends with."""
    if _stacked.get():
        _stack(figure)
    with written_whole(path) as part:
        figure.savefig(part, dpi=130)


def exposure_figure(metrics: dict[str, Any], path: Path) -> Path:
    """Draw exposure against perplexity, one panel per number of copies, and save it as PNG.

    Where attacks proved an epsilon, another panel shows it beside the one that was promised.  The best students stand
    at the lower left: useful and silent.  The grey band is the controls' interval over all
    models: what chance gives.
    """
    every = [s for s in summarise(metrics) if "perplexity" in s.perplexity and s.exposure]
    # A model that knows nothing of the text would squeeze all others into a corner.
    best = min(s.perplexity["perplexity"] for s in every)
    summaries = [s for s in every if s.perplexity["perplexity"] <= _FARTHEST * best]
    far = ", ".join(f"{s.name} {s.perplexity['perplexity']:.0f}" for s in every if s not in summaries)
    levels = sorted({level for s in summaries for level in s.exposure if level})
    proved = [s for s in summaries if s.proved]
    panels = len(levels) + bool(proved)
    figure, axes = blank_figure((1.5 + 4.2 * panels, 4.6), 1, panels, squeeze=False)
    controls = [s.exposure[0] for s in summaries if 0 in s.exposure]
    style = {id(s): look(i) for i, s in enumerate(summaries)}
    for axis, level in zip(axes[0], levels, strict=False):
        if controls:
            low, high = min(c.low for c in controls), max(c.high for c in controls)
            axis.axhspan(low, high, color="0.5", alpha=0.2, linewidth=0, zorder=0, label="controls (chance)")
        for summary in (s for s in summaries if level in s.exposure):
            _point(axis, summary, summary.exposure[level], style[id(summary)])
        axis.set_title(f"secrets repeated {level} times")
        axis.sharey(axes[0][0])
    if proved:
        _proved_panel(axes[0][-1], proved, style)
    for axis in axes[0]:
        axis.set_xlabel("perplexity (lower is better)")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:.3g}")
        axis.xaxis.set_minor_formatter("{x:.3g}")
        axis.tick_params(axis="x", which="both", labelsize=7, rotation=30)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("exposure in bits (lower is better)")
    axes[0][0].set_ylim(bottom=0)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    title = f"{metrics['run']}: what a student is worth and what it gives away"
    figure.suptitle(title + (f"\nnot shown, perplexity too high: {far}" if far else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
    return path


def repetition_figure(series: dict[str, dict[int, Interval]], path: Path) -> Path:
    """Draw exposure against the number of copies, a line a model, and save it.

    Args:
        series: by model, by number of copies (0: controls).
        path: of the figure; its ending names the format.
    """
    figure, axis = blank_figure((6.8, 4.2))
    levels = sorted({level for exposure in series.values() for level in exposure})
    for i, (name, exposure) in enumerate(series.items()):
        own = sorted(exposure)
        # Side by side, so that intervals can be told apart.
        places = [levels.index(level) + (i - (len(series) - 1) / 2) * 0.06 for level in own]
        values = [exposure[level].value for level in own]
        error = [
            [v - exposure[k].low for v, k in zip(values, own, strict=True)],
            [exposure[k].high - v for v, k in zip(values, own, strict=True)],
        ]
        axis.errorbar(
            places,
            values,
            yerr=error,
            **look(i),
            markersize=5,
            linewidth=1.2,
            capsize=2,
            label=name.replace("$", r"\$"),
        )
    axis.set_xticks(range(len(levels)), [str(level) if level else "never inserted" for level in levels])
    axis.set(xlabel="copies in the text", ylabel="exposure in bits (lower is better)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    save_figure(figure, path)
    return path


def epsilon_curves(ledger: PrivacyLedger, points: int = 6) -> dict[str, list[tuple[int, float]]]:
    """Return what Gaussian releases cost as they were made: by data set and mechanism, pairs of steps and epsilon."""
    curves = {}
    for entry in ledger.entries:
        if not entry.releases or not entry.holds or entry.noise_multiplier is None:
            continue
        steps = sorted({max(round(entry.releases * k / points), 1) for k in range(1, points + 1)})
        curves[f"{entry.scope}, {entry.mechanism}"] = [(n, replace(entry, releases=n).epsilon) for n in steps]
    return curves


def epsilon_figure(curves: dict[str, list[tuple[int, float]]], path: Path) -> Path:
    """Draw epsilon over steps and save it.

    Args:
        curves: from `epsilon_curves`.
        path: of the figure.
    """
    figure, axis = blank_figure((6.4, 3.8))
    for i, (name, pairs) in enumerate(curves.items()):
        axis.plot(*zip(*pairs, strict=True), markersize=4, label=name, **look(i))
    axis.set(xlabel="steps", ylabel="epsilon")
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
    return path


def _proved_panel(axis: Axes, summaries: list[Summary], style: dict[int, dict[str, Any]]) -> None:
    """Draw the largest epsilon that an attack proved, and, as a bar above it, the one that was promised."""
    for summary in summaries:
        own = style[id(summary)]
        at = summary.perplexity["perplexity"]
        axis.plot(at, max(proof.epsilon for proof in summary.proved.values()), markersize=6, **own)
        total = summary.total
        if total is not None:
            axis.plot(at, total, "_", color=own["color"], markersize=18, markeredgewidth=2)
    axis.set_title("one unit: proved (bar: promised)")
    axis.set_ylabel("epsilon (lower is better)")
    axis.set_ylim(bottom=-0.2)


def _point(axis: Axes, summary: Summary, exposure: Interval, style: dict[str, Any]) -> None:
    error = [[exposure.value - exposure.low], [exposure.high - exposure.value]]
    axis.errorbar(
        summary.perplexity["perplexity"],
        exposure.value,
        yerr=error,
        **style,
        markersize=6,
        linestyle="none",
        capsize=2,
        label=summary.name,
    )
