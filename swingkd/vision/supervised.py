"""Train an image classifier on labels: a public teacher, a shard's teacher, or, by DP-SGD, a private one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from swingkd.privacy import (
    DPSGD,
    NO_TEACHER,
    PUBLIC_DATA,
    TEACHER_DATA,
    TRANSFER_SET,
    LedgerEntry,
    PoissonBatches,
    PrivacyLedger,
    PrivacyPlan,
)
from swingkd.privacy.plan import epoch_steps, run_delta
from swingkd.vision.classifier import ImageArguments
from swingkd.vision.data import Images, shuffled_batches
from swingkd.vision.models import logits_of
from swingkd.vision.staged import StagedTraining, Unit


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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.must_be_positive("epochs", "clip_norm", "micro_batch_size")


class ClassifierTraining(StagedTraining):
    """Train an image classifier on labelled images.

    Args:
        model: an `AutoModelForImageClassification`, or a module that returns logits; for DP-SGD without batch norm.
        images: what it learns.
        args: the settings.
        origin: what is known of the weights that it begins with, where they saw other data.
        public: the images have nothing to hide.

    Raises:
        ValueError: DP-SGD cannot train the model, or no noise reaches the epsilon.
    """

    args: ClassifierArguments

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        *,
        args: ClassifierArguments,
        origin: PrivacyLedger | None = None,
        public: bool = False,
    ):
        super().__init__(model, args, origin)
        self.images, self.public = images, public
        self.dp: DPSGD | None = None
        #: Steps of DP-SGD so far.
        self.private_steps = 0
        self.plan = self._make_plan() if args.target_epsilon is not None else None
        self.check_student(images)

    def released(self) -> PrivacyLedger:
        """Return what the steps so far released."""
        unknown = {TEACHER_DATA: NO_TEACHER} | ({TRANSFER_SET: PUBLIC_DATA} if self.public else {})
        entries = [LedgerEntry.of_plan(self.plan, releases=self.private_steps)] if self.plan is not None else []
        return PrivacyLedger(entries, unknown=unknown)

    def state(self) -> dict[str, Any]:
        """Return how many private steps there were."""
        return {"private_steps": self.private_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.private_steps = state["private_steps"]

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
        return super().settings() | {"images": self.images.described(), "public": self.public}

    def _epoch(self, generator: torch.Generator) -> None:
        self.wrapped.train()
        for part in shuffled_batches(torch.arange(len(self.images)), self.args.batch_size, generator):
            batch = self.batch(self.images, part, generator)
            losses = F.cross_entropy(logits_of(self.wrapped, batch.inputs), batch.labels, reduction="none")
            loss = self.backward(losses, batch.whole)
            self.update()
            self.note("training", loss)

    def _private_epoch(self, generator: torch.Generator) -> None:
        assert self.plan is not None
        assert self.dp is not None

        def losses(rows: torch.Tensor) -> torch.Tensor:
            inputs = self.inputs(self.images.inputs(rows, generator))
            labels = self.images.labels[rows].to(inputs.device)
            return F.cross_entropy(logits_of(self.model, inputs), labels, reduction="none")

        def count() -> None:
            self.private_steps += 1

        private_epoch(self, self.dp, len(self.images), losses, count, self.args.micro_batch_size)


def private_epoch(
    run: StagedTraining, dp: DPSGD, images: int, losses: Callable[[torch.Tensor], torch.Tensor],
    count: Callable[[], None], micro_batch_size: int,
) -> None:  # fmt: skip
    """Make an epoch of DP-SGD, each step of which is counted before it happens.

    Args:
        run: whose model is trained.
        dp: clips and noises.
        images: how many there are to draw from.
        losses: of the images with these numbers, [n].
        count: counts a step.
        micro_batch_size: images whose gradients are in memory at a time.
    """
    run.model.train()
    rank, processes = run.accelerator.process_index, run.accelerator.num_processes
    for rows in PoissonBatches(dp.plan, rows=images, rank=rank, processes=processes):
        for part in torch.tensor(rows, dtype=torch.int64).split(micro_batch_size):
            if len(part):
                dp.accumulate(losses(part))
        dp.finish()
        count()
        run.update()
