import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.privacy import (
    best_candidates,
    multi_stage_labels,
    randomize_labels,
    randomized_response_rdp,
    response_probabilities,
    secret_generator,
)

EPSILONS = st.floats(0.05, 12)


@st.composite
def priors(draw):
    classes = draw(st.integers(2, 12))
    raw = torch.rand(classes, generator=torch.Generator().manual_seed(draw(st.integers(0, 10_000)))) ** 3 + 1e-6
    return (raw / raw.sum())[None]


@settings(deadline=None)
@given(priors(), EPSILONS)
def test_any_two_labels_differ_by_the_epsilon_at_most(prior, epsilon):
    """For all classes, a fixed top k, and the best k of a prior; every answer, every pair of labels."""
    classes = prior.shape[1]
    every = torch.arange(classes)
    top = torch.zeros(1, classes, dtype=torch.bool)
    top[0, : max(classes // 2, 1)] = True
    for candidates in (torch.ones(1, classes, dtype=torch.bool), top, best_candidates(prior, epsilon)):
        matrix = response_probabilities(every, candidates.expand(classes, -1), epsilon)
        torch.testing.assert_close(matrix.sum(1), torch.ones(classes, dtype=torch.float64))
        possible = matrix[:, candidates[0]]
        assert bool((matrix[:, ~candidates[0]] == 0).all())
        worst = float((possible.max(0).values / possible.min(0).values).max())
        assert worst <= math.exp(epsilon) * (1 + 1e-12)


@pytest.mark.parametrize(("epsilon", "k", "keep"), [(1, 2, 0.731), (1, 10, 0.232), (10, 10, 0.9996)])
def test_known_keep_probabilities(epsilon, k, keep):
    matrix = response_probabilities(torch.arange(k), torch.ones(k, k, dtype=torch.bool), epsilon)
    assert matrix.diagonal().tolist() == pytest.approx([keep] * k, abs=5e-4)


@settings(deadline=None)
@given(priors(), EPSILONS)
def test_the_best_candidates_keep_a_label_most_often(prior, epsilon):
    """By the definition: among all k, the likeliest k that maximise the probability that the answer is right."""
    chosen = best_candidates(prior, epsilon)
    order = prior[0].argsort(descending=True)
    rates = []
    for k in range(1, prior.shape[1] + 1):
        keep = math.exp(epsilon) / (math.exp(epsilon) + k - 1)
        rates.append(keep * float(prior[0, order[:k]].double().sum()))
    k = int(chosen.sum())
    assert rates[k - 1] == pytest.approx(max(rates), rel=1e-9)
    assert set(chosen[0].nonzero()[:, 0].tolist()) == set(order[:k].tolist())


def test_answers_come_as_often_as_they_should():
    labels = torch.zeros(200_000, dtype=torch.int64)
    candidates = torch.tensor([[True, True, False, True]]).expand(len(labels), -1)
    for label in (0, 2):
        answers = randomize_labels(labels + label, candidates, 1.0, torch.Generator().manual_seed(0))
        expected = response_probabilities(labels[:1] + label, candidates[:1], 1.0)[0]
        found = torch.bincount(answers, minlength=4) / len(labels)
        torch.testing.assert_close(found.double(), expected, atol=5e-3, rtol=0)


def test_answers_cannot_be_replayed():
    labels, candidates = torch.arange(10).repeat(20), torch.ones(200, 10, dtype=torch.bool)
    torch.manual_seed(0)
    first = randomize_labels(labels, candidates, 1.0)
    torch.manual_seed(0)
    assert not torch.equal(first, randomize_labels(labels, candidates, 1.0))
    states = [secret_generator().get_state() for _ in range(2)]
    assert not torch.equal(*states)


@pytest.mark.parametrize(("epsilon", "k"), [(0.5, 2), (1.0, 10), (4.0, 3)])
@pytest.mark.parametrize("order", [1.5, 2.0, 16.0])
def test_the_renyi_divergence_is_that_of_two_rows(epsilon, k, order):
    matrix = response_probabilities(torch.arange(2), torch.ones(2, k, dtype=torch.bool), epsilon)
    divergence = float((matrix[0] ** order * matrix[1] ** (1 - order)).sum().log()) / (order - 1)
    assert randomized_response_rdp(epsilon, k, order) == pytest.approx(divergence)
    assert randomized_response_rdp(epsilon, k, order) <= epsilon + 1e-12


def test_stages_answer_each_label_once_and_later_ones_better():
    """Two classes that the inputs tell apart: the second stage knows them from the first one's answers."""
    labels = torch.arange(4000) % 10
    asked = []

    def fit(examples, answers):
        asked.append((examples, answers))
        votes = torch.zeros(10, 10).index_put_((examples % 10, answers), torch.ones(len(examples)), accumulate=True)
        probabilities = votes / votes.sum(1, keepdim=True)
        return lambda query: probabilities[query % 10]

    generator = torch.Generator().manual_seed(0)
    answers = multi_stage_labels(labels, 10, 1.0, fit, shares=(0.4, 0.6), generator=generator)
    assert (answers >= 0).all()
    first, known = asked[0]
    assert len(asked) == 1
    assert torch.equal(answers[first], known)  # answered once, and never again
    later = torch.ones(4000, dtype=torch.bool)
    later[first] = False
    right = answers == labels
    assert right[first].float().mean() < 0.3
    assert right[later].float().mean() > right[first].float().mean() + 0.1


def test_mistakes_are_named():
    labels, candidates = torch.tensor([0, 1]), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="epsilon=0 must be positive"):
        randomize_labels(labels, candidates, 0)
    with pytest.raises(ValueError, match="A label is none of the 3 classes"):
        randomize_labels(labels + 2, candidates, 1.0)
    with pytest.raises(ValueError, match="1 rows have no candidate"):
        randomize_labels(labels, torch.tensor([[True] * 3, [False] * 3]), 1.0)
    with pytest.raises(ValueError, match=r"bool \[2, classes\] is needed"):
        randomize_labels(labels, candidates.float(), 1.0)
    with pytest.raises(ValueError, match="must sum to one; found 2"):
        best_candidates(torch.ones(1, 2), 1.0)
    with pytest.raises(ValueError, match="finite and not negative"):
        best_candidates(torch.tensor([[torch.nan, 1.0]]), 1.0)
    with pytest.raises(ValueError, match="must be positive and sum to one"):
        multi_stage_labels(labels, 3, 1.0, lambda *_: None, shares=(0.5, 0.6))
