"""The hooks of the Hugging Face Trainer that keep the hint projection apart from the student's own weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from swingkd.trainer.searching import SearchingTrainer

_HINT_FILE = "hint_projection.safetensors"


class SavingTrainer(SearchingTrainer):
    """Save the student without its hint projection, which goes into checkpoints only: it is no part of it."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the student and its ledger; the hint projection goes into checkpoints only."""
        # Around `self.model.save_pretrained(...)`, which would write the hint projection.
        folder = output_dir or self.args.output_dir
        checkpoint = os.path.basename(folder).startswith(PREFIX_CHECKPOINT_DIR) and self.args.should_save
        hint = self.model._modules.pop("hint_projection", None)
        try:
            if state_dict is not None:
                state_dict = {k: v for k, v in state_dict.items() if "hint_projection." not in k}
            super()._save(output_dir, state_dict)
        finally:
            if hint is not None:
                self.model.add_module("hint_projection", hint)
        if checkpoint and hint is not None:
            weights = {k: v.detach().cpu().contiguous() for k, v in hint.state_dict().items()}
            save_file(weights, os.path.join(folder, _HINT_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Around `model.load_state_dict(state_dict, False)`: no hint projection is in the weights.
        with self._without_hint(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # Around `model.load_state_dict(state_dict, False)`, for the same reason.
        with self._without_hint(str(self.state.best_model_checkpoint)):
            super()._load_best_model()

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
