"""The card of one model: what its training promises, what was measured on it, and what that does not show."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from rich.table import Table

from swingkd.audit import AuditReport
from swingkd.privacy import TEACHER_DATA, TRANSFER_SET, PrivacyLedger
from swingkd.report.audit_figures import audit_tables
from swingkd.report.protected import Protected, protected_lines
from swingkd.report.render import fill, plain
from swingkd.report.verdict import spoken

_TAGS = ("knowledge-distillation", "privacy", "swingkd")


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model that is saved or pushed; nothing in it is secret.

    Args:
        title: what it is called.
        ledger: what its training released.
        results: what was measured of its use, by name.
        settings: of its training.
        audit: what attacks found; `None`: nobody attacked it.
        task: as the Hub names it.
        base_model: the student's name, before it was trained.
        on_hub: that is its name on the Hub, so the metadata may point there.
        teacher: the teacher's name.
        cached: its answers were read from a cache.
        datasets: what people call the data.
        dataset_tags: its names on the Hub.
        language, license: as the Hub has them.
        tags: others.
        figures: files beside the card.
        trained: how long, and on what.
        page: the file with the report, beside the card.
        library: what loads the weights.
        protected: what its training protected; `None`: it is not known.
    """

    title: str
    ledger: PrivacyLedger
    results: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    audit: AuditReport | None = None
    task: str | None = None
    base_model: str | None = None
    on_hub: bool = False
    teacher: str | None = None
    cached: bool = False
    datasets: tuple[str, ...] = ()
    dataset_tags: tuple[str, ...] = ()
    language: str | list[str] | None = None
    license: str | None = None
    tags: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    trained: dict[str, str] = field(default_factory=dict)
    page: str | None = None
    library: str = "transformers"
    protected: Protected | None = None


def model_card(facts: ModelFacts) -> str:
    """Return a model's README.md: metadata that the Hub reads, and the text."""
    audit = facts.audit or AuditReport()
    # Names are somebody's text: they may not write headings, or close a code span.
    facts = replace(
        facts,
        title=plain(facts.title),
        base_model=plain(facts.base_model or "") or None,
        teacher=plain(facts.teacher or "") or None,
        datasets=tuple(map(plain, facts.datasets)),
        results={plain(name): value for name, value in facts.results.items()},
        trained={plain(name): plain(value) for name, value in facts.trained.items()},
    )
    return fill(
        "model.md",
        metadata=metadata(facts),
        facts=facts,
        promises=map(plain, facts.ledger.lines()),
        protected=map(plain, protected_lines(facts.protected) if facts.protected else ()),
        tables=[markdown(table) for table in audit_tables(audit)],
        claims=map(plain, claims(facts)),
        settings=json.dumps(facts.settings, indent=1, default=str),
    )


def metadata(facts: ModelFacts) -> str:
    """Return the metadata as YAML; what was measured stands in `model-index`, where the Hub finds it."""
    private = facts.ledger.covers(TRANSFER_SET) or facts.ledger.covers(TEACHER_DATA)
    tags = [*_TAGS, *(["differential-privacy"] if private else []), *facts.tags]
    data = ModelCardData(
        base_model=facts.base_model if facts.on_hub else None,
        datasets=list(facts.dataset_tags) or None,
        language=facts.language,
        license=facts.license,
        library_name=facts.library,
        pipeline_tag=facts.task,
        tags=list(dict.fromkeys(tags)),
        model_name=facts.title,
        eval_results=_eval_results(facts) or None,
    )
    return data.to_yaml()


def _eval_results(facts: ModelFacts) -> list[EvalResult]:
    task, name = facts.task or "other", facts.datasets[0] if facts.datasets else "private evaluation data"
    measured = [(metric, value, "") for metric, value in facts.results.items()]
    audit = facts.audit or AuditReport()
    if audit.exposure:
        for level in audit.exposure.levels:
            who = f"canaries inserted {level} times" if level else "canaries never inserted"
            measured.append(("exposure", audit.exposure.mean(level).value, who))
    for kind, report in audit.membership.items():
        who = spoken(kind)
        for result in report.results:
            measured.append(("auc", result.auc.value, f"membership of {who}, {result.attack}"))
            if result.resolves(0.01):
                measured.append(("tpr_at_1_fpr", result.tpr_at_1_fpr.value, f"membership of {who}, {result.attack}"))
    return [
        EvalResult(
            task_type=task,
            dataset_type=re.sub(r"[^\w/.-]+", "-", name),
            dataset_name=name,
            metric_type=metric,
            metric_name=f"{metric} ({who})" if who else metric,
            metric_value=round(float(value), 6),
        )
        for metric, value, who in measured
    ]


def claims(facts: ModelFacts) -> list[str]:
    """Say what does not hold, or is not shown."""
    lines, ledger, audit = [], facts.ledger, facts.audit
    for scope in (TRANSFER_SET, TEACHER_DATA):
        if not ledger.covers(scope) and f"{scope}: not covered" in " ".join(ledger.lines()):
            lines.append(f"No differential privacy guarantee covers the {scope}. Protected targets are a heuristic.")
    if audit is None:
        return [*lines, "Nobody attacked this model: how much it gives away is not known (swingkd audit)."]
    if audit.exposure:
        for level in (level for level in audit.exposure.levels if level):
            # Without controls there is nothing to compare with.
            excess = audit.exposure.excess(level) if 0 in audit.exposure.levels else None
            if audit.exposure_is_powerless(level):
                lines.append(
                    f"No power here: the teacher does not give away secrets that stood {_often(level)} either, so "
                    "nothing is shown of them."
                )
            if audit.exposure.gives_away(level):
                over = (
                    f"{excess.value:.2f} bits of exposure over those that never did [{excess.low:.2f}, "
                    f"{excess.high:.2f}]"
                    if excess is not None
                    else f"{audit.exposure.mean(level).value:.2f} bits of exposure, where chance gives 1.44"
                )
                lines.append(f"It gives something away of secrets that stood {_often(level)} in the text: {over}.")
        lines += [f"{note[:1].upper()}{note[1:]}." for note in audit.exposure.notes]
    for kind, report in audit.membership.items():
        who = spoken(kind)
        through, powerless = audit.through(kind), audit.powerless(kind)
        alone = [r.attack for r in report.results if r.p_value < 0.05 and r.attack not in through]
        if alone:
            lines.append(
                f"On their own these would tell {who}: {', '.join(alone)}; with {audit.family} attacks tried, that "
                "may be chance."
            )
        if through:
            named = "; ".join(
                f"{name}, AUC {report[name].auc.value:.3f}{' (turned round)' if report[name].turned else ''}"
                for name in through
            )
            lines.append(
                f"Membership of {who} can be told, better than by chance (95 % confidence for all {audit.family} "
                f"attacks together): {named}."
            )
        elif audit.teacher is not None and len(powerless) == len(report.results):
            lines.append(f"No power here: no attack tells {who} of the teacher either, so nothing is shown of them.")
        elif powerless and not through:
            lines.append(f"No power here: {', '.join(powerless)} do not catch the teacher on {who} either.")
        lines += [f"{note[:1].upper()}{note[1:]}." for note in report.notes]
    promised = ledger.epsilon()
    for kind, bounds in audit.epsilon.items():
        who = spoken(kind)
        for attack, bound in bounds.items():
            # An audit of ten copies is one of a group of ten.
            copies = re.search(r"x(\d+)$", kind)
            if promised is not None and bound.epsilon > promised and (copies is None or copies[1] == "1"):
                lines.append(f"{attack} on {who} proves epsilon {bound.epsilon:.2f}: more than is promised.")
    if audit.teacher is None and (audit.membership or audit.exposure):
        lines.append("The attacks were not tried on the teacher: one that finds nothing may have no power.")
    return [*lines, "Attacks are lower bounds: a better one may find more. What a tagger misses is not protected."]


def _often(times: int) -> str:
    return "once" if times == 1 else f"{times} times"


def markdown(table: Table) -> str:
    """Return a table of the terminal as Markdown."""
    columns = [[plain(str(cell)) for cell in column.cells] for column in table.columns]
    headings = [plain(str(column.header)) for column in table.columns]
    lines = [f"**{plain(str(table.title))}**", "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True)]
    return "\n".join([*lines, "", plain(str(table.caption or ""))])
