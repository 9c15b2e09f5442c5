"""What an audit found, for people: ROC curves on log axes, tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich import box
from rich.table import Table

from swingkd.audit import AuditReport, EpsilonLowerBound, ExtractionReport, Interval, MembershipReport
from swingkd.audit.membership import roc_curve
from swingkd.report.plots import COLOURS


def roc_figure(report: MembershipReport, title: str, path: Path) -> Path:
    """Draw the attacks' ROC curves on log axes, where the few false alarms that matter can be seen; save as PNG."""
    figure, axis = plt.subplots(figsize=(5.6, 5.0), layout="constrained")
    lowest = 0.5 / max(report.results[0].nonmembers, report.results[0].members)
    axis.plot([lowest, 1], [lowest, 1], color="0.6", linestyle=":", label="chance")
    for i, result in enumerate(report.results):
        false, true = roc_curve(*report.scores[result.attack])
        axis.step(
            np.maximum(false, lowest),
            np.maximum(true, lowest),
            where="post",
            color=COLOURS[i % len(COLOURS)],
            linestyle=("-", "--", "-.")[i % 3],
            linewidth=1.4,
            label=f"{result.attack} (AUC {result.auc.value:.3f})",
        )
    axis.set(
        xscale="log",
        yscale="log",
        xlim=(lowest, 1),
        ylim=(lowest, 1.05),
        title=f"membership: {title}",
        xlabel="false positive rate",
        ylabel="true positive rate",
    )
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def roc_figures(report: AuditReport, folder: Path) -> list[Path]:
    """Draw one roc_*.png a kind of record into a folder."""
    return [
        roc_figure(membership, kind, folder / f"roc_{re.sub(r'[^A-Za-z0-9-]+', '_', kind)}.png")
        for kind, membership in report.membership.items()
    ]


def audit_tables(report: AuditReport) -> list[Table]:
    """Return the tables that a terminal shows."""
    tables = []
    if report.exposure:
        table = _table(
            "exposure of canaries, in bits",
            ("canaries", "exposure", "95 % interval", "number"),
            f"at most {report.exposure.maximum:.2f}; 1.44 is what chance gives",
        )
        for level in report.exposure.levels:
            mean = report.exposure.mean(level)
            table.add_row(f"x{level}" if level else "not inserted", f"{mean.value:.2f}", _span(mean, 2), str(mean.n))
        tables.append(table)
    for kind, membership in report.membership.items():
        tables.append(_membership_table(kind, membership, report.epsilon.get(kind, {})))
    if report.extraction:
        tables.append(_extraction_table(report.extraction))
    return tables


def _extraction_table(report: ExtractionReport) -> Table:
    table = _table(
        "extraction of training text",
        ("attack", "text", "found, %", "95 % interval", "of", "chance, %"),
        "whole texts continued word for word; private values said, put into a gap, picked from a list"
        + ("; text that the model never saw shows what needs no memory" if report.unseen else ""),
    )
    for text, part in (("trained on", report), ("never seen", report.unseen)):
        if part is None:
            continue
        if part.continuation:
            table.add_row("continued", text, *_share(part.continuation.greedy))
            for n, value in part.continuation.sampled.items():
                of = str(part.continuation.texts)
                table.add_row(f"continued, {n} samples", text, f"{100 * value:.1f}", "", of)
        if part.values:
            extracted, known = len(part.values.found), part.values.training
            how = f"values, {part.values.samples} samples"
            table.add_row(how, text, f"{100 * extracted / known:.1f}" if known else "", "", str(known))
        for name, guesses in (("in gaps", part.reconstruction), ("picked", part.inference)):
            if guesses:
                by_chance = "" if guesses.chance is None else f"{100 * guesses.chance:.1f}"
                table.add_row(f"values {name}", text, *_share(guesses.right), by_chance)
    return table


def _share(share: Interval) -> tuple[str, str, str]:
    return f"{100 * share.value:.1f}", f"{100 * share.low:.1f} to {100 * share.high:.1f}", str(share.n)


def _membership_table(kind: str, report: MembershipReport, bounds: dict[str, EpsilonLowerBound]) -> Table:
    headings = ["attack", "AUC", "95 % interval", "TPR at 1 % FPR", "95 % interval"]
    first = report.results[0]
    caption = f"chance: AUC 0.5, TPR {first.chance(0.01):.3f}"
    if bounds:
        delta = next(iter(bounds.values())).delta
        headings.append("epsilon at least")
        caption += f"; epsilon of a canary with all its copies, at delta {delta:g}, with 95 % confidence"
    table = _table(f"membership of {kind}: {first.members} in, {first.nonmembers} out", headings, caption)
    for r in report.results:
        row = [f"{r.auc.value:.3f}", _span(r.auc, 3), f"{r.tpr_at_1_fpr.value:.3f}", _span(r.tpr_at_1_fpr, 3)]
        table.add_row(r.attack, *row, *([f"{bounds[r.attack].epsilon:.2f}"] if bounds else []))
    return table


def _table(title: str, headings: Sequence[str], caption: str) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE, title_justify="left", caption_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    return table


def _span(interval: Interval, digits: int) -> str:
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"
