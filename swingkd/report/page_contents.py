"""What stands on the page of a model, and on that of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swingkd.audit import AuditReport, ExposureReport, Interval
from swingkd.audit.membership import MembershipReport, roc_curve
from swingkd.privacy import PrivacyLedger
from swingkd.report.audit_figures import audit_tables, roc_figure
from swingkd.report.model_card import ModelFacts, claims
from swingkd.report.page import Figure, Page, ShownToken, svg_of, table_of
from swingkd.report.plots import epsilon_curves, epsilon_figure, repetition_figure
from swingkd.report.protected import protected_lines
from swingkd.report.summary import Summary, summarise
from swingkd.report.verdict import numbers, says_something, spoken, verdicts

_AT = (0.001, 0.01, 0.1)


def model_page(facts: ModelFacts, tokens: Sequence[Sequence[ShownToken]] = ()) -> Page:
    """Return the page of one model."""
    figures = audit_figures(facts.audit or AuditReport(), facts.title) + epsilon_figures(facts.ledger)
    used = Figure(
        "Quality", "", ("metric", "value"), [(name, f"{value:.4f}") for name, value in facts.results.items()]
    )
    tables = [*([used] if facts.results else []), *map(table_of, audit_tables(facts.audit or AuditReport()))]
    protected = protected_lines(facts.protected) if facts.protected else []
    audit = facts.audit or AuditReport()
    return Page(
        facts.title,
        facts.ledger.lines(),
        claims(facts),
        tables,
        figures,
        tokens,
        protected=protected,
        numbers=numbers(audit),
        verdicts=verdicts(audit),
    )


def audit_page(report: AuditReport, title: str) -> Page:
    """Return the page of an audit of one model."""
    tables = [table_of(table) for table in audit_tables(report)]
    note = "Attacks are lower bounds: a better one may find more. How the model was trained is not looked at here."
    return Page(
        title,
        (),
        (note,),
        tables,
        audit_figures(report, title),
        numbers=numbers(report),
        verdicts=verdicts(report),
        folded=True,
    )


def leak_figure(content: dict[str, Any]) -> Figure:
    """Return the title, the numbers and the note of utility against leak.

    Args:
        content: of a run's metrics.json.
    """
    summaries = [summary for summary in summarise(content) if summary.exposure]
    levels = _levels(summaries)
    return Figure(
        "Utility against leak",
        headings=("model", "perplexity", *(f"x{level}" for level in levels)),
        rows=[_leak_row(summary, levels) for summary in summaries],
        note="The best students stand at the lower left: useful and silent. The grey band is what chance gives.",
    )


def audit_figures(report: AuditReport, name: str) -> list[Figure]:
    """Return the figures of an audit: exposure by repetition, and a ROC curve for each kind of record."""
    figures = []
    if report.exposure:
        figures.append(exposure_by_repetition({name: _means(report.exposure)}))
    for kind, membership in report.membership.items():
        if not says_something(report, kind):
            continue
        key = f"roc-{len(figures)}"
        figures.append(
            Figure(
                f"Membership of {spoken(kind)}: ROC curves",
                svg_of(_roc(membership, kind), key),
                ("attack", "AUC", *(f"TPR at {100 * rate:g} % FPR" for rate in _AT)),
                [_roc_row(membership, result.attack) for result in membership.results],
                "Both axes are logarithmic: what counts is who is found at few false alarms.",
            )
        )
    return figures


def epsilon_figures(ledger: PrivacyLedger) -> list[Figure]:
    """Return the figure of what each step of DP-SGD cost, where there was any."""
    curves = epsilon_curves(ledger)
    if not curves:
        return []
    rows = [(name, f"{steps:,}", f"{epsilon:.3f}") for name, points in curves.items() for steps, epsilon in points]
    svg = svg_of(lambda path: epsilon_figure(curves, path), "epsilon")
    return [Figure("Epsilon over steps", svg, ("data", "steps", "epsilon"), rows)]


def exposure_by_repetition(series: dict[str, dict[int, Interval]]) -> Figure:
    """Return the figure of exposure against the number of copies, a line a model."""
    rows = [
        (name, str(level), f"{exposure.value:.2f}", f"{exposure.low:.2f} to {exposure.high:.2f}")
        for name, levels in series.items()
        for level, exposure in sorted(levels.items())
    ]
    svg = svg_of(lambda path: repetition_figure(series, path), "repetition")
    note = "In bits; 0 copies are the controls, which were never inserted: what chance gives."
    return Figure("Exposure by repetition", svg, ("model", "copies", "exposure", "95 % interval"), rows, note)


def _means(report: ExposureReport) -> dict[int, Interval]:
    return {level: report.mean(level) for level in report.levels}


def _roc(report: MembershipReport, kind: str) -> Callable[[Path], Any]:
    return lambda path: roc_figure(report, kind, path)


def _roc_row(report: MembershipReport, attack: str) -> tuple[str, ...]:
    false, true = roc_curve(*report.scores[attack])
    rates = [max((t for f, t in zip(false, true, strict=True) if f <= rate), default=0.0) for rate in _AT]
    told = (f"{value:.3f}" if report[attack].resolves(at) else "n/a" for at, value in zip(_AT, rates, strict=True))
    return (attack, f"{report[attack].auc.value:.3f}", *told)


def _levels(summaries: list[Summary]) -> list[int]:
    return sorted({level for summary in summaries for level in summary.exposure if level})


def _leak_row(summary: Summary, levels: list[int]) -> tuple[str, ...]:
    perplexity = summary.perplexity.get("perplexity")
    cells = [f"{summary.exposure[level].value:.2f}" if level in summary.exposure else "" for level in levels]
    return (summary.name, f"{perplexity:.2f}" if perplexity is not None else "", *cells)
