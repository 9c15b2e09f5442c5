import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from swingkd.privacy import NO_TEACHER, TEACHER_DATA, LedgerEntry, PrivacyLedger, PrivacyPlan
from swingkd.report import MetricsFile, Row, comparison_table, exposure_figure, ledger_rows, summarise, write_card
from swingkd.report.runs.language import findings
from swingkd.report.summary import baseline, cut
from tests.report.conftest import PLAN


def test_rows_are_tidy_and_survive_a_restart(metrics):
    again = MetricsFile(metrics.path, "a-run", {"seed": 0, "rows": [PLAN, {"model": "swing", "transfer": "A"}]})
    assert again.has("kd", "transfer=A seed=1")
    assert not again.has("kd", "transfer=A seed=2")
    assert not again.has("kd", "transfer=A")
    content = json.loads(metrics.path.read_text())
    assert content.keys() == {"run", "config", "environment", "rows"}
    needed, known = {"model", "setting", "metric", "value"}, {"low", "high", "n"}
    assert all(needed <= row.keys() <= needed | known for row in content["rows"])
    assert None not in [value for row in content["rows"] for value in row.values()]


def test_rows_of_other_settings_are_refused(metrics):
    with pytest.raises(ValueError, match=r"other settings \(seed changed\).*output_dir"):
        MetricsFile(metrics.path, "a-run", {"seed": 1})
    with pytest.raises(ValueError, match="kd A"):
        MetricsFile(metrics.path, "a-run", {"seed": 0, "rows": [PLAN | {"args": {"alpha": 0.9}}]})


@pytest.mark.parametrize(("text", "message"), [("{", "is no JSON"), ("{}", "is damaged: run: field required")])
def test_broken_files_are_named(tmp_path, text, message):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        MetricsFile(tmp_path / "metrics.json").read()


def test_summaries_average_over_seeds(metrics):
    summaries = summarise(metrics.read())
    kd, drop, swing = summaries
    assert (kd.seeds, kd.perplexity["perplexity"]) == (2, 11.0)
    assert baseline(summaries, swing) is kd
    # Excess of kd 12.15 - 1.95 = 10.2, of swing 3.15 - 1.95 = 1.2.
    assert cut(swing, kd, 10) == pytest.approx(1 - (3.0 - 1.4 - 0.4) / (12.0 - 1.4 - 0.4), abs=1e-6)
    assert cut(kd, kd, 10) is None
    assert drop.excess[10].value < 0


def test_the_card_says_where_a_plain_rival_wins_and_what_leaks(metrics, tmp_path):
    card = write_card(metrics.path, tmp_path / "card").read_text()
    assert "`swing` does not beat `drop`" in card
    assert "still gives something away of secrets repeated 10 times" in card
    assert "no differential privacy guarantee" in card
    assert "Teacher's training data: not covered" in card
    wanted = {"README.md", "report.html", "exposure.png", "metrics.json"}
    assert {p.name for p in (tmp_path / "card").iterdir()} == wanted
    assert "| kd | 2 | 11.00 |" in card


def test_a_harmless_protection_is_not_accused(metrics):
    kd, drop, _ = summarise(metrics.read())
    scrub = replace(drop, model="scrub")
    assert findings([kd, drop, scrub]) == []
    assert findings([kd, drop]) == ["`scrub` did not run here: whether a protection beats them is not shown."]


def test_the_table_and_the_figure(metrics, tmp_path):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table(metrics.read()))
    text = console.export_text()
    assert "swing" in text
    assert "controls" in text
    assert "88%" in text
    figure = exposure_figure(metrics.read(), tmp_path / "figure.png")
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_an_empty_run_is_an_error(tmp_path):
    MetricsFile(tmp_path / "metrics.json", "r", {}).add([])
    with pytest.raises(ValueError, match="measured nothing yet"):
        write_card(tmp_path / "metrics.json", tmp_path)


def test_a_student_of_public_text_alone_is_a_rival(metrics):
    kd, _, swing = summarise(metrics.read())
    public = replace(
        kd, model="public", setting="transfer=B", perplexity={"perplexity": swing.perplexity["perplexity"]}
    )
    assert any("`swing` does not beat `public (B)`, which never saw" in line for line in findings([kd, swing, public]))
    worse = replace(public, perplexity={"perplexity": 1e3})
    assert not any("public" in line for line in findings([kd, swing, worse]))


# --- differential privacy: promised and proved ----------------------------------------------------------------------


def private_rows(model, promised, proved, setting="transfer=A seed=0"):
    rows = [
        Row(model, f"{setting} split=test", "perplexity", 3.0),
        Row(model, f"{setting} repetitions=0", "exposure", 1.4, 1.0, 1.8, 20),
        Row(model, f"{setting} repetitions=10", "exposure", 4.0, 3.5, 4.5, 20),
        Row(model, f"{setting} repetitions=10", "exposure_excess", 2.6, 2.0, 3.2, 20),
    ]
    for attack, value in proved.items():
        rows.append(Row(model, f"{setting} records=canary_records attack={attack}", "epsilon_lower", value, n=1000))
    if promised:
        ledger = PrivacyLedger([LedgerEntry.of_plan(PrivacyPlan(0.05, 90, promised), releases=90)])
        rows += ledger_rows(model, setting, ledger)
    return rows


def card_of(tmp_path, *groups):
    metrics = MetricsFile(tmp_path / "metrics.json", "private-test", {"rows": []})
    for rows in groups:
        metrics.add(rows)
    text = write_card(metrics.path, tmp_path / "card").read_text()
    assert (tmp_path / "card" / "exposure.png").stat().st_size > 10_000
    return " ".join(text.split())


def test_a_card_says_what_was_promised_about_which_data(tmp_path):
    plan = PrivacyPlan(0.05, 90, 0.8)
    proved = {"loss": 0.5, "zlib": 0.2}
    card = card_of(tmp_path, private_rows("kd", None, {"loss": 2.0}), private_rows("dp", 0.8, proved))
    said = math.ceil(plan.epsilon * 100) / 100
    promise = f"`dp`: transfer set: epsilon {said:.2f} at delta 1e-05 for each record (add or remove one), after 90"
    assert f"{promise} noised releases, given the teacher" in card
    assert promise in card
    assert "teacher's training data: not covered" in card
    assert "Transfer set of all others: no differential privacy guarantee" in card
    assert f"| dp | {said:.2f}, given the teacher | 0.50 (loss) |" in card
    assert "| kd | nothing | 2.00 (loss) |" in card
    assert "`dp` promises something of each record, not of 10 copies" in card
    assert "breaks its promise" not in card
    assert "says nothing" not in card.split("## What does not hold")[1].split("Exposure of canaries")[0]


def test_a_broken_promise_and_a_weak_attack_are_said(tmp_path):
    proved = {"loss": 0.1, "lira": 3.0}
    card = card_of(tmp_path, private_rows("kd", None, {"loss": 0.4}), private_rows("dp", 3.0, proved))
    assert "`dp` breaks its promise: lira on canary records proves epsilon 3.00" in card
    assert "No attack proves more than epsilon 0.40 against a model without differential privacy" in card


def test_a_students_debt_may_be_its_teachers(tmp_path):
    """Canaries in a private teacher's data; its student saw none of it and has the teacher's promise."""
    entry = LedgerEntry.of_plan(PrivacyPlan(0.05, 90, 0.8), releases=90)
    teacher = PrivacyLedger([entry], unknown={TEACHER_DATA: NO_TEACHER})
    student = PrivacyLedger(teacher.as_teacher())
    rows = private_rows("teacher", None, {"loss": 0.4}, "seed=0") + ledger_rows("teacher", "seed=0", teacher)
    rows += private_rows("kd", None, {"loss": 99.0}, "transfer=written seed=0")
    card = card_of(tmp_path, rows + ledger_rows("kd", "transfer=written seed=0", student))
    said = f"{math.ceil(teacher.epsilon() * 100) / 100:.2f}"
    assert f"`kd (written)`: transfer set: not covered; teacher's training data: epsilon {said}" in card
    assert f"| kd (written) | {said} | 99.00 (loss) |" in card
    assert "`kd (written)` breaks its promise" in card
    assert "trained without differential privacy" not in card


def test_promises_are_the_largest_over_seeds():
    rows = private_rows("dp", 0.8, {"loss": 0.5}) + private_rows("dp", 2.0, {"loss": 0.9}, "transfer=A seed=1")
    (summary,) = summarise({"rows": [row.to_dict() for row in rows]})
    assert summary.promised["transfer_set"].epsilon == pytest.approx(PrivacyPlan(0.05, 90, 0.8).epsilon)
    assert summary.proved["canary_records"].epsilon == 0.9
    assert summary.seeds == 2
