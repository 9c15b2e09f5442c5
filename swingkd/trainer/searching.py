"""The hooks of the Hugging Face Trainer that make the student anew: `model_init` and `hyperparameter_search`."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel, set_seed
from transformers.trainer_utils import number_of_arguments

from swingkd.trainer.check_cache import check_cached_teacher
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.evaluation import EvaluatingTrainer

# Of our fields, those that shape the loss of rows, models and protection as they are.
_SEARCHED = (
    "alpha",
    "beta",
    "temperature",
    "max_temperature",
    "temperature_power",
    "noise_scale",
    "noise_context",
    "noise_support",
    "mollify_bound",
    "mollify_order",
    "population_min_spans",
    "population_share",
)


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
        self._read_student()
        return self.model

    def _read_student(self) -> None:
        """Make what reads the student, for a new one."""
        raise NotImplementedError

    def _protect_anew(self) -> None:
        """Make the protection of the targets, and the loss, for other settings."""
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
        names = [field.name for field in self.args.own_fields()]
        before = {name: getattr(self.args, name) for name in names}
        super()._hp_search_setup(trial)
        if trial is None:
            return
        changed = [name for name in names if getattr(self.args, name) != before[name] and name not in _SEARCHED]
        if changed:
            raise ValueError(
                f"The search changes {', '.join(changed)}, which is settled when a trainer is made: its rows, its "
                "models and what protects them follow from it. Search over it with a loop that makes a trainer for "
                f"each value; of its own, a search may change {', '.join(_SEARCHED)}."
            )
        self.args.check()
        known = {"teacher": self.setup.models.teacher, "tokenizer": self.processing_class, "args": self.args}
        check_cached_teacher(self.task, self.train_dataset, **known)
        self._protect_anew()


def _evaluation_loss(metrics: dict[str, float]) -> float:
    """Return the loss, or the mean of those of several data sets."""
    names = [name for name in metrics if re.fullmatch(r"eval(_\w+)?_loss", name)]
    losses = [metrics[name] for name in names if _own(name, metrics)]
    return float(np.mean(losses))


def _own(name: str, metrics: dict[str, float]) -> bool:
    # Not one of its parts: what is told of a data set itself comes with its time.
    return name.removesuffix("_loss") + "_runtime" in metrics
