"""What an audit found, for people: ROC curves on log axes, tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from swingkd.audit import AuditReport, ExtractionReport, Interval, MembershipReport
from swingkd.audit.membership import roc_curve
from swingkd.report.plots import COLOURS, blank_figure, save_figure
from swingkd.report.verdict import says_something, spoken

_NO_POWER = "no power here"


def roc_figure(report: MembershipReport, title: str, path: Path) -> Path:
    """Draw the attacks' ROC curves on log axes, where the few false alarms that matter can be seen; save as PNG."""
    figure, axis = blank_figure((5.6, 5.0))
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
        title=f"membership: {spoken(title)}",
        xlabel="false positive rate",
        ylabel="true positive rate",
    )
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="lower right", frameon=False)
    save_figure(figure, path)
    return path


def roc_figures(report: AuditReport, folder: Path) -> list[Path]:
    """Draw one roc_*.png a kind of record into a folder, where the curves show more than chance."""
    return [
        roc_figure(membership, kind, folder / f"roc_{re.sub(r'[^A-Za-z0-9-]+', '_', kind)}.png")
        for kind, membership in report.membership.items()
        if says_something(report, kind)
    ]


def audit_tables(report: AuditReport) -> list[Table]:
    """Return the tables that a terminal shows."""
    tables = []
    if report.exposure:
        control = report.teacher.exposure if report.teacher else None
        table = _table(
            "exposure of canaries, in bits",
            ("canaries", "exposure", "95 % interval", "number", *(("teacher",) if control else ())),
            f"at most {report.exposure.maximum:.2f}; 1.44 is what chance gives{_control(report)}"
            + "".join(f"; {note}" for note in report.exposure.notes),
        )
        for level in report.exposure.levels:
            mean = report.exposure.mean(level)
            row = [f"x{level}" if level else "not inserted", f"{mean.value:.2f}", _span(mean, 2), str(mean.n)]
            if control:
                known = f"{control.mean(level).value:.2f}" if level in control.levels else ""
                row.append(_NO_POWER if level and report.exposure_is_powerless(level) else known)
            table.add_row(*row)
        tables.append(table)
    for kind, membership in report.membership.items():
        tables.append(_membership_table(kind, membership, report))
    if report.removed:
        tables.append(_removed_table(report))
    if report.extraction:
        tables.append(_extraction_table(report.extraction))
    return tables


def _removed_table(report: AuditReport) -> Table:
    """Return what the attacks find less here than on the other model; of membership the rate that a person feels."""
    table = _table(
        "what is gone beside the teacher, or the model in its place",
        ("attack", "on", "measured", "there", "here", "gone", "95 % interval"),
        "the same canaries and records on both, in pairs; an interval above 0: this much less is given away here; "
        "95 % for each line, not for all together",
    )
    rates = {(one.attack, one.on) for one in report.removed if one.metric.startswith("TPR")}
    for one in report.removed:
        if one.metric == "AUC" and (one.attack, one.on) in rates:
            continue
        numbers = (f"{value:.3f}" for value in (one.other, one.own, one.gone.value))
        table.add_row(one.attack, spoken(one.on), one.metric, *numbers, _span(one.gone, 3))
    return table


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


def _membership_table(kind: str, membership: MembershipReport, report: AuditReport) -> Table:
    headings = ["attack", "AUC", "95 % interval", "TPR at 1 % FPR", "95 % interval"]
    first, bounds = membership.results[0], report.epsilon.get(kind, {})
    caption = f"chance: AUC 0.5, TPR {first.chance(0.01):.3f}"
    if not first.resolves(0.01):
        caption += f"; n/a: {first.nonmembers} nonmembers are too few for 1 % false alarms (100 are needed)"
    if bounds:
        delta = next(iter(bounds.values())).delta
        headings.append("epsilon at least")
        caption += (
            f"; epsilon of a canary with all its copies, at delta {delta:g}, with 95 % confidence for all together"
        )
    powerless, caught = report.powerless(kind), list[str]()
    if report.teacher is not None:
        caught = report.teacher.through(kind) if kind in report.teacher.membership else []
        headings.append("on the teacher")
    caption += _control(report) + "".join(f"; {note}" for note in membership.notes)
    table = _table(f"membership of {spoken(kind)}: {first.members} in, {first.nonmembers} out", headings, caption)
    for r in membership.results:
        row = [f"{r.auc.value:.3f}", _span(r.auc, 3), *r.told(0.01)]
        row += [f"{bounds[r.attack].epsilon:.2f}"] if bounds else []
        if report.teacher is not None:
            told = "caught" if r.attack in caught else "missed"
            row.append(_NO_POWER if r.attack in powerless else told)
        table.add_row(f"{r.attack}, turned round" if r.turned else r.attack, *row)
    return table


def _control(report: AuditReport) -> str:
    """Say whether the attacks were tried on the teacher."""
    if report.teacher is None:
        return "; not tried on the teacher, so an attack that finds nothing may have no power"
    return f"; {_NO_POWER}: it does not catch the teacher either, so nothing is shown"


def _table(title: str, headings: Sequence[str], caption: str) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE, title_justify="left", caption_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    return table


def _span(interval: Interval, digits: int) -> str:
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"
