"""An annex for whoever must judge a model: what was tried on it, what was found, and what nobody tried.

In the order of the attacks that EDPB Opinion 28/2024 (adopted 17 December 2024, section 3.2) wants a model tested
against; our reading of it, and no legal advice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from swingkd.audit import AuditReport, ExtractionReport, Interval
from swingkd.files import write_json
from swingkd.privacy import PrivacyLedger
from swingkd.report.audit_figures import audit_tables
from swingkd.report.metrics import environment
from swingkd.report.page import Figure, Page, table_of, write_page
from swingkd.report.verdict import spoken, verdicts

ANNEX_FILE, ANNEX_PAGE = "annex.json", "annex.html"
#: The key of the records' digests; it stays with whoever was audited.
ANNEX_KEY = "annex.key"
_OPINION = "EDPB Opinion 28/2024, adopted 17 December 2024, section 3.2 (our reading)"
_LIMITS = (
    "Attacks are lower bounds: a better one may find more. What was not found was not found by these.",
    "They were tried on the records and canaries listed here. Of others nothing is said.",
    "Intervals have 95 % confidence; what 'can be told' holds for all attacks of this annex together.",
    "The Opinion asks for more than tests: where the data came from, what was left out of them, how the model is kept "
    "and who may ask it. None of that is looked at here.",
    "Whether a likelihood is insignificant for a person is a judgement of law, not of this annex.",
)
_UNSEEN = "The same was asked of text that the model never saw: what goes beyond that is memory."
_PROMISED = "No promise came with the model: no privacy ledger speaks of these weights."


@dataclass(frozen=True)
class Identified:
    """A model or data by name and digest.

    Args:
        role: "audited model", "compared with", "members", ...
        name: as it may be shown.
        digest: SHA-256 of the weights; of rows, with a key that stays with whoever was audited.
        size: how many parameters, or rows.
    """

    role: str
    name: str
    digest: str
    size: int


@dataclass(frozen=True)
class Evidence:
    """One kind of attack that the Opinion names.

    Args:
        kind: as it is called there.
        tried: what was done; empty: nothing.
        found: what came of it, a sentence each.
        power: whether the attacks would have found something.
        missing: where nothing was tried, what to give.
    """

    kind: str
    tried: str = ""
    found: Sequence[str] = ()
    power: str = ""
    missing: str = ""


def evidence(report: AuditReport) -> list[Evidence]:
    """Return what an audit says of each kind of attack that the Opinion names.

    Args:
        report: of `audit_model`.
    """
    return [
        _membership(report),
        _attribute(report),
        _exfiltration(report),
        _regurgitation(report),
        _reconstruction(report),
        Evidence(
            "model inversion from gradients or inner states",
            missing="Not part of this library: an attacker would need more than the model's answers.",
        ),
    ]


def write_annex(
    report: AuditReport,
    folder: str | Path,
    *,
    title: str,
    identified: Sequence[Identified],
    ledger: PrivacyLedger | None = None,
) -> list[Path]:
    """Write annex.json and annex.html into a folder.

    Args:
        report: of `audit_model`.
        folder: where they go.
        title: the model's name, as it may be shown.
        identified: the models and the data.
        ledger: what was promised of these weights.
    """
    parts = evidence(report)
    promised = ledger.lines() if ledger is not None else [_PROMISED]
    content = {
        "asked_by": _OPINION,
        "written": datetime.now(UTC).date().isoformat(),
        "identified": [asdict(one) for one in identified],
        "promised": promised,
        "evidence": [asdict(part) for part in parts],
        "not_tried": [part.kind for part in parts if not part.tried],
        "limits": list(_LIMITS),
        "environment": environment(),
        "report": report.to_dict(),
    }
    path = Path(folder) / ANNEX_FILE
    write_json(path, content)
    rows = [(one.role, one.name, f"{one.size:,}", one.digest) for one in identified]
    note = f"SHA-256 of weights; of rows HMAC-SHA-256, whose key is _private/{ANNEX_KEY}: with it they can be checked."
    about = Figure(
        "What was attacked, and with what", "", ("role", "name", "parameters or rows", "digest"), rows, note
    )
    page = Page(
        f"Annex: what attacks find in {title}",
        promised,
        _LIMITS,
        [about, *map(table_of, audit_tables(report))],
        verdicts=verdicts(report),
        claims_heading="What this does not say",
        sections=[(part.kind.capitalize(), list(_told(part))) for part in parts],
    )
    return [path, write_page(page, Path(folder) / ANNEX_PAGE)]


def _told(part: Evidence) -> Iterator[str]:
    if not part.tried:
        yield f"Not tried. {part.missing}"
        return
    yield f"Tried: {part.tried}"
    yield from (f"Found: {line}" for line in part.found)
    if part.power:
        yield f"Power: {part.power}"


def _membership(report: AuditReport) -> Evidence:
    kind = "membership inference"
    if not report.membership:
        return Evidence(kind, missing="Give records that the model was trained on, and records alike that it was not.")
    tried, found, power = [], [], []
    for name, membership in report.membership.items():
        first, through = membership.results[0], report.through(name)
        names = ", ".join(result.attack for result in membership.results)
        sides = f"{first.members} inside and {first.nonmembers} outside"
        count = len(membership.results)
        tried.append(f"{count} attack{'s' if count > 1 else ''} on {spoken(name)}, {sides}: {names}.")
        tried += [f"{note[0].upper()}{note[1:]}." for note in membership.notes if note.startswith("camia")]
        best = max(membership.results, key=lambda result: abs(result.auc.value - 0.5))
        strongest = f"the one that looks strongest, {best.attack}, has an AUC of {_span(best.auc)}, by itself"
        found.append(
            f"{spoken(name).capitalize()} can be told by {', '.join(through)}; {strongest}."
            if through
            else f"{spoken(name).capitalize()} could not be told; {strongest}."
        )
        power.append(_power(report, name))
    for bounds in report.epsilon.values():
        proved = max(bound.epsilon for bound in bounds.values())
        found.append(f"Against canaries that a coin put in, the attacks prove an epsilon of at least {proved:.2f}.")
    return Evidence(kind, " ".join(tried), found, " ".join(dict.fromkeys(power)))


def _power(report: AuditReport, kind: str) -> str:
    if report.teacher is None:
        return "Unknown: the attacks were tried on no model that they should catch."
    caught = report.teacher.through(kind) if kind in report.teacher.membership else []
    if not caught:
        return "None shown: no attack catches the model that is compared with either."
    return f"Of these, {', '.join(caught)} catch the model that is compared with."


def _attribute(report: AuditReport) -> Evidence:
    kind, missing = "attribute inference", "Give training text with private values, from which the model is to pick."
    found = list(_pairs(report.extraction, "inference"))
    if not found:
        return Evidence(kind, missing=missing)
    return Evidence(
        kind, "The model picks a private value among candidates, in its own sentence.", found, _unseen(report)
    )


def _reconstruction(report: AuditReport) -> Evidence:
    kind, missing = "reconstruction", "Give training text with private values, which are cut out and asked for."
    found = list(_pairs(report.extraction, "reconstruction"))
    if not found:
        return Evidence(kind, missing=missing)
    return Evidence(
        kind, "A value is cut out of its sentence; the model proposes what stood there.", found, _unseen(report)
    )


def _pairs(extraction: ExtractionReport | None, name: str) -> Iterator[str]:
    for text, part in (("trained on", extraction), ("never seen", extraction.unseen if extraction else None)):
        guesses = getattr(part, name) if part is not None else None
        if guesses is not None:
            chance = f"; guessing gives {guesses.chance:.1%}" if guesses.chance is not None else ""
            yield f"Of {guesses.right.n} values of text {text}, {_share(guesses.right)} were right{chance}."


def _exfiltration(report: AuditReport) -> Evidence:
    kind = "exfiltration"
    values = report.extraction.values if report.extraction else None
    if values is None:
        return Evidence(kind, missing="Give training text with private values, which samples are searched for.")
    found = [f"{len(values.found)} of {values.training} private values of the training text were said unasked."]
    if values.by_chance is not None:
        known, said = values.by_chance
        found.append(f"Of {known} values of text that it never saw, {said} were said: that is chance.")
    return Evidence(
        kind, f"The model wrote {values.samples} texts of its own, which were searched.", found, _unseen(report)
    )


def _regurgitation(report: AuditReport) -> Evidence:
    kind, tried, found = "regurgitation of training data", [], []
    continuation = report.extraction.continuation if report.extraction else None
    if continuation is not None:
        tried.append("Training texts were begun, and the model went on.")
        found.append(f"{_share(continuation.greedy)} of {continuation.texts} texts were continued word for word.")
    if report.exposure is not None:
        tried.append(
            "Made-up secrets, put into the training data on purpose, were ranked among all others of their kind."
        )
        found += [line for line in verdicts(report) if line.startswith("Secrets")]
    if not tried:
        return Evidence(
            kind, missing="Give training text to be continued, or canaries that were inserted before training."
        )
    return Evidence(kind, " ".join(tried), found, _unseen(report) if continuation is not None else "")


def _unseen(report: AuditReport) -> str:
    if report.extraction is not None and report.extraction.unseen is not None:
        return _UNSEEN
    return "Unknown: the same was not asked of text that the model never saw."


def _span(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _share(share: Interval) -> str:
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"
