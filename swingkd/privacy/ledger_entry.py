"""What a ledger is made of: releases of one kind about one data set, and what several of them add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, get_args

from swingkd.guards import check_numbers, check_positive
from swingkd.privacy.accounting import Accountant, Releases, gaussian_epsilon, said_guarantee
from swingkd.privacy.plan import PrivacyPlan

#: The data that a model is trained on.
TRANSFER_SET = "transfer set"


@dataclass(frozen=True)
class LedgerEntry:
    """Releases of one kind about one data set.

    Args:
        mechanism: "DP-SGD", "Gaussian", "randomized response", ...
        scope: which data set.
        unit, neighbours: what one guarantee is about, and when two data sets differ in one unit.
        releases: how many.
        delta: of the guarantee; 0 for pure differential privacy.
        noise_multiplier: of Gaussian noise, in units of the sensitivity.
        sampling_rate: probability that a unit is in a release; 1 where none is left out.
        pure_epsilon: of each release, for mechanisms without delta.
        accountant: how Gaussian releases are added up.
        claim: what is said to hold, where it is not what the numbers above say.
        holds: whether it does; what does not hold is shown and never added up.
        caveat: what must be known beside it.

    Raises:
        ValueError: it is neither Gaussian nor pure, or both, or a number is out of range.
    """

    mechanism: str
    scope: str = TRANSFER_SET
    unit: str = "record"
    neighbours: str = "add or remove one"
    releases: int = 0
    delta: float = 0.0
    noise_multiplier: float | None = None
    sampling_rate: float = 1.0
    pure_epsilon: float | None = None
    accountant: Accountant = "prv"
    claim: str = ""
    holds: bool = True
    caveat: str = ""

    def __post_init__(self) -> None:
        if self.holds and (self.noise_multiplier is None) == (self.pure_epsilon is None):
            raise ValueError(f"{self.mechanism}: give either noise_multiplier or pure_epsilon.")
        check_numbers(self)
        check_positive(self, "noise_multiplier", "pure_epsilon")
        if self.accountant not in get_args(Accountant):
            raise ValueError(
                f"{self.mechanism}: accountant={self.accountant!r} is not believed; believed are "
                f"{', '.join(get_args(Accountant))}."
            )
        if self.holds and self.noise_multiplier is not None and self.delta == 0 and self.releases:
            raise ValueError(f"{self.mechanism}: Gaussian noise has no epsilon at delta=0.")
        if self.releases < 0 or not 0 < self.sampling_rate <= 1 or not 0 <= self.delta < 1:
            raise ValueError(
                f"{self.mechanism}: releases={self.releases} must not be negative, sampling_rate="
                f"{self.sampling_rate} must lie in (0, 1] and delta={self.delta} in [0, 1)."
            )

    @classmethod
    def of_plan(cls, plan: PrivacyPlan, *, releases: int = 0, scope: str = TRANSFER_SET, **others: Any) -> LedgerEntry:
        """Return the entry of a run of DP-SGD by this plan, after so many steps."""
        return cls(
            "DP-SGD",
            scope=scope,
            unit=plan.unit,
            neighbours=plan.neighbours,
            releases=releases,
            delta=plan.delta,
            noise_multiplier=plan.noise_multiplier,
            sampling_rate=plan.sampling_rate,
            accountant=plan.accountant,
            **others,
        )

    @property
    def epsilon(self) -> float:
        """What these releases alone promise."""
        return compose([self])[0]

    @property
    def guarantee(self) -> str:
        """In words."""
        if not self.holds:
            return "none"
        how = "epsilon" if self.pure_epsilon is not None else "(epsilon, delta)"
        return f"{how}-differential privacy of each {self.unit} of the {self.scope} ({self.neighbours})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain types."""
        return {**asdict(self), "epsilon": self.epsilon if self.holds else None, "guarantee": self.guarantee}


class Guarantee(NamedTuple):
    """What entries about one data set and one unit promise together."""

    epsilon: float
    delta: float
    unit: str
    neighbours: str
    entries: tuple[LedgerEntry, ...]

    @property
    def releases(self) -> int:
        """How many."""
        return sum(entry.releases for entry in self.entries)

    def __str__(self) -> str:
        how = {"closed form" if e.sampling_rate == 1 else f"{e.accountant.upper()} accountant" for e in self.entries}
        caveats = "".join(f"; {caveat}" for caveat in sorted({e.caveat for e in self.entries if e.caveat}))
        promised = said_guarantee(self.epsilon, self.delta, self.unit, self.neighbours)
        return f"{promised}; {self.releases:,} releases, {', '.join(sorted(how))}{caveats}"


def compose(entries: Iterable[LedgerEntry]) -> tuple[float, float]:
    """Return the epsilon and delta of all entries together: Gaussian ones by the accountants, pure ones by adding.

    Raises:
        ValueError: they are about different units, neighbours or data sets, or one of them does not hold.
    """
    entries = [entry for entry in entries if entry.releases]
    for name in ("scope", "unit", "neighbours"):
        kinds = sorted({getattr(entry, name) for entry in entries})
        if len(kinds) > 1:
            raise ValueError(
                f"Guarantees for different {name}s do not add up: {', '.join(map(repr, kinds))}. Report them one by "
                "one, or run both mechanisms for the same one."
            )
    wrong = [entry.mechanism for entry in entries if not entry.holds]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} promises nothing that could be added up.")
    gaussian = [entry for entry in entries if entry.noise_multiplier is not None]
    pure = sum(entry.releases * entry.pure_epsilon for entry in entries if entry.pure_epsilon is not None)
    if not gaussian:
        return float(pure), 0.0
    delta = max(entry.delta for entry in gaussian)
    accountant: Accountant = "rdp" if any(entry.accountant == "rdp" for entry in gaussian) else "prv"
    history = [Releases(e.noise_multiplier or 0.0, e.sampling_rate, e.releases) for e in gaussian]
    return pure + gaussian_epsilon(history, delta, accountant), delta
