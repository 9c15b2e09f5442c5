"""The hooks of the Hugging Face Trainer that write checkpoints with their ledger, and go on from whole ones only.

The ledger is written before the weights; a checkpoint is one once it is sealed.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from swingkd.files import alone_in
from swingkd.models.whole import check_finite_weights
from swingkd.report import forget_model_facts
from swingkd.trainer.checkpoints import begin_checkpoint, last_complete_checkpoint, load_renamed
from swingkd.trainer.dp_trainer import DPTrainer
from swingkd.trainer.resuming import check_same_run, run_settings, save_run_settings


class SealingTrainer(DPTrainer):
    """Save the model with its ledger; go on from a sealed checkpoint of the same run."""

    #: What errors call the model.
    role: str = "model"
    #: Whether training went on from a checkpoint.
    resumed: bool = False

    @property
    def _identity(self) -> dict[str, Any]:
        """What a run is known by beside its settings."""
        raise NotImplementedError

    def _ready_to_train(self, resumed: bool) -> None:
        """Make what training needs and nobody made yet, once it is known that the run may go on."""

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Train as `Trainer.train` does; go on from the last checkpoint that is whole.

        Raises:
            ValueError: there is none; it is of another run; or a weight is not finite in the end.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"There is no checkpoint in {self.args.output_dir} to go on from. Leave out "
                    "resume_from_checkpoint to begin, or name the folder of the run."
                )
        if resume_from_checkpoint:
            check_same_run(str(resume_from_checkpoint), run_settings(self.args, self._identity))
            self.resumed = True
        self._ready_to_train(bool(resume_from_checkpoint))
        # One process of a launch stands for all.
        with alone_in(self.args.output_dir) if self.args.process_index == 0 else nullcontext():
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        check_finite_weights(self.role, self.model)
        return result

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the model and its ledger."""
        # Around `self.model.save_pretrained(...)`: the ledger goes before the weights, so that what was released is
        # never counted too late.
        folder = output_dir or self.args.output_dir
        self.ledger.save(folder)
        check_finite_weights(self.role, self.model)
        forget_model_facts(folder)
        token = self.args.hub_token
        try:
            # training_args.bin holds the settings as they are.
            self.args.hub_token = None
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        self.ledger.seal(folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Around `rotate_checkpoints(`: older checkpoints go once the new one is sealed, or a crash between the two
        # would leave none to go on from.
        keep, self.args.save_total_limit = self.args.save_total_limit, None
        runs = self._get_output_dir(trial=trial)
        folder = os.path.join(runs, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            begin_checkpoint(folder)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = keep
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            save_run_settings(folder, run_settings(self.args, self._identity))
            rotate_checkpoints(
                output_dir=runs,
                save_total_limit=keep,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # After `model.load_state_dict(state_dict, False)`: some names on disk are not the model's own.
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_renamed(model or self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        # After `model.load_state_dict(state_dict, False)`, for the same reason.
        super()._load_best_model()
        load_renamed(self.model, str(self.state.best_model_checkpoint))
