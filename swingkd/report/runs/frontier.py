"""The card of a run on a real pretrained model: how good each student is beside all that it gives away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from swingkd.privacy.accounting import said_epsilon
from swingkd.report.page import Figure
from swingkd.report.plots import blank_figure, look, save_figure
from swingkd.report.row import Row, rows_of
from swingkd.report.runs.base import RunCard
from swingkd.report.runs.canaries import ASKS, Leak, listed, over_seeds

# Words of a setting that do not name the student, or that stand in its row anyway.
_UNNAMED = (
    "transfer", "seed", "split", "repetitions", "canaries", "records", "attack", "scope", "unit", "neighbours",
)  # fmt: skip
_QUALITIES = ("perplexity", "perplexity_flagged", "perplexity_unflagged", "section_accuracy")
# The attack that is drawn; that of Chen et al. on each token's best guess.
_DRAWN = "ez"
# The student before its training, and the canaries that are words.
_CUT, _UNTAGGABLE = "base_layers", "words"
# The student of which most is asked.
_PROTECTED = "surrogate_out_of_fold"


class Student(NamedTuple):
    """A model: its name, how many seeds, and its numbers.

    Args:
        name: for people.
        seeds: how many runs the numbers are a mean of.
        quality: perplexities on test text, "fresh" that of the canaries' form, and the share of sections told.
        leaks: bits over the controls, by kind of canary and copies.
        caught: the share of records that each attack finds at 1 % false alarms.
        proved: the largest epsilon of the family of attacks, all seeds together.
        promised: what its ledger says, or "".
    """

    name: str
    seeds: int
    quality: dict[str, float]
    leaks: dict[tuple[str, int], Leak]
    caught: dict[str, Leak]
    proved: float | None
    promised: str

    @property
    def worst(self) -> Leak | None:
        """The largest of its leaks."""
        return max(self.leaks.values(), key=lambda leak: leak.value, default=None)


class FrontierCard(RunCard):
    """A real pretrained model: quality against every leak."""

    kind = "frontier"
    picture = "frontier.png"
    template = "frontier.md"
    table: list[Student]

    def read(self) -> list[Student]:
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in rows_of(self.content):
            groups.setdefault((row.model, row.bare(_UNNAMED)), []).append(row)
        # Some rows are of the data.
        return [
            _student(*key, rows) for key, rows in groups.items() if any(row.metric == "perplexity" for row in rows)
        ]

    @property
    def kinds(self) -> list[str]:
        """The kinds of canaries, in their order."""
        return list(dict.fromkeys(kind for student in self.table for kind, _ in student.leaks))

    @property
    def attacks(self) -> list[str]:
        """The attacks on records, in their order."""
        return list(dict.fromkeys(attack for student in self.table for attack in student.caught))

    def figure(self) -> Figure:
        rows = [
            (s.name, f"{s.quality['perplexity']:.2f}", s.worst.bits if s.worst else "", _share(s.caught.get(_DRAWN)))
            for s in self.table
        ]
        headings = ("model", "perplexity", "most bits over the controls", f"records found by {_DRAWN} at 1 %")
        return Figure("Quality against every leak", headings=headings, rows=rows)

    def draw(self, path: Path) -> None:
        figure, axes = blank_figure((13, 4.4), 1, 3)
        # What was cut and not trained since is no model to choose.
        for i, student in enumerate(s for s in self.table if s.name != _CUT):
            style = {"linestyle": "none", **look(i)}
            x = student.quality["perplexity"]
            for axis, words in ((axes[0], False), (axes[1], True)):
                bits = [leak.value for (kind, _), leak in student.leaks.items() if (kind == _UNTAGGABLE) == words]
                axis.plot([x] * bool(bits), [max(bits)] if bits else [], label=student.name, **style)
            if _DRAWN in student.caught:
                axes[2].plot(x, 100 * student.caught[_DRAWN].value, **style)
        over = "bits over the controls, {} that give most"
        axes[0].set(title="Values that a tagger finds", ylabel=over.format("kind and copies"))
        axes[1].set(title="Words that no tagger finds", ylabel=over.format("copies"))
        axes[2].set(title="Ordinary records", ylabel=f"found by {_DRAWN} at 1 % false alarms, %")
        for axis, chance in zip(axes, (0, 0, 1), strict=True):
            axis.axhline(chance, color="0.6", linewidth=0.8)
            axis.set_xlabel("perplexity on test text")
            axis.set_xscale("log")
            axis.grid(alpha=0.25, which="both")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
        figure.suptitle(f"{self.run}: down and to the left is better; the lines are chance", fontsize=10)
        save_figure(figure, path)

    def findings(self) -> Sequence[str]:
        """Say of each student what is above chance, and which kinds of canary show nothing since nobody knows them."""
        lines = []
        teacher = next((student for student in self.table if student.name == "teacher"), None)
        unknown = [kind for kind in self.kinds if teacher and not _open(teacher, [kind])]
        if unknown:
            lines.append(f"No power here: the teacher gives nothing away of {listed(unknown)}, so nothing is shown.")
        for student in self.table:
            if student is teacher or student.name.startswith("base"):
                continue
            open_ = _open(student, [kind for kind in self.kinds if kind not in unknown])
            caught = [attack for attack, share in student.caught.items() if share.low > 0.01]
            canaries = f"gives canaries away ({listed(open_)})" if open_ else "gives no canary away beyond chance"
            records = f"records are found by {listed(caught)}" if caught else "no attack finds records beyond chance"
            lines.append(f"`{student.name}` {canaries}; {records}.")
        return lines

    def context(self, folder: Path) -> dict[str, Any]:
        kd = next((student for student in self.table if student.name == "kd"), None)

        def change(student: Student) -> float | None:
            if kd is None or student is kd or student.name.startswith(("base", "teacher")):
                return None
            return student.quality["perplexity"] / kd.quality["perplexity"] - 1

        return {
            "students": self.table,
            "kinds": self.kinds,
            "levels": sorted({level for student in self.table for _, level in student.leaks}),
            "attacks": self.attacks,
            "asks": ASKS,
            "about": self.content["config"].get("about", ""),
            "change": change,
            "majority": next((r.value for r in rows_of(self.content) if r.metric == "section_majority"), None),
            "goals": goals(self.table),
            "share": _share,
            "promised": [student for student in self.table if student.promised],
        }


class Goal(NamedTuple):
    """What this run is to show: in words, and how it ended."""

    goal: str
    measured: str
    reached: str


def goals(students: Sequence[Student]) -> list[Goal]:
    """Say what was asked of the student that has both protections, and what came of it, reached or not."""
    by_name = {student.name: student for student in students}
    own, kd, public = (by_name.get(name) for name in (_PROTECTED, "kd", "public"))
    if own is None or kd is None:
        return [Goal(f"`{_PROTECTED}` against `kd`", "not measured", "")]
    change = own.quality["perplexity"] / kd.quality["perplexity"] - 1
    worst = own.worst
    found = [Goal(f"perplexity of `{_PROTECTED}` within 3 % of `kd`", f"{100 * change:+.1f} %", _word(change <= 0.03))]
    if worst is not None:
        most = f"{worst.bits} bits at most"
        found.append(Goal("every kind of canary within half a bit of its controls", most, _word(worst.value <= 0.5)))
    if _DRAWN in own.caught and _DRAWN in kd.caught:
        caught, before = own.caught[_DRAWN].value, kd.caught[_DRAWN].value
        found.append(
            Goal(
                f"`{_DRAWN}` finds at most 2 % of ordinary records, where it finds 10 % behind `kd`",
                f"{100 * caught:.1f} %, behind `kd` {100 * before:.1f} %",
                _word(caught <= 0.02 and before >= 0.1),
            )
        )
    if public is not None:
        needed = 1 - own.quality["perplexity"] / public.quality["perplexity"]
        goal = "the teacher is needed: perplexity at least 10 % below that of the public base distilled alone"
        found.append(Goal(goal, f"{100 * needed:.1f} % below", _word(needed >= 0.1)))
    return found


def _word(reached: bool) -> str:
    return "yes" if reached else "no"


def _student(model: str, label: str, rows: list[Row]) -> Student:
    seeds = len({row.words.get("seed", "0") for row in rows})
    quality: dict[str, list[float]] = {}
    for row in rows:
        split = row.words.get("split", "test")
        if row.metric in _QUALITIES and split == "test":
            quality.setdefault(row.metric, []).append(row.value)
        elif row.metric == "perplexity_flagged" and split == "fresh":
            quality.setdefault("fresh", []).append(row.value)
    leaks: dict[tuple[str, int], list[Row]] = {}
    caught: dict[str, list[Row]] = {}
    for row in rows:
        if row.metric == "exposure_excess" and "canaries" in row.words:
            leaks.setdefault((row.words["canaries"], int(row.words["repetitions"])), []).append(row)
        elif row.metric == "tpr_at_1_fpr":
            caught.setdefault(row.words["attack"], []).append(row)
    proved = [row.value for row in rows if row.metric == "epsilon_lower"]
    epsilons = [row for row in rows if row.metric == "epsilon"]
    return Student(
        f"{model} ({label})" if label else model,
        seeds,
        {name: mean(values) for name, values in quality.items()},
        {key: over_seeds(own) for key, own in leaks.items()},
        {attack: over_seeds(own) for attack, own in caught.items()},
        max(proved, default=None),
        _promise(epsilons, [row for row in rows if row.metric == "delta"]),
    )


def _promise(epsilons: list[Row], deltas: list[Row]) -> str:
    if not epsilons:
        return ""
    most = max(epsilons, key=lambda row: row.value)
    delta = max(row.value for row in deltas)
    scope, unit = most.words["scope"].replace("_", " "), most.words["unit"].replace("-", " ")
    return f"{scope}: epsilon {said_epsilon(most.value)} at delta {delta:g} for each {unit}"


def _open(student: Student, kinds: Iterable[str]) -> list[str]:
    """Return the kinds of which the student gives something away, with a whole interval above the controls."""
    return [kind for kind in kinds if any(leak.low > 0 for (of, _), leak in student.leaks.items() if of == kind)]


def _share(leak: Leak | None) -> str:
    return f"{100 * leak.value:.1f} [{100 * leak.low:.1f}, {100 * leak.high:.1f}]" if leak else ""
