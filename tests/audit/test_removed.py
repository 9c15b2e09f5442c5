"""What the same attacks find less of on one model than on another."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from swingkd.audit import AuditReport
from swingkd.audit.exposure_report import CanaryExposure, ExposureReport
from swingkd.audit.membership import MembershipReport, evaluate_attack
from swingkd.audit.records import rows_digest
from swingkd.audit.removed import removed_exposure, removed_membership


def exposures(values, level=10):
    found = [CanaryExposure(i, "digits", level, True, None, value, 0.0) for i, value in enumerate(values)]
    controls = [CanaryExposure(100 + i, "digits", level, False, None, 1.0, 0.0) for i in range(4)]
    return ExposureReport("exact", 20.0, (*found, *controls), 0, 0)


def membership(**sides):
    results = tuple(evaluate_attack(name, *both, resamples=2) for name, both in sides.items())
    return MembershipReport(results, sides)


def test_exposure_is_compared_canary_by_canary():
    """What is hard for both cancels: the interval is that of the differences, not of two means."""
    rng = np.random.default_rng(0)
    other = rng.uniform(5, 15, size=12)
    own = other - 2 + rng.normal(0, 0.1, size=12)
    (one,) = removed_exposure(exposures(own), exposures(other))
    assert (one.attack, one.on, one.gone.n) == ("exposure", "x10", 12)
    assert one.gone.value == pytest.approx(np.mean(other - own))
    expected = stats.ttest_rel(other, own).confidence_interval(0.95)
    assert (one.gone.low, one.gone.high) == pytest.approx((expected.low, expected.high))
    assert one.gone.high - one.gone.low < 0.3


def test_canaries_that_only_one_report_knows_and_single_ones_are_left_out():
    (one,) = removed_exposure(exposures([3.0, 4.0, 5.0]), exposures([6.0, 7.0]))
    assert one.gone.n == 2
    assert list(removed_exposure(exposures([3.0]), exposures([6.0]))) == []


def test_membership_is_compared_record_by_record():
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 1, size=400)
    caught = (hard[:200] + 2.0, hard[200:])
    hidden = (hard[:200], hard[200:])
    report = removed_membership("records", membership(loss=hidden), membership(loss=caught), resamples=300)
    found = {one.metric: one for one in report}
    assert found.keys() == {"AUC", "TPR at 1 % FPR"}
    assert found["AUC"].gone.low > 0.3
    assert found["AUC"].gone.value == pytest.approx(found["AUC"].other - found["AUC"].own)
    # A model beside itself: nothing is gone, and so many records do not make that certain.
    same = list(removed_membership("records", membership(loss=caught), membership(loss=caught), resamples=50))
    assert all(one.gone.low < one.gone.value == 0 < one.gone.high for one in same)


def test_an_attack_that_is_right_the_wrong_way_round_is_no_privacy_gained():
    rng = np.random.default_rng(3)
    weak, turned = ((rng.normal(shift, 1, 200), rng.normal(0, 1, 200)) for shift in (0.5, -1.5))
    found = removed_membership("records", membership(loss=turned), membership(loss=weak), resamples=100)
    (area,) = (one for one in found if one.metric == "AUC")
    assert area.own > area.other
    assert area.gone.high < 0


def test_all_or_nothing_is_never_certain():
    certain = (np.full(12, 5.0) + np.arange(12) / 100, np.arange(12) / 100)
    found = list(removed_membership("records", membership(loss=certain), membership(loss=certain), resamples=20))
    assert all(one.gone.high - one.gone.low > 0.2 for one in found)
    (one,) = removed_exposure(exposures([0.0, 0.0, 0.0]), exposures([13.3, 13.3, 13.3]))
    assert one.gone.low < 13.3 < one.gone.high


def test_attacks_that_stood_beside_other_references_are_not_compared():
    rng = np.random.default_rng(4)
    sides = [(rng.normal(size=120), rng.normal(size=120)) for _ in range(2)]
    own, other = ({"records": membership(loss=one, ez=one)} for one in sides)
    control = AuditReport(membership=other)
    assert {one.attack for one in AuditReport(membership=own, teacher=control).removed} == {"loss", "ez"}
    apart = AuditReport(membership=own, teacher=control, own_references=True)
    assert {one.attack for one in apart.removed} == {"loss"}


def test_a_digest_is_of_the_rows_and_of_the_key():
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    rows = [{"image": picture, "label": np.int64(3), "at": 1.5}]
    again = [{"image": picture.copy(), "label": np.int64(3), "at": 1.5}]
    assert rows_digest(rows, b"key") == rows_digest(again, b"key")
    assert rows_digest(rows, b"key")[0] != rows_digest(rows, b"other")[0]
    with pytest.raises(ValueError, match="which has no digest"):
        rows_digest([{"x": object()}], b"key")


def test_a_rate_that_few_records_cannot_show_is_left_out():
    rng = np.random.default_rng(2)
    few = (rng.normal(size=30), rng.normal(size=30))
    found = removed_membership("records", membership(loss=few), membership(loss=few), resamples=20)
    assert [one.metric for one in found] == ["AUC"]
