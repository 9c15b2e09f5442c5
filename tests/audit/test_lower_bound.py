import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from swingkd.audit import epsilon_lower_bound
from swingkd.audit.lower_bound import _Counts, _f_dp, _one_run, gdp_delta, gdp_mu, one_run_p_value


def counts(right, made, canaries=1000):
    return _Counts(canaries // 2, canaries - canaries // 2, right, made - right, 0, 0)


@pytest.mark.parametrize(
    ("right", "made", "delta", "expected"), [(100, 100, 0, 3.49), (100, 100, 1e-5, 3.47), (80, 100, 0, 0.96)]
)
def test_known_values_of_the_one_run_audit(right, made, delta, expected):
    assert _one_run(counts(right, made), delta, 0.95) == pytest.approx(expected, abs=0.005)


# Made with jax-privacy 2.0.0: its private functions for one (right, made) among 1,000 canaries at significance 0.05.
@pytest.mark.parametrize(
    ("right", "made", "delta", "one_run", "f_dp"),
    [
        (100, 100, 1e-5, 3.465376, 5.549028),
        (80, 100, 1e-5, 0.955318, 1.402215),
        (300, 320, 1e-3, 1.728976, 2.787909),
        (60, 100, 1e-5, 0.049549, 0.043523),
    ],
)
def test_agrees_with_jax_privacy(right, made, delta, one_run, f_dp):
    assert _one_run(counts(right, made), delta, 0.95) == pytest.approx(one_run, abs=1e-5)
    assert _f_dp(counts(right, made), delta, 0.95) == pytest.approx(f_dp, abs=1e-5)


def test_the_p_value_is_its_sum():
    """By the definition, binomial term by term."""
    right, made, canaries, eps, delta = 14, 20, 50, 0.4, 1e-3
    q = 1 / (1 + math.exp(-eps))
    law = [math.comb(made, k) * q**k * (1 - q) ** (made - k) for k in range(made + 1)]
    tail = sum(law[right:])
    worst = max(sum(law[max(right - i, 0) : right]) / i for i in range(1, right + 1))
    assert one_run_p_value(right, made, canaries, eps, delta) == pytest.approx(tail + 2 * canaries * delta * worst)


@given(st.floats(0.05, 5), st.floats(0.01, 3))
@settings(max_examples=25)
def test_the_delta_of_a_gaussian_is_an_integral(mu, epsilon):
    """delta = the integral of max(p - e^eps q, 0), for two unit Gaussians mu apart."""
    exact, _ = integrate.quad(
        lambda x: max(stats.norm.pdf(x - mu) - math.exp(epsilon) * stats.norm.pdf(x), 0), epsilon / mu + mu / 2, 40
    )
    assert gdp_delta(epsilon, mu) == pytest.approx(exact, abs=1e-7)
    if exact > 1e-9:
        assert gdp_mu(epsilon, exact) == pytest.approx(mu, rel=1e-2)


@pytest.mark.parametrize("method", ["one_run", "f_dp", "clopper_pearson", "gdp"])
def test_bounds_hold_and_prove_something(method):
    """Scores of a mechanism whose epsilon is known: no bound is above it, but for the 5 % that are allowed."""
    mu, delta, repeats = 2.0, 1e-3, 12
    # The epsilon that two unit Gaussians mu apart have at this delta.
    low, high = 0.0, 20.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if gdp_delta(middle, mu) > delta else (low, middle)
    rng = np.random.default_rng(0)
    bounds = [
        epsilon_lower_bound(
            rng.normal(mu, 1, 500), rng.normal(0, 1, 500), delta=delta, method=method, seed=repeat
        ).epsilon
        for repeat in range(repeats)
    ]
    assert sum(bound > low for bound in bounds) <= 2
    assert np.median(bounds) > 0.5


@pytest.mark.parametrize("method", ["one_run", "f_dp", "clopper_pearson", "gdp"])
def test_an_attack_that_guesses_proves_nothing(method):
    rng = np.random.default_rng(1)
    bounds = [
        epsilon_lower_bound(rng.normal(size=300), rng.normal(size=300), delta=1e-5, method=method).epsilon
        for _ in range(12)
    ]
    assert sum(bound > 0.05 for bound in bounds) <= 2


def test_scores_that_only_tell_who_was_out_prove_as_much():
    rng = np.random.default_rng(2)
    inside, outside = rng.normal(0, 1, 400), np.where(rng.random(400) < 0.5, -9.0, rng.normal(0, 1, 400))
    assert epsilon_lower_bound(inside, outside).epsilon > 2


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="2 canaries are inside; at least 4"):
        epsilon_lower_bound([1, 2], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="1 of 4 outside scores are no finite numbers"):
        epsilon_lower_bound([1, 2, 3, 4], [1, 2, 3, math.nan])
    with pytest.raises(ValueError, match=r"confidence=2"):
        epsilon_lower_bound([1, 2, 3, 4], [1, 2, 3, 4], confidence=2)
    with pytest.raises(ValueError, match=r"method='magic'.*one_run"):
        epsilon_lower_bound([1, 2, 3, 4], [1, 2, 3, 4], method="magic")
