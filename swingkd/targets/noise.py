"""Replayed noise: one draw for ever per (secret key, local context, candidate token).

Fresh noise averages out over epochs and over copies of a secret; a replayed draw does not.  The draw is a function of
the key, the few tokens just before the position and the candidate token, computed by a counter-based generator:
nothing is stored, any process finds the same draw, and a resumed run continues with it.  The context is short, so that
copies of a secret in different sentences share their draws.

The privacy budget of this noise is *nominal*: it acts on a restricted support and carries no differential privacy
guarantee.  It is judged by audits.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from swingkd.files import keep_secret
from swingkd.guards import check_finite, check_not_negative
from swingkd.targets.base import PrivatePositions, top_support
from swingkd.targets.hashing import absorb, shift_right
from swingkd.targets.temperature import soften_support


@dataclass(frozen=True, repr=False)
class NoiseKey:
    """The secret that the noise is drawn from: 128 bits from the system's randomness, never from a seed."""

    low: int
    high: int

    @classmethod
    def generate(cls) -> NoiseKey:
        """Draw a new key."""
        return cls.from_bytes(secrets.token_bytes(16))

    @classmethod
    def from_bytes(cls, raw: bytes) -> NoiseKey:
        """Read a key from 16 bytes."""
        if len(raw) != 16:
            raise ValueError(f"A noise key has 16 bytes, this one has {len(raw)}. Delete the file to draw a new key.")
        return cls(int.from_bytes(raw[:8], "little", signed=True), int.from_bytes(raw[8:], "little", signed=True))

    @classmethod
    def load(cls, path: Path) -> NoiseKey:
        """Read the key at `path`: 16 bytes, hexadecimal."""
        return cls.from_bytes(bytes.fromhex(path.read_text().strip()))

    @classmethod
    def load_or_create(cls, path: str | os.PathLike) -> NoiseKey:
        """Read the key at `path`, or draw one and write it, readable by the owner only; safe among processes."""
        keep_secret(path)
        return cls.load(Path(path))

    def derive(self, purpose: str) -> NoiseKey:
        """Return another key for one purpose: two releases with the same draws would undo each other's noise."""
        secret = self.low.to_bytes(8, "little", signed=True) + self.high.to_bytes(8, "little", signed=True)
        return NoiseKey.from_bytes(hashlib.blake2b(purpose.encode(), key=secret, digest_size=16).digest())

    def __repr__(self) -> str:
        return "NoiseKey(...)"


def replayed_uniform(key: NoiseKey, context: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return numbers in (0, 1), float64: equal key, context and candidate give the equal number, anywhere.

    Args:
        key: the run's secret.
        context: [P, w] token ids before the position, the nearest last; -1 where there is none.
        candidates: [P, K] token ids.

    Returns:
        [P, K] uniform numbers, independent over contexts and candidates.
    """
    state = torch.full(context.shape[:1], key.low, dtype=torch.int64, device=context.device)
    for column in context.unbind(-1):
        state = absorb(state, column)
    state = absorb(state, torch.full_like(state, key.high))
    bits = absorb(state[:, None].expand_as(candidates), candidates)
    # The upper 52 bits, centred in their cell: never 0 and never 1.
    return (shift_right(bits, 12).to(torch.float64) + 0.5) * 2.0**-52


def standard_noise(uniform: torch.Tensor, distribution: Literal["laplace", "gaussian"]) -> torch.Tensor:
    """Turn uniform numbers into noise of scale 1 (Laplace: b = 1; Gaussian: standard deviation 1)."""
    if distribution == "laplace":
        centred = uniform - 0.5
        return -centred.sign() * torch.log1p(-2 * centred.abs())
    return torch.special.ndtri(uniform)


class NoisedTarget:
    """Soften the teacher's likeliest tokens and add noise to their probabilities (Swing distillation, our reading).

    Args:
        key: the run's secret, or `None` for fresh noise at every visit (ablation: it averages out).
        scale: noise scale at a surely private token, relative to the largest softened probability.
        support: how many of the teacher's likeliest tokens are softened and noised; 0: the whole vocabulary.
        context: how many preceding tokens choose the draw.
        distribution: "laplace" or "gaussian".
    """

    def __init__(
        self,
        key: NoiseKey | None,
        *,
        scale: float = 1.0,
        support: int = 64,
        context: int = 2,
        distribution: Literal["laplace", "gaussian"] = "laplace",
    ):
        self.key = key
        self.scale = scale
        self.support = support
        self.context = context
        self.distribution: Literal["laplace", "gaussian"] = distribution
        check_finite("scale", scale)
        check_not_negative(self, "scale", "support", "context")

    def protect(self, log_probs: torch.Tensor, positions: PrivatePositions) -> torch.Tensor:
        """See `Protection.protect`: the support keeps its total mass, the tail stays the teacher's."""
        support = top_support(log_probs, self.support)
        if positions.context.size(1) < self.context:
            raise ValueError(
                f"The draw needs {self.context} preceding tokens, {positions.context.size(1)} were given."
            )
        softened = soften_support(log_probs, positions.temperature, support)
        mass = softened.logsumexp(-1, keepdim=True)
        share = (softened - mass).exp()
        if self.key is None:
            uniform = torch.rand(support.shape, dtype=torch.float64, device=support.device).clamp_min(2.0**-53)
        else:
            near = positions.context[:, positions.context.size(1) - self.context :]
            uniform = replayed_uniform(self.key, near, support)
        noise = standard_noise(uniform, self.distribution).to(share.dtype)
        size = self.scale * positions.likelihood[:, None] * share.amax(-1, keepdim=True)
        noised = (share + size * noise).clamp_min(0)
        total = noised.sum(-1, keepdim=True)
        # Noise so strong that nothing is left: the target says nothing, the support is uniform.
        noised = torch.where(total > 0, noised / total, 1 / support.size(-1))
        return log_probs.scatter(-1, support, noised.log() + mass)
