"""Clients with models of three kinds on handwritten digits: put your own models and examples in their place.

flwr run . --stream
"""

from __future__ import annotations

from pathlib import Path

import torch
from flwr.app import Context
from sklearn.datasets import load_digits
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from swingkd.decentralized import Client, ClientArguments, LabelledExamples, MessengerServer, SDDist
from swingkd.decentralized.flower import Rounds, client_app, node_name, server_app
from swingkd.vision import SlimResNet

REFERENCE, CLASSES = 300, 10


def examples() -> tuple[LabelledExamples, LabelledExamples]:
    """Return the reference examples, which everybody has, and all others."""
    digits = load_digits()
    images = torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:, None]
    everything = LabelledExamples(images, torch.tensor(digits.target), CLASSES)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    return everything.select(order[:REFERENCE]), everything.select(order[REFERENCE:])


class Digits(nn.Module):
    """A module of one's own: it takes images [n, 1, 8, 8] and returns logits [n, 10]."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def model_of(number: int) -> nn.Module:
    """Return a client's model: of three kinds in turn."""
    torch.manual_seed(number)
    if number % 3 == 0:
        return Digits()
    if number % 3 == 1:
        return SlimResNet(widths=(8, 16), classes=CLASSES, channels=1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return ViTForImageClassification(
        ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=CLASSES, **sizes)
    )


def make_client(context: Context) -> Client:
    """Build this node's client: of so many, each has a part of the examples that nobody else has."""
    number, clients = (int(context.node_config[name]) for name in ("partition-id", "num-partitions"))
    if not 0 <= number < clients:
        raise ValueError(f"partition-id={number}: of {clients} clients the last is {clients - 1}.")
    reference, others = examples()
    own = others.select(torch.arange(number, len(others), clients))
    cut = len(own) * 3 // 4
    args = ClientArguments(rounds=int(context.run_config["rounds"]), steps_per_round=40, learning_rate=2e-3)
    train, test = own.select(torch.arange(cut)), own.select(torch.arange(cut, len(own)))
    return Client(node_name(context), model_of(number), train, reference, args, test=test)


def make_rounds(context: Context) -> Rounds:
    """Say what the server does."""
    run = context.run_config
    return Rounds(
        server=MessengerServer(SDDist(neighbours=3), examples()[0]),
        rounds=int(run["rounds"]),
        output_dir=Path(str(run["output-dir"])).expanduser(),
        min_nodes=int(run["min-nodes"]),
    )


client = client_app(make_client)
server = server_app(make_rounds)
