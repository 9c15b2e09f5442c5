"""A small federation: two groups of clients that see the world in two ways, and three architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from swingkd.decentralized.client import Client
from swingkd.decentralized.client_arguments import ClientArguments
from swingkd.decentralized.labelled_examples import LabelledExamples


def examples(count: int, seed: int, shift: float = 0.0, classes: int = 3) -> LabelledExamples:
    """Points in the plane around the corners of a polygon, turned by a shift."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    angles = labels * (2 * torch.pi / classes) + shift
    middle = torch.stack([angles.cos(), angles.sin()], 1)
    return LabelledExamples(middle + 0.3 * torch.randn(count, 2, generator=generator), labels, classes)


def network(kind: int, seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    if kind == 0:
        return nn.Linear(2, classes)
    width = 8 * kind
    layers = [nn.Linear(2, width), nn.ReLU(), nn.Linear(width, classes)]
    return nn.Sequential(*layers) if kind == 1 else nn.Sequential(nn.BatchNorm1d(2), *layers)


def arguments(**fields) -> ClientArguments:
    defaults = {"rounds": 4, "steps_per_round": 5, "batch_size": 8, "reference_batch_size": 8, "learning_rate": 0.02}
    defaults |= {"share_weights": True}
    return ClientArguments(**(defaults | fields))


def clients(reference: LabelledExamples, count: int = 5, alike: bool = False, **fields) -> list[Client]:
    return [
        Client(
            f"client-{n}",
            network(1 if alike else n % 3, 0 if alike else n),
            examples(20, seed=n),
            reference,
            arguments(**fields),
            test=examples(50, seed=100 + n),
        )
        for n in range(count)
    ]


@pytest.fixture
def reference() -> LabelledExamples:
    return examples(40, seed=99)


def config_of(folder: Path, clients: int = 4, **others) -> dict:
    """Partition who each see three groups of points from another side."""
    random, rows = np.random.default_rng(0), []
    for person in range(clients + 2):
        labels = random.integers(3, size=24)
        angle = labels * 2 * np.pi / 3 + person / 10
        for label, x, y in zip(labels, np.cos(angle), np.sin(angle), strict=True):
            rows.append({"who": f"p{person}", "x": x + random.normal() / 4, "y": y + random.normal() / 4, "z": label})
    path = folder / "people.parquet"
    Dataset.from_list(rows).to_parquet(path)
    people = {
        "data": {"path": "parquet", "data_files": str(path), "split": "train"},
        "client": "who",
        "label": "z",
        "inputs": ["x", "y"],
        "reference_clients": 2,
        "reference_examples": 40,
    }
    client = {"rounds": 3, "steps_per_round": 5, "batch_size": 8, "learning_rate": 0.01}
    return {"people": people, "models": [{"kind": "MLP"}, {"kind": "MLP", "width": 8}], "client": client, **others}
