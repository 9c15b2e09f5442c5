"""The hooks of the Hugging Face Trainer that evaluate and predict: no logits are gathered that nobody reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import nn

from swingkd.data import column_names
from swingkd.tagging import is_private
from swingkd.targets import Protection
from swingkd.tasks.base import SUMS
from swingkd.tasks.language import evaluated
from swingkd.trainer.check_data import check_kind
from swingkd.trainer.metrics import Metrics, without_sums
from swingkd.trainer.objective import StepLosses
from swingkd.trainer.publishing import PublishingTrainer
from swingkd.trainer.setup import parts_of


class EvaluatingTrainer(PublishingTrainer):
    """Evaluate by sums over each sequence's tokens; logits are kept for classifiers, own metrics and `predict`."""

    compute_metrics: Metrics
    data_collator: Callable
    #: Whether what is evaluated now is asked for its logits.
    _tells_logits: bool = False

    @property
    def protection(self) -> Protection | None:
        """What rewrites the teacher's targets at private tokens."""
        raise NotImplementedError

    def _losses(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> StepLosses:
        """Return a batch's losses."""
        raise NotImplementedError

    def _ready(self, dataset: Any) -> Any:
        """Return rows that are evaluated: text is tokenised and tagged first; labels may be missing."""
        check_kind(dataset, "The data set")
        if not isinstance(dataset, (Dataset, IterableDataset)):
            return dataset
        if any(dataset is part for part in parts_of(self.eval_dataset)):
            return dataset
        columns = set(column_names(dataset))
        done = columns & {"input_ids", "pixel_values"} and (self.task.predicts_tokens or "labels" in columns)
        return dataset if done and dataset is self.train_dataset else self.setup.evaluated(dataset)

    def predict(self, test_dataset, *args, **kwargs):
        """Predict as `Trainer.predict` does; text is tokenised and tagged first, and labels may be missing."""
        _ = self.protection
        with evaluated(self.data_collator):
            return super().predict(self._ready(test_dataset), *args, **kwargs)

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        """Evaluate as `Trainer.evaluate` does; text is tokenised and tagged first."""
        eval_dataset = self._ready(eval_dataset)
        # Every process takes part in building it, whatever its share of the data holds.
        _ = self.protection
        with evaluated(self.data_collator):
            return super().evaluate(eval_dataset, *args, **kwargs)

    def evaluation_loop(self, dataloader, description, *args, **kwargs):
        """Run over the data as `Trainer` does; what it returns are logits, where somebody asked for them."""
        predicts = description == "Prediction"
        self._tells_logits = predicts or self.compute_metrics.own is not None or not self.task.predicts_tokens
        self.compute_metrics.forget()
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        return output._replace(predictions=without_sums(output.predictions))

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return the loss, (sums over each sequence's tokens, the logits where they are read) and the labels."""
        inputs = self._prepare_inputs(inputs)
        tells = self._tells_logits and not prediction_loss_only
        student = self.accelerator.unwrap_model(model)
        with torch.no_grad():
            if "labels" not in inputs and not self.task.predicts_tokens:
                logits = model(**self.task.call(inputs, student)).logits
                return None, (logits.new_zeros(len(logits), len(SUMS)), logits) if tells else None, None
            losses = self._losses(model, inputs)
            logits = losses.logits
            if tells and logits is None:
                logits = model(**self.task.call(inputs, student)).logits
        sums = _sums(losses)
        mean = losses.per_token.sum() / max(len(losses.per_token), 1)
        if tells:
            return mean.detach(), (sums, logits), inputs["labels"]
        # The third value makes the Trainer call compute_metrics; nothing reads it.
        return mean.detach(), (sums,), sums[:, 0]


def _sums(losses: StepLosses) -> torch.Tensor:
    """Return what is summed over the answers of each sequence, [B, len(SUMS)]."""
    _, parts, loss, tokens, _ = losses
    flagged = is_private(tokens.likelihood).to(loss)
    columns = torch.stack([torch.ones_like(loss), flagged, parts.hard, parts.hard * flagged, parts.soft, loss], dim=1)
    row = tokens.at.nonzero()[:, 0]
    return columns.new_zeros(len(tokens.at), columns.size(1)).index_add_(0, row, columns)


def preprocessing(own: Callable | None) -> Callable | None:
    """Return a user's function of logits and labels for predictions that have sums beside the logits."""
    if own is None:
        return None
    return lambda predictions, labels: (predictions[0], *(own(logits, labels) for logits in predictions[1:]))
