import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swingkd.privacy import Budget, BudgetExceededError, DPSettings


@example(units=729, share=0.008675233179213161, epochs=1.0, noise=1.0)
@given(
    units=st.integers(10, 10_000), share=st.floats(0.001, 1.0), epochs=st.floats(0.1, 20.0), noise=st.floats(0.5, 10.0)
)
def test_one_rounding(units, share, epochs, noise):
    """So many steps that each unit is drawn `epochs` times on average, by hand."""
    batch = max(int(share * units), 1)
    plan = DPSettings(units=units, batch=batch, epochs=epochs, noise_multiplier=noise).plan()
    steps = units / batch
    # Half way between two, either is the nearest.
    nearest = {max(whole, 1) for whole in (math.floor(steps), math.ceil(steps)) if abs(whole - steps) <= 0.5}
    assert plan.sampling_rate == batch / units
    assert plan.steps in {math.ceil(epochs * per_epoch) for per_epoch in nearest}
    assert plan.delta == pytest.approx(0.1 / units)
    # The budget of the command line plans the same run.
    budget = Budget.of(units, batch=batch, epochs=epochs, noise_multiplier=noise)
    assert budget.plan == plan


def test_an_epsilon_is_solved_for_once():
    settings = {"units": 500, "batch": 50, "steps": 20, "epsilon": 8.0}
    plan = DPSettings(**settings).plan()
    assert 7.9 < plan.epsilon <= 8.0
    assert DPSettings(**settings).plan() is plan


def test_noise_that_spends_more_than_the_budget_is_refused():
    cheap = {"units": 500, "batch": 50, "steps": 20, "noise_multiplier": 0.6}
    spent = DPSettings(**cheap).plan().epsilon
    assert DPSettings(**cheap, epsilon=spent * 1.1).plan().noise_multiplier == 0.6
    with pytest.raises(BudgetExceededError, match="Train for fewer steps, add noise, or raise target_epsilon"):
        DPSettings(**cheap, epsilon=spent / 2).plan()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 11}, r"batch=11 must lie between 1 and the number of units \(10\)"),
        ({"batch": 0}, "batch=0 must lie between 1"),
        ({"steps": 5}, "Give either epochs or steps"),
        ({"epochs": 0.0}, "epochs=0.0 must be positive"),
        ({"epsilon": None}, "Give epsilon or noise_multiplier"),
        ({"delta": 0.5}, "delta=0.5 must lie between 0 and 1 / units"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        DPSettings(**({"units": 10, "batch": 5, "epochs": 1.0, "epsilon": 1.0} | changes)).plan()
