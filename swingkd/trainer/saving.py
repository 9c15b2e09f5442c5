"""The hooks of the Hugging Face Trainer that write a student, and read it back to go on from.

The ledger is written before the weights, the hint projection apart from them; a checkpoint is one once it is sealed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from swingkd.models.whole import check_finite_weights
from swingkd.report import forget_model_facts
from swingkd.trainer.checkpoints import begin_checkpoint, load_renamed
from swingkd.trainer.resuming import run_settings, save_run_settings
from swingkd.trainer.searching import SearchingTrainer

_HINT_FILE = "hint_projection.safetensors"


class SavingTrainer(SearchingTrainer):
    """Save the student with its ledger; keep what goes into checkpoints only out of what is published."""

    @property
    def _identity(self) -> dict[str, Any]:
        """What a run is known by beside its settings."""
        raise NotImplementedError

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the student and its ledger; the hint projection, which is no part of it, goes into checkpoints only."""
        # Around `self.model.save_pretrained(...)`, which would write the hint projection.  The ledger goes before the
        # weights: what was released is never counted too late.
        folder = output_dir or self.args.output_dir
        checkpoint = os.path.basename(folder).startswith(PREFIX_CHECKPOINT_DIR) and self.args.should_save
        self.ledger.save(folder)
        check_finite_weights("student", self.model)
        forget_model_facts(folder)
        hint, token = self.model._modules.pop("hint_projection", None), self.args.hub_token
        try:
            if state_dict is not None:
                state_dict = {k: v for k, v in state_dict.items() if "hint_projection." not in k}
            # training_args.bin holds the settings as they are.
            self.args.hub_token = None
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
            if hint is not None:
                self.model.add_module("hint_projection", hint)
        if checkpoint and hint is not None:
            weights = {k: v.detach().cpu().contiguous() for k, v in hint.state_dict().items()}
            save_file(weights, os.path.join(folder, _HINT_FILE))
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
        # Around `model.load_state_dict(state_dict, False)`: no hint projection is in the weights, and some names on
        # disk are not the model's own.
        with self._without_hint(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            load_renamed(model or self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        # Around `model.load_state_dict(state_dict, False)`, for the same two reasons.
        best = str(self.state.best_model_checkpoint)
        with self._without_hint(best):
            super()._load_best_model()
            load_renamed(self.model, best)

    @contextmanager
    def _without_hint(self, checkpoint: str) -> Iterator[None]:
        """Load a model's weights without its hint projection, and then that from a file of its own."""
        hint = self.model._modules.pop("hint_projection", None)
        try:
            yield
        finally:
            if hint is not None:
                self.model.add_module("hint_projection", hint)
        if hint is not None:
            hint.load_state_dict(load_file(os.path.join(checkpoint, _HINT_FILE)))
