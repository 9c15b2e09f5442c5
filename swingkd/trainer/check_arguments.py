"""Checks of the trainer's arguments, before anything is loaded."""

from __future__ import annotations

import inspect
import os
from typing import Any

from peft import PeftConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainingArguments


def check_arguments(
    model: Any, args: Any, compute_loss_func: Any, model_init: Any, optimizers: tuple, peft_config: Any
) -> None:
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
    if model_init is not None and any(optimizers):
        raise ValueError(
            "optimizers hold the weights of one student, and model_init makes a new one for each run. Pass "
            "optimizer_cls_and_kwargs instead."
        )
    if optimizers[0] is not None and getattr(args, "hidden_weight", 0) > 0:
        raise ValueError(
            "hidden_weight > 0 learns a projection that your optimizer does not hold. Pass optimizer_cls_and_kwargs "
            "in place of optimizers, or set hidden_weight=0."
        )
    if model is not None and not isinstance(model, (str, os.PathLike, PreTrainedModel, PeftModel)):
        raise ValueError(
            f"model is a {type(model).__name__}. Pass a model of transformers, a peft model around one, or a name; a "
            "function that makes one is model_init, and compiling is torch_compile=True."
        )
    if peft_config is not None and not isinstance(peft_config, PeftConfig):
        raise ValueError(f"peft_config is a {type(peft_config).__name__}. Pass a configuration, such as LoraConfig.")
    if peft_config is not None and optimizers[0] is not None:
        raise ValueError(
            "The optimizer holds weights of the model as it was, and peft_config freezes them and adds others. Pass "
            "optimizer_cls_and_kwargs in place of optimizers."
        )


def check_own_metrics(args: TrainingArguments, compute_metrics: Any) -> None:
    """Refuse own metrics that cannot be asked batch by batch, where they are to be.

    Raises:
        ValueError: they take no `compute_result`.
    """
    if compute_metrics is None or not args.batch_eval_metrics:
        return
    taken = inspect.signature(compute_metrics).parameters.values()
    if not any(one.name == "compute_result" or one.kind is one.VAR_KEYWORD for one in taken):
        raise ValueError(
            "batch_eval_metrics=True asks compute_metrics after each batch, with compute_result=True after the last. "
            "Let it take compute_result."
        )
