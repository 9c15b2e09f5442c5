"""The card of a real model says what was asked of it, and how it ended."""

import pytest

from swingkd.report import MetricsFile, Row
from swingkd.report.runs.frontier import FrontierCard, goals


def students_of(tmp_path, perplexities, bits=0.4, caught=(0.01, 0.2)):
    rows = [Row("records", "split=test", "section_majority", 0.26, n=100)]
    for (model, value), found in zip(perplexities.items(), (*caught, 0.01), strict=False):
        rows += [
            Row(model, "transfer=A split=test", "perplexity", value),
            Row(model, "transfer=A canaries=words repetitions=1", "exposure_excess", bits, low=-0.1, high=1.0),
            Row(model, "transfer=A records=dialogues attack=ez", "tpr_at_1_fpr", found, low=0.0, high=0.3),
        ]
    metrics = MetricsFile(tmp_path / "metrics.json", "real", {"run": "real"}, kind="frontier")
    metrics.add(rows)
    return FrontierCard(metrics.read())


def test_every_goal_is_told_with_its_number(tmp_path):
    card = students_of(tmp_path, {"surrogate_out_of_fold": 10.2, "kd": 10.0, "public": 12.0})
    assert [student.name for student in card.table] == ["surrogate_out_of_fold", "kd", "public"]
    told = goals(card.table)
    assert [goal.reached for goal in told] == ["yes"] * 4
    assert [goal.measured for goal in told] == [
        "+2.0 %",
        "0.4 bits at most",
        "1.0 %, behind `kd` 20.0 %",
        "15.0 % below",
    ]


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"perplexities": {"surrogate_out_of_fold": 10.4, "kd": 10.0, "public": 12.0}}, 0),
        ({"bits": 0.6}, 1),
        ({"caught": (0.03, 0.2)}, 2),
        # Nothing to hide is nothing shown.
        ({"caught": (0.01, 0.05)}, 2),
        ({"perplexities": {"surrogate_out_of_fold": 10.2, "kd": 10.0, "public": 11.0}}, 3),
    ],
)
def test_what_was_missed_is_told_as_missed(changed, missed, tmp_path):
    fields = {"perplexities": {"surrogate_out_of_fold": 10.2, "kd": 10.0, "public": 12.0}} | changed
    told = goals(students_of(tmp_path, **fields).table)
    assert [goal.reached for goal in told] == ["no" if number == missed else "yes" for number in range(4)]


def test_what_was_not_measured_is_told_too(tmp_path):
    (only,) = goals(students_of(tmp_path, {"kd": 10.0}).table)
    assert only.measured == "not measured"
