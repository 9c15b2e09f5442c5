"""Noise where it protects a student that is taught step by step: on what the student sees of a batch loss.

Both guidances ask k teachers on disjoint shards (k = 1: one teacher of all private data).  Each teacher's part is
clipped to C, so another record in place of one moves their mean by at most 2 C / k; Gaussian noise of
`noise_multiplier` times that makes T releases mu-GDP with mu = sqrt(T) / noise_multiplier (our derivation).  The
teachers are asked about public images; nothing is sampled, so nothing is amplified.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from accelerate.utils import broadcast
from torch import nn

from swingkd.guards import check_finite, check_positive
from swingkd.models.logits import logits_of
from swingkd.privacy import TEACHER_DATA, LedgerEntry, PrivacyLedger
from swingkd.privacy.randomness import secret_generator
from swingkd.vision.data import Images
from swingkd.vision.guidance import PUBLIC, Teacher, soft_cross_entropy
from swingkd.vision.staged_training import Batch, StagedTraining


@dataclass(eq=False)
class _Noised:
    """What both have in common.

    Args:
        models: the teachers, each trained on its own shard of the private data.
        noise_multiplier: standard deviation of the noise, in units of the sensitivity.
        clip: bound of each teacher's part.
        temperature: of both softmax.
        delta: of the guarantee.

    Raises:
        ValueError: a number is not positive, or there is no teacher.
    """

    models: Sequence[nn.Module]
    noise_multiplier: float
    clip: float = 1.0
    temperature: float = 3.0
    delta: float = 1e-5
    _teachers: list[Teacher] = field(default_factory=list, init=False, repr=False)
    _generator: torch.Generator = field(default_factory=secret_generator, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "clip", "temperature", "delta"):
            check_finite(name, getattr(self, name))
        check_positive(self, "noise_multiplier", "clip", "temperature", "delta")
        if not self.models:
            raise ValueError("There is no teacher to ask.")

    def begin(self, run: StagedTraining, images: Images) -> None:
        """Get the teachers ready.

        Raises:
            ValueError: the student has weights in half precision, to which clipped gradients would be rounded.
        """
        half = {p.dtype for p in run.model.parameters() if p.requires_grad} - {torch.float32, torch.float64}
        if half:
            raise ValueError(f"The student's weights are {half.pop()}; clipped and noised steps need float32.")
        self._teachers = [Teacher(model, "", self.temperature) for model in self.models]
        for teacher in self._teachers:
            teacher.begin(run, images)

    def take(self, run: StagedTraining, chosen: torch.Tensor) -> torch.Tensor:
        """All of them."""
        for teacher in self._teachers:
            teacher.take(run, chosen)
        return chosen

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on what is released."""
        return self.noise_multiplier * 2 * self.clip / len(self.models)

    def losses(self, run: StagedTraining, batch: Batch, model: nn.Module) -> torch.Tensor:
        """Return this process's part of each teacher's mean loss over the batch, [k]."""
        with run.accelerator.autocast():
            student = logits_of(model, batch.inputs)
        parts = [soft_cross_entropy(student, t.targets(run, batch), self.temperature).sum() for t in self._teachers]
        return torch.stack(parts) / batch.whole

    def _entry(self, mechanism: str, releases: int) -> LedgerEntry:
        return LedgerEntry(
            mechanism,
            scope=TEACHER_DATA,
            unit="record",
            neighbours="replace one",
            releases=releases,
            noise_multiplier=self.noise_multiplier,
            delta=self.delta,
        )


@dataclass(eq=False)
class ZerothOrder(_Noised):
    """The student sees noised directional derivatives of its loss, along directions drawn at random.

    Args:
        reach: how far along a direction the loss is asked for, on both sides.
        directions: how many a step; each is a release.
    """

    reach: float = 1e-3
    directions: int = 1

    @torch.no_grad()
    def learn(self, run: StagedTraining, batch: Batch) -> None:
        """Walk along random directions, as far as the noised derivative says."""
        trained = [p for p in run.model.parameters() if p.requires_grad]
        before = [p.clone() for p in trained]
        total = [torch.zeros_like(p) for p in trained]
        for _ in range(self.directions):
            along = [broadcast(torch.randn_like(p)) for p in trained]
            ends = []
            for side in (self.reach, -self.reach):
                for parameter, start, direction in zip(trained, before, along, strict=True):
                    parameter.copy_(start + side * direction)
                # Dropout is the same on both sides.
                with torch.random.fork_rng():
                    ends.append(run.accelerator.reduce(self.losses(run, batch, run.model), "sum"))
            slope = self.released((ends[0] - ends[1]) / (2 * self.reach))
            for part, direction in zip(total, along, strict=True):
                part.add_(direction, alpha=slope / self.directions)
        for parameter, start, gradient in zip(trained, before, total, strict=True):
            parameter.copy_(start)
            parameter.grad = gradient

    def released(self, slopes: torch.Tensor) -> float:
        """Return the mean of the teachers' clipped slopes [k], noised."""
        noise = torch.randn((), generator=self._generator).to(slopes) * self.noise
        # A teacher that says no number says nothing.
        parts = slopes.nan_to_num(0.0, self.clip, -self.clip).clamp(-self.clip, self.clip)
        return float(broadcast(parts.mean() + noise))

    def ledger(self, queries: int) -> PrivacyLedger:
        """Return what so many steps cost."""
        return PrivacyLedger([self._entry("noisy directional derivatives", queries * self.directions)], unknown=PUBLIC)


@dataclass(eq=False)
class BatchGradient(_Noised):
    """The student sees its batch gradient, each teacher's part clipped, their mean noised."""

    def learn(self, run: StagedTraining, batch: Batch) -> None:
        """Leave the noised gradient at the student."""
        trained = [p for p in run.model.parameters() if p.requires_grad]
        losses = self.losses(run, batch, run.model)
        gradients = (self._gradient(run, losses, place, trained) for place in range(len(losses)))
        for parameter, part in zip(trained, self.released(gradients), strict=True):
            parameter.grad = part

    @staticmethod
    def _gradient(
        run: StagedTraining, losses: torch.Tensor, place: int, trained: list[nn.Parameter]
    ) -> list[torch.Tensor]:
        last = place == len(losses) - 1
        own = torch.autograd.grad(losses[place], trained, retain_graph=not last, materialize_grads=True)
        # Of plain backward passes, which DDP does not see.
        return [run.accelerator.reduce(gradient, "sum") for gradient in own]

    def released(self, gradients: Iterable[list[torch.Tensor]]) -> list[torch.Tensor]:
        """Return the mean of the teachers' clipped gradients, noised.

        Args:
            gradients: of each teacher, of each parameter; one after the other, so that one is in memory at a time.
        """
        total: list[torch.Tensor] = []
        for own in gradients:
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in own]))
            scale = (self.clip / norm.clamp_min(1e-12)).clamp_max(1.0) / len(self.models)
            # A teacher whose gradient is no number says nothing.
            parts = [g * scale if norm.isfinite() else torch.zeros_like(g) for g in own]
            total = [gradient + part for gradient, part in zip(total, parts, strict=True)] if total else parts
        draws = [torch.randn(gradient.shape, generator=self._generator).to(gradient) for gradient in total]
        return [gradient + self.noise * broadcast(draw) for gradient, draw in zip(total, draws, strict=True)]

    def ledger(self, queries: int) -> PrivacyLedger:
        """Return what so many steps cost."""
        return PrivacyLedger([self._entry("noisy batch gradients", queries)], unknown=PUBLIC)
