"""Where the randomness of a guarantee comes from: the operating system, never a seed that is written down."""

from __future__ import annotations

import secrets

import numpy as np
import torch

# Where torch's generator for CPUs keeps its 624 words of 32 bits, each in 64 bits, after its seed and two counters.
_WORDS = slice(24, 24 + 624 * 8)


def secret_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that nobody can replay: begun by the operating system, and its beginning kept nowhere.

    On a CPU the whole state is drawn: a seed would count with 32 bits only, which can be searched.

    Args:
        device: where it draws.
    """
    generator = torch.Generator(device)
    generator.manual_seed(secrets.randbits(63))
    if generator.device.type == "cpu":
        state = generator.get_state()
        words = np.frombuffer(secrets.token_bytes(624 * 4), np.uint32).astype(np.uint64)
        state[:8] = 0  # the seed
        state[_WORDS] = torch.from_numpy(words.view(np.uint8).copy())
        generator.set_state(state)
    return generator
