"""How a model was trained, as far as it may be told."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

# Of the Trainer's own settings, those that say how a model was trained; neither seeds nor paths nor names of machines.
_TOLD = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
    "bf16",
    "fp16",
)
_NEVER_TOLD = ("model_init_kwargs", "teacher_model_init_kwargs")


def public_settings(args: TrainingArguments) -> dict[str, Any]:
    """Return how a model was trained: without seeds, paths and tokens.

    Args:
        args: of any Trainer; what its own class adds to `TrainingArguments` is told too.
    """
    common = {field.name for field in fields(TrainingArguments)}
    own = [field.name for field in fields(args) if field.name not in common and field.name not in _NEVER_TOLD]
    # Enumerations as their values.
    return {name: json.loads(json.dumps(getattr(args, name), default=str)) for name in (*_TOLD, *own)}
