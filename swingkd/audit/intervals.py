"""A measured value and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A value measured on `n` things, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def proportion(hits: int, n: int) -> Interval:
    """Return a share with its exact 95 % interval (Clopper and Pearson)."""
    interval = stats.binomtest(hits, n).proportion_ci()
    return Interval(hits / n, float(interval.low), float(interval.high), n)


def bootstrap(
    statistic: Callable, samples: Sequence[np.ndarray], n: int, *, resamples: int, seed: int = 0
) -> list[Interval]:
    """Return a statistic's values with their 95 % percentile intervals.

    Args:
        statistic: takes the samples, [..., size] each, and the keyword `axis`; returns [...] or [values, ...].
        samples: what is resampled, each for itself.
        n: how many things the values are of.
        resamples: how often.
        seed: of the resampling.
    """
    values = np.atleast_1d(statistic(*samples))
    if all(np.ptp(sample) == 0 for sample in samples):
        return [Interval(float(value), float(value), float(value), n) for value in values]
    # The library refuses a sample of one; resampled, it is itself.
    doubled = [np.repeat(sample, 2) if len(sample) == 1 else sample for sample in samples]
    drawn = stats.bootstrap(
        doubled,
        statistic,
        method="percentile",
        n_resamples=resamples,
        batch=max(2**20 // sum(map(len, doubled)), 1),
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    ends = zip(values, np.atleast_1d(drawn.low), np.atleast_1d(drawn.high), strict=True)
    return [Interval(float(value), float(low), float(high), n) for value, low, high in ends]
