"""A measured value and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats


@dataclass(frozen=True)
class Interval:
    """A value measured on `n` things, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def proportion(hits: float, n: int, confidence: float = 0.95) -> Interval:
    """Return a share with its exact interval (Clopper and Pearson 1934), which is no point at 0 or 1 either.

    Args:
        hits: how many; half a hit where a tie counts half.
        n: of how many.
        confidence: of the interval.
    """
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, hits, n - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return Interval(hits / n, float(low), float(high), n)


def area(members: np.ndarray, nonmembers: np.ndarray) -> Interval:
    """Return the area under the ROC curve with its 95 % interval: DeLong's variance (1988), on the logit scale, and
    Student's t for few records.

    Where every pair of a member and another is ordered alike, that variance is 0 and says nothing.  The interval is
    then Clopper and Pearson's of as many pairs as share no record: it treats the others as if they were not there, and
    is wider than need be (our derivation).

    Args:
        members: [m] scores.
        nonmembers: [n] scores.
    """
    m, n = len(members), len(nonmembers)
    ranks = stats.rankdata(np.concatenate([members, nonmembers]))
    value = (ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    pairs = min(m, n)
    if pairs > 1:
        # Each record's share of the others that it is ordered rightly against.
        inside = (ranks[:m] - stats.rankdata(members)) / n
        outside = 1 - (ranks[m:] - stats.rankdata(nonmembers)) / m
        parts = np.array([inside.var(ddof=1) / m, outside.var(ddof=1) / n])
        spread = np.sqrt(parts.sum())
        if 0 < value < 1 and spread > 0:
            # Few records know their own spread badly: Student's quantile, with Welch's degrees of freedom.
            freedom = parts.sum() ** 2 / (parts**2 / [m - 1, n - 1]).sum()
            reach = stats.t.ppf(0.975, freedom) * spread / (value * (1 - value))
            centre = special.logit(value)
            low, high = special.expit([centre - reach, centre + reach])
            return Interval(float(value), float(low), float(high), m + n)
    exact = proportion(value * pairs, pairs)
    return Interval(float(value), exact.low, exact.high, m + n)


def mean(values: np.ndarray, highest: float) -> Interval:
    """Return the mean of values in [0, highest] with its 95 % interval: Student's t.

    Values that are all alike, or a single one, do not show how far the next one is off.  As many others are then
    allowed for as Clopper and Pearson allow, and at the far end (our derivation).  Below ten values the interval is
    rough: of exponential ones, as exposures are by chance, it holds the true mean 88 times in 100.

    Args:
        values: [n] what was measured.
        highest: what it can be at most.
    """
    n, value = len(values), float(np.mean(values))
    if n > 1 and np.ptp(values) > 0:
        reach = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
        return Interval(value, max(value - reach, 0.0), min(value + reach, max(highest, value)), n)
    alike = proportion(n, n).low
    return Interval(value, value * alike, value + max(highest - value, 0.0) * (1 - alike), n)


def difference(one: Interval, other: Interval) -> Interval:
    """Return the difference of two values measured apart, with the interval that theirs allow (Zou and Donner 2008).

    Args:
        one: the minuend.
        other: what is taken off.
    """
    value = one.value - other.value
    low = value - np.hypot(one.value - one.low, other.high - other.value)
    high = value + np.hypot(one.high - one.value, other.value - other.low)
    return Interval(value, float(low), float(high), one.n)


def wider(one: Interval, other: Interval) -> Interval:
    """Return a value with an interval that holds both."""
    return Interval(one.value, min(one.low, other.low), max(one.high, other.high), one.n)


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
