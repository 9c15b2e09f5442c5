"""Differential privacy for any Trainer whose loss is about records: transformers' own, TRL's SFTTrainer, DPOTrainer.

A unit's gradient is that of the loss which the trainer itself computes of the unit's rows, one row alone after the
other; it is clipped, the sum is noised (Abadi et al. 2016, arXiv 1607.00133).  Plan, Poisson samples, ledger, and
checkpoints are those of `PrivateDistillationTrainer`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from swingkd.privacy import NO_TEACHER, TEACHER_DATA, PrivacyLedger
from swingkd.trainer.check_data import check_dp_rows
from swingkd.trainer.check_models import check_one_device, check_publishing
from swingkd.trainer.check_private_settings import check_private_training, refuse, settle_private_training
from swingkd.trainer.dp_run import AloneRun, PrivateRun
from swingkd.trainer.dp_trainer import DPTrainer
from swingkd.trainer.ledgers import earlier
from swingkd.trainer.privacy_arguments import PrivacyArguments
from swingkd.trainer.resuming import rows_fingerprint
from swingkd.trainer.sealing import SealingTrainer

# Where a Trainer makes its batches, its steps, or the loop around them: one that has its own does not learn from
# records one by one, or not as they are counted.
_BATCHES = (
    "get_train_dataloader",
    "_get_train_sampler",
    "_prepare_inputs",
    "get_batch_samples",
    "_prepare_for_training",
    "_inner_training_loop",
    "_run_epoch",
)
# TRL's only move activations to the CPU; a setting of theirs, off by default, turns it on.
_OFFLOADS = ("SFTTrainer", "DPOTrainer", "RewardTrainer")
# What stands in a log of the training; all else may depend on the records.
_TOLD_IN_TRAINING = ("learning_rate", "epoch", "train_runtime", "train_samples_per_second", "train_steps_per_second")
# What somebody measured on purpose.
_MEASURED = ("eval_", "audit_")
# What a setting of somebody else's makes of records, and why it does not go with it.
_SETTINGS = {
    "packing": "a packed block holds parts of several records, and none is a unit",
    "padding_free": "it joins the records of a batch into one row",
    "activation_offloading": "it belongs to the trainer's own step, which is replaced here",
    "torch_compile": "rows go through the model as it is, not through the compiled one",
}
_OTHER_MODELS = "nothing is known of the data of other models that the loss reads"


def private(trainer_class: type[Trainer]) -> type[Any]:
    """Return a class of trainers like the given one that train with differential privacy.

        promise = PrivacyArguments(target_epsilon=8)
        trainer = private(SFTTrainer)(model, SFTConfig("out"), train_dataset=rows, privacy=promise)

    Its trainers take what the given class takes, and `privacy`; `trainer.ledger` says what was spent, and is saved
    beside the weights.  A record is a row of the training set: a text, a conversation, or the two answers of a pair.
    A loss must keep nothing of a row: eight rows are looked at before the first step, and now and then after it.

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
        owner = _owner(trainer_class, name)
        offloads = name == "training_step" and owner.__module__.startswith("trl.") and owner.__name__ in _OFFLOADS
        if owner is not Trainer and not offloads:
            raise ValueError(
                f"{trainer_class.__name__} cannot be made private: {owner.__name__}.{name} makes batches or steps of "
                "its own, in which records may meet (groups of answers, negatives from the batch, text sampled on the "
                "way), and no clip would bound what one record does. Use a trainer whose loss is about one record."
            )
    kinds = (_AnyPrivateTrainer, trainer_class)
    return type(f"Private{trainer_class.__name__}", kinds, {"__doc__": f"{trainer_class.__name__} with DP-SGD."})


def _owner(kind: type, name: str) -> type:
    """Return the class that defines what a class calls by this name."""
    return next(one for one in kind.__mro__ if name in vars(one))


class _AnyPrivateTrainer(SealingTrainer):
    """What a private trainer has before the class that it is made of."""

    args: TrainingArguments
    privacy: PrivacyArguments
    #: Whether records are read now.
    _learning: bool = False
    _signature_columns: list[str] | None

    def __init__(self, *given: Any, privacy: PrivacyArguments | None = None, **named: Any):
        if not isinstance(privacy, PrivacyArguments):
            raise ValueError(
                f"privacy={privacy!r}: say what is promised, privacy=PrivacyArguments(target_epsilon=...)."
            )
        if named.get("model_init") is not None:
            raise ValueError("model_init makes several models, and each would spend anew: pass the model itself.")
        self.privacy = privacy
        check_dp_rows(privacy.privacy_unit, named.get("train_dataset"))
        # Trainers take their settings at other places of the line.
        super().__init__(*map(_settled, given), **{name: _settled(value) for name, value in named.items()})
        # A class may have made settings of its own kind.
        self.args = _settled(self.args)
        check_dp_rows(privacy.privacy_unit, self.train_dataset)
        _in_full_precision(self.model)
        model = given[0] if given else named.get("model")
        entries, unknown = earlier(model, getattr(self.args, "model_init_kwargs", None))
        self.ledger = PrivacyLedger(entries, unknown=unknown | {TEACHER_DATA: self._other_models()})
        self._set_up_dp()

    def _other_models(self) -> str:
        """Return what the ledger says of models that the loss reads beside the trained one."""
        known = _owner(type(self), "compute_loss").__module__.startswith(("transformers.", "trl."))
        reference: Any = getattr(self, "ref_model", None)
        own = dict(self.model.named_parameters())
        same = reference is None or all(
            name in own and own[name].shape == p.shape and torch.equal(own[name].to(p), p)
            for name, p in reference.named_parameters()
        )
        return NO_TEACHER if known and same else _OTHER_MODELS

    def _private_run(self, privacy: PrivacyArguments, dataset: Dataset) -> PrivateRun:
        return AloneRun(self.args, privacy, dataset, self._row_losses)

    def _row_losses(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        """Return what the trainer's own loss says of each row alone, [rows]."""
        unit, losses = self.privacy.privacy_unit, []
        for row in rows:
            own = row if unit == "record" else {name: value for name, value in row.items() if name != unit}
            inputs = self._prepare_inputs(self.data_collator([own]))
            with self.compute_loss_context_manager(), _apart(self.accelerator):
                # Past the wrapper of data-parallel training: clipped gradients are summed over processes.
                loss: Any = self.compute_loss(self.model, inputs)
            if loss.numel() != 1:
                raise ValueError(
                    f"compute_loss returns a tensor of shape {list(loss.shape)}: one number is needed, the row's loss."
                )
            losses.append(loss.reshape(()))
        self._forget_statistics()
        return torch.stack(losses)

    def _forget_statistics(self) -> None:
        """Forget the exact means and counts of the rows that TRL's losses note, before any log or card reads them."""
        for name in ("_metrics", "_stored_metrics"):
            getattr(self, name, {}).get("train", {}).clear()
        if hasattr(self, "_total_train_tokens"):
            self._total_train_tokens = 0

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            "trainer": type(self).__name__,
            **{name: value for name, value in vars(self.privacy).items() if name != "log_nonprivate"},
            "training_rows": rows_fingerprint(self.train_dataset),
        }

    def _remove_unused_columns(self, dataset: Dataset, description: str | None = None) -> Dataset:
        # Around `return dataset.remove_columns(ignored_columns)`: batches are drawn by unit; nobody else reads it.
        self._set_signature_columns_if_needed()
        kept: list[str] | None = self._signature_columns
        if description == "training" and kept is not None:
            self._signature_columns = [*kept, self.privacy.privacy_unit]
        try:
            return super()._remove_unused_columns(dataset, description)
        finally:
            self._signature_columns = kept

    def train(self, *args: Any, **kwargs: Any):
        """Train as the class does that this one is made of."""
        self._learning = True
        try:
            return super().train(*args, **kwargs)
        finally:
            self._learning = False

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
        """Log as the trainer does; while it learns, only what does not depend on the records."""
        if not self._learning or not self.model.training:
            # Under way, what is logged of an evaluation is logged by a model that evaluates.
            return super().log(logs, start_time)
        kept = {name: logs[name] for name in logs if name in _TOLD_IN_TRAINING or name.startswith(_MEASURED)}
        if self.privacy.log_nonprivate and "loss" in logs:
            kept["nonprivate_loss"] = logs["loss"]
        kept["epsilon"] = self.ledger.epsilon() or 0.0
        # Past a `log` of the class: what it adds in training are exact means over the batch.
        return Trainer.log(self, kept, start_time)


def _settled(given: Any) -> Any:
    """Return settings in a copy with what DP-SGD needs; the caller's own are left as they are, and so is all else.

    Raises:
        ValueError: a setting would break the guarantee.
    """
    if not isinstance(given, TrainingArguments):
        return given
    check_private_training(given, "one row")
    check_one_device(given)
    check_publishing(given)
    refuse(given, {name: (bool(getattr(given, name, False)), why) for name, why in _SETTINGS.items()})
    own = copy.copy(given)
    settle_private_training(own)
    return own


def _in_full_precision(model: Any) -> None:
    """Keep an adapter's weights in float32: TRL rounds those of a quantised base, and noise needs all their digits."""
    if hasattr(model, "peft_config"):
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = parameter.data.float()


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
