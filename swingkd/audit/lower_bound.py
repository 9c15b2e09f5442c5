"""Empirical epsilon: how much privacy loss an attack proves, whatever was promised.

Canaries are put in or left out by a fair coin, an attack scores them all, and the guesses it gets right bound epsilon
from below with a stated confidence.  The bound is about the canaries' unit: ten copies of a canary are a group of ten.
It never says that a model is private; a better attack may find more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special, stats

from swingkd.privacy.accounting import check_resolved
from swingkd.privacy.gaussian import gdp_delta, gdp_mu

Method = Literal["one_run", "f_dp", "clopper_pearson", "gdp"]
# No attack on a few thousand canaries can prove more.
_LARGEST = 50.0


@dataclass(frozen=True)
class EpsilonLowerBound:
    """An epsilon that the attack proves.

    Args:
        epsilon: the lower bound, 0 where nothing is proved.
        delta: the delta it belongs to.
        confidence: with which it holds.
        method: how it was computed.
        canaries: how many of those that were in or out by coin it was measured on: a half.
        guesses: how many guesses were made, and how many of them were right.
    """

    epsilon: float
    delta: float
    confidence: float
    method: Method
    canaries: int
    guesses: tuple[int, int]


def epsilon_lower_bound(
    inside: Sequence[float] | np.ndarray,
    outside: Sequence[float] | np.ndarray,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    method: Method = "one_run",
    seed: int = 0,
) -> EpsilonLowerBound:
    """Bound epsilon from below by an attack's scores of canaries that were in or out by a fair coin.

    Where to cut the scores is chosen on one half of the canaries and the bound is computed on the other, so no
    correction for trying several cuts is needed.

    Args:
        inside: scores of the canaries that were in; higher means "in".
        outside: scores of those left out.
        delta: of the (epsilon, delta) that is bounded.
        confidence: of the bound.
        method: "one_run" (Steinke et al. 2023, arXiv 2305.08846: canaries of one training run), "f_dp" (Mahloujifar
            et al. 2024, arXiv 2410.22235: the same, sharper, assuming a Gaussian trade-off), "clopper_pearson" and
            "gdp" (each score from a run of its own, or canaries that do not interact).
        seed: of the halves.

    Raises:
        ValueError: fewer than four canaries on a side, scores that are no numbers, or settings out of range.
    """
    sides = [np.asarray(side, np.float64) for side in (inside, outside)]
    for name, side in zip(("inside", "outside"), sides, strict=True):
        if len(side) < 4:
            raise ValueError(f"{len(side)} canaries are {name}; at least 4 are needed, a few hundred to prove much.")
        if not np.isfinite(side).all():
            raise ValueError(
                f"{int((~np.isfinite(side)).sum())} of {len(side)} {name} scores are no finite numbers: the model "
                "gave NaN or infinite logits there."
            )
    if not 0 < confidence < 1 or not 0 <= delta < 1:
        raise ValueError(f"confidence={confidence} must lie in (0, 1) and delta={delta} in [0, 1).")
    if method not in _METHODS:
        raise ValueError(f"method={method!r} is not known. Choose one of {', '.join(_METHODS)}.")
    if method == "f_dp":
        if delta == 0:
            raise ValueError("method='f_dp' needs delta > 0: a Gaussian trade-off has no finite epsilon at delta = 0.")
        check_resolved(delta)
    bound = _METHODS[method]
    rng = np.random.default_rng(seed)
    scores, inserted = np.concatenate(sides), np.repeat([True, False], [len(side) for side in sides])
    # All canaries are mixed: on each half, the coin still decided who was in.
    halves = np.array_split(rng.permutation(len(scores)), 2)
    choose, measure = ((scores[half][inserted[half]], scores[half][~inserted[half]]) for half in halves)
    # The best cut for one audit of one run is a good one for the other, which takes far longer to compute.
    quick = _one_run if method == "f_dp" else bound
    cut = max(_cuts(*choose), key=lambda pair: quick(_count(*choose, pair), delta, confidence))
    counts = _count(*measure, cut)
    right, made = counts.true_in + counts.true_out, counts.guessed_in + counts.guessed_out
    return EpsilonLowerBound(bound(counts, delta, confidence), delta, confidence, method, counts.total, (made, right))


@dataclass(frozen=True)
class _Counts:
    """What guessing "in" above one cut and "out" below another gives."""

    inside: int
    outside: int
    true_in: int
    false_in: int
    true_out: int
    false_out: int

    @property
    def total(self) -> int:
        return self.inside + self.outside

    @property
    def guessed_in(self) -> int:
        return self.true_in + self.false_in

    @property
    def guessed_out(self) -> int:
        return self.true_out + self.false_out


def _cuts(inside: np.ndarray, outside: np.ndarray) -> list[tuple[float, float]]:
    """List pairs of cuts to try: guesses at the top alone, at the bottom alone, and at both ends alike."""
    scores = np.sort(np.concatenate([inside, outside]))
    shares = np.unique(np.geomspace(4 / len(scores), 0.5, 24))
    top, bottom = np.quantile(scores, 1 - shares), np.quantile(scores, shares)
    pairs = [(high, -math.inf) for high in top] + [(math.inf, low) for low in bottom]
    return pairs + [(high, low) for high, low in zip(top, bottom, strict=True) if high > low]


def _count(inside: np.ndarray, outside: np.ndarray, cut: tuple[float, float]) -> _Counts:
    high, low = cut
    return _Counts(
        len(inside),
        len(outside),
        int((inside >= high).sum()),
        int((outside >= high).sum()),
        int((outside <= low).sum()),
        int((inside <= low).sum()),
    )


def _largest(holds: Callable[[float], bool]) -> float:
    """Return the largest epsilon that is refuted, where `holds(epsilon)` says which are not; it holds above."""
    if holds(0.0):
        return 0.0
    if not holds(_LARGEST):
        return _LARGEST
    low, high = 0.0, _LARGEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low


def one_run_p_value(right: int, made: int, canaries: int, epsilon: float, delta: float) -> float:
    """Return how likely so many right guesses are under (epsilon, delta) (Steinke et al. 2023, Theorem 5.2).

    Args:
        right: guesses that were right.
        made: guesses made; the others abstained.
        canaries: canaries in or out by coin.
        epsilon: hypothesis.
        delta: hypothesis.
    """
    # A frozen law of scipy's takes longer to make than to ask.
    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(stats.binom.sf(right - 1, made, chance))
    if delta == 0 or right == 0:
        return min(tail, 1.0)
    below = np.arange(1, right + 1)
    worst = float(((stats.binom.sf(right - 1 - below, made, chance) - tail) / below).max())
    return min(tail + 2 * canaries * delta * worst, 1.0)


def _one_run(counts: _Counts, delta: float, confidence: float) -> float:
    right, made = counts.true_in + counts.true_out, counts.guessed_in + counts.guessed_out
    return _largest(lambda eps: one_run_p_value(right, made, counts.total, eps, delta) > 1 - confidence)


def _f_dp(counts: _Counts, delta: float, confidence: float) -> float:
    right, made = counts.true_in + counts.true_out, counts.guessed_in + counts.guessed_out
    if right == 0:
        return 0.0

    def holds(epsilon: float) -> bool:
        # The Gaussian trade-off that is (epsilon, delta): its noise follows from the two.
        return f_dp_holds(right, made, counts.total, gdp_mu(epsilon, delta), 1 - confidence)

    return _largest(holds)


def f_dp_holds(right: int, made: int, canaries: int, mu: float, significance: float) -> bool:
    """Say whether mu-GDP is compatible with so many right guesses (Mahloujifar et al. 2024, Algorithm 3).

    Going down from `right` guesses, the largest masses of right and of wrong guesses that the trade-off allows are
    followed; if at the bottom they leave room for all the guesses that were made, nothing is refuted.
    """
    share = significance * made / canaries
    correct, wrong = share * right / made, share * (made - right) / made
    for i in range(right - 1, -1, -1):
        more = max(wrong, float(special.ndtr(special.ndtri(correct) - mu)))
        if more == wrong:
            break  # nothing can change any more
        correct = min(correct + (i / (made - i)) * (more - wrong), 1.0)
        wrong = more
    return correct + wrong <= made / canaries


def _rates(counts: _Counts, confidence: float) -> list[tuple[float, float]]:
    """Return pairs (lower bound of a true rate, upper bound of its false rate), each pair at the confidence."""
    intervals = []
    for true, of_true, false, of_false in (
        (counts.true_in, counts.inside, counts.false_in, counts.outside),
        (counts.true_out, counts.outside, counts.false_out, counts.inside),
    ):
        if not of_true or not of_false:
            continue  # a half of very few canaries
        # One-sided intervals, two of them, for both ends: a quarter of the error each.
        level = 1 - (1 - confidence) / 4
        low = stats.binomtest(true, of_true, alternative="greater").proportion_ci(level, "exact").low
        high = stats.binomtest(false, of_false, alternative="less").proportion_ci(level, "exact").high
        intervals.append((float(low), float(high)))
    return intervals


def _clopper_pearson(counts: _Counts, delta: float, confidence: float) -> float:
    return max(
        [0.0, *(math.log((low - delta) / high) for low, high in _rates(counts, confidence) if low - delta > high > 0)]
    )


def _gdp(counts: _Counts, delta: float, confidence: float) -> float:
    mu = max([0.0, *(stats.norm.ppf(low) - stats.norm.ppf(high) for low, high in _rates(counts, confidence))])
    if not mu > 0 or not math.isfinite(mu):
        return 0.0
    return _largest(lambda epsilon: gdp_delta(epsilon, mu) <= delta)


_METHODS: dict[str, Callable[[_Counts, float, float], float]] = {
    "one_run": _one_run,
    "f_dp": _f_dp,
    "clopper_pearson": _clopper_pearson,
    "gdp": _gdp,
}
