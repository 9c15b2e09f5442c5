"""Tasks: what is particular to language models, classifiers of texts and words, and image classifiers.

Each says how rows become batches, where its models answer and how private each answer is.  The loss is one for all.
"""

from __future__ import annotations

from os import PathLike

from peft import PeftModel
from transformers import PreTrainedModel

from swingkd.models.architectures import architecture
from swingkd.tasks.base import Reading, Task
from swingkd.tasks.images import ImageClassification
from swingkd.tasks.labels import SequenceClassification, TokenClassification
from swingkd.tasks.language import CausalLM, MaskedLM
from swingkd.tasks.predicted import PredictedTokens
from swingkd.tasks.seq2seq import Seq2SeqLM

TASKS: tuple[Task, ...] = (
    CausalLM(),
    MaskedLM(),
    Seq2SeqLM(),
    SequenceClassification(),
    TokenClassification(),
    ImageClassification(),
)


def task_of(model: str | PathLike | PreTrainedModel | PeftModel, name: str | None = None) -> Task:
    """Return the task that a model was made for.

    Args:
        model: the model, or its name on the Hub or on disk.
        name: the task, where it is known: a model that was only pretrained says nothing of it.

    Raises:
        ValueError: the model is for none of them.
    """
    known = {task.name: task for task in TASKS}
    if name is not None:
        if name not in known:
            raise ValueError(f"task={name!r} is not known. Choose one of {', '.join(known)}.")
        return known[name]
    if isinstance(model, PeftModel):
        model = model.get_base_model()
    if isinstance(model, (str, PathLike)):
        _, kind, is_encoder_decoder = architecture(str(model))
    else:
        kind, is_encoder_decoder = type(model).__name__, model.config.is_encoder_decoder
    if kind.endswith("ForConditionalGeneration") and not is_encoder_decoder:
        return known["text-generation"]
    for task in TASKS:
        if kind.endswith(task.endings):
            return task
    raise ValueError(
        f"The model is a {kind}, which tells no task. Set task to one of {', '.join(known)}, or pass a model of "
        "another class, such as AutoModelForCausalLM."
    )


__all__ = [
    "TASKS",
    "CausalLM",
    "ImageClassification",
    "MaskedLM",
    "PredictedTokens",
    "Reading",
    "Seq2SeqLM",
    "SequenceClassification",
    "Task",
    "TokenClassification",
    "task_of",
]
