import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.privacy import LedgerEntry, PrivacyPlan, ShardAnswers, content_keys, shard
from swingkd.privacy.gaussian import gdp_epsilon
from swingkd.privacy.pate import noisy_mean, noisy_votes, onto_simplex


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def distributions(*shape, seed=0, sharpness=3.0):
    return (torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * sharpness).softmax(-1)


@settings(max_examples=80)
@given(st.integers(1, 30), st.integers(2, 12), st.integers(0, 999), st.floats(0.1, 100))
def test_one_teacher_moves_a_mean_by_at_most_its_sensitivity(k, classes, seed, sharpness):
    """Whatever the replaced teacher says: sqrt(2) / k, and sqrt(2) votes."""
    one = distributions(k, 1, classes, seed=seed, sharpness=sharpness)
    two = one.clone()
    two[seed % k] = distributions(1, classes, seed=seed + 1, sharpness=sharpness)
    assert float((one.mean(0) - two.mean(0)).norm()) <= math.sqrt(2) / k + 1e-12
    votes = [torch.nn.functional.one_hot(each.argmax(-1), classes).sum(0).double() for each in (one, two)]
    assert float((votes[0] - votes[1]).norm()) <= math.sqrt(2) + 1e-12
    # It can be reached: the bound is no larger than it must be.
    corner = torch.zeros(k, 1, classes, dtype=torch.float64)
    corner[:, :, 0] = 1
    moved = corner.clone()
    moved[0] = 0
    moved[0, :, 1] = 1
    assert float((corner.mean(0) - moved.mean(0)).norm()) == pytest.approx(math.sqrt(2) / k)


def test_the_noise_is_as_large_as_it_says():
    same = torch.full((40, 5000, 4), 0.25, dtype=torch.float64)
    released = same.mean(0) + torch.randn(5000, 4, generator=generator(), dtype=torch.float64) * 0.01
    torch.testing.assert_close(noisy_mean(same, 0.01, generator()), onto_simplex(released))
    # Votes: 60 to 40, noise of 20 on each count; how often the smaller wins has a closed form.
    votes = torch.zeros(100, 20_000, 2)
    votes[:60, :, 0] = 1
    votes[60:, :, 1] = 1
    wrong = float(noisy_votes(votes, 20.0, generator())[:, 1].mean())
    expected = 0.5 * math.erfc(20 / (20 * math.sqrt(2)) / math.sqrt(2))
    assert wrong == pytest.approx(expected, abs=0.01)


@settings(max_examples=50)
@given(st.lists(st.floats(-2, 3), min_size=2, max_size=8))
def test_the_nearest_distribution(row):
    found = onto_simplex(torch.tensor([row], dtype=torch.float64))
    assert float(found.sum()) == pytest.approx(1)
    assert float(found.min()) >= 0
    # No other distribution is nearer: tried are the corners, the middle and some at random.
    others = torch.cat([torch.eye(len(row)).double(), distributions(200, len(row))])
    target = torch.tensor([row], dtype=torch.float64)
    assert float((found - target).norm()) <= float((others - target).norm(dim=1).min()) + 1e-9


def test_the_number_of_the_methods():
    """k = 100, Q = 500, epsilon 8 at 1e-5: standard deviation 0.19 per class; k = 1: 19."""
    plan = PrivacyPlan.solve(epsilon=8.0, sampling_rate=1.0, steps=500, delta=1e-5)
    assert plan.noise_multiplier * math.sqrt(2) / 100 == pytest.approx(0.19, abs=0.005)
    assert plan.noise_multiplier * math.sqrt(2) == pytest.approx(19, abs=0.5)
    entry = LedgerEntry("mean", releases=500, delta=1e-5, noise_multiplier=plan.noise_multiplier)
    assert entry.epsilon == pytest.approx(gdp_epsilon(math.sqrt(500) / plan.noise_multiplier, 1e-5))
    assert entry.epsilon == pytest.approx(8, rel=0.01)


@pytest.mark.parametrize("form", ["mean", "votes"])
def test_each_example_is_answered_once(form, tmp_path):
    answers = ShardAnswers(5.0, form, path=tmp_path)
    first = answers(["a", "b", "a"], distributions(20, 3, 4))
    assert torch.equal(first[0], first[2])
    assert answers.entry(1e-5).releases == 2
    # Asked again, in another order, with other teachers: the same answers, at no cost; and after a restart.
    again = ShardAnswers(5.0, form, path=tmp_path)
    assert torch.equal(again(["b", "a"]), first[[1, 0]])
    assert torch.equal(again(["c", "a"], distributions(20, 2, 4, seed=9))[1], first[0])
    assert again.entry(1e-5).releases == 3
    assert again.unknown(["d", "a", "d", "e"]) == [0, 3]
    torch.testing.assert_close(first.sum(1), torch.ones(3))
    with pytest.raises(ValueError, match="1 examples were never answered"):
        again(["z"])
    with pytest.raises(ValueError, match="answers of other settings"):
        ShardAnswers(6.0, form, path=tmp_path)


def test_two_processes_share_their_answers(tmp_path):
    one, two = ShardAnswers(5.0, path=tmp_path), ShardAnswers(5.0, path=tmp_path)
    first = one(["x", "y"], distributions(20, 2, 4))
    second = two(["x", "z"], distributions(20, 2, 4))
    assert torch.equal(first[0], second[0])
    assert ShardAnswers(5.0, path=tmp_path).entry(1e-5).releases == 3
    with pytest.raises(ValueError, match="2 keys, but probabilities for 3"):
        one(["a", "b"], distributions(20, 3, 4))
    assert one.entry(1e-5).neighbours == "replace one"  # shards keep their sizes


def test_two_runs_draw_different_noise():
    asked = distributions(10, 3, 5)
    torch.manual_seed(0)
    one = ShardAnswers(1.0)(["a", "b", "c"], asked)
    torch.manual_seed(0)
    assert not torch.equal(one, ShardAnswers(1.0)(["a", "b", "c"], asked))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 10))
def test_a_user_is_in_one_shard(users, shards):
    users = np.array(users)
    if shards > len(set(users)):
        with pytest.raises(ValueError, match="cannot be dealt out"):
            shard(users, shards)
        return
    dealt = shard(users, shards)
    assert all(len(set(dealt[users == user])) == 1 for user in set(users))
    sizes = np.bincount([dealt[users == user][0] for user in sorted(set(users))], minlength=shards)
    assert sizes.max() - sizes.min() <= 1


def test_keys_are_of_the_content():
    images = torch.rand(3, 1, 4, 4)
    one, two, three = content_keys(images)
    assert content_keys(images.clone()) == [one, two, three]
    assert len({one, two, three}) == 3


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (torch.full((2, 1, 3), torch.nan), "finite"),
        (torch.randn(2, 1, 3), "negative"),
        (torch.ones(2, 1, 3), "not logits"),
        (torch.ones(2, 3), "teachers, examples, classes"),
    ],
)
def test_what_is_no_distribution_is_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        ShardAnswers(1.0)(["a"], probabilities)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="must be positive"):
        ShardAnswers(0.0)
    with pytest.raises(ValueError, match="form='median'"):
        ShardAnswers(1.0, "median")
