"""The card of classifiers, on rows whose answer is known."""

import pytest

from swingkd.report import MetricsFile, Row, write_card
from swingkd.report.runs.labels import LabelTable, findings, promises

CHANCE = 0.02


def rows_of(model: str, seed: int, worth: float, rate: float, areas: dict[str, float]) -> list[dict]:
    where = f"table=main seed={seed}"
    made = [Row(model, f"{where} split=test", name, worth) for name in ("macro_f1", "accuracy")]
    for attack, area in areas.items():
        of = f"{where} records=marked attack={attack}"
        made += [
            Row(model, of, "tpr_at_1_fpr", rate if attack == "loss" else CHANCE, 0.0, 1.0),
            Row(model, of, "tpr_at_1_fpr_chance", CHANCE),
            Row(model, of, "auc", area, area - 0.02, area + 0.02),
        ]
    return made


def run(**students) -> list[dict]:
    """Two seeds of each student: worth, rate, AUC by loss, AUC by entropy."""
    return [
        entry
        for model, (worth, rate, loss, entropy) in students.items()
        for seed in (0, 1)
        for entry in rows_of(model, seed, worth, rate, {"loss": loss + 0.001 * seed, "entropy": entropy})
    ]


def test_what_is_gone_is_counted_beyond_chance():
    table = LabelTable(run(kd=(0.6, 0.42, 0.9, 0.5), drop=(0.6, 0.06, 0.5, 0.5)))
    assert table.cut(table.main[1], "marked") == pytest.approx(1 - 0.04 / 0.40)
    assert table.cut(table.plain, "marked") is None


@pytest.mark.parametrize("rate", [CHANCE, 0.06, 0.0])
def test_where_plain_distillation_gives_nothing_away_there_is_nothing_to_cut(rate):
    table = LabelTable(run(kd=(0.6, rate, 0.5, 0.5), drop=(0.6, 0.5, 0.5, 0.5)))
    assert table.cut(table.main[1], "marked") is None
    assert "`kd` gives too few marked records away" in findings(table)[0]


def test_averages_that_tell_records_apart_are_said():
    said = findings(
        LabelTable(run(kd=(0.6, 0.9, 0.95, 0.9), swing=(0.6, 0.02, 0.5, 0.68), drop=(0.6, 0.02, 0.5, 0.5)))
    )
    assert any(
        "`swing`: on average entropy tells marked records apart, AUC 0.680 [0.680, 0.680]" in line for line in said
    )
    assert not any("`drop`" in line for line in said)


def test_turned_round_counts_only_what_plain_distillation_does_not_do():
    said = findings(
        LabelTable(run(kd=(0.6, 0.9, 0.95, 0.32), noise=(0.6, 0.02, 0.5, 0.33), drop=(0.6, 0.02, 0.3, 0.5)))
    )
    turned = [line for line in said if "turned round" in line]
    assert len(turned) == 1
    assert "`drop` answers marked records" in turned[0]
    assert "AUC 0.7" in turned[0]


def test_one_seed_has_its_own_interval():
    rows = [
        entry for entry in run(kd=(0.6, 0.9, 0.95, 0.9), swing=(0.6, 0.02, 0.515, 0.7)) if entry.words["seed"] == "0"
    ]
    said = [line for line in findings(LabelTable(rows)) if "`swing`" in line]
    assert said == ["`swing`: on average entropy tells marked records apart, AUC 0.700 [0.680, 0.720] over 1 seed."]


def test_a_ledger_is_believed():
    private = "table=main seed=0 scope=transfer_set unit=record neighbours=add-or-remove-one"
    rows = run(kd=(0.6, 0.9, 0.95, 0.9), dp=(0.5, 0.02, 0.5, 0.5))
    rows += [Row("dp", private, "epsilon", 8.0), Row("dp", private, "delta", 1e-5)]
    said = promises(LabelTable(rows))
    assert said[0].startswith("Transfer set, `dp`: epsilon 8.0")
    assert said[1].startswith("Transfer set of all others: no differential privacy guarantee")
    assert said[2].startswith("Teacher's training data: no differential privacy guarantee")


def test_a_run_without_plain_distillation(tmp_path):
    file = MetricsFile(tmp_path / "metrics.json", "a-run", {"canaries": {"repetitions": 10}})
    file.add(run(drop=(0.6, 0.02, 0.5, 0.5)))
    with pytest.raises(ValueError, match=r"no rows of `kd`, plain distillation.*Measure it first"):
        write_card(file.path, tmp_path)
