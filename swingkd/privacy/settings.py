"""From what a user says of a private run to its plan: one rounding and one policy for text, images and clients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from swingkd.guards import check_numbers, check_positive
from swingkd.privacy.accounting import Accountant
from swingkd.privacy.ledger import PrivacyLedger
from swingkd.privacy.ledger_entry import LedgerEntry
from swingkd.privacy.plan import PrivacyPlan, epoch_steps, run_delta


@dataclass(frozen=True, kw_only=True)
class DPSettings:
    """How much data there is, how it is drawn, and what is to be promised.

    Args:
        units: how many records, users or images there are to draw from.
        batch: how many of them a step draws on average.
        epochs: how often each is drawn on average; or
        steps: how many steps there are.
        epsilon: what the run may cost; without a noise multiplier the noise is solved for.
        noise_multiplier: noise in units of `clip_norm`; with an epsilon, that is its budget.
        delta: of the guarantee; `None`: a tenth of 1 / units.
        clip_norm: largest contribution of one unit, in Euclidean norm.
        unit: what the guarantee is about: "record", or the column that names users.
        accountant: "prv", "pld" or "rdp".

    Raises:
        ValueError: a batch draws more than there is, or nothing says how much noise there is to be.
    """

    units: int
    batch: int
    epochs: float | None = None
    steps: int | None = None
    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float | None = None
    clip_norm: float = 1.0
    unit: str = "record"
    accountant: Accountant = "prv"

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.units < 1:
            raise ValueError(f"There are {self.units} units to draw from; at least one is needed.")
        if not 1 <= self.batch <= self.units:
            raise ValueError(f"batch={self.batch} must lie between 1 and the number of units ({self.units}).")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("Give either epochs or steps: one follows from the other.")
        check_positive(self, "epochs")
        if self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("Give epsilon or noise_multiplier: without one of them there is no guarantee.")

    @property
    def sampling_rate(self) -> float:
        """Probability that a unit is in a step's batch."""
        return self.batch / self.units

    def plan(self) -> PrivacyPlan:
        """Return the plan: the noise that the epsilon needs, or the noise that was given.

        Raises:
            ValueError: no noise reaches the epsilon, the delta gives a unit away, or the noise spends more.
        """
        return _planned(self)


# Seconds each; seeds and clients ask for the same.
@cache
def _planned(settings: DPSettings) -> PrivacyPlan:
    rate = settings.sampling_rate
    steps = settings.steps if settings.steps is not None else math.ceil((settings.epochs or 0) * epoch_steps(rate))
    fixed: dict[str, Any] = {
        "sampling_rate": rate,
        "steps": steps,
        "clip_norm": settings.clip_norm,
        "unit": settings.unit,
        "delta": run_delta(settings.delta, settings.units),
        "accountant": settings.accountant,
    }
    if settings.noise_multiplier is None:
        return PrivacyPlan.solve(epsilon=settings.epsilon, **fixed)
    plan = PrivacyPlan(noise_multiplier=settings.noise_multiplier, **fixed)
    PrivacyLedger(budget=settings.epsilon).afford(LedgerEntry.of_plan(plan, releases=steps))
    return plan
