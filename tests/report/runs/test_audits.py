import json

import numpy as np
import pytest
from rich.console import Console

from swingkd.audit import AuditReport, MembershipReport, epsilon_lower_bound, evaluate_attack
from swingkd.audit.extraction import ExtractionReport
from swingkd.audit.intervals import Interval
from swingkd.audit.pii import FoundValue, Guesses, ValueExtraction
from swingkd.report import MetricsFile, Row, audit_tables, extraction_rows, membership_rows, write_audit, write_card
from swingkd.report.runs.audits import AuditTable, findings


@pytest.fixture
def report():
    rng = np.random.default_rng(0)
    scores = {"loss": (rng.normal(3, 1, 100), rng.normal(0, 1, 100)), "zlib": tuple(rng.normal(0, 1, (2, 100)))}
    results = tuple(evaluate_attack(name, *sides, resamples=50) for name, sides in scores.items())
    membership = MembershipReport(results, scores)
    values = ValueExtraction(50, 4, 10, (FoundValue("PIN", 3, 2, "471199"),), (8, 0))
    guesses = Guesses(Interval(0.5, 0.4, 0.6, 10), 0.05, {"PIN": 0.5})
    extraction = ExtractionReport(values=values, inference=guesses, unseen=ExtractionReport(inference=guesses))
    bounds = {name: epsilon_lower_bound(*sides, delta=1e-5) for name, sides in scores.items()}
    return AuditReport(None, {"canary_secrets x10": membership}, {"canary_secrets x10": bounds}, extraction)


def test_files_hold_secrets_only_where_asked(report, tmp_path):
    paths = write_audit(report, tmp_path)
    assert [path.name for path in paths] == ["report.json", "report.html", "roc_canary_secrets_x10.png"]
    assert "471199" not in paths[0].read_text()
    content = json.loads(paths[0].read_text())
    assert content["extraction"]["values"]["found"][0]["value"] == "<redacted, 6 characters>"
    assert content["membership"]["canary_secrets x10"]["results"][0]["attack"] == "loss"
    write_audit(report, tmp_path, show_secrets=True)
    assert paths[0].stat().st_mode & 0o077 == 0
    assert "471199" in paths[0].read_text()


def test_tables_say_what_the_epsilon_is_of(report):
    console = Console(width=120, record=True)
    for table in audit_tables(report):
        console.print(table)
    text = console.export_text()
    assert "100 in, 100 out" in text
    assert "epsilon of a canary with all its copies, at delta 1e-05" in text


def test_a_card_says_which_attack_gets_through(report, tmp_path):
    membership = report.membership["canary_secrets x10"]
    config = {"canaries": {"repetitions": [10], "length": 5}, "rows": []}
    metrics = MetricsFile(tmp_path / "metrics.json", "audit-test", config)
    for model in ("kd", "mollify"):
        metrics.add([Row(model, "audit=all", "parameters", 1000), Row(model, "split=test", "perplexity", 2.5)])
        metrics.add([Row(model, "canaries=published", "times_said", 7)])
        metrics.add(membership_rows(model, "records=canary_secrets", membership, by_coin=True))
        metrics.add(extraction_rows(model, "text=dialogues", report.extraction))
    card = write_card(metrics.path, tmp_path / "card").read_text()
    assert "`kd`, canaries, their secrets: found by loss" in card
    assert "; plain distillation teaches" in card
    loss = membership["loss"].tpr_at_1_fpr
    assert f"{loss.value:.3f} [{loss.low:.3f}, {loss.high:.3f}]" in card
    assert "not one record" in card  # the unit of the epsilon
    assert (tmp_path / "card" / "audit.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="measured nothing yet"):
        write_card(MetricsFile(tmp_path / "none.json", "x", config).path, tmp_path / "card")


def test_findings_follow_the_numbers():
    def rows(model, low, epsilon):
        where = "records=dialogues attack=loss"
        return [Row(model, where, "tpr_at_1_fpr", 0.02, low, 0.03), Row(model, where, "epsilon_lower", epsilon)]

    said = findings(AuditTable(rows("kd", 0.02, 0.0) + rows("drop", 0.0, 0.7) + rows("mollify", 0.0, 0.4)))
    assert "found by loss" in said[0]
    assert "found by loss" in said[1]
    assert "no attack is above chance" in said[2]
