"""Train an image classifier on labels: a public teacher, a shard's teacher, or, by DP-SGD, a private one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from swingkd.privacy import DPSGD, NO_TEACHER, TEACHER_DATA, LedgerEntry, PoissonBatches, PrivacyLedger, PrivacyPlan
from swingkd.privacy.plan import epoch_steps, run_delta
from swingkd.vision.data import Images, shuffled_batches
from swingkd.vision.models import logits_of
from swingkd.vision.staged import ImageArguments, StagedTraining, Unit


@dataclass(kw_only=True)
class ClassifierArguments(ImageArguments):
    """Settings of `ClassifierTraining`.

    Args:
        epochs: how many.
        target_epsilon: train by DP-SGD, with the noise that this epsilon needs; a batch then has `batch_size` images
            on average.
        target_delta: of that guarantee; default: a tenth of one over the number of images.
        clip_norm: of each image's gradient.
        micro_batch_size: images whose gradients are in memory at a time.

    Raises:
        ValueError: a number is out of range.
    """

    epochs: int = 10
    target_epsilon: float | None = None
    target_delta: float | None = None
    clip_norm: float = 1.0
    micro_batch_size: int = 64


class ClassifierTraining(StagedTraining):
    """Train an image classifier on labelled images.

    Args:
        model: an `AutoModelForImageClassification`, or a module that returns logits; for DP-SGD without batch norm.
        images: what it learns.
        args: the settings.
        origin: what is known of the weights that it begins with, where they saw other data.

    Raises:
        ValueError: DP-SGD cannot train the model, or no noise reaches the epsilon.
    """

    args: ClassifierArguments

    def __init__(
        self, model: nn.Module, images: Images, *, args: ClassifierArguments, origin: PrivacyLedger | None = None
    ):
        super().__init__(model, args)
        self.images = images
        self.dp: DPSGD | None = None
        entries, unknown = origin.as_earlier() if origin is not None else ([], {})
        self.ledger = PrivacyLedger(entries, unknown={**unknown, TEACHER_DATA: NO_TEACHER}, budget=args.target_epsilon)
        self.plan = self._make_plan() if args.target_epsilon is not None else None

    def _make_plan(self) -> PrivacyPlan:
        args, count = self.args, len(self.images)
        rate = min(args.batch_size / count, 1.0)
        return PrivacyPlan.solve(
            epsilon=args.target_epsilon, sampling_rate=rate, steps=args.epochs * epoch_steps(rate),
            clip_norm=args.clip_norm, delta=run_delta(args.target_delta, count),
        )  # fmt: skip

    def units(self) -> list[Unit]:
        """Return the epochs."""
        if self.plan is not None:
            return [Unit("training", epoch_steps(self.plan.sampling_rate), self._private_epoch)] * self.args.epochs
        steps = math.ceil(len(self.images) / self.args.batch_size)
        return [Unit("training", steps, self._epoch)] * self.args.epochs

    def protect(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let the optimizer see clipped and noised gradients only, where an epsilon is asked for."""
        if self.plan is None:
            return optimizer
        self.dp = DPSGD(self.model, optimizer, self.plan, len(self.images))
        return self.dp.optimizer

    def train(self, resume_from_checkpoint: bool = False) -> None:
        """Run all epochs; afterwards the model is an ordinary one again.

        Args:
            resume_from_checkpoint: go on from the last checkpoint in `output_dir`, if there is one.

        Raises:
            ValueError: the checkpoint is of other settings.
        """
        try:
            super().train(resume_from_checkpoint)
        finally:
            if self.dp is not None:
                self.dp.detach()

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be gone on from."""
        return super().settings() | {"images": len(self.images)}

    def _epoch(self, generator: torch.Generator) -> None:
        self.wrapped.train()
        for part in shuffled_batches(torch.arange(len(self.images)), self.args.batch_size, generator):
            batch = self.batch(self.images, part, generator)
            losses = F.cross_entropy(logits_of(self.wrapped, batch.inputs), batch.labels, reduction="none")
            self.backward(losses, batch.whole)
            self.update()

    def _private_epoch(self, generator: torch.Generator) -> None:
        assert self.plan is not None
        assert self.dp is not None

        def losses(rows: torch.Tensor) -> torch.Tensor:
            inputs = self.inputs(self.images.inputs(rows, generator))
            labels = self.images.labels[rows].to(inputs.device)
            return F.cross_entropy(logits_of(self.model, inputs), labels, reduction="none")

        entry = LedgerEntry.of_plan(self.plan, releases=1)
        private_epoch(self, self.dp, len(self.images), losses, entry, self.args.micro_batch_size)


def private_epoch(
    run: StagedTraining, dp: DPSGD, images: int, losses: Callable[[torch.Tensor], torch.Tensor], entry: LedgerEntry,
    micro_batch_size: int,
) -> None:  # fmt: skip
    """Make an epoch of DP-SGD, each step of which is counted before it happens.

    Args:
        run: whose model is trained.
        dp: clips and noises.
        images: how many there are to draw from.
        losses: of the images with these numbers, [n].
        entry: one step, for the ledger.
        micro_batch_size: images whose gradients are in memory at a time.
    """
    run.model.train()
    rank, processes = run.accelerator.process_index, run.accelerator.num_processes
    for rows in PoissonBatches(dp.plan, rows=images, rank=rank, processes=processes):
        for part in torch.tensor(rows, dtype=torch.int64).split(micro_batch_size):
            if len(part):
                dp.accumulate(losses(part))
        dp.finish()
        run.ledger.record(entry)
        run.update()
