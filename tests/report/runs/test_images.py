"""The card of a run on images: means and differences as they are defined, promises as the rows have them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from swingkd.report import MetricsFile, Row, write_card
from swingkd.report.runs.images import findings, helped
from swingkd.report.runs.write import kind_of
from swingkd.report.table import Difference, RunTable, percent, spread, words

HERE = "public=0.1 images=50 table=headline"


def epsilon_rows(model, seed, value):
    where = f"{HERE} seed={seed} scope=teacher_data unit=record neighbours=replace-one"
    return [Row(model, where, "epsilon", value, n=7), Row(model, where, "delta", 1e-5)]


def example_rows():
    rows = [
        Row("teacher", "public=0.1 images=50 table=teachers", "accuracy", 0.9),
        Row("teacher", "public=0.1 images=50 table=teachers", "parameters", 1000),
    ]
    for model, values in (
        ("published", (0.80, 0.82, 0.84)),
        ("self_learning", (0.79, 0.80, 0.84)),
        ("dp_teacher", (0.70, 0.72, 0.71)),
    ):
        for seed, value in enumerate(values):
            where = f"{HERE} seed={seed}"
            rows += [Row(model, where, "accuracy", value), Row(model, where, "queries", 10)]
            rows += [Row(model, where, "parameters", 300)]
            for attack in ("loss", "ratio"):
                rows += [
                    Row(model, f"{where} records=private attack={attack}", metric, number)
                    for metric, number in (
                        ("auc", 0.5 + seed / 10),
                        ("tpr_at_1_fpr", 0.02),
                        ("tpr_at_1_fpr_chance", 0.01),
                    )
                ]
    rows += [Row("published", f"{HERE} seed={seed}", "epsilon_claimed", 18.6) for seed in range(3)]
    rows += epsilon_rows("dp_teacher", 0, 7.98) + epsilon_rows("dp_teacher", 1, 7.991)
    return rows


def scaled(model, metric, factor):
    """The example's rows, one model's numbers multiplied."""
    return [
        replace(r, value=r.value * factor) if (r.model, r.metric) == (model, metric) else r for r in example_rows()
    ]


@pytest.fixture
def table():
    return RunTable(example_rows())


@pytest.fixture
def metrics(tmp_path):
    MetricsFile(tmp_path / "metrics.json", "images", {"a": 1}).add(example_rows())
    return tmp_path / "metrics.json"


def test_a_difference_is_paired_by_seed_with_a_t_interval(table):
    found = table.difference(("published", HERE), ("self_learning", HERE), "accuracy")
    gaps = np.array([0.01, 0.02, 0.0])
    half = stats.t.ppf(0.975, 2) * gaps.std(ddof=1) / math.sqrt(3)
    assert found.mean == pytest.approx(0.01)
    assert (found.low, found.high) == (pytest.approx(0.01 - half), pytest.approx(0.01 + half))
    assert str(found).startswith("+1.00 points [-1.48, +3.48] over 3 seeds")
    assert table.difference(("published", HERE), ("nobody", HERE), "accuracy") is None
    assert str(Difference(0.01, None, None, 1)) == "+1.00 points (one seed)"


def test_a_gain_is_only_one_when_its_interval_says_so(table):
    said = findings(table)
    assert any("`published` minus `self_learning`" in line and "not shown to be above zero" in line for line in said)
    assert any("`dp_teacher`" in line and "did not help" in line for line in said)
    assert helped(table) is False
    better = scaled("published", "accuracy", 1.11)
    assert helped(RunTable(better)) is True
    assert any("answers helped" in line for line in findings(RunTable(better)))


def test_students_of_other_numbers_of_steps_are_not_compared():
    rows = scaled("published", "queries", 0.5)
    assert "`published` (public 0.1, images 50) took 5 steps, `self_learning` 10: not compared." in findings(
        RunTable(rows)
    )
    assert helped(RunTable([r for r in rows if r.model != "published"])) is None


def test_the_promise_is_the_worst_over_seeds_and_rounded_up(table):
    assert table.promised(("dp_teacher", HERE)) == "8.00 at delta 1e-05, each record (replace one)"
    assert table.promised(("published", HERE)) == "none"
    assert table.promised(("self_learning", HERE)) == "no private teacher"


def test_an_attacks_number_is_its_mean_over_seeds(table):
    assert table.attacks(("published", HERE), "auc") == {"loss": pytest.approx(0.6), "ratio": pytest.approx(0.6)}


def test_words_and_numbers():
    assert words("public=0.1 table=x score=margin") == "public 0.1, score margin"
    assert words("public=0.1 table=x score=margin", "score") == "score margin"
    assert percent(0.12345) == "12.35"
    assert percent(None) == ""
    assert spread([0.1, 0.3]) == " (10.00 to 30.00)"
    assert spread([0.1]) == ""


def test_the_card_says_what_holds_and_what_does_not(metrics, tmp_path):
    assert kind_of(json.loads(metrics.read_text())) == "images"
    # By the same command as any other card.
    path = write_card(metrics, tmp_path / "card")
    card = path.read_text()
    assert (
        "| published | public 0.1, images 50 | 3 | 82.00 (80.00 to 84.00) | 10 | 18.60, does not hold | none |" in card
    )
    assert (
        "| dp_teacher | public 0.1, images 50 | 3 | 71.00 (70.00 to 72.00) | 10 |  | 8.00 at delta 1e-05, each" in card
    )
    assert "70.0 % fewer than the teacher" in card
    assert "was the published method shown to beat the labels alone" in card.replace("\n", " ")
    picture = matplotlib.image.imread(tmp_path / "card" / "accuracy.png")
    assert picture.std() > 0.01


def test_a_data_free_run_has_its_own_words(tmp_path):
    where = "table=data_free seed=0"
    rows = [
        Row("teacher", "table=teachers", "accuracy", 0.99),
        Row("teacher", "table=teachers", "parameters", 1000),
        Row("plain", where, "accuracy", 0.97),
        Row("plain", where, "labels", 1000),
        Row("noised", where, "accuracy", 0.96),
        Row("noised", where, "labels", 1000),
        Row("noised", f"{where} scope=labels unit=label neighbours=replace-one", "epsilon", 10.0),
        Row("noised", f"{where} scope=labels unit=label neighbours=replace-one", "delta", 0.0),
    ]
    MetricsFile(tmp_path / "metrics.json", "free", {}).add(rows)
    (tmp_path / "grid-noised.png").write_bytes(b"")
    card = write_card(tmp_path / "metrics.json", tmp_path).read_text()
    assert "| noised | 1 | 96.00 | -1.00 | 1,000 | 10.00, each label (replace one) | none |" in card
    assert "](grid-noised.png)" in card
    assert "Membership" not in card.split("## What does not hold")[0]
