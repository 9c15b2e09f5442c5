"""The hooks of the Hugging Face Trainer that make the student anew: `model_init` and `hyperparameter_search`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel, set_seed
from transformers.trainer_utils import number_of_arguments

from swingkd.data import DataSettings
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.evaluation import EvaluatingTrainer


def made_by(model_init: Callable[..., PreTrainedModel], args: PrivateDistillationConfig) -> PreTrainedModel:
    """Return a first student, from the seed of the run, as `Trainer` makes it.

    Args:
        model_init: of no argument, or of a trial (`None` here).
        args: the seed.
    """
    set_seed(args.seed)
    return model_init() if number_of_arguments(model_init) == 0 else model_init(None)


class SearchingTrainer(EvaluatingTrainer):
    """Train several students one after the other, each of them a new one."""

    def call_model_init(self, trial=None):
        """Make a student, with its adapter and its hint projection, and the loss that reads it."""
        # In the place of `model = self.model_init(trial)`, which knows nothing of what is built around a student.
        self.setup = self.setup.with_student(super().call_model_init(trial))
        self.model = self.setup.models.student
        self._begin_anew(trial)
        return self.model

    def _begin_anew(self, trial: Any) -> None:
        """Make what reads the student, and the protection of its targets, for a new one."""
        raise NotImplementedError

    def hyperparameter_search(
        self, hp_space=None, compute_objective=None, n_trials=20, direction="minimize", **kwargs
    ):
        """Search as `Trainer.hyperparameter_search` does; a language model's objective is its evaluation loss.

        Raises:
            ValueError: there is no `model_init`, or under differential privacy, where each trial would spend anew.
        """
        if self.model_init is None:
            raise ValueError(
                "hyperparameter_search trains one student after the other. Make the trainer with model_init=<a "
                "function that returns a new student> in place of model."
            )
        if self.args.differentially_private:
            raise ValueError(
                "Each trial of hyperparameter_search would release a model of its own, and no ledger here counts them "
                "together. Search on public data, without target_epsilon and noise_multiplier."
            )
        if compute_objective is None and self.task.predicts_tokens:
            # The sum of all metrics, which Trainer takes, adds perplexities of one text several times over.
            compute_objective = _evaluation_loss
        return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction, **kwargs)

    def _hp_search_setup(self, trial) -> None:
        # After `setattr(self.args, key, value)`, which checks nothing.
        before = self.args.data_settings
        super()._hp_search_setup(trial)
        if trial is None:
            return
        self.args.check()
        _check_same_rows(before, self.args.data_settings)


def _evaluation_loss(metrics: dict[str, float]) -> float:
    return metrics["eval_loss"]


def _check_same_rows(before: DataSettings, now: DataSettings) -> None:
    if before != now:
        changed = [name for name, value in vars(now).items() if value != getattr(before, name)]
        raise ValueError(
            f"The search changes {', '.join(changed)}, and the rows are tokenised already. Search over it with a "
            "loop that makes a trainer for each value."
        )
