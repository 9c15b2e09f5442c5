"""Which samples are chosen: each score against a plain computation, and nothing of the teacher in it."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.vision import SampleSelectionArguments, sample_scores

SCORES = [
    sample_scores.margin,
    sample_scores.entropy,
    sample_scores.gini,
    sample_scores.k_centre,
    sample_scores.cluster_diverse,
    sample_scores.confident_and_correct,
    sample_scores.random,
]


def example(count=40, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator)
    return logits, torch.randint(classes, (count,), generator=generator), torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.__name__)
@given(count=st.integers(1, 60), share=st.floats(0.01, 1), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_a_score_chooses_as_many_different_samples_as_asked(score, count, share, seed):
    logits, labels, generator = example(count, seed=seed)
    wanted = max(int(share * count), 1)
    chosen = score(logits, labels, wanted, generator)
    assert chosen.shape == (wanted,)
    assert len(set(chosen.tolist())) == wanted
    assert set(chosen.tolist()) <= set(range(count))


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.__name__)
def test_a_score_is_given_the_students_outputs_and_public_labels_alone(score):
    assert list(inspect.signature(score).parameters) == ["logits", "labels", "count", "generator"]


def test_uncertain_samples_come_first():
    logits, labels, generator = example()
    probs = np.exp(logits.double().numpy())
    probs /= probs.sum(1, keepdims=True)
    two = np.sort(probs, axis=1)[:, -2:]
    wanted = {
        sample_scores.margin: two[:, 1] - two[:, 0],
        sample_scores.entropy: (probs * np.log(probs)).sum(1),
        sample_scores.gini: (probs**2).sum(1) - 1,
        sample_scores.confident_and_correct: -probs[np.arange(40), labels.numpy()],
    }
    for score, values in wanted.items():
        assert score(logits, labels, 40, generator).tolist() == np.argsort(values, kind="stable").tolist()


def test_each_next_centre_is_the_furthest_from_those_kept():
    logits, labels, generator = example()
    chosen = sample_scores.k_centre(logits, labels, 12, generator).tolist()
    log_probs = logits.double().log_softmax(1).numpy()
    for number in range(1, 12):
        distances = []
        for i in range(40):
            to_kept = [(np.exp(log_probs[i]) * (log_probs[i] - log_probs[k])).sum() for k in chosen[:number]]
            distances.append(-np.inf if i in chosen[:number] else min(to_kept))
        assert distances[chosen[number]] == pytest.approx(max(distances), abs=1e-5)


def test_clusters_are_served_alike():
    # Three far groups of very different size: all are there among the first three, and stay level while they last.
    logits = torch.cat([torch.tensor([[9.0, 0, 0]]).repeat(50, 1), torch.tensor([[0, 9.0, 0], [0, 0, 9.0]])])
    logits = logits + 0.01 * torch.randn(52, 3, generator=torch.Generator().manual_seed(0))
    labels, generator = torch.zeros(52, dtype=torch.int64), torch.Generator().manual_seed(0)
    assert set(logits[sample_scores.cluster_diverse(logits, labels, 3, generator)].argmax(1).tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("shares", "steps", "counts"),
    [
        (sample_scores.fixed(0.5, 5), 1600, [20000] * 5),
        (sample_scores.geometric(0.5, 0.8, 5), 1064, [20000, 16000, 12800, 10240, 8192]),
        (sample_scores.linear(0.5, 0.1, 5), 960, [20000, 16000, 12000, 8000, 4000]),
    ],
)
def test_schedules_ask_as_often_as_the_papers_settings_say(shares, steps, counts):
    args = SampleSelectionArguments(output_dir="unused", shares=shares)
    assert args.chosen(40_000) == counts
    assert args.distillation_steps(40_000) == steps
    assert steps == sum(8 * math.ceil(count / 512) for count in counts)


def test_one_iteration_has_one_share():
    assert sample_scores.linear(0.5, 0.1, 1) == [0.5]
    assert sample_scores.geometric(0.5, 0.1, 1) == [0.5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shares": [0.5, 0.0]}, r"shares=\[0.5, 0.0\]: 0.0 is no share"),
        ({"hint_epochs": 1}, "say which layers"),
        ({"distillation_batch_size": 0}, "distillation_batch_size=0 must be positive"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be positive"),
    ],
)
def test_settings_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        SampleSelectionArguments(output_dir="unused", **fields)
