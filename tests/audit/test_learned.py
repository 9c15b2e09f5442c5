"""Attacks that were taught on half of the records: what they see, what they do not claim, when they are left out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swingkd.audit import epsilon_lower_bound
from swingkd.audit.learned import approximate_entropy, run_of, taught_scores
from swingkd.audit.membership import evaluate_attack


def series(rng, count, tokens=60):
    return [rng.gamma(1.0, 2.0, size=tokens) for _ in range(count)]


def naive_entropy(values, length=2, share=0.2):
    """Pincus 1991, pattern by pattern."""
    near = share * np.std(values)

    def alike(size):
        patterns = [values[i : i + size] for i in range(len(values) - size + 1)]
        logs = []
        for one in patterns:
            found = sum(max(abs(a - b) for a, b in zip(one, other, strict=True)) <= near for other in patterns)
            logs.append(math.log(found / len(patterns)))
        return sum(logs) / len(logs)

    return alike(length) - alike(length + 1)


@given(st.lists(st.floats(0, 20), min_size=4, max_size=40))
def test_approximate_entropy_is_that_of_its_paper(values):
    values = np.array(values)
    assert approximate_entropy(values) == pytest.approx(naive_entropy(values), abs=1e-9)


def test_a_series_that_repeats_itself_is_easy_to_foretell():
    rng = np.random.default_rng(0)
    assert approximate_entropy(np.tile([0.0, 1.0, 3.0], 30)) < 0.05 < approximate_entropy(rng.normal(size=90))
    assert approximate_entropy(np.ones(3)) == 0


@given(st.lists(st.floats(0, 20), min_size=1, max_size=40))
def test_every_signal_is_a_number_whatever_the_text(values):
    assert np.isfinite(run_of(np.array(values))).all()
    assert len(run_of(np.array(values))) == len(run_of(np.ones(5)))


def test_a_run_that_falls_is_seen_where_the_mean_says_nothing():
    """Members' losses fall along the text, others' rise: the same numbers, so mean and quantiles are alike."""
    rng = np.random.default_rng(1)
    members, others = ([np.sort(text)[::way] for text in series(rng, 100)] for way in (-1, 1))
    losses = members + others
    means = np.array([text.mean() for text in losses])
    assert 0.3 < evaluate_attack("loss", -means[:100], -means[100:], resamples=50).auc.value < 0.7
    found = taught_scores(losses, None, 100)
    assert {name: sum(map(len, sides)) for name, sides in found.items()} == {"camia": 100, "learned": 100}
    assert evaluate_attack("learned", *found["learned"], resamples=50).auc.low > 0.9


def test_several_weak_signals_are_one_strong_one():
    """Members' losses are a little smaller, move less and are easier to foretell."""
    rng = np.random.default_rng(5)
    losses = [text * (0.8 if i < 100 else 1.0) for i, text in enumerate(series(rng, 200, 40))]
    areas = {
        name: evaluate_attack(name, *sides, resamples=50).auc
        for name, sides in taught_scores(losses, None, 100).items()
    }
    assert areas["camia"].low > 0.7
    assert areas["learned"].low > 0.7


def test_what_stands_beside_a_reference_is_learned():
    """Texts are of very different difficulty; members are a little easier than a reference finds them."""
    rng = np.random.default_rng(2)
    hard = [rng.gamma(1.0, level, size=60) for level in rng.uniform(0.5, 5, size=300)]
    losses = [text * (0.93 if i < 150 else 1.0) for i, text in enumerate(hard)]
    alone, beside = (taught_scores(losses, others, 150)["learned"] for others in (None, hard))
    assert evaluate_attack("learned", *alone, resamples=50).auc.value < 0.7
    assert evaluate_attack("learned", *beside, resamples=50).auc.low > 0.95


def test_of_records_that_are_alike_they_claim_nothing():
    """Of fifty audits of noise two or three are below 0.05, and as many prove an epsilon."""
    p_values, proved = [], []
    for seed in range(25):
        rng = np.random.default_rng(100 + seed)
        for name, sides in taught_scores(series(rng, 120, 30), None, 60, seed).items():
            p_values.append(evaluate_attack(name, *sides, resamples=2).p_value)
            proved.append(epsilon_lower_bound(*sides).epsilon)
    assert np.mean(np.array(p_values) < 0.05) < 0.12
    assert np.mean(np.array(proved) > 0) < 0.12


def test_few_records_teach_nobody():
    rng = np.random.default_rng(3)
    assert taught_scores(series(rng, 60), None, 30) == {}
    assert taught_scores(series(rng, 120), None, 60).keys() == {"camia", "learned"}
    # A model that diverged is named where the other attacks are judged.
    assert taught_scores([np.full(5, np.inf), *series(rng, 120)], None, 60) == {}


def test_the_halves_follow_from_the_seed_and_nobody_is_judged_who_taught():
    rng = np.random.default_rng(4)
    losses = series(rng, 100)
    one, again, other = (taught_scores(losses, None, 50, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(one[name][i], again[name][i]) for name in one for i in range(2))
    assert not np.array_equal(one["camia"][0], other["camia"][0])
    # A record that teaches moves the others' scores, not its own: there is none of it.
    assert sum(len(side) for side in one["learned"]) == 50
