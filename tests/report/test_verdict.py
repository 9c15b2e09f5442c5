"""The head of an audit's page says what the audit found, and no more."""

import re
from dataclasses import replace

import numpy as np
import pytest

from swingkd.audit import AuditReport, CanaryExposure, ExposureReport, MembershipReport
from swingkd.audit.membership import evaluate_attack
from swingkd.report.page import svg_of, write_page
from swingkd.report.page_contents import audit_page
from swingkd.report.plots import repetition_figure
from swingkd.report.verdict import numbers, says_something, spoken, verdicts


def report(exposure: float, count: int = 12) -> ExposureReport:
    """Canaries of ten copies with this exposure, and as many controls."""
    return ExposureReport(
        "exact",
        16.6,
        tuple(
            CanaryExposure(i, "digits", repetitions, bool(repetitions), 1.0, value + 0.05 * (i % count), 5.0)
            for i, (repetitions, value) in enumerate([(10, exposure)] * count + [(0, 1.4)] * count)
        ),
        10,
        100,
    )


def membership(shift):
    rng = np.random.default_rng(0)
    scores = {"loss": (rng.normal(shift, 1, 300), rng.normal(0, 1, 300))}
    return MembershipReport(tuple(evaluate_attack(n, *s, resamples=50) for n, s in scores.items()), scores)


def test_what_is_given_away_is_said_in_words():
    audit = AuditReport(exposure=report(12.0), membership={"records": membership(1.5)})
    said = " ".join(verdicts(audit))
    assert "Secrets inserted 10 times are given away: 12." in said
    assert "Whether records were trained on can be told: 1 of 1 attacks get through" in said
    told = {what: number for number, what in numbers(audit)}
    assert told["exposure of secrets inserted 10 times (chance: 1.44)"] == f"{audit.exposure.mean(10).value:.1f} bits"
    best = membership(1.5).results[0].auc.value
    assert told["AUC of the best attack on records (chance: 0.5)"] == f"{best:.2f}"


def test_what_is_not_found_is_not_called_safe():
    quiet = AuditReport(exposure=report(1.4), membership={"records": membership(0.0)})
    said = " ".join(verdicts(quiet))
    assert "Secrets inserted 10 times were not found" in said
    assert "could not be told" in said
    powerless = " ".join(verdicts(replace(quiet, teacher=quiet)))
    assert powerless.count("nothing is shown") == 2


def test_few_say_nothing_in_a_sentence():
    """Nor in a number at the head, whatever a test of chance says of them."""
    rng = np.random.default_rng(0)
    scores = {"loss": (rng.normal(9, 1, 6), rng.normal(0, 1, 6))}
    few = MembershipReport(tuple(evaluate_attack(n, *s, resamples=50) for n, s in scores.items()), scores)
    audit = AuditReport(exposure=report(12.0, 4), membership={"canary_secrets x1": few})
    assert all("too few to say" in line for line in verdicts(audit))
    assert numbers(audit) == []


def test_the_number_is_that_of_the_worst_level():
    loud, quiet = report(12.0), report(1.0)
    both = replace(
        loud, canaries=(*loud.canaries, *(replace(c, repetitions=c.repetitions * 5) for c in quiet.canaries))
    )
    ((number, what),) = numbers(AuditReport(exposure=both))
    assert what.startswith("exposure of secrets inserted 10 times")
    assert float(number.split()[0]) > 12


def test_curves_are_drawn_where_they_say_something():
    loud, quiet = (
        AuditReport(membership={"records": membership(1.5)}),
        AuditReport(membership={"records": membership(0)}),
    )
    assert says_something(loud, "records")
    assert not says_something(quiet, "records")
    assert says_something(replace(quiet, teacher=loud), "records")
    assert [figure.title for figure in audit_page(loud, "m").figures] == ["Membership of records: ROC curves"]
    assert audit_page(quiet, "m").figures == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("records", "records"),
        ("canary_secrets x1", "secrets inserted once"),
        ("canary_records x50", "sentences with secrets inserted 50 times"),
    ],
)
def test_kinds_in_words(kind, words):
    assert spoken(kind) == words


def test_an_audit_page_begins_with_its_verdicts_and_folds_the_rest(tmp_path):
    audit = AuditReport(exposure=report(12.0), membership={"canary_secrets x1": membership(1.5)})
    text = write_page(audit_page(audit, "a model"), tmp_path / "report.html").read_text()
    assert text.index("In short") < text.index("What was measured")
    assert "<details><summary>Figures and tables of every attack</summary>" in text
    assert "canary_secrets" not in text
    assert "secrets inserted once" in text


def test_a_narrow_figure_keeps_its_legend_and_everything_is_drawn_twice():
    series = {"a model": {level: report(3.0).mean(10) for level in (0, 10)}}
    drawn = svg_of(lambda path: repetition_figure(series, path), "figure")
    wide, narrow = drawn.split('<div class="narrow">')
    for svg in (wide, narrow):
        assert "a model" in svg
        assert "exposure in bits" in svg
    boxes = [[float(n) for n in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()] for svg in (wide, narrow)]
    assert boxes[0][0] > 1.5 * boxes[1][0]
    assert boxes[1][1] > boxes[1][0] * 0.7
    ids = re.findall(r'\bid="([^"]+)"', drawn)
    assert len(ids) == len(set(ids))
