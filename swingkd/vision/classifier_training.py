"""Train an image classifier on labels: a public teacher, a shard's teacher, or, by DP-SGD, a private one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from swingkd.guards import check_positive
from swingkd.models.logits import logits_of
from swingkd.privacy import NO_TEACHER, PUBLIC_DATA, TEACHER_DATA, TRANSFER_SET, DPSettings, LedgerEntry, PrivacyLedger
from swingkd.privacy.plan import epoch_steps
from swingkd.vision.arguments import ImageArguments
from swingkd.vision.data import Images, said, shuffled_batches
from swingkd.vision.dp_training import DPStagedTraining
from swingkd.vision.staged_training import Mix, Unit


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
        check_positive(self, "epochs", "target_epsilon", "target_delta", "clip_norm", "micro_batch_size")


class ClassifierTraining(DPStagedTraining):
    """Train an image classifier on labelled images.

    Args:
        model: an `AutoModelForImageClassification`, or a module that returns logits; for DP-SGD without batch norm.
        images: what it learns.
        args: the settings.
        origin: what is known of the weights that it begins with, where they saw other data.
        public: the images have nothing to hide.
        mix: mixes a batch's images and labels, such as `torchvision.transforms.v2.MixUp(num_classes=10)`.

    Raises:
        ValueError: DP-SGD cannot train the model, or on mixed images; or no noise reaches the epsilon.
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
        mix: Mix | None = None,
    ):
        super().__init__(model, args, origin)
        self.images, self.public, self.mix = images, public, mix
        if mix is not None and args.target_epsilon is not None:
            raise ValueError(
                "mix shows the model several images in one, whose gradients DP-SGD clips as one: leave it out."
            )
        if args.target_epsilon is not None:
            settings = DPSettings(
                units=len(images),
                # Of fewer images each step takes all.
                batch=min(args.batch_size, len(images)),
                epochs=args.epochs,
                epsilon=args.target_epsilon,
                delta=args.target_delta,
                clip_norm=args.clip_norm,
            )
            self.make_private(settings)
        self.check_student(images)

    @property
    def shown(self) -> Images:
        """The images."""
        return self.images

    def released(self) -> PrivacyLedger:
        """Return what the steps so far released."""
        unknown = {TEACHER_DATA: NO_TEACHER} | ({TRANSFER_SET: PUBLIC_DATA} if self.public else {})
        entries = [LedgerEntry.of_plan(self.plan, releases=self.private_steps)] if self.plan is not None else []
        return PrivacyLedger(entries, unknown=unknown)

    def units(self) -> list[Unit]:
        """Return the epochs."""
        if self.plan is not None:
            return [Unit("training", epoch_steps(self.plan.sampling_rate), self._private_epoch)] * self.args.epochs
        steps = math.ceil(len(self.images) / self.args.batch_size)
        return [Unit("training", steps, self._epoch)] * self.args.epochs

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be gone on from."""
        given = {"images": self.images.described(), "public": self.public}
        return super().settings() | given | ({} if self.mix is None else {"mix": said(self.mix)})

    def _epoch(self, generator: torch.Generator) -> None:
        self.wrapped.train()
        for part in shuffled_batches(torch.arange(len(self.images)), self.args.batch_size, generator):
            batch = self.batch(self.images, part, generator)
            loss = self.learn_labels(batch)
            self.update()
            self.note("training", loss)

    def _private_epoch(self, generator: torch.Generator) -> None:
        def losses(rows: torch.Tensor) -> torch.Tensor:
            inputs = self.inputs(self.images.inputs(rows, generator))
            labels = self.images.labels[rows].to(inputs.device)
            return self.label_losses(logits_of(self.model, inputs), labels)

        self.private_epoch(losses, self.args.micro_batch_size)
