"""What an evaluation tells: our own sums and, where a user brought metrics, those.

The Trainer hands over what `prediction_step` returned, in one of three forms: concatenated, a list of batches
(`eval_do_concat_batches=False`), or each batch as it comes (`batch_eval_metrics=True`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel

from swingkd.tasks import Task
from swingkd.tasks.base import SUMS

# Of what is measured here the least is the best: losses and perplexities, and all that an attack finds.
_LEAST = re.compile(r"(^|_)(loss|perplexity(_flagged|_unflagged)?)$|(^|_)audit_")


def least_is_best(metric: str) -> bool:
    """Tell whether a metric is to fall: a loss, a perplexity, or what an attack finds."""
    return bool(_LEAST.search(metric))


@dataclass
class Metrics:
    """Turn predictions into numbers, as the Trainer's `compute_metrics`.

    Each prediction is a tuple: sums [B, len(SUMS)] and, where somebody reads them, logits.

    Args:
        task: what the models are for.
        model: returns the student.
        own: a user's own function of logits and labels; `None`: accuracy and F1 of classifiers.
        preprocessed: a user's own function has changed the logits, so that only the user's can read them.
    """

    task: Task
    model: Callable[[], PreTrainedModel]
    own: Callable | None = None
    preprocessed: bool = False
    _sums: np.ndarray = field(default_factory=lambda: np.zeros(len(SUMS)))
    _answers: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def __call__(self, prediction: EvalPrediction, compute_result: bool | None = None) -> dict[str, float]:
        """Return the metrics; `compute_result=False`: keep this batch for when it is True."""
        numbers: dict[str, float] = {}
        if self.own is not None:
            numbers |= self._ask(prediction, compute_result) or {}
        for sums, *logits, labels in _batches(prediction):
            self._sums += _array(sums).astype(np.float64).sum(0)
            if logits and self.reads_logits:
                # Which class it is, and no more, is kept of a batch.
                self._answers.append((_array(logits[0]).argmax(-1), _array(labels)))
        if compute_result is False:
            return {}
        sums, answers = self._sums, self._answers
        self.forget()
        return self.task.metrics(sums, answers, self.model()) | numbers

    @property
    def reads_logits(self) -> bool:
        """Whether our own metrics read a classifier's logits."""
        return self.own is None and not self.preprocessed and not self.task.predicts_tokens

    def forget(self) -> None:
        """Forget the batches that were kept, of an evaluation that was broken off."""
        self._sums, self._answers = np.zeros(len(SUMS)), []

    def _ask(self, prediction: EvalPrediction, compute_result: bool | None) -> dict[str, float] | None:
        assert self.own is not None
        told = EvalPrediction(
            without_sums(prediction.predictions), prediction.label_ids, prediction.inputs, prediction.losses
        )
        return self.own(told) if compute_result is None else self.own(told, compute_result=compute_result)


def _array(values: Any) -> np.ndarray:
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    # A batch that comes alone is a tensor still; numpy has no bfloat16.
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


def _batches(prediction: EvalPrediction) -> Iterator[tuple[Any, ...]]:
    if isinstance(prediction.predictions, list):
        for batch, labels in zip(prediction.predictions, prediction.label_ids, strict=True):
            yield (*batch, labels)
    else:
        yield (*prediction.predictions, prediction.label_ids)


def without_sums(predictions: Any) -> Any:
    """Return the logits alone, as `Trainer` returns them; `None` where nobody asked for any."""
    if isinstance(predictions, list):
        return [without_sums(part) for part in predictions]
    if predictions is None:
        return None
    return predictions[1] if len(predictions) > 1 else None
