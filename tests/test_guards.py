from types import SimpleNamespace

import pytest

from swingkd.guards import check_positive


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_what_is_not_positive_is_named(value):
    with pytest.raises(ValueError, match=f"rate={value} must be positive"):
        check_positive(SimpleNamespace(size=1, rate=value), "size", "rate")


def test_what_is_positive_passes():
    check_positive(SimpleNamespace(size=1, rate=0.5), "size", "rate")
