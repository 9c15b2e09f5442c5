"""What Gaussian releases add up to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from swingkd.privacy.gaussian import gdp_epsilon

if TYPE_CHECKING:
    from opacus.accountants import PRVAccountant, RDPAccountant

Accountant = Literal["prv", "rdp", "pld"]
# What the PRV accountant adds for the errors of its own arithmetic; added to PLD too, a plan holds with either.
_PRV_ERROR = 0.011
# The PRV accountant's memory grows with epsilon and with the number of releases, its time with that of the kinds of
# releases.  Above these, the Renyi bound is used, which is never too small.
_PRV_LIMIT, _PRV_RELEASES, _PRV_KINDS = 250.0, 5_000_000, 20
# It stumbles over more noise than this; counted as this much, epsilon is never too small.
_MOST_NOISE = 1e4
# Nor do accountants know larger ones; what holds at a smaller delta holds at a larger one.
_LARGEST_DELTA = 0.1
#: Below this delta the rounding of double precision decides what numerical accountants say, and they say too little.
SMALLEST_DELTA = 1e-12


class Releases(NamedTuple):
    """So many releases of a sum over a Poisson sample, each with noise of `noise_multiplier` times its sensitivity."""

    noise_multiplier: float
    sampling_rate: float
    times: int


def gaussian_epsilon(history: Sequence[Releases], delta: float, accountant: Accountant = "prv") -> float:
    """Return the epsilon of all releases together.

    Full batches alone have a closed form (Gaussian differential privacy); samples go through Opacus' accountants, or
    through Google's privacy loss distributions, which are as tight and answer at once.

    Args:
        history: what was released.
        delta: of the guarantee.
        accountant: "prv" (tight), "pld" (as tight, and fast) or "rdp" (an upper bound).

    Raises:
        ValueError: the delta is too small for the PRV accountant.
    """
    # A ledger is asked for the same numbers again and again.
    return _gaussian_epsilon(tuple(history), delta, accountant)


@lru_cache(maxsize=1000)
def _gaussian_epsilon(history: tuple[Releases, ...], delta: float, accountant: Accountant) -> float:
    history = tuple(r._replace(noise_multiplier=min(r.noise_multiplier, _MOST_NOISE)) for r in history if r.times)
    delta = min(delta, _LARGEST_DELTA)
    if not history:
        return 0.0
    if all(releases.sampling_rate == 1 for releases in history):
        return gdp_epsilon(math.sqrt(sum(r.times / r.noise_multiplier**2 for r in history)), delta)
    if accountant == "rdp":
        return _renyi(history, delta)
    check_resolved(delta)
    if accountant == "pld":
        return _pld_epsilon(history, delta)
    bound, times = quick_bound(history, delta), sum(releases.times for releases in history)
    if bound > _PRV_LIMIT or times > _PRV_RELEASES or len(history) > _PRV_KINDS:
        return bound
    from opacus.accountants import PRVAccountant

    return _spent(PRVAccountant(), history, delta)


def _pld_epsilon(history: Sequence[Releases], delta: float) -> float:
    """Return an upper bound by privacy loss distributions (Doroshenko et al. 2022, arXiv 2207.04380)."""
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism

    whole: PrivacyLossDistribution | None = None
    for noise, rate, times in history:
        # Much noise spends little at a time, and has to be resolved more finely.
        step = min(1e-3, max(1e-6, rate / noise / 100))
        one = from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=step)
        part = one.self_compose(times)
        whole = part if whole is None else whole.compose(part)
    return whole.get_epsilon_for_delta(delta) + _PRV_ERROR if whole is not None else 0.0


def check_resolved(delta: float) -> None:
    """Refuse a delta that double precision cannot resolve.

    Raises:
        ValueError: it is too small.
    """
    if 0 < delta < SMALLEST_DELTA:
        raise ValueError(
            f"delta={delta:g} is too small to be computed with: use {SMALLEST_DELTA:g} or more (a tenth of 1 / units "
            "is usual), or, in a plan of your own, accountant='rdp'."
        )


def quick_bound(history: Sequence[Releases], delta: float) -> float:
    """Return an upper bound on epsilon in milliseconds: the Renyi accountant at whole orders.

    Args:
        history: what was released.
        delta: of the guarantee.
    """
    return _renyi(history, delta, alphas=[*range(2, 65), 128, 256, 512])


def _renyi(history: Sequence[Releases], delta: float, **options: Any) -> float:
    # Here, as opacus brings torch along, and a plan takes none.
    from opacus.accountants import RDPAccountant

    return _spent(RDPAccountant(), history, delta, **options)


def _spent(
    accountant: PRVAccountant | RDPAccountant, history: Sequence[Releases], delta: float, **options: Any
) -> float:
    accountant.history = [tuple(releases) for releases in history]
    with warnings.catch_warnings():
        # At the first or last order a Renyi bound is looser than it could be; it is a bound all the same.
        warnings.filterwarnings("ignore", "Optimal order is the")
        return max(float(accountant.get_epsilon(delta, **options)), 0.0)


def said_epsilon(epsilon: float) -> str:
    """Return an epsilon for people, rounded up: a promise is never said to be smaller than it is."""
    if 0 < epsilon < 0.01:
        return said_delta(epsilon)
    return f"{math.ceil(round(epsilon * 100, 6)) / 100:.2f}"


def said_delta(delta: float) -> str:
    """Return a delta for people, rounded up to two digits."""
    if delta == 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(delta)) - 1)
    return f"{math.ceil(round(delta / unit, 6)) * unit:.2g}"


def said_guarantee(epsilon: float, delta: float, unit: str, neighbours: str, *, in_table: bool = False) -> str:
    """Say what is promised, to whom, and what counts as a difference: the one sentence for a guarantee.

    Args:
        epsilon, delta: of the guarantee.
        unit: what it is about, such as "record".
        neighbours: when two data sets differ in one unit.
        in_table: as short as a table's cell.
    """
    if in_table:
        return (
            f"{said_epsilon(epsilon)}{f' at delta {said_delta(delta)}' if delta else ''}, each {unit} ({neighbours})"
        )
    return f"epsilon {said_epsilon(epsilon)} at delta {said_delta(delta)} for each {unit} ({neighbours})"
