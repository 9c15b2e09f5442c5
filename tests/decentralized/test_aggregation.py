"""Who teaches whom, against formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.decentralized.aggregation import (
    DSFL,
    Cronus,
    FedMD,
    RandomNeighbours,
    SDDist,
    _along_the_widest,
    nearest,
    quality,
    tempered,
)


def messengers(count: int, rows: int = 7, classes: int = 4, seed: int = 0) -> torch.Tensor:
    logits = 3 * torch.randn(count, rows, classes, generator=torch.Generator().manual_seed(seed))
    return logits.softmax(-1).half()


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """Mean over examples of KL(teacher || student), number by number."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        s, t = ([max(p, 1e-8) ** (1 / temperature) for p in row] for row in (s, t))
        s, t = ([p / sum(row) for p in row] for row in (s, t))
        total += sum(p * math.log(p / q) for p, q in zip(t, s, strict=True))
    return total / len(student)


def test_quality_is_the_mean_cross_entropy_with_the_labels():
    known, labels = messengers(3), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    for client in range(3):
        by_hand = -sum(math.log(float(known[client, r, labels[r]])) for r in range(7)) / 7
        assert float(quality(known, labels)[client]) == pytest.approx(by_hand, rel=1e-5)


def test_a_certain_and_wrong_messenger_has_a_finite_quality():
    known = torch.eye(4).half()[torch.zeros(1, 7, dtype=torch.int64)]
    assert bool(quality(known, torch.full((7,), 3)).isfinite().all())


@given(st.integers(2, 9), st.integers(1, 5), st.sampled_from([1.0, 3.0]), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=30)
def test_the_nearest_are_those_of_the_definition_whatever_the_block(clients, count, temperature, block, seed):
    known = messengers(clients, seed=seed)
    asking, candidates = torch.arange(clients), torch.arange(0, clients, 2)
    found = nearest(known, asking, candidates, count, temperature, block)
    for client in range(clients):
        others = [int(c) for c in candidates if int(c) != client]
        others.sort(key=lambda other: divergence(known[client], known[other], temperature))
        expected = others[:count] + [-1] * (count - len(others[:count]))
        assert found[client].tolist() == expected


def test_tempering_is_what_dividing_the_logits_would_have_been():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tempered(logits.softmax(-1), 3.0), (logits / 3).softmax(-1))


def test_sd_dist_takes_the_nearest_of_the_best():
    labels = torch.zeros(7, dtype=torch.int64)
    known = messengers(6)
    known[5] = torch.tensor([0.0, 0.0, 0.0, 1.0]).half()  # sure of a wrong class: the worst
    known[4] = known[5]
    everyone = torch.arange(6)
    rule = SDDist(quality_share=0.7, neighbours=2)
    best = everyone[quality(known, labels).argsort()[:4]]
    assert 5 not in best
    for client, target in zip(everyone, rule.targets(known, labels, everyone, everyone, 0), strict=True):
        others = sorted(
            (int(c) for c in best if c != client), key=lambda o: divergence(known[int(client)], known[o], 1.0)
        )
        torch.testing.assert_close(target, known[others[:2]].float().mean(0))
    # Similarity alone lets the two agree with each other.
    (target,) = SDDist(1.0, 1).targets(known, labels, torch.tensor([4]), everyone, 0)
    torch.testing.assert_close(target, known[5].float())


def test_reference_labels_are_blended_in():
    known, labels, everyone = messengers(5), torch.tensor([0, 1, 2, 3, 0, 1, 2]), torch.arange(5)
    plain = list(SDDist().targets(known, labels, everyone, everyone, 0))
    blended = list(SDDist(reference_weight=0.3).targets(known, labels, everyone, everyone, 0))
    for one, other in zip(plain, blended, strict=True):
        for row, label in enumerate(labels.tolist()):
            for c in range(4):
                by_hand = 0.7 * float(one[row, c]) + 0.3 * (c == label)
                assert float(other[row, c]) == pytest.approx(by_hand, abs=1e-6)
    # What the others leave of a label: where they are sure of it, nothing is added.
    for one, other in zip(
        plain, SDDist(reference_weight="adaptive").targets(known, labels, everyone, everyone, 0), strict=True
    ):
        for row, label in enumerate(labels.tolist()):
            said = float(one[row, label])
            for c in range(4):
                by_hand = said * float(one[row, c]) + (1 - said) * (c == label)
                assert float(other[row, c]) == pytest.approx(by_hand, abs=1e-6)
    with pytest.raises(ValueError, match="reference_weight='adapted': a number is needed, or 'adaptive'"):
        SDDist(reference_weight="adapted")
    # All of it: what the control learns.
    for target in SDDist(reference_weight=1.0).targets(known, labels, everyone, everyone, 0):
        assert torch.equal(target, torch.eye(4)[labels])


def test_nothing_in_the_repository_is_changed_by_a_rule():
    known, everyone = messengers(6), torch.arange(6)
    before = known.clone()
    for rule in (SDDist(), SDDist(neighbours=None), RandomNeighbours(2), FedMD(), DSFL(), Cronus()):
        targets = torch.stack(list(rule.targets(known, torch.zeros(7, dtype=torch.int64), everyone, everyone, 0)))
        torch.testing.assert_close(targets.sum(-1), torch.ones(6, 7), atol=2e-3, rtol=0)
        targets.zero_()
    assert torch.equal(known, before)


def test_who_is_alone_learns_from_itself():
    known, one = messengers(1), torch.tensor([0])
    for rule in (SDDist(), SDDist(neighbours=None), RandomNeighbours()):
        (target,) = rule.targets(known, torch.zeros(7, dtype=torch.int64), one, one, 0)
        torch.testing.assert_close(target, known[0].float())


def test_random_neighbours_follow_from_the_seed():
    known, everyone = messengers(8), torch.arange(8)

    def drawn(seed):
        rule = RandomNeighbours(3)
        return torch.stack(list(rule.targets(known, torch.zeros(7, dtype=torch.int64), everyone, everyone, seed)))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_entropy_reduction_sharpens_the_mean():
    known = messengers(5)
    mean = FedMD().consensus(known)
    expected = [[math.exp(p / 0.1) for p in row] for row in mean.tolist()]
    expected = torch.tensor([[e / sum(row) for e in row] for row in expected])
    torch.testing.assert_close(DSFL().consensus(known), expected, atol=1e-5, rtol=1e-4)


@given(st.integers(10, 20), st.integers(0, 10**6))
@settings(max_examples=20)
def test_a_robust_mean_withstands_a_fifth_of_liars(clients, seed):
    honest = messengers(1, seed=seed).float() * 0.9 + 0.025
    noise = 0.02 * torch.randn(clients, 7, 4, generator=torch.Generator().manual_seed(seed))
    known = (honest + noise).clamp_min(1e-3)
    known = (known / known.sum(-1, keepdim=True)).half()
    liars = clients // 5
    worst = honest[0].argmin(-1)
    known[:liars] = torch.eye(4)[worst].half()
    robust, mean = ((rule.consensus(known) - honest[0]).abs().max() for rule in (Cronus(0.2), FedMD()))
    assert robust < 0.06 < mean


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"quality_share": 0.0}, "quality_share=0"), ({"neighbours": 0}, "neighbours=0"), ({"temperature": -1.0}, "-1")],
)
def test_settings_are_checked(fields, says):
    with pytest.raises(ValueError, match=says):
        SDDist(**fields)


@pytest.mark.parametrize("clients", [4, 12])
def test_the_widest_direction_is_that_of_the_classes_or_of_the_clients(clients):
    off = torch.randn(5, clients, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = []
    for example in off:
        direction = torch.linalg.svd(example).Vh[0]
        expected.append((example @ direction).abs())
    torch.testing.assert_close(_along_the_widest(off), torch.stack(expected))
