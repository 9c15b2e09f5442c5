"""Images of three classes that a small network learns in seconds, and small networks."""

from __future__ import annotations

import pytest
import torch

from swingkd.vision import Images, SlimResNet


def coloured(count: int, seed: int) -> Images:
    """Return noisy squares whose class is the channel that is brightest."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 120, (count, 3, 8, 8), generator=generator)
    pixels[torch.arange(count), labels] += 60
    return Images(pixels.to(torch.uint8), labels, 3, crop=1, flip=True)


def small(seed: int = 0, norm: str = "batch", classes: int = 3) -> SlimResNet:
    """Return a network of a few hundred weights."""
    torch.manual_seed(seed)
    return SlimResNet((4, 8), classes=classes, norm=norm)


@pytest.fixture(autouse=True)
def own_precision(fresh_accelerate):
    """Each test says which precision it wants."""


@pytest.fixture
def public() -> Images:
    return coloured(96, seed=0)


@pytest.fixture
def unseen() -> Images:
    return coloured(60, seed=1)
