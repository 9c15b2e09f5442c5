"""A fact about the published batch-loss noise: noise on a scalar loss has no gradient."""

import torch
import torch.nn.functional as F
from torch import nn


def train(sigma: float) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs, labels = torch.randn(40, 6), torch.randint(0, 3, (40,))
    optimizer, noise = torch.optim.Adam(model.parameters(), lr=0.05), torch.Generator().manual_seed(1)
    for _ in range(20):
        losses = F.cross_entropy(model(inputs), labels, reduction="none")
        bound = losses.mean().detach()
        bounded = torch.minimum(losses, bound) + torch.randn(40, generator=noise) * sigma * bound
        optimizer.zero_grad()
        bounded.mean().backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def test_ten_times_the_bound_and_none_give_identical_weights():
    assert all(torch.equal(a, b) for a, b in zip(train(0.0), train(10.0), strict=True))
