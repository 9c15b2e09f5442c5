import dataclasses
import math

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy import stats

from swingkd.privacy import PrivacyPlan
from swingkd.privacy.gaussian import gdp_delta, gdp_epsilon


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.01, 1000), (0.7, 0.05, 200), (2.0, 0.2, 50)])
def test_the_epsilon_is_that_of_opacus(accountant, noise, rate, steps):
    theirs = {"prv": PRVAccountant, "rdp": RDPAccountant}[accountant]()
    for _ in range(steps):
        theirs.step(noise_multiplier=noise, sample_rate=rate)
    plan = PrivacyPlan(rate, steps, noise, accountant=accountant)
    assert plan.epsilon == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-9)


def test_full_batches_have_a_closed_form():
    """delta(eps) of a Gaussian of mu = sqrt(steps) / sigma, from its definition."""
    plan = PrivacyPlan(1.0, 9, 6.0, delta=1e-6)
    mu, epsilon = 0.5, plan.epsilon
    delta = stats.norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * stats.norm.cdf(-epsilon / mu - mu / 2)
    assert delta == pytest.approx(1e-6, rel=1e-4)
    assert gdp_epsilon(0.0001, 0.5) == 0.0
    assert gdp_delta(1.0, 0.0) == 0.0


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0, 20.0])
def test_solved_for_noise_it_reaches_the_target(epsilon):
    plan = PrivacyPlan.solve(epsilon=epsilon, sampling_rate=0.02, steps=500)
    assert 0.99 * epsilon <= plan.epsilon <= epsilon


def test_solved_for_the_others_it_is_the_largest_that_stays_below():
    plan = PrivacyPlan.solve(epsilon=3.0, sampling_rate=0.02, noise_multiplier=1.0)
    assert plan.epsilon <= 3.0 < dataclasses.replace(plan, steps=plan.steps + 1).epsilon + 0.02
    rate = PrivacyPlan.solve(epsilon=3.0, steps=400, noise_multiplier=1.0)
    assert 0.98 * 3.0 <= rate.epsilon <= 3.0
    spent = PrivacyPlan.solve(sampling_rate=0.02, steps=100, noise_multiplier=1.0, delta=1e-6, unit="user_id")
    assert (spent.delta, spent.unit) == (1e-6, "user_id")
    assert spent.to_dict()["epsilon"] == spent.epsilon


def test_epsilon_grows_with_the_steps():
    plan = PrivacyPlan(0.05, 100, 1.0)
    spent = [plan.epsilon_after(steps) for steps in (0, 1, 10, 100)]
    assert spent[0] == 0
    assert spent == sorted(spent)
    assert spent[-1] == plan.epsilon


def test_a_huge_epsilon_is_bounded_without_the_memory_of_the_exact_one():
    plan = PrivacyPlan(0.9, 10_000, 0.3)
    assert math.isfinite(plan.epsilon)
    assert plan.epsilon > 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_rate": 0.0}, "sampling_rate=0.0 must be in"),
        ({"steps": 0}, "steps=0 must be positive"),
        ({"noise_multiplier": 0.0}, "without noise there is no guarantee"),
        ({"delta": 1.0}, r"delta=1.0 must be in \(0, 1\)"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0 must be positive"),
        ({"accountant": "gdp"}, "accountant='gdp' is not offered"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        PrivacyPlan(**({"sampling_rate": 0.1, "steps": 10, "noise_multiplier": 1.0} | changes))


def test_what_cannot_be_solved_is_named():
    with pytest.raises(ValueError, match="exactly one"):
        PrivacyPlan.solve(epsilon=1.0, steps=3)
    with pytest.raises(ValueError, match="steps=0 must be"):
        PrivacyPlan.solve(epsilon=1.0, steps=0, sampling_rate=0.1)
    with pytest.raises(ValueError, match="missing is: none"):
        PrivacyPlan.solve(epsilon=1.0, steps=3, sampling_rate=0.1, noise_multiplier=1.0)
    with pytest.raises(ValueError, match=r"epsilon=-1\.0 must be positive"):
        PrivacyPlan.solve(epsilon=-1.0, steps=3, sampling_rate=0.1)
    with pytest.raises(ValueError, match=r"No number of steps in range reaches epsilon=0\.001"):
        PrivacyPlan.solve(epsilon=0.001, sampling_rate=0.9, noise_multiplier=0.3)
