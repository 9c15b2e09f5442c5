"""Adapters of classifiers: their head is new, so it has to be trained and saved with them."""

from __future__ import annotations

import copy

from peft import PeftConfig
from transformers import PreTrainedModel

from swingkd.tasks import Task

_PEFT_TASKS = {
    "text-generation": "CAUSAL_LM",
    "text2text-generation": "SEQ_2_SEQ_LM",
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
}
_HEADS = ("classifier", "score", "pre_classifier")


def adapter_of_task(config: PeftConfig, task: Task, model: PreTrainedModel) -> PeftConfig:
    """Return an adapter's configuration with what the task needs, where it says nothing of it.

    Args:
        config: as the user made it; it is not changed.
        task: peft trains and saves the heads of the tasks that it knows.
        model: for other classifiers: whose head is to be trained and saved.
    """
    config = copy.copy(config)
    if config.task_type is None:
        config.task_type = _PEFT_TASKS.get(task.name)
    if not task.predicts_tokens and config.task_type is None and not getattr(config, "modules_to_save", None):
        config.modules_to_save = [name for name, _ in model.named_children() if name in _HEADS]
    return config
