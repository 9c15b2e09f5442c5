"""What a private run costs, and what it would cost if it were a little different."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from swingkd.privacy.accounting import Accountant
from swingkd.privacy.plan import PrivacyPlan
from swingkd.privacy.settings import DPSettings

_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Budget:
    """One private run: how much data, how it is drawn, what it promises.

    Args:
        units: how many records, or users.
        batch: how many of them a step draws on average.
        epochs: how often each is drawn on average.
        plan: the noise, and what it adds up to.
    """

    units: int
    batch: int
    epochs: float
    plan: PrivacyPlan

    @classmethod
    def of(
        cls,
        units: int,
        *,
        batch: int,
        epochs: float,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        delta: float | None = None,
        unit: str = "record",
        accountant: Accountant = "prv",
    ) -> Budget:
        """Plan a run; give its epsilon or its noise, and the other is found.

        Raises:
            ValueError: not exactly one of the two is given, or a number is out of range.
        """
        if (epsilon is None) == (noise_multiplier is None):
            raise ValueError("Give either epsilon or noise_multiplier: the other is found.")
        settings = DPSettings(
            units=units,
            batch=batch,
            epochs=epochs,
            epsilon=epsilon,
            noise_multiplier=noise_multiplier,
            delta=delta,
            unit=unit,
            accountant=accountant,
        )
        return cls(units, batch, epochs, settings.plan())

    @property
    def noise_per_unit(self) -> float:
        """Standard deviation of the noise on the mean gradient, in clips: what decides how well the student learns."""
        return self.plan.noise_multiplier / self.batch

    def noisier(self) -> Iterator[tuple[float, float]]:
        """Yield noise multipliers, and the epsilon of this run with each."""
        for factor in (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0):
            noise = self.plan.noise_multiplier * factor
            yield noise, replace(self.plan, noise_multiplier=noise).epsilon

    def at_this_epsilon(self) -> Iterator[Budget]:
        """Yield runs with other batches and numbers of epochs that promise the same."""
        plan = self.plan
        for factor in _FACTORS:
            batch = round(self.batch * factor)
            for epochs in (self.epochs / 2, self.epochs, self.epochs * 2):
                if 1 <= batch <= self.units:
                    yield Budget.of(
                        self.units,
                        batch=batch,
                        epochs=epochs,
                        epsilon=plan.epsilon,
                        delta=plan.delta,
                        unit=plan.unit,
                        accountant=plan.accountant,
                    )
