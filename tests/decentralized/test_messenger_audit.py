"""The attack on messengers finds what was planted, and nothing where nothing is given away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from swingkd.decentralized import (
    DecentralizedDistillation,
    MessengerServer,
    PlantedExamples,
    SDDist,
    attack_messengers,
)
from swingkd.decentralized.client import Client
from tests.decentralized.conftest import arguments, examples, network


def test_places_labels_and_coins_are_drawn_at_random(reference):
    planted = [PlantedExamples.drawn(reference, 20, seed) for seed in range(200)]
    given = torch.stack([p.given for p in planted]).double().mean()
    assert 0.46 < given < 0.54
    assert all(len(p.rows.unique()) == 20 for p in planted)
    counts = torch.stack([p.labels for p in planted]).flatten().bincount(minlength=3) / 4000
    assert torch.allclose(counts, torch.full((3,), 1 / 3), atol=0.03)
    with pytest.raises(ValueError, match="41 examples cannot be planted: the reference set has 40"):
        PlantedExamples.drawn(reference, 41, 0)


def test_a_client_is_given_copies_with_their_random_labels(reference):
    planted, private = PlantedExamples.drawn(reference, 10, 0), examples(8, 1)
    found = planted.planted(private, reference, copies=3)
    count = int(planted.given.sum())
    assert len(found) == 8 + 3 * count
    assert torch.equal(found.inputs[8 : 8 + count], reference.inputs[planted.rows[planted.given]])
    assert torch.equal(found.labels[8 : 8 + count], planted.labels[planted.given])


def test_the_area_is_that_of_the_definition(reference):
    planted = [PlantedExamples.drawn(reference, 30, seed) for seed in range(3)]
    generator = torch.Generator().manual_seed(0)
    messengers = [torch.randn(40, 3, generator=generator).softmax(-1).half() for _ in planted]
    report = attack_messengers(planted, messengers)
    known, others = [], []
    for p, m in zip(planted, messengers, strict=True):
        for row, label, given in zip(p.rows.tolist(), p.labels.tolist(), p.given.tolist(), strict=True):
            (known if given else others).append(float(m[row, label]))
    wins = [(a > b) + 0.5 * (a == b) for a in known for b in others]
    assert report["loss"].auc.value == pytest.approx(np.mean(wins), abs=1e-9)


def federation_of(reference, **fields):
    planted = [PlantedExamples.drawn(reference, 30, seed) for seed in range(4)]
    members = [
        Client(
            f"client-{n}",
            network(2 if not fields else 1, n),
            p.planted(examples(12, n), reference),
            reference,
            arguments(rounds=3, steps_per_round=60, learning_rate=0.05, **fields),
            examples(20, 50 + n),
        )
        for n, p in enumerate(planted)
    ]
    run = DecentralizedDistillation(members, MessengerServer(SDDist(), reference), rounds=3)
    run.run()
    return attack_messengers(planted, [client.messenger() for client in members]), members


def test_what_was_learnt_by_heart_is_found_and_dp_hides_it(reference):
    plain, _ = federation_of(reference)
    private, members = federation_of(reference, target_epsilon=1.0)
    assert plain["loss"].auc.value > 0.6
    assert private["loss"].auc.value < plain["loss"].auc.value
    assert members[0].ledger.epsilon() <= 1.0
