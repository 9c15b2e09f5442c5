"""Audits while a model is trained: see a secret being learnt before the run is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Not with the Trainer itself: every audit would wait for it.
from transformers.trainer_callback import TrainerCallback

from swingkd.audit.canaries import CanarySet
from swingkd.audit.exposure import ExposureReport, measure_exposure
from swingkd.audit.membership import audit_membership, membership_records
from swingkd.audit.records import Data

if TYPE_CHECKING:
    from transformers import Trainer


class PrivacyAuditCallback(TrainerCallback):
    """Audit a trainer's model whenever it is evaluated, and log what was found.

        trainer.add_callback(PrivacyAuditCallback(trainer, canaries=canaries, members=texts, nonmembers=others))

    Logged are `audit_exposure_x10` (mean over the canaries that stand there ten times, in bits),
    `audit_exposure_controls`, `audit_auc_<attack>` and `audit_tpr_at_1_fpr_<attack>`; never a secret.  They stand
    among the evaluation's metrics too, as `eval_audit_...`, so that `metric_for_best_model` and
    `EarlyStoppingCallback` can be on a leak; less is better (with another trainer than ours, set
    `greater_is_better=False`).  Every process measures the same, since sharded models need all of them in a forward
    pass.

    Args:
        trainer: the trainer, of this library or any other `transformers.Trainer` with a processing class.
        canaries: measure their exposure.
        members, nonmembers: measure the membership of these records.
        exposure_canaries: take so many canaries of each level, the first ones.
        exposure_references: rank each secret among so many random ones.

    Raises:
        ValueError: nothing to measure, one side of the records only, or a trainer without a processing class.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        canaries: CanarySet | None = None,
        members: Data | None = None,
        nonmembers: Data | None = None,
        exposure_canaries: int = 20,
        exposure_references: int = 1000,
    ):
        if (members is None) != (nonmembers is None):
            raise ValueError("Give members and nonmembers: an attack needs records of both kinds.")
        if canaries is None and members is None:
            raise ValueError("There is nothing to audit with. Give canaries, or members and nonmembers.")
        if trainer.processing_class is None:
            raise ValueError("The trainer has no processing_class. Give it the model's tokenizer or image processor.")
        if members is not None and nonmembers is not None:
            # Now, and not at the first evaluation, hours from here.
            membership_records(trainer.model, members, nonmembers)
        self.trainer = trainer
        self.canaries = canaries.head(exposure_canaries) if canaries else None
        self.members, self.nonmembers = members, nonmembers
        self.references = exposure_references
        self._measured: tuple[int, dict[str, float]] | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Come before the other callbacks: one that stops on a leak has to find it measured."""
        self._measured = None
        callbacks = self.trainer.callback_handler.callbacks
        callbacks.insert(0, callbacks.pop(callbacks.index(self)))

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        """Measure, write to the trainer's log, and add to the metrics of the evaluation."""
        # Once where several data sets are evaluated after one step.
        if self._measured is None or self._measured[0] != state.global_step or not self.trainer.is_in_train:
            self._measured = state.global_step, self.measure()
            self.trainer.log(dict(self._measured[1]))
        if metrics is not None:
            metrics |= {f"eval_{name}": value for name, value in self._measured[1].items()}

    def measure(self) -> dict[str, float]:
        """Return what would be logged, measured now."""
        model, processing = self.trainer.model, self.trainer.processing_class
        numbers: dict[str, float] = {}
        if self.canaries is not None:
            report = measure_exposure(
                model, processing, self.canaries, method="sampled", references=self.references, progress=False
            )
            numbers |= _exposures(report)
        if self.members is not None and self.nonmembers is not None:
            for result in audit_membership(
                model, processing, self.members, self.nonmembers, resamples=100, progress=False
            ).results:
                numbers[f"audit_auc_{result.attack}"] = result.auc.value
                if result.resolves(0.01):
                    numbers[f"audit_tpr_at_1_fpr_{result.attack}"] = result.tpr_at_1_fpr.value
        return numbers


def _exposures(report: ExposureReport) -> dict[str, Any]:
    return {
        f"audit_exposure_{f'x{level}' if level else 'controls'}": report.mean(level).value for level in report.levels
    }
