"""The hooks of the Hugging Face Trainer that make its steps DP-SGD; what they do is in `dp_run`."""

from __future__ import annotations

import os
import secrets
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer

from swingkd.privacy import PrivacyLedger
from swingkd.trainer.checkpoints import forget_unfinished, last_complete_checkpoint, later_checkpoints, steps_of
from swingkd.trainer.dp_run import PrivateRun
from swingkd.trainer.ledgers import resumed_ledger
from swingkd.trainer.privacy_arguments import PrivacyArguments

# Exact statistics of the private batches, or of their size; no noise covers them.
_NONPRIVATE_LOGS = ("loss", "grad_norm", "train_loss", "total_flos")


class DPTrainer(Trainer):
    """A Trainer that trains by DP-SGD where its settings say so, and the ordinary way elsewhere."""

    #: What the model's training released, and what its teacher's did.
    ledger: PrivacyLedger
    #: What the training promises; `None`: nothing.
    privacy: PrivacyArguments | None = None
    private: PrivateRun | None = None

    def _private_run(self, privacy: PrivacyArguments, dataset: Dataset) -> PrivateRun:
        """Make what differs in a run under differential privacy."""
        raise NotImplementedError

    def _drawn(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows of a batch as they are learnt."""
        return rows

    def _set_up_dp(self) -> None:
        if self.privacy is None:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "Sharded models have no gradients per row: launch with recipes/accelerate_configs/ddp.yaml."
            )
        if self.train_dataset is not None:
            self.private = self._private_run(self.privacy, self.train_dataset)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Train as `Trainer.train` does; afterwards the model is an ordinary one again.

        Raises:
            ValueError: there is nothing to sample from, or the steps after this checkpoint would be forgotten.
        """
        if self.privacy is not None and self.private is None:
            raise ValueError(
                "target_epsilon or noise_multiplier is set, but the trainer was made without a training set, from "
                "which the batches are drawn. Pass train_dataset=... when you make it."
            )
        if self.private is not None and resume_from_checkpoint:
            self._check_later(resume_from_checkpoint)
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            if self.private is not None:
                self.private.end()

    def _check_later(self, resumed: str | bool) -> None:
        """Refuse to forget what later checkpoints released; one that a crash left half written goes."""
        folder = self.args.output_dir
        given = last_complete_checkpoint(folder) if resumed is True else str(resumed)
        later = later_checkpoints(folder, steps_of(given) if given is not None else 0)
        if self.args.process_index == 0:
            forget_unfinished(later)
        self.accelerator.wait_for_everyone()
        later = [path for path in later if os.path.exists(path)]
        if later:
            raise ValueError(
                f"The output folder holds a later checkpoint ({later[0]}). What its steps released would not be "
                "counted: resume from it, or delete it, if nobody has seen it."
            )

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Run a step as `Trainer` does; under DP, on a Poisson sample cut into parts that fit the memory."""
        if self.private is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        # What is drawn beside the noise (dropout, other text) comes from no seed that anybody knows, and leaves none
        # behind that would tell how much was drawn.
        with torch.random.fork_rng([] if self.args.device.type == "cpu" else None):
            torch.manual_seed(secrets.randbits(63))
            loss = self.private.step(self._drawn(inputs["rows"]))
        return torch.tensor(loss, device=self.args.device)

    def _save_rng_state(self, output_dir: str) -> None:
        # In the place of `"cpu": torch.random.get_rng_state(),`: a resumed run draws anew.
        if self.private is None:
            super()._save_rng_state(output_dir)

    def get_train_dataloader(self):
        """Return the training batches; under DP, Poisson samples of the units."""
        if self.private is None:
            return super().get_train_dataloader()
        if self.train_dataset is not self.private.dataset:
            raise ValueError(
                "The training set was replaced after the trainer was made, and the promise is about the first one. "
                "Make a trainer with the new one."
            )
        return self.private.loader(
            self._remove_unused_columns(self.train_dataset, description="training"),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=False,
        )

    def create_optimizer(self, model=None):
        """Create the optimizer; under DP it sees clipped and noised gradients only."""
        optimizer = super().create_optimizer(model)
        if self.private is not None:
            self.optimizer = self.private.wrap(self.model, optimizer)
        return self.optimizer

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        # After `self._load_optimizer_and_scheduler(...)`: the ledger and the steps to come are known, none was taken.
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.private is not None:
            self.private.begin(self.ledger, max_steps - self.state.global_step)
        return prepared

    def _load_optimizer_and_scheduler(self, checkpoint):
        # Beside `self.optimizer.load_state_dict(...)`: a ledger goes on where the optimizer does.
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.ledger = resumed_ledger(self.ledger, checkpoint, self.state.global_step, self.private is not None)

    def _get_grad_norm(self, model, grad_norm=None):
        # In the place of `self.accelerator.clip_grad_norm_(...)`: an exact statistic of the batch, which is not told.
        return None if self.private is not None else super()._get_grad_norm(model, grad_norm)

    def floating_point_ops(self, inputs):
        """Count operations; under DP none: how many there were tells who was in the batch."""
        return 0 if self.private is not None else super().floating_point_ops(inputs)

    def log(self, logs, start_time=None):
        """Log as `Trainer` does; under DP what is not private is left out, and epsilon is told."""
        if self.private is not None and logs.keys() & set(_NONPRIVATE_LOGS):
            if self.private.privacy.log_nonprivate and "loss" in logs:
                logs["nonprivate_loss"] = logs["loss"]
            for name in _NONPRIVATE_LOGS:
                logs.pop(name, None)
            logs["epsilon"] = self.ledger.epsilon() or 0.0
        super().log(logs, start_time)
