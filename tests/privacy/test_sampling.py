import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from swingkd.privacy import PoissonBatches, PrivacyPlan


def plan(rate):
    return PrivacyPlan(rate, 10, 1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_each_record_is_drawn_independently_with_the_plans_probability():
    batches = PoissonBatches(plan(0.1), rows=50, generator=generator())
    draws = np.zeros((2000, 50), bool)
    for i in range(len(draws)):
        draws[i, next(iter(batches))] = True
    # How often each record, and each pair of them, is drawn.
    assert stats.binomtest(int(draws.sum()), draws.size, 0.1).pvalue > 1e-4
    assert all(stats.binomtest(int(n), len(draws), 0.1).pvalue > 1e-5 for n in draws.sum(0))
    pairs = (draws[:, :25] & draws[:, 25:]).sum()
    assert stats.binomtest(int(pairs), 2000 * 25, 0.01).pvalue > 1e-4
    # Sizes vary as those of a Poisson sample do: a fixed-size batch would have no variance.
    sizes = np.bincount(np.minimum(draws.sum(1), 10), minlength=11)
    expected = stats.binom(50, 0.1).pmf(np.arange(10))
    assert stats.chisquare(sizes, 2000 * np.append(expected, 1 - expected.sum())).pvalue > 1e-4


@settings(max_examples=50)
@given(
    st.lists(st.integers(-3, 6), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 3),
    st.floats(0.05, 1.0),
    st.integers(0, 100),
)
def test_a_users_rows_stand_together_and_are_bounded(units, most, processes, rate, seed):
    units = np.array(units)
    drawn = []
    for rank in range(processes):
        batches = PoissonBatches(
            plan(rate), units, most=most, rank=rank, processes=processes, generator=generator(seed + rank)
        )
        for batch in batches:
            assert len(set(batch)) == len(batch)
            owners = units[batch]
            changes = int((np.diff(owners) != 0).sum()) + 1 if len(batch) else 0
            assert changes == len(set(owners))  # one run of rows a user
            for user in set(owners):
                assert (owners == user).sum() == min(most, (units == user).sum())
        drawn.append(set(units[batches._rows]))
    # Every user belongs to one process, and all to some.
    assert set().union(*drawn) == set(units)
    assert sum(map(len, drawn)) == len(set(units))


def test_a_user_with_many_rows_gives_other_ones_each_time():
    batches = PoissonBatches(plan(1.0), np.zeros(10, int), most=2, generator=generator())
    seen = {tuple(sorted(next(iter(batches)))) for _ in range(200)}
    assert len(seen) == 45


def test_an_epoch_draws_each_unit_once_on_average():
    assert len(PoissonBatches(plan(0.1), rows=100)) == 10
    assert len(PoissonBatches(plan(1.0), rows=100)) == 1
    assert [] in list(PoissonBatches(plan(0.01), rows=1, generator=generator()))


def test_two_samplers_draw_different_batches_under_the_same_seed():
    torch.manual_seed(0)
    one = list(PoissonBatches(plan(0.1), rows=200))
    torch.manual_seed(0)
    assert one != list(PoissonBatches(plan(0.1), rows=200))


def test_nothing_to_draw_from():
    with pytest.raises(ValueError, match="no rows"):
        PoissonBatches(plan(0.1), rows=0)
