"""The plan of a differentially private training run: what is sampled, what noise is added, what it adds up to.

Sampling, noise and accounting are built from one frozen object, so they cannot disagree.

    >>> plan = PrivacyPlan.solve(epsilon=8.0, sampling_rate=0.01, steps=1000, delta=1e-5)
    >>> 7.9 < plan.epsilon <= 8.0
    True
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, get_args

from scipy import optimize

from swingkd.guards import check_numbers
from swingkd.privacy.accounting import Accountant, Releases, check_resolved, gaussian_epsilon, quick_bound
from swingkd.privacy.gaussian import gdp_epsilon

_MOST_STEPS = 10_000_000


def epoch_steps(sampling_rate: float) -> int:
    """Return how many steps draw each unit once on average."""
    return max(round(1 / sampling_rate), 1)


def run_delta(delta: float | None, units: int) -> float:
    """Return the delta of a run: the one asked for, or a tenth of 1 / units.

    Raises:
        ValueError: it allows to give a unit away whole.
    """
    if delta is None:
        return 0.1 / units
    if not 0 < delta < 1 / units:
        raise ValueError(
            f"delta={delta} must lie between 0 and 1 / units ({1 / units:.1e}): a mechanism that gives one unit away "
            "whole would satisfy more. A tenth of that is usual."
        )
    return delta


@dataclass(frozen=True)
class PrivacyPlan:
    """A run of Poisson-sampled Gaussian releases, and what it promises.

    Args:
        sampling_rate: probability that a unit is in a step's batch; 1 for full batches.
        steps: how many steps.
        noise_multiplier: standard deviation of the noise, in units of the clip.
        clip_norm: largest contribution of one unit to a step's sum, in Euclidean norm.
        delta: of the guarantee; well below 1 / units.
        unit: what one guarantee is about: "record", or the column that names users.
        accountant: "prv" reports, "pld" does so at once, "rdp" checks; "gdp" under-reports and is not offered.

    Raises:
        ValueError: a value is out of range.
    """

    sampling_rate: float
    steps: int
    noise_multiplier: float
    clip_norm: float = 1.0
    delta: float = 1e-5
    unit: str = "record"
    accountant: Accountant = "prv"

    #: Two data sets are neighbours where one has a unit more than the other.
    neighbours = "add or remove one"

    def __post_init__(self) -> None:
        check_numbers(self)
        for name, holds, range_ in (
            ("sampling_rate", 0 < self.sampling_rate <= 1, "in (0, 1]"),
            ("steps", self.steps >= 1, "positive"),
            ("noise_multiplier", self.noise_multiplier > 0, "positive: without noise there is no guarantee"),
            ("clip_norm", self.clip_norm > 0, "positive"),
            ("delta", 0 < self.delta < 1, "in (0, 1)"),
        ):
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)} must be {range_}.")
        if self.accountant not in get_args(Accountant):
            offered = ", ".join(map(repr, get_args(Accountant)))
            raise ValueError(f"accountant={self.accountant!r} is not offered. Choose one of {offered}.")
        if self.accountant != "rdp" and self.sampling_rate < 1:
            check_resolved(self.delta)

    @cached_property
    def epsilon(self) -> float:
        """The epsilon of the whole run."""
        return self.epsilon_after(self.steps)

    def epsilon_after(self, steps: int) -> float:
        """Return the epsilon that so many steps have spent."""
        releases = Releases(self.noise_multiplier, self.sampling_rate, steps)
        return gaussian_epsilon([releases], self.delta, self.accountant)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan and its epsilon as plain types."""
        return {**asdict(self), "neighbours": self.neighbours, "epsilon": self.epsilon}

    @classmethod
    def solve(
        cls,
        *,
        epsilon: float | None = None,
        sampling_rate: float | None = None,
        steps: int | None = None,
        noise_multiplier: float | None = None,
        **others: Any,
    ) -> PrivacyPlan:
        """Find the one of epsilon, sampling rate, steps and noise that is left out.

        Solved for noise, the epsilon is at most the one asked for and within 1 % of it; solved for steps or rate, it
        is the largest that stays below.

        Args:
            epsilon, sampling_rate, steps, noise_multiplier: all but one.
            **others: clip_norm, delta, unit and accountant.

        Raises:
            ValueError: not exactly one is left out, or nothing in range reaches the epsilon.
        """
        if epsilon is not None and not math.isfinite(epsilon):
            raise ValueError(f"epsilon={epsilon} must be positive and finite.")
        run: dict[str, Any] = {"sampling_rate": sampling_rate, "steps": steps, "noise_multiplier": noise_multiplier}
        missing = [name for name, value in {"epsilon": epsilon, **run}.items() if value is None]
        if len(missing) != 1:
            raise ValueError(
                f"Leave out exactly one of epsilon, sampling_rate, steps and noise_multiplier; missing is: "
                f"{', '.join(missing) or 'none'}."
            )
        # Something in range stands for what is looked for; every candidate replaces it.
        fields: dict[str, Any] = {name: 1 if value is None else value for name, value in run.items()}
        plan = cls(**fields, **others)
        if epsilon is None:
            return plan
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon={epsilon} must be positive.")

        def spent(**changes: Any) -> float:
            return replace(plan, **changes).epsilon

        if noise_multiplier is None and plan.accountant == "pld" and plan.sampling_rate < 1:
            # A limit theorem says about how much (Bu et al. 2020, arXiv 1911.11607); what it says too little is added.
            guess = _found(_smallest(lambda s: _limit_epsilon(plan, s) <= epsilon, 0.05, 1e4, 1e-3), epsilon, "noise")
            while spent(noise_multiplier=guess) > epsilon:
                guess *= 1.1
            return replace(plan, noise_multiplier=_nearest(lambda s: spent(noise_multiplier=s), epsilon, guess))
        if noise_multiplier is None:

            def enough(noise: float) -> bool:
                if plan.accountant == "rdp" or plan.sampling_rate == 1:
                    return spent(noise_multiplier=noise) <= epsilon
                return quick_bound([Releases(noise, plan.sampling_rate, plan.steps)], plan.delta) <= epsilon

            noise = _found(_smallest(enough, 0.05, 1e4, 1e-4), epsilon, "noise")
            if plan.accountant == "prv" and plan.sampling_rate < 1:
                # The bound asks for a little too much.
                noise = _nearest(lambda s: spent(noise_multiplier=s), epsilon, noise)
            return replace(plan, noise_multiplier=noise)
        if steps is None:
            # Looked for downwards: the smallest number of steps fewer than the most.
            fewer = _smallest(lambda less: spent(steps=round(_MOST_STEPS / less)) <= epsilon, 1.0, _MOST_STEPS, 1e-9)
            count = round(_MOST_STEPS / _found(fewer, epsilon, "number of steps"))
            while count > 1 and spent(steps=count) > epsilon:
                count -= 1
            return replace(plan, steps=count)
        inverse = _smallest(lambda less: spent(sampling_rate=1 / less) <= epsilon, 1.0, 1e7, 1e-4)
        return replace(plan, sampling_rate=1 / _found(inverse, epsilon, "sampling rate"))


def _limit_epsilon(plan: PrivacyPlan, noise: float) -> float:
    """Return what many small steps come near to; it may be too small, and is no promise."""
    if noise < 0.2:
        return math.inf
    mu = plan.sampling_rate * math.sqrt(plan.steps * math.expm1(noise**-2))
    return gdp_epsilon(mu, plan.delta)


def _smallest(holds: Callable[[float], bool], low: float, high: float, tolerance: float) -> float | None:
    """Return the smallest value, to a relative tolerance, for which a monotone condition holds; None: none does."""
    if holds(low):
        return low
    if not holds(high):
        return None
    while high / low > 1 + tolerance:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _nearest(spent: Callable[[float], float], epsilon: float, enough: float) -> float:
    """Return the least noise whose epsilon is below, and within half a percent of, the one asked for.

    Args:
        spent: epsilon by noise, falling.
        epsilon: asked for.
        enough: noise that is more than needed.
    """
    target = 0.9975 * epsilon
    if spent(enough) >= target:
        return enough
    # Nearly a straight line in logarithms: a few steps of the secant.
    start = math.log(enough)
    solution = optimize.root_scalar(
        lambda log: math.log(spent(math.exp(log)) / target), x0=start, x1=start - 0.06, xtol=1e-3, method="secant"
    )
    noise = math.exp(solution.root)
    while spent(noise) > epsilon:
        noise *= 1.0005
    return noise


def _found(value: float | None, epsilon: float, name: str) -> float:
    if value is None:
        raise ValueError(
            f"No {name} in range reaches epsilon={epsilon}. Ask for a larger epsilon, or change the others."
        )
    return value
