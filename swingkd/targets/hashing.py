"""A counter-based generator on torch tensors: equal words in, equal bits out, on any device, with nothing stored.

The mixing function is the finaliser of splitmix64 (Steele, Lea, Flood 2014): statistically strong, but no cipher.
"""

from __future__ import annotations

import torch

# The 64-bit constants of the paper, as signed integers.
_GOLDEN, _MIX1, _MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


def shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift int64 logically: torch's >> copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ shift_right(x, 30)) * _MIX1
    x = (x ^ shift_right(x, 27)) * _MIX2
    return x ^ shift_right(x, 31)


def absorb(state: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
    """Take one more int64 word into an int64 state."""
    return _mix((state ^ _mix(word.to(torch.int64) + _GOLDEN)) * _GOLDEN + _MIX1)
