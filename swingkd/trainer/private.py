"""Differential privacy for any Trainer whose loss is about records: transformers' own, TRL's SFTTrainer, DPOTrainer.

A unit's gradient is that of the loss which the trainer itself computes of the unit's rows, one row alone after the
other; it is clipped, the sum is noised (Abadi et al. 2016, arXiv 1607.00133).  Plan, Poisson samples, ledger, refusals
and checkpoints are those of `PrivateDistillationTrainer`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from swingkd.privacy import NO_TEACHER, TEACHER_DATA, PrivacyLedger
from swingkd.trainer.check_data import check_dp_rows
from swingkd.trainer.check_models import check_one_device
from swingkd.trainer.check_private_settings import check_private_training, refuse, settle_private_training
from swingkd.trainer.dp_run import AloneRun, PrivateRun
from swingkd.trainer.dp_trainer import DPTrainer
from swingkd.trainer.ledgers import earlier
from swingkd.trainer.privacy_arguments import PrivacyArguments
from swingkd.trainer.resuming import rows_fingerprint
from swingkd.trainer.sealing import SealingTrainer

# Where a Trainer makes its batches, or its steps: one that has its own does not learn from records one by one.
_BATCHES = (
    "get_train_dataloader",
    "_get_train_sampler",
    "_prepare_inputs",
    "get_batch_samples",
    "_inner_training_loop",
)
# TRL's only move activations to the CPU; a setting of theirs, off by default, turns it on.
_OFFLOADS = ("SFTTrainer", "DPOTrainer", "RewardTrainer")
# What stands in a log of the training; all else may depend on the records.
_TOLD_IN_TRAINING = ("learning_rate", "epoch", "train_runtime", "train_samples_per_second", "train_steps_per_second")
# What a setting of somebody else's makes of records, and why it does not go with it.
_SETTINGS = {
    "packing": "a packed block holds parts of several records, and none is a unit",
    "padding_free": "it joins the records of a batch into one row",
    "activation_offloading": "it belongs to the trainer's own step, which is replaced here",
    "sync_ref_model": "the reference would follow the weights in a way that nobody counts",
}


def private(trainer_class: type[Trainer]) -> type[Any]:
    """Return a class of trainers like the given one that train with differential privacy.

        promise = PrivacyArguments(target_epsilon=8)
        trainer = private(SFTTrainer)(model, SFTConfig("out"), train_dataset=rows, privacy=promise)

    Its trainers take what the given class takes, and `privacy`; `trainer.ledger` says what was spent, and is saved
    beside the weights.  A record is a row of the training set: a text, a conversation, or the two answers of a pair.

    Args:
        trainer_class: `Trainer`, `SFTTrainer`, `DPOTrainer`, `RewardTrainer`, or one of your own with its own
            `compute_loss`.

    Raises:
        ValueError: it makes its batches or its steps itself, so that records could meet there.
    """
    if not (isinstance(trainer_class, type) and issubclass(trainer_class, Trainer)):
        raise ValueError(f"{trainer_class!r} is no class of transformers' Trainer: pass the class, not a trainer.")
    if issubclass(trainer_class, DPTrainer):
        raise ValueError(
            f"{trainer_class.__name__} has differential privacy already: set target_epsilon in its settings."
        )
    for name in (*_BATCHES, "training_step"):
        owner = next(one for one in trainer_class.__mro__ if name in vars(one))
        offloads = name == "training_step" and owner.__module__.startswith("trl.") and owner.__name__ in _OFFLOADS
        if owner is not Trainer and not offloads:
            raise ValueError(
                f"{trainer_class.__name__} cannot be made private: {owner.__name__}.{name} makes batches or steps of "
                "its own, in which records may meet (groups of answers, negatives from the batch, text sampled on the "
                "way), and no clip would bound what one record does. Use a trainer whose loss is about one record."
            )
    kinds = (_AnyPrivateTrainer, trainer_class)
    return type(f"Private{trainer_class.__name__}", kinds, {"__doc__": f"{trainer_class.__name__} with DP-SGD."})


class _AnyPrivateTrainer(SealingTrainer):
    """What a private trainer has before the class that it is made of."""

    args: TrainingArguments
    privacy: PrivacyArguments

    def __init__(self, *given: Any, privacy: PrivacyArguments, **named: Any):
        if not isinstance(privacy, PrivacyArguments):
            raise ValueError(f"privacy={privacy!r} must be PrivacyArguments(target_epsilon=...).")
        if named.get("model_init") is not None:
            raise ValueError("model_init makes several models, and each would spend anew: pass the model itself.")
        self.privacy = privacy
        # Trainers take their settings at other places of the line.
        super().__init__(*map(_settled, given), **{name: _settled(value) for name, value in named.items()})
        # A class may have made settings of its own kind.
        self.args = _settled(self.args)
        check_dp_rows(privacy.privacy_unit, self.train_dataset)
        model = given[0] if given else named.get("model")
        entries, unknown = earlier(model, getattr(self.args, "model_init_kwargs", None))
        self.ledger = PrivacyLedger(entries, unknown=unknown | {TEACHER_DATA: NO_TEACHER})
        self._set_up_dp()

    def _private_run(self, privacy: PrivacyArguments, dataset: Dataset) -> PrivateRun:
        return AloneRun(self.args, privacy, dataset, self._row_losses)

    def _row_losses(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        """Return what the trainer's own loss says of each row alone, [rows]."""
        unit, losses = self.privacy.privacy_unit, []
        for row in rows:
            inputs = self._prepare_inputs(self.data_collator([{k: v for k, v in row.items() if k != unit}]))
            with self.compute_loss_context_manager(), _apart(self.accelerator):
                # Past the wrapper of data-parallel training: clipped gradients are summed over processes.
                losses.append(self.compute_loss(self.model, inputs))
        return torch.stack([loss.reshape(()) for loss in losses])

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            "trainer": type(self).__name__,
            **{name: value for name, value in vars(self.privacy).items() if name != "log_nonprivate"},
            "training_rows": rows_fingerprint(self.train_dataset),
        }

    def _set_signature_columns_if_needed(self) -> None:
        # After `self._signature_columns = list(signature.parameters.keys())`: the batches are drawn by unit.
        super()._set_signature_columns_if_needed()
        assert self._signature_columns is not None
        if self.privacy.privacy_unit not in self._signature_columns:
            self._signature_columns.append(self.privacy.privacy_unit)

    def hyperparameter_search(self, *args: Any, **kwargs: Any):
        """Refused.

        Raises:
            ValueError: each trial would release a model of its own.
        """
        raise ValueError(
            "Each trial of hyperparameter_search would release a model of its own, and no ledger here counts them "
            "together. Search on public data, without differential privacy."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the trainer does; in training, only what does not depend on the records."""
        if self.private is None or any(name.startswith("eval_") for name in logs):
            return super().log(logs, start_time)
        # What the trainer's own `log` adds in training are exact means over the batch: accuracies, entropies, rewards.
        getattr(self, "_metrics", {}).get("train", {}).clear()
        # Beside what does not depend on the records, what somebody measured on purpose.
        told = {name for name in logs if name in _TOLD_IN_TRAINING or name.startswith("audit_")}
        kept = {name: logs[name] for name in told}
        if self.privacy.log_nonprivate and "loss" in logs:
            kept["nonprivate_loss"] = logs["loss"]
        kept["epsilon"] = self.ledger.epsilon() or 0.0
        return Trainer.log(self, kept, start_time)


def _settled(given: Any) -> Any:
    """Return settings in a copy with what DP-SGD needs; the caller's own are left as they are, and so is all else.

    Raises:
        ValueError: a setting would break the guarantee.
    """
    if not isinstance(given, TrainingArguments):
        return given
    check_private_training(given)
    check_one_device(given)
    refuse(given, {name: (bool(getattr(given, name, False)), why) for name, why in _SETTINGS.items()})
    own = copy.copy(given)
    settle_private_training(own)
    return own


@contextmanager
def _apart(accelerator: Accelerator) -> Iterator[None]:
    """Let a trainer's loss gather its statistics from this process alone.

    Each process has another number of rows: whoever waits for the others would wait for ever.  Nobody reads them.
    """
    names = ("gather", "gather_for_metrics", "reduce", "pad_across_processes")
    for name in names:
        setattr(accelerator, name, _own)
    try:
        yield
    finally:
        for name in names:
            delattr(accelerator, name)


def _own(value: Any, *_: Any, **__: Any) -> Any:
    return value
