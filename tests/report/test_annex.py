"""The annex says what was tried, with what power, and what nobody tried."""

import json

import numpy as np
import pytest

from swingkd.audit import AuditReport, ExtractionReport, Interval
from swingkd.audit.continuation import ContinuationReport
from swingkd.audit.membership import MembershipReport, evaluate_attack
from swingkd.audit.pii import Guesses, ValueExtraction
from swingkd.privacy import PrivacyLedger, PrivacyPlan
from swingkd.privacy.ledger_entry import LedgerEntry
from swingkd.report.annex import Identified, evidence, write_annex

KINDS = (
    "membership inference",
    "attribute inference",
    "exfiltration",
    "regurgitation of training data",
    "reconstruction",
    "model inversion from gradients or inner states",
)


def membership(shift, seed=0):
    rng = np.random.default_rng(seed)
    sides = (rng.normal(shift, 1, 200), rng.normal(0, 1, 200))
    return {"records": MembershipReport((evaluate_attack("loss", *sides, resamples=2),), {"loss": sides})}


@pytest.fixture
def extraction():
    share = Interval(0.25, 0.1, 0.4, 20)
    return ExtractionReport(
        ContinuationReport(share, {1: 0.2}, 0.5, 20, 0, False, ()),
        ValueExtraction(100, 5, 10, (), (8, 1)),
        Guesses(share, None, {}),
        Guesses(share, 0.05, {}),
    )


def test_an_empty_audit_tried_nothing_and_says_what_to_give():
    parts = evidence(AuditReport())
    assert tuple(part.kind for part in parts) == KINDS
    assert all(not part.tried and part.missing and not part.found for part in parts)


def test_everything_that_was_tried_is_told(extraction):
    report = AuditReport(membership=membership(2.0), extraction=extraction)
    parts = {part.kind: part for part in evidence(report)}
    assert [kind for kind in KINDS if parts[kind].tried] == list(KINDS[:-1])
    assert "Records can be told by loss" in parts["membership inference"].found[0]
    assert "200 inside and 200 outside" in parts["membership inference"].tried
    assert "guessing gives 5.0%" in parts["attribute inference"].found[0]
    assert "0 of 10 private values" in parts["exfiltration"].found[0]
    assert "25.0% [10.0%, 40.0%] of 20 texts" in parts["regurgitation of training data"].found[0]
    assert "never saw" in parts["reconstruction"].power


@pytest.mark.parametrize(
    ("control", "power"),
    [
        (None, "Unknown: the attacks were tried on no model that they should catch."),
        (0.0, "None shown: no attack catches the model that is compared with either."),
        (2.0, "Of these, loss catch the model that is compared with."),
    ],
)
def test_an_attack_without_power_is_no_evidence(control, power):
    teacher = None if control is None else AuditReport(membership=membership(control, seed=1))
    report = AuditReport(membership=membership(0.0), teacher=teacher)
    (part, *_) = evidence(report)
    assert "Records could not be told" in part.found[0]
    assert part.power == power


def test_the_annex_holds_digests_promises_and_limits(tmp_path, extraction):
    report = AuditReport(membership=membership(2.0), extraction=extraction)
    identified = [Identified("audited model", "student", "ab" * 32, 1234), Identified("members", "", "cd" * 32, 200)]
    plan = PrivacyPlan(0.01, 100, 1.0)
    ledger = PrivacyLedger([LedgerEntry.of_plan(plan, releases=100)])
    for known, promised in ((None, "No promise came with the model"), (ledger, "transfer set: epsilon")):
        path, page = write_annex(report, tmp_path, title="student", identified=identified, ledger=known)
        content = json.loads(path.read_text())
        assert content["promised"][0].startswith(promised)
        assert [one["size"] for one in content["identified"]] == [1234, 200]
        assert content["not_tried"] == [KINDS[-1]]
        assert content["report"]["membership"].keys() == {"records"}
        text = page.read_text()
        assert "ab" * 32 in text
        assert "What this does not say" in text
        assert "Not tried. Not part of this library" in text
