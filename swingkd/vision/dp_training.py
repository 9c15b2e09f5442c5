"""DP-SGD in stages: an epoch of private steps, each counted before it happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from swingkd.privacy import DPSGD, DPSettings, PoissonBatches, PrivacyLedger, PrivacyPlan
from swingkd.vision.arguments import ImageArguments
from swingkd.vision.staged_training import StagedTraining


class DPStagedTraining(StagedTraining):
    """Train an image classifier unit by unit, by DP-SGD once `make_private` was called.

    Args:
        model: what is trained; for DP-SGD without batch norm.
        args: the settings.
        origin: what is known of the weights that it begins with, where they were trained before.

    Raises:
        ValueError: a setting is out of range.
    """

    #: What the private steps add up to; there are none without it.
    plan: PrivacyPlan | None = None

    def __init__(self, model: nn.Module, args: ImageArguments, origin: PrivacyLedger | None = None):
        super().__init__(model, args, origin)
        self.dp: DPSGD | None = None
        self._checked = False
        #: How many images are drawn from, and how many private steps there were so far.
        self.drawn_from = self.private_steps = 0

    @property
    def memory_format(self) -> torch.memory_format:
        """Contiguous under DP-SGD: Opacus reads patches of other formats from the wrong places, without a word."""
        return super().memory_format if self.plan is None else torch.contiguous_format

    def make_private(self, settings: DPSettings) -> None:
        """Plan to train by DP-SGD.

        Args:
            settings: how many images there are to draw from, and what is to be promised.

        Raises:
            ValueError: no noise reaches the epsilon.
        """
        self.drawn_from, self.plan = settings.units, settings.plan()

    def state(self) -> dict[str, Any]:
        """Return how many private steps there were."""
        return {"private_steps": self.private_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.private_steps = state["private_steps"]

    def protect(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let the optimizer see clipped and noised gradients only, where an epsilon is asked for."""
        if self.plan is None:
            return optimizer
        self.model = self.place(self.model)
        self.dp = DPSGD(self.model, optimizer, self.plan, self.drawn_from)
        return self.dp.optimizer

    def train(self, resume_from_checkpoint: bool = False) -> None:
        """Run all units; afterwards the model is an ordinary one again.

        Args:
            resume_from_checkpoint: go on from the last checkpoint in `output_dir`, if there is one.

        Raises:
            ValueError: the checkpoint is of other settings, or this run has begun already.
        """
        try:
            super().train(resume_from_checkpoint)
        finally:
            if self.dp is not None:
                self.dp.detach()

    def private_epoch(self, losses: Callable[[torch.Tensor], torch.Tensor], micro_batch_size: int) -> None:
        """Make an epoch of DP-SGD.

        Args:
            losses: of the images with these numbers, [n].
            micro_batch_size: images whose gradients are in memory at a time.

        Raises:
            ValueError: what Opacus calls the gradient of an image is not that of its own backward pass, or there is no
                noise for another step.
        """
        assert self.plan is not None
        assert self.dp is not None
        self.model.train()
        if not self._checked:
            self.dp.check(lambda rows: losses(rows % self.drawn_from), 8)
            self._checked = True
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        for rows in PoissonBatches(self.plan, rows=self.drawn_from, rank=rank, processes=processes):
            if self.private_steps >= self.plan.steps:
                raise ValueError(f"There is noise for {self.plan.steps} private steps, and they are over.")
            for part in torch.tensor(rows, dtype=torch.int64).split(micro_batch_size):
                if len(part):
                    self.dp.accumulate(losses(part))
            self.dp.finish()
            self.private_steps += 1
            self.update()
