"""How much more the same attacks find on another model: its teacher, or a student that was trained otherwise.

The same canaries, the same records and the same halves are asked for on both, so differences are of pairs: what is
hard for both by itself cancels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from swingkd.audit.exposure_report import ExposureReport
from swingkd.audit.intervals import Interval, area, bootstrap, difference, mean, proportion, wider
from swingkd.audit.membership import MembershipReport, attack_quality


@dataclass(frozen=True)
class Removed:
    """What an attack finds on two models, and the difference.

    Args:
        attack: whose.
        on: what it was tried on: canaries of so many copies, or a kind of record.
        metric: "exposure" in bits, "AUC" (turned round below 0.5, where it tells as much), or "TPR at 1 % FPR".
        other: on the model that is compared with.
        own: on the audited model.
        gone: the first less the second, with the 95 % interval of pairs.
    """

    attack: str
    on: str
    metric: str
    other: float
    own: float
    gone: Interval


def removed_exposure(own: ExposureReport, other: ExposureReport) -> Iterator[Removed]:
    """Yield for each number of copies how much exposure is gone, by Student's t over the canaries.

    Args:
        own, other: of the same canaries.
    """
    known = {canary.id: canary.exposure for canary in other.canaries}
    for level in own.levels:
        pairs = np.array(
            [
                (known[canary.id], canary.exposure)
                for canary in own.canaries
                if canary.id in known and (canary.repetitions if canary.inserted else 0) == level
            ]
        )
        if not level or len(pairs) < 2:
            continue
        less = pairs[:, 0] - pairs[:, 1]
        value, error = float(less.mean()), float(stats.sem(less))
        reach = float(stats.t.ppf(0.975, len(less) - 1)) * error
        gone = Interval(value, value - reach, value + reach, len(less))
        if not error:
            # Differences that are all alike do not show how far the next one is off.
            gone = difference(mean(pairs[:, 0], other.maximum), mean(pairs[:, 1], own.maximum))
        yield Removed("exposure", f"x{level}", "exposure", float(pairs[:, 0].mean()), float(pairs[:, 1].mean()), gone)


def removed_membership(
    kind: str, own: MembershipReport, other: MembershipReport, *, resamples: int = 1000, seed: int = 0
) -> Iterator[Removed]:
    """Yield for each attack how much of its success is gone, by resampling the records of both models together.

    Args:
        kind: of the records.
        own, other: of the same records.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    for attack in own.scores.keys() & other.scores.keys():
        sides = list(zip(own.scores[attack], other.scores[attack], strict=True))
        if any(len(one) != len(two) for one, two in sides):
            continue
        places = [np.arange(len(one)) for one, _ in sides]

        def gone(members: np.ndarray, others: np.ndarray, axis: int = -1, sides: list = sides) -> np.ndarray:
            here, there = (_quality(sides[0][which][members], sides[1][which][others], axis) for which in (0, 1))
            return there - here

        count = sum(map(len, places))
        found = bootstrap(gone, places, count, resamples=resamples, seed=seed)
        here, there = (_quality(sides[0][which], sides[1][which]) for which in (0, 1))
        # Where nothing moves between samples, all was found or nothing: the exact intervals of the two know better.
        apart = [
            difference(area(*other.scores[attack]), area(*own.scores[attack])),
            difference(*(proportion(round(rate[1] * len(places[0])), len(places[0])) for rate in (there, here))),
        ]
        found = [
            wider(one, Interval(one.value, exact.low, exact.high, count)) if one.low == one.high else one
            for one, exact in zip(found, apart, strict=True)
        ]
        names = ("AUC", *(("TPR at 1 % FPR",) if own[attack].resolves(0.01) else ()))
        for i, metric in enumerate(names):
            yield Removed(attack, kind, metric, float(there[i]), float(here[i]), found[i])


def _quality(members: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the area, turned round where it is below a half, and the true positive rate at 1 % false alarms."""
    area_below, rate, _ = attack_quality(members, others, axis)
    return np.stack([np.maximum(area_below, 1 - area_below), rate])
