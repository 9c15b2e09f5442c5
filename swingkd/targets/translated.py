"""A teacher with another vocabulary than the student's: what it says of the tokens that both have.

At a place where both tokenizers have ended a token, both models say how the text goes on.  Tokens that both have are
compared one by one, and what is left to the teacher's others with what is left to the student's others, as one (our
form of what GOLD in TRL calls matched and unmatched tokens).  Of one vocabulary it is the ordinary divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from swingkd.targets.teacher import TopTokens


@dataclass(frozen=True)
class TranslatedTeacher:
    """A teacher that is asked now, in its own tokens.

    Args:
        logits: maps rows [c] of the teacher's answers to its logits [c, its V] in float32 at least, in new memory.
        places: [N] which of the teacher's answers each predicted token has; any, where it has none.
        temperature: [N].
        own: [K] the student's ids of the shared tokens.
        other: [K] the teacher's ids of them.
        vocabulary: size of the student's vocabulary.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    places: torch.Tensor
    temperature: torch.Tensor
    own: torch.Tensor
    other: torch.Tensor
    vocabulary: int

    def softened(self, rows: torch.Tensor) -> TopTokens:
        """See `Teacher.softened`."""
        return self._known(self.logits(self.places[rows]).div_(self.temperature[rows, None]))

    def plain(self, rows: torch.Tensor, shape: torch.Tensor | None) -> torch.Tensor:
        """See `Teacher.plain`; without a shape the student's other tokens are equally likely."""
        known = self._known(self.logits(self.places[rows]))
        if shape is None:
            shape = known.log_probs.new_zeros(len(rows), self.vocabulary)
        return known.dense(shape.to(known.log_probs))

    def _known(self, logits: torch.Tensor) -> TopTokens:
        log_probs = logits.log_softmax(-1)
        shared = log_probs[:, self.other]
        rest = log_probs.index_fill_(1, self.other, -torch.inf).logsumexp(1, keepdim=True)
        if len(self.own) == self.vocabulary:
            # No token of the student's is left to hold it.
            shared, rest = shared.log_softmax(-1), torch.full_like(rest, -torch.inf)
        return TopTokens(self.own.expand(len(shared), -1), shared, rest)
