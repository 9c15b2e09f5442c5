"""What two teachers and a public model agree on: the median of three, and nothing that one of them knows alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.targets.agreement import agreed


def said(seed, teachers=2, places=3, vocabulary=7, spread=3.0):
    drawn = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(teachers + 1, places, vocabulary, generator=drawn, dtype=torch.float64)
    *known, public = scores.log_softmax(-1)
    return known, public


@given(st.integers(0, 10**6))
def test_with_two_teachers_it_is_the_median_of_three(seed):
    (one, two), public = said(seed)
    probabilities = np.median(np.stack([one.exp().numpy(), two.exp().numpy(), public.exp().numpy()]), axis=0)
    expected = probabilities / probabilities.sum(-1, keepdims=True)
    np.testing.assert_allclose(agreed([one, two], public).exp(), expected, rtol=1e-12)


@given(st.integers(0, 10**6), st.integers(2, 5))
@settings(max_examples=50)
def test_of_more_teachers_two_are_enough_and_their_order_is_none(seed, count):
    teachers, public = said(seed, count)
    # Naively: of those that raise a token the second highest, of those that lower it the second lowest.
    expected = torch.empty_like(public)
    for place in np.ndindex(*public.shape):
        raises = sorted(float(teacher[place] - public[place]) for teacher in teachers)
        expected[place] = public[place] + max(raises[-2], 0) + min(raises[1], 0)
    torch.testing.assert_close(agreed(teachers, public), expected.log_softmax(-1))
    torch.testing.assert_close(agreed(teachers[::-1], public), agreed(teachers, public))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0.1, 30), st.integers(2, 4))
def test_one_teacher_cannot_say_anything_that_the_others_do_not(seed, other_seed, spread, count):
    (_, *others), public = said(seed, count)
    (any_one, _), _ = said(other_seed, spread=spread)
    (another, _), _ = said(other_seed + 1, spread=spread)
    one, two = (agreed([teacher, *others], public) for teacher in (any_one, another))
    distance = max(float((other - public).abs().max()) for other in others)
    assert float((one - two).abs().max()) <= 2 * distance + 1e-9
    # Where nobody else has left the public model, not even a number that one teacher is sure of is seen.
    torch.testing.assert_close(agreed([any_one, *[public] * len(others)], public), public)


def test_a_token_that_is_ruled_out_stays_out_only_where_two_rule_it_out():
    rule_out = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    even = torch.full((1, 3), 1 / 3, dtype=torch.float64).log()
    torch.testing.assert_close(agreed([rule_out, rule_out], even), rule_out)
    torch.testing.assert_close(agreed([rule_out, even], even).exp(), torch.tensor([[1, 1, 1]]).double() / 3)
    torch.testing.assert_close(agreed([rule_out, rule_out], rule_out), rule_out)
    torch.testing.assert_close(agreed([even, rule_out], rule_out), rule_out)
    torch.testing.assert_close(agreed([even, even], rule_out), even)


def test_one_teacher_is_refused():
    (one, _), public = said(0)
    with pytest.raises(ValueError, match="nobody to agree with"):
        agreed([one], public)
