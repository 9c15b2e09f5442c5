"""The card of a federation: what the rows say, and where SD-Dist is not better."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.image
import pytest

from swingkd.decentralized import FederationResult
from swingkd.decentralized.rounds import Round
from swingkd.privacy import PrivacyLedger
from swingkd.report import MetricsFile, Row, write_card
from swingkd.report.runs.federation import drops, findings
from swingkd.report.runs.write import kind_of
from swingkd.report.table import RunTable


def result(*accuracies: float) -> FederationResult:
    rounds = [Round(0, ["a", "b"], sent=1_000_000, received=500_000, seconds=2.0)] * 2
    found = dict(zip("ab", accuracies, strict=True))
    return FederationResult(
        found,
        ledgers={name: PrivacyLedger(unknown={"teacher's training data": "others"}) for name in found},
        rounds=rounds,
    )


@pytest.fixture
def rows():
    made = []
    for seed, change in enumerate((0.0, 0.01, 0.02)):
        for model, value in (("local", 0.8), ("local_and_reference", 0.9), ("fedmd", 0.87), ("sd_dist", 0.88)):
            shift = change if model == "sd_dist" else 0.0
            made += result(value - shift, value + 0.04 + shift).rows(model, f"table=main seed={seed}")
            lost = 0.1 if model == "local" else 0.05
            made += result(value - lost, value + 0.04 - lost).rows(model, f"table=scarce data=0.1 seed={seed}")
    return made


def test_means_worst_and_costs_are_those_of_the_rows(rows):
    table = RunTable(rows)
    assert kind_of({"rows": [row.to_dict() for row in rows]}) == "federation"
    local = ("local", "table=main")
    assert table.mean(local, "accuracy") == pytest.approx(0.82)
    assert table.mean(local, "worst") == pytest.approx(0.8)
    assert table.mean(local, "sent") == 2_000_000
    assert table.clients(("sd_dist", "table=main")) == pytest.approx({"a": 0.87, "b": 0.93})


def test_every_comparison_is_said_with_its_interval_and_how_it_ended(rows):
    said = findings(RunTable(rows))
    assert [line.split(":")[0] for line in said] == [
        "`sd_dist` minus `fedmd`",
        "`sd_dist` minus `local`",
        "`sd_dist` minus `local_and_reference`",
        # Where nothing is blended in, SD-Dist as it is, in the other settings too.
        "`sd_dist` minus `local_and_reference` (data 0.1)",
    ]
    assert said[0].endswith("+1.00 points [+1.00, +1.00] over 3 seeds.")
    assert said[1].endswith("+8.00 points [+8.00, +8.00] over 3 seeds.")
    assert said[2].endswith("seeds; learning the labels of the reference examples alone is better.")


def test_what_others_add_to_the_reference_labels_is_said_in_each_setting(rows):
    labels = [r for r in rows if r.model == "local_and_reference"]
    added = {"main": (0.01, 0.012, 0.014), "scarce": (-0.02, 0.03, -0.01)}
    rows += [
        replace(r, model="sd_dist_labels", value=r.value + added[r.words["table"]][int(r.words["seed"])])
        for r in labels
        if r.metric == "accuracy"
    ]
    told = [line for line in findings(RunTable(rows)) if "sd_dist_labels" in line]
    assert told[0].startswith(
        "`sd_dist_labels` minus `local_and_reference`: +1.20 points [+0.70, +1.70] over 3 seeds."
    )
    assert told[1].startswith("`sd_dist_labels` minus `local_and_reference` (data 0.1): +0.00 points [")
    assert told[1].endswith("; not shown to add.")
    worse = [replace(r, value=r.value - 0.2) if r.model == "sd_dist_labels" else r for r in rows]
    told = [line for line in findings(RunTable(worse)) if "sd_dist_labels" in line]
    assert all(line.endswith("; the labels alone are better.") for line in told)


def test_what_is_not_known_is_not_said(rows):
    unsure = [r for r in rows if r.words["seed"] == "0"]
    said = findings(RunTable(unsure))
    assert said[1] == "`sd_dist` minus `local`: +8.00 points (one seed); not shown to help."
    assert said[2].endswith("(one seed); not shown to be better.")


def test_a_small_loss_is_a_loss_and_small(rows):
    # Pulled below the plain mean by a fifth to two fifths of a point.
    lower = [
        replace(r, value=0.89 - (0.0029, 0.0030, 0.0031)[int(r.words["seed"])])
        if (r.model, r.metric, r.words["table"]) == ("sd_dist", "accuracy", "main")
        else r
        for r in rows
    ]
    assert findings(RunTable(lower))[0].endswith(
        "the selection is worse than the plain mean, by less than half a point."
    )


def test_a_drop_is_of_the_seeds_that_both_have(rows):
    # Two seeds more of the whole data, far better.
    more = rows + result(1.0, 1.0).rows("local", "table=main seed=3")
    ((_, fallen),) = drops(RunTable(more))
    assert fallen["local"] == pytest.approx(0.1)


def test_drops_are_against_the_whole_data(rows):
    ((setting, fallen),) = drops(RunTable(rows))
    assert setting == "data 0.1"
    assert fallen["local"] == pytest.approx(0.1)
    assert fallen["sd_dist"] == pytest.approx(0.05)


def test_the_card_has_every_method_and_a_picture(tmp_path, rows):
    leak = [
        Row("sd_dist", f"table=leak copies=4 seed=0 records=planted attack=loss{kind}", metric, value)
        for kind in ("",)
        for metric, value in (("auc", 0.7), ("tpr_at_1_fpr", 0.1), ("epsilon_lower", 0.5))
    ]
    leak.append(Row("sd_dist", "table=leak copies=4 seed=0", "accuracy", 0.8))
    MetricsFile(tmp_path / "metrics.json", "people", {"method": "sd_dist"}).add(rows + leak)
    text = write_card(tmp_path / "metrics.json", tmp_path / "card").read_text()
    for words in ("| sd_dist | 3 | 90.00", "| local | 3 | 82.00", "2.0 / 1.0", "| data 0.1 | 10.00 |", "0.700"):
        assert words in text
    assert "nan" not in text.lower().replace("finance", "")
    assert matplotlib.image.imread(tmp_path / "card" / "clients.png").shape[1] > 500


def test_one_method_alone_has_a_card_without_a_picture(tmp_path):
    MetricsFile(tmp_path / "metrics.json", "people", {}).add(result(0.5, 0.7).rows("sd_dist", "table=main seed=0"))
    text = write_card(tmp_path / "metrics.json", tmp_path / "card").read_text()
    assert "| sd_dist | 1 | 60.00 |" in text
    assert "clients.png" not in text
    assert not (tmp_path / "card" / "clients.png").exists()


def test_a_result_is_read_back_as_it_was(tmp_path):
    result(0.5, 0.7).save(tmp_path / "result.json")
    found = FederationResult.load(tmp_path / "result.json")
    assert found.accuracies == {"a": 0.5, "b": 0.7}
    assert found.rounds == result(0.5, 0.7).rounds
    assert str(found.ledgers["a"]) == str(result(0.5, 0.7).ledgers["a"])


def card(rows, folder) -> str:
    MetricsFile(folder / "metrics.json", "run", {"rows": []}, kind="federation").add(rows)
    return write_card(folder / "metrics.json", folder / "card").read_text()


def test_language_models_have_a_perplexity(rows, tmp_path):
    assert "perplexity" not in card(rows, tmp_path / "classifiers")
    told = [
        Row(model, f"table=main seed={seed}", "perplexity", value + seed)
        for seed in (0, 1)
        for model, value in (("local", 20.0), ("fedmd", 18.0), ("sd_dist", 17.0))
    ]
    shown = card([*rows, *told], tmp_path / "texts")
    assert "| sd_dist | 3 |" in shown
    assert " 17.50 |" in shown
    assert "- Perplexity: `sd_dist` 17.50, `local` 20.50, `fedmd` 18.50." in shown
    # A method without one leaves its cell empty, and no row is longer than the others.
    table = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in table[:5]}) == 1
