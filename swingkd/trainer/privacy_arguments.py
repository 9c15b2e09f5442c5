"""What a run with differential privacy promises: the settings that every private trainer has."""

from __future__ import annotations

from dataclasses import dataclass

from swingkd.guards import check_at_least_one, check_numbers, check_positive


@dataclass(frozen=True, kw_only=True)
class PrivacyArguments:
    """What training with differential privacy promises, and about whom.

    A batch draws `per_device_train_batch_size` units on average; how many steps there are is the trainer's setting.

    Args:
        target_epsilon: what the training set may cost; the noise is solved for, and training stops rather than spend
            more.
        target_delta: of that guarantee; default: a tenth of 1 / units.
        noise_multiplier: noise in units of `clip_norm`; default: solved from `target_epsilon`.
        clip_norm: largest gradient of one unit, in Euclidean norm.
        privacy_unit: "record" (each row), or the column that names users.
        records_per_user: how many rows a user gives to a batch.
        log_nonprivate: log the loss as `nonprivate_loss`; the guarantee does not cover it.

    Raises:
        ValueError: a number is out of range, or nothing says how much noise there is to be.
    """

    target_epsilon: float | None = None
    target_delta: float | None = None
    noise_multiplier: float | None = None
    clip_norm: float = 1.0
    privacy_unit: str = "record"
    records_per_user: int = 8
    log_nonprivate: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.target_epsilon is None and self.noise_multiplier is None:
            raise ValueError("Give target_epsilon or noise_multiplier: without one of them there is no guarantee.")
        check_positive(self, "target_epsilon", "target_delta", "noise_multiplier", "clip_norm")
        check_at_least_one(self, "records_per_user")
        if self.target_delta is not None and self.target_delta >= 1:
            raise ValueError(f"target_delta={self.target_delta} must be well below 1 / units.")
