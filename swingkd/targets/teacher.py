"""The teacher of a batch: what it says at some of the predicted tokens, protected where they are private.

Targets are asked for a few tokens at a time, so that no teacher has to hold [N, V].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch

from swingkd.targets.base import PrivatePositions, Protection


class TopTokens(NamedTuple):
    """A distribution of which only the likeliest tokens are known: all that a cached teacher kept.

    `ids` [c, K] and `log_probs` [c, K] of the known tokens, `tail` [c, 1] log of the others' whole mass.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    tail: torch.Tensor

    def __getitem__(self, part: slice) -> TopTokens:  # type: ignore[override]
        return TopTokens(self.ids[part], self.log_probs[part], self.tail[part])

    def dense(self, shape: torch.Tensor) -> torch.Tensor:
        """Return [c, V] log-probabilities whose unknown part is shaped as `shape`, [c, V] log-probabilities.

        Shaped by the student's own distribution, the tail costs what it costs as one bucket: only its mass counts.
        """
        others = shape.scatter(1, self.ids, -torch.inf)
        # With every token known there is no tail to shape.
        mass = others.logsumexp(1, keepdim=True).nan_to_num_(nan=torch.nan, neginf=0.0)
        return others.add_(self.tail - mass).scatter_(1, self.ids, self.log_probs)


class Teacher(Protocol):
    """What a teacher says at some of the N predicted tokens of a batch."""

    def softened(self, rows: torch.Tensor) -> torch.Tensor | TopTokens:
        """Return log-probabilities [c, V] at the tokens' own temperatures."""
        ...

    def plain(self, rows: torch.Tensor, shape: torch.Tensor | None) -> torch.Tensor:
        """Return log-probabilities [c, V] at temperature 1; `shape` [c, V] is for what the teacher did not keep."""
        ...


@dataclass(frozen=True)
class LiveTeacher:
    """A teacher that is asked now.

    Args:
        logits: maps rows [c] to logits [c, V] in float32 at least, in new memory.
        temperature: [N].
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    temperature: torch.Tensor

    def softened(self, rows: torch.Tensor) -> torch.Tensor:
        """See `Teacher.softened`."""
        logits = self.logits(rows)
        return logits.div_(self.temperature[rows, None]).log_softmax(-1)

    def plain(self, rows: torch.Tensor, shape: torch.Tensor | None) -> torch.Tensor:
        """See `Teacher.plain`."""
        return self.logits(rows).log_softmax(-1)


@dataclass(frozen=True)
class CachedTeacher:
    """A teacher that was asked before: its likeliest tokens at T = 1, and how much the others weigh.

    Args:
        ids: [N, K] the likeliest tokens.
        log_probs: [N, K] their log-probabilities at temperature 1.
        tails: [N, 2] log-sum-exp of the other tokens' log-probabilities at temperature 1, and of those divided by the
            base temperature (no other temperature can be had).
        temperature: [N] 1 or the base temperature.
        vocabulary: size of the vocabulary.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    tails: torch.Tensor
    temperature: torch.Tensor
    vocabulary: int

    def softened(self, rows: torch.Tensor) -> TopTokens:
        """See `Teacher.softened`."""
        temperature = self.temperature[rows, None]
        known = self.log_probs[rows].to(temperature) / temperature
        tail = torch.where(temperature == 1, self.tails[rows, :1], self.tails[rows, 1:]).to(known)
        # A token without any target has no mass to share out.
        total = torch.cat([known, tail], 1).logsumexp(1, keepdim=True).nan_to_num(nan=torch.nan, neginf=0.0)
        return TopTokens(self.ids[rows].long(), known - total, tail - total)

    def plain(self, rows: torch.Tensor, shape: torch.Tensor | None) -> torch.Tensor:
        """See `Teacher.plain`; without a shape the others are equally likely."""
        known, tail = self.log_probs[rows].to(self.temperature), self.tails[rows, :1].to(self.temperature)
        # Few bits were kept: what was written down does not add up to one exactly.
        total = torch.cat([known, tail], 1).logsumexp(1, keepdim=True).nan_to_num(nan=torch.nan, neginf=0.0)
        if shape is None:
            shape = known.new_zeros(len(rows), self.vocabulary)
        return TopTokens(self.ids[rows].long(), known - total, tail - total).dense(shape.to(known))


@dataclass(frozen=True)
class ProtectedTargets:
    """What the student learns from: the teacher where tokens are ordinary, a protected target where they are private.

    Args:
        teacher: what is protected.
        likelihood: [N] in [0, 1] of the token to be predicted.
        positions: facts about the P private positions, in their order; `None` where there are none.
        protection: what to do at private positions.
        public_logits: maps places [c] among the P private positions to a public model's logits [c, V].
        written: the teacher's answers at private positions were protected when they were written down.
        labels_alone: at private positions the label is learnt, with the whole weight, and nothing else.
    """

    teacher: Teacher
    likelihood: torch.Tensor
    positions: PrivatePositions | None = None
    protection: Protection | None = None
    public_logits: Callable[[torch.Tensor], torch.Tensor] | None = None
    written: bool = False
    labels_alone: bool = False

    def ordinary(self, rows: torch.Tensor) -> torch.Tensor | TopTokens:
        """Return the teacher's log-probabilities [c, V] for tokens that are not private."""
        return self.teacher.softened(rows)

    def private(self, rows: torch.Tensor) -> torch.Tensor | TopTokens:
        """Return protected log-probabilities [c, V] for private tokens; a row of -inf means no target."""
        if self.written:
            return self.teacher.softened(rows)
        if self.positions is None or self.protection is None:
            raise ValueError("A private token needs a protection; without one its target would be the teacher's own.")
        places = self._places[rows]
        public = self.public_logits(places).log_softmax(-1) if self.public_logits is not None else None
        positions = self.positions.take(places, public)
        return self.protection.protect(self.teacher.plain(rows, public), positions)

    @cached_property
    def _places(self) -> torch.Tensor:
        return (self.likelihood > 0).cumsum(0) - 1
