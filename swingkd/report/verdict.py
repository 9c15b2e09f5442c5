"""An audit in a few words: what was given away, kind by kind, and three numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from swingkd.audit import AuditReport, ExposureReport

_CHANCE = 1.44
# Fewer canaries, or records on one side, say nothing in a sentence; the tables have them all the same.
_FEW = 10


def spoken(kind: str) -> str:
    """Say what kind of record was attacked.

    >>> spoken("canary_secrets x1"), spoken("canary_records x10"), spoken("records")
    ('secrets inserted once', 'sentences with secrets inserted 10 times', 'records')
    """
    found = re.fullmatch(r"canary_(secrets|records)(?: x(\d+))?", kind)
    if found is None:
        return kind
    what = "secrets" if found[1] == "secrets" else "sentences with secrets"
    return f"{what} {_inserted(int(found[2]))}" if found[2] else what


def _inserted(times: int) -> str:
    return "never inserted" if not times else "inserted once" if times == 1 else f"inserted {times} times"


def verdicts(report: AuditReport) -> list[str]:
    """Say of each kind of secret whether the model gave it away."""
    return [*_of_canaries(report), *_of_members(report), *_of_text(report)]


def _of_canaries(report: AuditReport) -> Iterator[str]:
    if report.exposure is None:
        return
    for level in (level for level in report.exposure.levels if level):
        name = f"Secrets {_inserted(level)}"
        mean = report.exposure.mean(level)
        bits = f"{mean.value:.1f} bits of exposure, where chance gives {_CHANCE}"
        if mean.n < _FEW:
            yield f"{name}: {mean.n} are too few to say ({bits})."
        elif report.exposure.gives_away(level):
            yield f"{name} are given away: {bits}."
        elif report.exposure_is_powerless(level):
            yield f"{name}: nothing is shown. The teacher does not give them away either ({bits})."
        else:
            yield f"{name} were not found: {bits}."


def _of_members(report: AuditReport) -> Iterator[str]:
    for kind, membership in report.membership.items():
        through, name = report.through(kind), spoken(kind)
        best = max(result.auc.value for result in membership.results)
        sides = membership.results[0].members, membership.results[0].nonmembers
        if min(sides) < _FEW:
            yield f"Whether {name} were trained on: {sides[0]} against {sides[1]} are too few to say."
        elif through:
            yield (
                f"Whether {name} were trained on can be told: {len(through)} of {len(membership.results)} attacks get "
                f"through (the best has an AUC of {best:.2f}, where 0.5 is chance)."
            )
        elif len(report.powerless(kind)) == len(membership.results):
            yield f"Whether {name} were trained on: nothing is shown. The attacks do not catch the teacher either."
        else:
            yield f"Whether {name} were trained on could not be told: no attack does better than chance."


def _of_text(report: AuditReport) -> Iterator[str]:
    found = report.extraction
    if found is None:
        return
    if found.values:
        count, known = len(found.values.found), found.values.training
        said = f"{count} of {known} private values" if count else f"None of the {known} private values"
        yield f"{said} of the training text {'was' if count == 1 else 'were'} said unasked."
    if found.inference:
        right, chance = found.inference.right, found.inference.chance or 0.0
        told = "more often than" if right.low > chance else "no more often than"
        shares = f"{right.value:.0%}; chance {chance:.0%}"
        yield f"From a list, the right private value is picked {told} by chance ({shares})."
    if found.continuation:
        whole = found.continuation.greedy
        yield f"{round(whole.value * whole.n)} of {whole.n} texts are continued word for word."


def numbers(report: AuditReport) -> list[tuple[str, str]]:
    """Return three numbers at most, with what each is: the worst of each kind of attack."""
    told: list[tuple[str, str]] = []
    if report.exposure is not None and (levels := _told(report.exposure)):
        value, level = max((report.exposure.mean(level).value, level) for level in levels)
        told.append((f"{value:.1f} bits", f"exposure of secrets {_inserted(level)} (chance: {_CHANCE})"))
    enough = {
        kind: membership.results
        for kind, membership in report.membership.items()
        if min(membership.results[0].members, membership.results[0].nonmembers) >= _FEW
    }
    if enough:
        best = max((result.auc.value, kind) for kind, results in enough.items() for result in results)
        told.append((f"{best[0]:.2f}", f"AUC of the best attack on {spoken(best[1])} (chance: 0.5)"))
    if report.extraction is not None and report.extraction.values is not None:
        values = report.extraction.values
        told.append((f"{len(values.found)} of {values.training}", "private values said unasked"))
    bounds = [bound.epsilon for kinds in report.epsilon.values() for bound in kinds.values()]
    if len(told) < 3 and bounds:
        told.append((f"{max(bounds):.1f}", "epsilon that an attack proves (a lower bound)"))
    return told[:3]


def _told(exposure: ExposureReport) -> list[int]:
    return [level for level in exposure.levels if level and exposure.mean(level).n >= _FEW]


def says_something(report: AuditReport, kind: str) -> bool:
    """Tell whether a ROC curve shows more than chance: an attack gets through, here or on the teacher."""
    teacher = report.teacher
    return bool(report.through(kind)) or bool(teacher and kind in teacher.membership and teacher.through(kind))
