"""What an exposure audit found, level by level, and what of it is beyond chance."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from swingkd.audit.intervals import Interval, difference, mean

# Below so many canaries a level, an interval is rough.
_FEW = 10


@dataclass(frozen=True)
class CanaryExposure:
    """What was measured for one canary; never the secret.

    Args:
        id, kind, repetitions, inserted: as in `Canary`.
        rank: 1 = likeliest; ties count half; `None` where exposure was modelled.
        exposure: in bits.
        log_perplexity: -log2 P(secret | prefix), in bits.
    """

    id: int
    kind: str
    repetitions: int
    inserted: bool
    rank: float | None
    exposure: float
    log_perplexity: float


@dataclass(frozen=True)
class ExposureReport:
    """The exposure of every canary, and what it took to measure it.

    Args:
        method: "exact", "sampled" or "modelled".
        maximum: the largest exposure that this method can report, in bits.
        canaries: one entry a canary.
        token_evaluations: tokens that went through the model.
        brute_force_evaluations: tokens that scoring every filling on its own would have taken.
        fit_p_values: for "modelled", Kolmogorov-Smirnov p-value of each canary's fit; small ones mean a bad fit.
    """

    method: str
    maximum: float
    canaries: tuple[CanaryExposure, ...]
    token_evaluations: int
    brute_force_evaluations: int
    fit_p_values: tuple[float, ...] = ()

    def exposures(self, repetitions: int) -> np.ndarray:
        """Return the exposures of the canaries inserted so often; 0: of those never inserted (the controls)."""
        return np.array(
            [
                c.exposure
                for c in self.canaries
                if (c.repetitions == repetitions and c.inserted) or (repetitions == 0 and not c.inserted)
            ]
        )

    @property
    def levels(self) -> list[int]:
        """The numbers of repetitions in the set, 0 for the controls, rising."""
        return sorted({c.repetitions if c.inserted else 0 for c in self.canaries})

    def mean(self, repetitions: int) -> Interval:
        """Return the mean exposure of a level, in bits."""
        return mean(self.exposures(repetitions), self.maximum)

    def excess(self, repetitions: int) -> Interval:
        """Return how far a level's mean exposure lies above that of the controls, in bits.

        Raises:
            ValueError: there is no control to compare with.
        """
        if 0 not in self.levels:
            raise ValueError("The canary set has no controls, so there is no excess: generate it with controls > 0.")
        return difference(self.mean(repetitions), self.mean(0))

    def p_value(self, repetitions: int) -> float:
        """Return how likely a level's canaries would have so much exposure if the model had read none of them.

        A secret drawn at random has any rank alike, so its exposure is exponential with mean 1 / ln 2, and the sum of
        n is a gamma variable (our derivation).
        """
        values = self.exposures(repetitions)
        return float(stats.gamma(len(values), scale=1 / math.log(2)).sf(values.sum()))

    def gives_away(self, repetitions: int) -> bool:
        """Tell whether a level's exposure is beyond chance, at 5 % for all levels together (Bonferroni)."""
        inserted = [level for level in self.levels if level]
        return repetitions in inserted and self.p_value(repetitions) < 0.05 / len(inserted)

    @property
    def notes(self) -> tuple[str, ...]:
        """What keeps the numbers from saying what they seem to."""
        few = [level for level in self.levels if len(self.exposures(level)) < _FEW]
        if not few:
            return ()
        named = ", ".join(f"{level} copies" if level else "the controls" for level in few)
        return (f"fewer than {_FEW} canaries ({named}): the intervals of their exposure are rough",)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain types; no secrets."""
        levels = []
        for level in self.levels:
            row = {"repetitions": level, "exposure": asdict(self.mean(level))}
            if level and len(self.exposures(0)):
                row["excess"] = asdict(self.excess(level))
            if level:
                row["p_value"] = self.p_value(level)
            levels.append(row)
        own = {"canaries": [asdict(c) for c in self.canaries], "levels": levels, "notes": list(self.notes)}
        return {**asdict(self), **own}

    def __str__(self) -> str:
        limit = f"at most {self.maximum:.2f}"
        if self.fit_p_values:
            bad = sum(p < 0.01 for p in self.fit_p_values)
            limit += f"; the fit is bad (p < 0.01) for {bad} of {len(self.fit_p_values)} canaries"
        lines = [f"exposure in bits ({self.method}, {limit})"]
        for level in self.levels:
            mean = self.mean(level)
            name = f"{level} copies" if level else "controls"
            line = f"{name:>12}: {mean.value:6.2f}  [{mean.low:.2f}, {mean.high:.2f}]  n={mean.n}"
            if level and len(self.exposures(0)):
                excess = self.excess(level)
                line += f"  excess {excess.value:+.2f}  [{excess.low:.2f}, {excess.high:.2f}]"
            lines.append(line)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
