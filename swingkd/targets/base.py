"""What a protection is: something that rewrites the teacher's distribution at private positions.

Ordinary positions never reach a protection, so with likelihood 0 everywhere distillation is exactly the plain one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import torch

from swingkd.targets.temperature import soften_support


@dataclass(frozen=True)
class PrivatePositions:
    """All that a protection may know of P private positions (no batch statistics: they would couple records).

    Args:
        likelihood: [P] float in (0, 1] of the token to be predicted.
        temperature: [P] teacher temperature.
        context: [P, w] ids of the tokens just before it, the nearest last; -1 where there is none.
        group: [P] what the tagger found and where (see `population`); 0 nothing named, -1 a copy in the same record.
        shape: [P] two hashes of what the span's text so far looks like (see `swingkd.data`); 0 outside spans.
        span: [P] hash of the span's text; 0 outside spans.
        public_log_probs: [P, V] the public model's log-probabilities, where there is a public model.
    """

    likelihood: torch.Tensor
    temperature: torch.Tensor
    context: torch.Tensor
    group: torch.Tensor
    shape: torch.Tensor
    span: torch.Tensor
    public_log_probs: torch.Tensor | None = None

    def take(self, places: torch.Tensor, public_log_probs: torch.Tensor | None = None) -> PrivatePositions:
        """Return some of the positions, with the public model's log-probabilities there."""
        facts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "public_log_probs"}
        taken = {name: value[places] for name, value in facts.items()}
        return PrivatePositions(**taken, public_log_probs=public_log_probs)


class Protection(Protocol):
    """Anything that turns the teacher's distribution at private positions into a protected target."""

    def protect(self, log_probs: torch.Tensor, positions: PrivatePositions) -> torch.Tensor:
        """Map the teacher's log-probabilities [P, V] at T = 1 to those of the target [P, V]; a row of -inf means no
        target: the position is left out of the loss."""
        ...


class Soften:
    """Temperature alone, within the teacher's `support` likeliest tokens (ablation: it cannot change a rank)."""

    def __init__(self, support: int = 64):
        self.support = support

    def protect(self, log_probs: torch.Tensor, positions: PrivatePositions) -> torch.Tensor:
        """See `Protection.protect`."""
        support = top_support(log_probs, self.support)
        return log_probs.scatter(-1, support, soften_support(log_probs, positions.temperature, support))


class Drop:
    """No target at all at private positions: the plain rival that every protection must beat."""

    def protect(self, log_probs: torch.Tensor, positions: PrivatePositions) -> torch.Tensor:
        """See `Protection.protect`."""
        return torch.full_like(log_probs, -torch.inf)


def top_support(log_probs: torch.Tensor, size: int) -> torch.Tensor:
    """Return the ids [P, K] of the likeliest tokens; `size` 0 means the whole vocabulary."""
    vocabulary = log_probs.size(-1)
    return log_probs.topk(min(size or vocabulary, vocabulary), dim=-1).indices
