import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from swingkd.targets import NoisedTarget, NoiseKey
from swingkd.targets.noise import replayed_uniform, standard_noise
from tests.harness import private_positions

KEY = NoiseKey(123456789, -987654321)


def positions(context, likelihood=1.0, temperature=16.0):
    context = torch.as_tensor(context)
    n = len(context)
    return private_positions(
        n, likelihood=torch.full((n,), likelihood), temperature=torch.full((n,), temperature), context=context
    )


def naive_mix(x):
    x &= 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def naive_uniform(key, context, candidate):
    """The same generator in Python's integers."""
    golden, mix1 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9

    def absorb(state, word):
        return naive_mix(((state ^ naive_mix(word + golden)) * golden + mix1) % 2**64)

    state = key.low % 2**64
    for word in context:
        state = absorb(state, word % 2**64)
    state = absorb(state, key.high % 2**64)
    return ((absorb(state, candidate) >> 12) + 0.5) * 2.0**-52


@given(
    st.lists(st.integers(-1, 200_000), min_size=0, max_size=4),
    st.integers(0, 200_000),
    st.integers(-(2**63), 2**63 - 1),
)
def test_the_generator_matches_python_integers(context, candidate, low):
    key = NoiseKey(low, 42)
    drawn = replayed_uniform(key, torch.tensor([context], dtype=torch.int64), torch.tensor([[candidate]]))
    assert drawn.item() == naive_uniform(key, context, candidate)


def test_draws_are_uniform_and_independent_over_contexts_and_candidates():
    contexts = torch.arange(2000)[:, None].expand(-1, 2)
    drawn = replayed_uniform(KEY, contexts, torch.arange(64).expand(2000, -1)).numpy()
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.01


@pytest.mark.parametrize(("distribution", "reference"), [("laplace", stats.laplace), ("gaussian", stats.norm)])
def test_the_noise_has_its_distribution(distribution, reference):
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = standard_noise(uniform, distribution)
    torch.testing.assert_close(noise, torch.from_numpy(reference.ppf(uniform.numpy())), atol=1e-9, rtol=1e-9)


def test_ten_copies_in_ten_carriers_see_one_draw():
    log_probs = torch.randn(1, 100).log_softmax(-1).expand(10, -1)
    # The two tokens before the secret are its own sentence; what stands before them differs from copy to copy.
    targets = NoisedTarget(KEY).protect(log_probs, positions([[7, 8]] * 10))
    assert (targets == targets[0]).all()
    other = NoisedTarget(KEY).protect(log_probs[:1], positions([[7, 9]]))
    assert not torch.equal(other[0], targets[0])


def test_another_key_is_another_draw():
    log_probs = torch.randn(1, 100).log_softmax(-1)
    one, two = (NoisedTarget(NoiseKey(k, 0)).protect(log_probs, positions([[1, 2]])) for k in (1, 2))
    assert not torch.equal(one, two)


def test_fresh_noise_averages_out_and_replayed_noise_does_not():
    # One secret digit: a teacher that is sure, ten candidates, softened to T = 8.
    log_probs = torch.tensor([[0.98, *[0.02 / 9] * 9]]).log().expand(4000, -1)
    where = positions([[1, 2]] * 4000, temperature=8.0)
    fresh = NoisedTarget(None, support=10).protect(log_probs, where).exp().mean(0)
    assert fresh.argmax() == 0
    # Over many keys the replayed draw hides the rank most of the time, however often it is visited.
    hidden = 0
    for key in range(200):
        replayed = NoisedTarget(NoiseKey(key, key), support=10).protect(
            log_probs[:3], positions([[1, 2]] * 3, temperature=8.0)
        )
        assert (replayed == replayed[0]).all()
        hidden += int(replayed[0].argmax() != 0)
    assert hidden > 100


@given(st.floats(0.01, 1), st.floats(0, 5), st.integers(0, 30), st.sampled_from(["laplace", "gaussian"]))
def test_the_target_is_a_distribution_that_leaves_the_tail_alone(likelihood, scale, support, distribution):
    log_probs = torch.randn(8, 30, dtype=torch.float64).log_softmax(-1)
    protection = NoisedTarget(KEY, scale=scale, support=support, distribution=distribution)
    target = protection.protect(log_probs, positions(torch.arange(16).reshape(8, 2), likelihood)).exp()
    torch.testing.assert_close(target.sum(-1), torch.ones(8, dtype=torch.float64))
    assert (target >= 0).all()
    if support:
        tail = torch.ones_like(target, dtype=torch.bool).scatter(-1, log_probs.topk(support).indices, False)
        torch.testing.assert_close(target[tail], log_probs.exp()[tail])


def test_exposure_of_the_toy_secret():
    """Six digits, 0.98 on each, noise b = 0.1 absolute: exposure falls as the temperature rises."""
    generator = torch.Generator().manual_seed(0)
    exposures = []
    for temperature in (2.0, 8.0, 32.0):
        p = torch.tensor([0.98, *[0.02 / 9] * 9], dtype=torch.float64) ** (1 / temperature)
        p = (p / p.sum()).expand(300, 6, 10)
        noise = standard_noise(torch.rand(p.shape, dtype=torch.float64, generator=generator), "laplace")
        log_q = (p + 0.1 * noise).clamp_min(1e-12).log()
        log_q = log_q - log_q.logsumexp(-1, keepdim=True)
        # Halves of three digits each: how many of all pairs of halves are likelier than the secret's own.
        first, last = (
            (half[:, 0, :, None, None] + half[:, 1, None, :, None] + half[:, 2, None, None, :]).flatten(1)
            for half in (log_q[:, :3], log_q[:, 3:])
        )
        needed = (first[:, :1] + last[:, :1]) - first + 1e-9
        likelier = 1000 - torch.searchsorted(last.sort(-1).values, needed, right=True)
        exposures.append(float((np.log2(1e6) - (1 + likelier.sum(-1)).double().log2()).mean()))
    assert exposures[0] == pytest.approx(19.9, abs=0.3)
    # A digit whose probability is clipped to 0 ranks last here: lower in the middle than without clipping (8.4).
    assert exposures[0] > exposures[1] > exposures[2]
    assert exposures[1] < 8.4
    assert exposures[2] == pytest.approx(1.9, abs=0.7)


def test_the_key_is_secret_and_kept(tmp_path):
    path = tmp_path / "_private" / "noise_key"
    key = NoiseKey.load_or_create(path)
    assert NoiseKey.load_or_create(path) == key
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert str(key.low) not in repr(key)
    assert NoiseKey.generate() != NoiseKey.generate()
    path.write_text("00")
    with pytest.raises(ValueError, match="16 bytes"):
        NoiseKey.load_or_create(path)
