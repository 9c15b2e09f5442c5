"""The hooks of the Hugging Face Trainer that write checkpoints with their ledger, and go on from whole ones only.

The ledger is written before the weights; a checkpoint is one once it is sealed.  What leaves for the Hub is named in
`report.published`, never a checkpoint with what else lies in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from peft import PeftModel
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, rotate_checkpoints

from swingkd.files import alone_in
from swingkd.models.whole import check_finite_weights
from swingkd.report import forget_model_facts
from swingkd.report.model_files import CARD_FILE
from swingkd.report.published import public_content, public_files
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

    # --- what leaves the house -------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository as `Trainer` does, a private one unless `hub_private_repo=False`."""
        wanted = self.args.hub_private_repo if private is None else private
        super().init_hf_repo(token, private=True if wanted is None else wanted)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ):
        """Send weights, ledger and card to the Hub; nothing that is secret.

        Args:
            commit_message, blocking, token, revision: as in `Trainer.push_to_hub`.
            **kwargs: for `create_model_card`.
        """
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        kwargs.setdefault("model_name", str(self.hub_model_id).rpartition("/")[2])
        self.create_model_card(**kwargs)
        self._finish_current_push()
        return self._send(self.args.output_dir, commit_message, token, revision, blocking=blocking)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Send the weights of a checkpoint while training goes on (`hub_strategy="every_save"`)."""
        # In the place of `upload_folder(..., ignore_patterns=["_*", ...])`, which sends the pickle with the seed.
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        self._finish_current_push()
        message = f"Training in progress, step {self.state.global_step}"
        self._send(checkpoint_folder, message, self.args.hub_token, None, blocking=True)

    def _send(self, folder: str, message: str | None, token: str | None, revision: str | None, *, blocking: bool):
        files = [path for path in public_files(folder) if path.name != CARD_FILE or folder == self.args.output_dir]
        # Of an adapter the adapter, of a model the model: the other is what an earlier run left there.
        other = r"model[.-]" if isinstance(self.accelerator.unwrap_model(self.model), PeftModel) else "adapter_"
        files = [path for path in files if not re.match(other, path.name)]
        operations = [CommitOperationAdd(path.name, public_content(path)) for path in files]
        create_commit: Callable[..., Any] = HfApi(token=token).create_commit
        return create_commit(
            str(self.hub_model_id),
            operations,
            commit_message=message or "End of training",
            revision=revision or self.args.hub_revision,
            run_as_future=not blocking,
        )
