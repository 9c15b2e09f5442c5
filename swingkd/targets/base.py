"""What a protection is: something that rewrites the teacher's distribution at private positions.

Ordinary positions never reach a protection, so with likelihood 0 everywhere distillation is exactly the plain one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch

from swingkd.targets.facts import TokenFacts
from swingkd.targets.temperature import soften_support

#: What may happen to the targets at private tokens; `swingkd.trainer.protections` builds each.
ProtectionName: TypeAlias = Literal["surrogate", "noise", "mollify", "population", "none", "drop"]


@dataclass(frozen=True)
class PrivatePositions:
    """All that a protection may know of P private positions (no batch statistics: they would couple records).

    Args:
        facts: about the tokens to be predicted, [P] each; their likelihood in (0, 1].
        temperature: [P] teacher temperature.
        context: [P, w] ids of the tokens just before it, the nearest last; -1 where there is none.
        public_log_probs: [P, V] the public model's log-probabilities, where there is a public model.
    """

    facts: TokenFacts
    temperature: torch.Tensor
    context: torch.Tensor
    public_log_probs: torch.Tensor | None = None

    @property
    def likelihood(self) -> torch.Tensor:
        """[P] in (0, 1] of the token to be predicted."""
        return self.facts.likelihood

    def take(self, places: torch.Tensor, public_log_probs: torch.Tensor | None = None) -> PrivatePositions:
        """Return some of the positions, with the public model's log-probabilities there."""
        return PrivatePositions(
            self.facts.at(places), self.temperature[places], self.context[places], public_log_probs
        )


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


class LabelsAlone(Drop):
    """At private positions the text's own tokens are learnt, and nothing of the teacher: for made-up values."""


def top_support(log_probs: torch.Tensor, size: int) -> torch.Tensor:
    """Return the ids [P, K] of the likeliest tokens; `size` 0 means the whole vocabulary."""
    vocabulary = log_probs.size(-1)
    return log_probs.topk(min(size or vocabulary, vocabulary), dim=-1).indices
