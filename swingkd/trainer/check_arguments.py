"""Checks of the trainer's arguments, before anything is loaded."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainingArguments


def check_arguments(model: Any, args: Any, compute_loss_func: Any, model_init: Any) -> None:
    """Refuse arguments in a wrong place, and those that distillation has no use for.

    Raises:
        ValueError: says which, and what to do instead.
    """
    if args is not None and not isinstance(args, TrainingArguments):
        what = f"a {type(args).__name__}" if isinstance(args, nn.Module) else repr(args)
        raise ValueError(
            f"args is {what}. The arguments stand as in Trainer: model, args, data_collator, train_dataset, ... Pass "
            "the teacher by its name, teacher_model=..., and a PrivateDistillationConfig as args."
        )
    if compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func would replace the distillation loss, which is what this trainer is for. Leave it out; "
            "alpha, beta and temperature shape the loss, and swingkd.functional has it for a trainer of your own."
        )
    if (model is None) == (model_init is None):
        raise ValueError("Pass the student as model=..., or a function that makes it as model_init=..., not both.")
