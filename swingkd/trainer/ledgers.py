"""What a run's ledger begins with, and goes on with."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from swingkd.privacy import NO_TEACHER, TEACHER_DATA, TRANSFER_SET, LedgerEntry, PrivacyLedger, has_weights
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.out_of_fold import OutOfFoldTeacher

_UNCOVERED_TEACHER = (
    "no ledger came with the teacher's name, so what it learnt, of records of the transfer set as well, is not covered"
)
_OUT_OF_FOLD = (
    "each target came from teachers that were trained without the record and what is like it; what they learnt "
    "of other records is not covered"
)


def first_ledger(
    student: str | PreTrainedModel,
    teacher: str | PreTrainedModel | OutOfFoldTeacher | None,
    args: PrivateDistillationConfig,
) -> PrivacyLedger:
    """Begin a ledger with what student and teacher bring along, as far as their names lead to ledgers."""
    entries, unknown = earlier(student, args.model_init_kwargs)
    known = None
    if isinstance(teacher, str) and _whole(args.teacher_model_init_kwargs):
        known = PrivacyLedger.of_weights(teacher)
    covered = known.as_teacher() if known is not None else []
    if isinstance(teacher, OutOfFoldTeacher):
        covered = teacher.promised()
    if teacher is None and args.alpha == 0:
        unknown[TEACHER_DATA] = NO_TEACHER
    elif isinstance(teacher, OutOfFoldTeacher) and not covered:
        unknown[TEACHER_DATA] = _OUT_OF_FOLD
    elif not covered:
        unknown[TEACHER_DATA] = _UNCOVERED_TEACHER
    return PrivacyLedger([*entries, *covered], unknown=unknown)


def earlier(model: Any, options: Any) -> tuple[list[LedgerEntry], dict[str, str]]:
    """Return what a model's weights have released before this training, and of which data nobody knows.

    Args:
        model: what is trained, or its name; of a model without a name nothing is known.
        options: of `from_pretrained`.
    """
    before = PrivacyLedger.load(model) if isinstance(model, str) else None
    if before is None:
        return [], {}
    return before.as_earlier(_whole(options) and has_weights(str(model), before.weights))


def _whole(options: Any) -> bool:
    """Tell whether a name alone says which weights are loaded; a ledger speaks of no revision or subfolder."""
    return not {"revision", "subfolder", "gguf_file"} & set(options or {})


def resumed_ledger(now: PrivacyLedger, checkpoint: str, steps: int, private: bool) -> PrivacyLedger:
    """Return the ledger of a checkpoint that is resumed.

    Args:
        now: the ledger that the run began with this time.
        checkpoint: its folder.
        steps: how many it has behind it.
        private: whether the run goes on with differential privacy.

    Raises:
        ValueError: some of its steps were not counted, or it learnt from another teacher.
    """
    known = PrivacyLedger.load(checkpoint)
    # A checkpoint without one is not whole, and was refused.
    assert known is not None
    counted = sum(entry.releases for entry in known.about(TRANSFER_SET))
    if (private or counted) and counted != steps:
        raise ValueError(
            f"{checkpoint} has {steps} steps behind it, {counted} of them with differential privacy. One guarantee "
            "cannot cover both kinds: start afresh."
        )
    if counted and not private:
        raise ValueError(
            f"{checkpoint} was trained with differential privacy, and would lose it by going on without. Set "
            "target_epsilon or noise_multiplier, or start afresh from its weights."
        )
    why = [ledger.unknown.get(TEACHER_DATA) for ledger in (known, now)]
    if known.about(TEACHER_DATA) != now.about(TEACHER_DATA) or why[0] != why[1]:
        raise ValueError(
            f"{checkpoint} learnt from a teacher of which its ledger says something else than of this one. Resume "
            "with the teacher that it began with, given in the same way."
        )
    return known
