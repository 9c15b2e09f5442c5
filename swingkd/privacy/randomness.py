"""Where the randomness of a guarantee comes from: the operating system, never a seed that is written down."""

from __future__ import annotations

import secrets

import torch


def secret_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that nobody can replay: seeded by the operating system, and its seed kept nowhere.

    Args:
        device: where it draws.
    """
    generator = torch.Generator(device)
    generator.manual_seed(secrets.randbits(63))
    return generator
