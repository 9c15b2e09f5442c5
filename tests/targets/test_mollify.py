import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.targets import MollifiedTarget
from swingkd.targets.mollify import renyi_divergence
from tests.harness import private_positions


def where(likelihood, public):
    n = len(public)
    return private_positions(n, likelihood=torch.full((n,), likelihood, dtype=public.dtype), public_log_probs=public)


@pytest.mark.parametrize("order", [0.5, 1, 2, 5, math.inf])
def test_renyi_divergence_is_its_definition(order):
    p, q = (torch.rand(4, 9, dtype=torch.float64) for _ in range(2))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    if order == 1:
        expected = (p * (p / q).log()).sum(-1)
    elif math.isinf(order):
        expected = (p / q).amax(-1).log()
    else:
        expected = (p**order * q ** (1 - order)).sum(-1).log() / (order - 1)
    torch.testing.assert_close(renyi_divergence(p.log(), q.log(), order), expected)


@settings(max_examples=30)
@given(st.floats(0.05, 0.99), st.floats(0.001, 2), st.sampled_from([1.0, 2.0, math.inf]), st.integers(0, 100))
def test_the_bound_holds_and_is_used_up(likelihood, bound, order, seed):
    generator = torch.Generator().manual_seed(seed)
    teacher, public = (torch.randn(6, 12, dtype=torch.float64, generator=generator).log_softmax(-1) for _ in range(2))
    q = MollifiedTarget(bound, order).protect(teacher, where(likelihood, public))
    allowed = bound * (1 - likelihood) / likelihood
    reached = torch.maximum(renyi_divergence(q, public, order), renyi_divergence(public, q, order))
    assert (reached <= allowed + 1e-6).all()
    torch.testing.assert_close(q.exp().sum(-1), torch.ones(6, dtype=torch.float64))
    # Either the teacher itself fits, or the bound is used up: the share is the largest one.
    teacher_fits = torch.isclose(q, teacher, atol=1e-9).all(-1)
    assert (teacher_fits | (reached > 0.98 * allowed - 1e-6)).all()


def test_a_surely_private_token_follows_the_public_model():
    teacher, public = torch.randn(2, 3, 8).log_softmax(-1)
    assert torch.equal(MollifiedTarget(5.0).protect(teacher, where(1.0, public)), public)


def test_without_a_public_model_the_error_says_what_to_pass():
    with pytest.raises(ValueError, match="public_model="):
        MollifiedTarget().protect(torch.zeros(1, 3), private_positions(1))
