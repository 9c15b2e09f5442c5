from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swingkd.guards import check_at_least_one, check_not_negative, check_positive, check_share

RULES = [
    (check_positive, lambda value: value > 0, "must be positive"),
    (check_not_negative, lambda value: value >= 0, "must not be negative"),
    (check_at_least_one, lambda value: value >= 1, "must be at least 1"),
    (check_share, lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
]


@pytest.mark.parametrize(("check", "holds", "rule"), RULES, ids=lambda value: getattr(value, "__name__", None))
@given(value=st.floats(-3, 3) | st.integers(-3, 3) | st.just(float("nan")))
def test_a_number_passes_or_is_named(check, holds, rule, value):
    settings = SimpleNamespace(size=1, rate=value)
    if holds(value):
        check(settings, "size", "rate")
        return
    with pytest.raises(ValueError, match="rate=") as refused:
        check(settings, "size", "rate")
    assert str(refused.value) == f"rate={value} {rule}."


def test_what_is_not_set_passes():
    for check, _, _ in RULES:
        check(SimpleNamespace(rate=None), "rate")
