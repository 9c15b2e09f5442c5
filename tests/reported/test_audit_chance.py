"""What chance does is not called a leak, and what is beyond chance is not called protected."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats

from swingkd import CanarySet, audit_model, measure_exposure
from swingkd.audit import AuditReport, CanaryExposure, ExposureReport, MembershipReport
from swingkd.audit.continuation import extract_continuations
from swingkd.audit.exposure import _references, modelled_exposure, sampled_exposure
from swingkd.audit.intervals import area
from swingkd.audit.membership import audit_membership, evaluate_attack
from swingkd.audit.records import TextRecords, text_records
from swingkd.audit.suite import audit_canary_membership
from swingkd.privacy import PrivacyLedger
from swingkd.report import ModelFacts, model_card
from tests.harness import tiny_model


@pytest.mark.parametrize("seed", [0, 3])
def test_references_hold_no_canarys_secret_even_with_the_sets_own_seed(tokenizer, seed):
    """The generator that drew the secrets draws them again, and a model knows them all."""
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=5, count=40, repetitions=(1,), seed=seed)
    drawn = _references(canaries, 500, seed)
    assert len(set(drawn)) == len(drawn) == 500
    assert not set(drawn) & {canary.secret for canary in canaries.canaries}
    small = CanarySet.generate("the pin of {name} is {secret}", length=2, count=4, repetitions=(1,), seed=seed)
    assert len(_references(small, 500, seed)) == 100


@pytest.mark.parametrize("method", ["exact", "sampled", "modelled"])
def test_a_model_without_finite_answers_has_no_exposure(tokenizer, method):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=2, count=2, repetitions=(1,), seed=1)
    model = tiny_model(len(tokenizer)).eval()
    with torch.no_grad():
        model.lm_head.weight[:] = math.nan
    with pytest.raises(ValueError, match=r"canary 0.*no finite log-probability") as caught:
        measure_exposure(model, tokenizer, canaries, method=method, progress=False)
    assert canaries.canaries[0].secret not in str(caught.value)
    for formula in (sampled_exposure, modelled_exposure):
        for scores in ((math.nan, np.arange(9.0)), (1.0, np.array([1.0, math.nan]))):
            with pytest.raises(ValueError, match=r"no number|not finite"):
                formula(*scores)


def exposures(values, level=1):
    rows = [CanaryExposure(i, "digits", level, bool(level), 1.0, float(v), 1.0) for i, v in enumerate(values)]
    return tuple(rows)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_canaries_that_nobody_read_seldom_give_something_away(count):
    """Levels are one family: 5 % for all of them."""
    rng = np.random.default_rng(count)
    alarms = held = 0
    for _ in range(400):
        levels = [exposures(np.minimum(rng.exponential(1 / math.log(2), count), 19.9), n) for n in (0, 1, 10, 100)]
        report = ExposureReport("exact", 19.9, sum(levels, ()), 1, 1)
        alarms += any(report.gives_away(level) for level in (1, 10, 100))
        held += report.excess(10).low <= 0 <= report.excess(10).high
        assert bool(report.notes) == (count < 10)
    assert alarms / 400 <= 0.08
    assert held / 400 >= 0.9


def test_one_canary_known_by_heart_is_beyond_chance():
    report = ExposureReport("exact", 19.9, exposures([19.9], 10) + exposures([1.0, 2.0], 0), 1, 1)
    assert report.gives_away(10)
    assert report.p_value(10) == pytest.approx(2**-19.9, rel=1e-6)
    assert not report.gives_away(0)


def test_copies_are_no_evidence(world, tokenizer):
    members, others, _, student = world
    once = audit_membership(student, tokenizer, members, others, progress=False)
    often = audit_membership(student, tokenizer, members * 30, others * 2, progress=False)
    for one, many in zip(once.results, often.results, strict=True):
        assert (one.members, one.nonmembers, one.p_value, one.auc) == (
            many.members,
            many.nonmembers,
            many.p_value,
            many.auc,
        )
    assert any("copies" in note for note in often.notes)
    records = text_records(members * 5, "texts")
    asked = extract_continuations(student, tokenizer, records, prefix_tokens=4, suffix_tokens=4, progress=False)
    assert asked.texts + asked.skipped == len(members)


def test_a_shadow_saw_a_record_that_it_saw_a_copy_of():
    records = TextRecords(["a", "b", "a", "c"], [0] * 4, list("wxyz"))
    distinct, which = records.distinct()
    assert distinct.texts == ["a", "b", "c"]
    assert distinct.names == ["w", "x", "z"]
    assert (np.bincount(which, [False, False, True, True]) > 0).tolist() == [True, False, True]


def test_an_attack_that_is_right_the_wrong_way_round_is_not_cleared():
    rng = np.random.default_rng(0)
    result = evaluate_attack("loss", rng.normal(-1, 1, 200), rng.normal(0, 1, 200))
    assert result.auc.value < 0.3
    assert result.p_value < 1e-9
    assert result.turned
    report = MembershipReport((result,), {"loss": (np.zeros(1), np.zeros(1))})
    assert report.through() == ["loss"]
    assert "turned round" in str(report)
    told = model_card(ModelFacts("student", PrivacyLedger(), audit=AuditReport(membership={"records": report})))
    assert "(turned round)" in told


@pytest.mark.parametrize("number", [3, 5, 15])
def test_few_records_do_not_make_a_sure_area(number):
    rng = np.random.default_rng(number)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    held = [
        found.low <= truth <= found.high
        for found in (area(rng.normal(1, 1, number), rng.normal(0, 1, number)) for _ in range(400))
    ]
    assert np.mean(held) > 0.93


def test_models_that_are_one_are_refused_by_their_own_names(world, tokenizer):
    members, others, teacher, student = world
    common = {"members": members, "nonmembers": others, "progress": False}
    with pytest.raises(ValueError, match="The teacher is the audited model"):
        audit_model(student, tokenizer, teacher=copy.deepcopy(student), **common)
    with pytest.raises(ValueError, match="Reference 1 is the teacher"):
        audit_model(student, tokenizer, teacher=teacher, references=[copy.deepcopy(teacher)], **common)
    with pytest.raises(ValueError, match="Reference 1 is the audited model"):
        audit_model(student, tokenizer, references=[student], **common)


def test_canaries_of_one_template_are_not_called_copies(tokenizer):
    template = f"on monday in the ward of the old {'very ' * 20}house the pin of {{name}} is {{secret}}"
    canaries = CanarySet.generate(template, length=4, count=16, repetitions=(1,), controls=0, assign="coin", seed=3)
    model = tiny_model(len(tokenizer)).eval()
    report = audit_canary_membership(model, tokenizer, canaries, 1, "records", progress=False)
    assert not any("nearly the same" in note for note in report.notes)
