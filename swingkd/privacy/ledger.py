"""The ledger: what was released, about which data, and what it adds up to.

A student has two debts, and one says nothing of the other: to the *transfer set*, the text that it was trained on, and
to the *teacher's training data*, whose traces its targets carry.  The ledger always speaks of both.

    >>> from swingkd.privacy.plan import PrivacyPlan
    >>> plan = PrivacyPlan.solve(epsilon=8.0, sampling_rate=0.01, steps=1000, delta=1e-5)
    >>> ledger = PrivacyLedger(unknown={TEACHER_DATA: NO_TEACHER})
    >>> ledger.record(LedgerEntry.of_plan(plan, releases=plan.steps))
    >>> print(ledger)
    transfer set: epsilon 7.99 at delta 1e-05 for each record (add or remove one); 1,000 releases, PRV accountant
    teacher's training data: there was no teacher
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from yaml import YAMLError

from swingkd.files import read_as, write_json
from swingkd.guards import check_finite
from swingkd.privacy.ledger_entry import TRANSFER_SET, Guarantee, LedgerEntry, compose
from swingkd.privacy.ledger_file import checked_content
from swingkd.privacy.weights import file_of, has_weights, weight_digests

LEDGER_FILE = "privacy_ledger.json"
TEACHER_DATA = "teacher's training data"
#: What a teacher answered about synthetic examples.
SYNTHETIC_LABELS = "synthetic labels"
#: What a tagger found in the transfer set, and no more than that.
FLAGGED_VALUES = "flagged values of the transfer set"
_SCOPES = (TRANSFER_SET, TEACHER_DATA)
_EARLIER = "earlier "
NO_TEACHER = "there was no teacher"
#: Of data that has nothing to hide, and of examples that are no data.
PUBLIC_DATA = "it is public"
NO_DATA = "there is none: the examples are synthetic"
_NOTHING_PRIVATE = (NO_TEACHER, PUBLIC_DATA, NO_DATA)
_OTHER_WEIGHTS = "its ledger was not sealed for these weights"
_UNKNOWN = {
    TRANSFER_SET: "it was trained on without differential privacy",
    TEACHER_DATA: "nothing is known of how the teacher was trained",
}


class BudgetExceededError(ValueError):
    """A run would spend more than its budget."""


class PrivacyLedger:
    """What a model's training released, entry by entry.

    Args:
        entries: to begin with.
        budget: the epsilon that the transfer set may cost; `None`: no limit.
        unknown: for a data set that no entry is about: why it is not covered.

    Raises:
        ValueError: the budget is no finite number.
    """

    def __init__(
        self,
        entries: Iterable[LedgerEntry] = (),
        *,
        budget: float | None = None,
        unknown: dict[str, str] | None = None,
    ):
        check_finite("budget", budget)
        self.entries: list[LedgerEntry] = list(entries)
        self.budget = budget
        #: Digests of the weights that it speaks of, by file; none while they change.
        self.weights: dict[str, str] = {}
        #: Whether it was read from a file: what it promises of others is the word of whoever wrote that.
        self.own_word = False
        self.unknown = _UNKNOWN | (unknown or {})

    def record(self, entry: LedgerEntry) -> None:
        """Add releases; those of a mechanism that ran on are counted in its own entry."""
        for i, known in enumerate(self.entries):
            if replace(known, releases=0) == replace(entry, releases=0):
                self.entries[i] = replace(known, releases=known.releases + entry.releases)
                return
        self.entries.append(entry)

    def afford(self, entry: LedgerEntry) -> None:
        """Refuse releases that the budget does not allow, before they are made.

        Raises:
            BudgetExceededError: with what they would cost.
        """
        if self.budget is None:
            return
        spent = self.epsilon(entry.scope) or 0.0
        known = [known for known in self.entries if known.scope == entry.scope]
        after = compose([*known, entry])[0]
        # The noise that was solved for reaches its target to a few digits.
        if after > self.budget * (1 + 1e-6):
            raise BudgetExceededError(
                f"The budget is epsilon {self.budget:g} and {spent:.3g} of it is spent; {entry.releases:,} more "
                f"releases would make it {after:.3g}. Train for fewer steps, add noise, or raise target_epsilon."
            )

    def about(self, scope: str) -> list[LedgerEntry]:
        """Return the entries about one data set that released something."""
        return [entry for entry in self.entries if entry.scope == scope and entry.releases]

    def covers(self, scope: str) -> bool:
        """Tell whether there is a guarantee for this data set, and nothing beside it that does not hold."""
        entries = self.about(scope)
        return bool(entries) and all(entry.holds for entry in entries)

    def epsilon(self, scope: str = TRANSFER_SET) -> float | None:
        """Return what was spent on this data set; `None` where it is not covered."""
        return compose(self.about(scope))[0] if self.covers(scope) else None

    def scopes(self) -> list[str]:
        """Return the data sets that it speaks of: always the transfer set and the teacher's training data."""
        others = {entry.scope for entry in self.entries if entry.releases} | self.unknown.keys()
        return [*_SCOPES, *sorted(others - set(_SCOPES))]

    def as_teacher(self) -> list[LedgerEntry]:
        """Return what this model's own training promises, as a student of it says it: about the teacher's data.

        Empty where any data that went into this model is not covered.
        """
        if not all(self.covers(scope) or self.unknown.get(scope) in _NOTHING_PRIVATE for scope in self.scopes()):
            return []
        return [self._told(entry, TEACHER_DATA, "teacher") for entry in self.entries if entry.releases]

    def _told(self, entry: LedgerEntry, scope: str, whose: str) -> LedgerEntry:
        """Return an entry as another model's ledger has it."""
        word = f"that is the {whose}'s own word" if self.own_word else ""
        caveat = entry.caveat if word in entry.caveat else "; ".join(filter(None, (entry.caveat, word)))
        return replace(entry, scope=scope, caveat=caveat)

    def why_uncovered(self) -> str | None:
        """Return what a student of this model says of the teacher's data where `as_teacher` is empty."""
        if self.as_teacher():
            return None
        if all(self.unknown.get(scope) in _NOTHING_PRIVATE for scope in self.scopes()):
            # Of a file, that too is somebody's word.
            return f"{PUBLIC_DATA}, by the teacher's own word" if self.own_word else PUBLIC_DATA
        return "its ledger does not cover all that it was trained on"

    def as_earlier(self, same_weights: bool = True) -> tuple[list[LedgerEntry], dict[str, str]]:
        """Return what this model says of itself when it is trained on: entries, and what is not covered.

        Whether the data is the same again, nobody here knows; if it is, the epsilons add up.

        Args:
            same_weights: they are those that it was sealed for; of others it says nothing.
        """
        entries = [self._told(e, _EARLIER + e.scope, "earlier model") for e in self.entries if e.releases]
        unknown = {
            _EARLIER + scope: self.unknown[scope]
            for scope in self.scopes()
            if not self.covers(scope) and self.unknown.get(scope, NO_TEACHER) not in _NOTHING_PRIVATE
        }
        if self.own_word:
            unknown |= {
                _EARLIER + scope: f"{PUBLIC_DATA}, by the earlier model's own word"
                for scope in self.scopes()
                if self.unknown.get(scope) == PUBLIC_DATA and not self.about(scope)
            }
        if not same_weights:
            return [], unknown | {_EARLIER + scope: _OTHER_WEIGHTS for scope in self.scopes() if self.about(scope)}
        return entries, unknown

    def lines(self) -> list[str]:
        """Return one line for each data set: what is promised about it, or that it is not covered."""
        return [self._line(scope) for scope in self.scopes()]

    def guarantees(self, scope: str) -> list[Guarantee]:
        """Return what is promised about a data set: one guarantee for each unit and neighbouring relation."""
        if not self.covers(scope):
            return []
        kinds: dict[tuple[str, str], list[LedgerEntry]] = {}
        for entry in self.about(scope):
            kinds.setdefault((entry.unit, entry.neighbours), []).append(entry)
        return [Guarantee(*compose(some), *kind, tuple(some)) for kind, some in kinds.items()]

    def _line(self, scope: str) -> str:
        guarantees = [str(guarantee) for guarantee in self.guarantees(scope)]
        if guarantees and scope == TRANSFER_SET and self.unknown.get(TEACHER_DATA) != NO_TEACHER:
            # What the teacher learnt of the same records reaches the student through every target.
            guarantees += [] if self.covers(TEACHER_DATA) else ["given the teacher"]
        if guarantees:
            return f"{scope}: {'; '.join(guarantees)}"
        wrong = [
            f"{e.mechanism}: {f'{e.claim} does not hold; ' if e.claim else ''}{e.caveat}"
            for e in self.about(scope)
            if not e.holds
        ]
        why = "; ".join(wrong) or self.unknown[scope]
        return f"{scope}: {why}" if why in _NOTHING_PRIVATE else f"{scope}: not covered; {why}"

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain types; it holds no secret."""
        return {
            "version": 1,
            "budget": self.budget,
            "unknown": self.unknown,
            "entries": [entry.to_dict() for entry in self.entries],
            "weights": self.weights,
            "summary": self.lines(),
        }

    @classmethod
    def from_dict(cls, content: Any, what: str = "The privacy ledger") -> PrivacyLedger:
        """Read what `to_dict` returned, or what somebody else says that it did.

        Args:
            content: the ledger as plain types.
            what: what it is called in an error.

        Raises:
            ValueError: it is no ledger, of another version, or a number in it is out of range.
        """
        known = checked_content(content, what)
        # What follows from the rest is computed anew: nobody is believed an epsilon.
        entries = [LedgerEntry(**entry) for entry in known["entries"]]
        ledger = cls(entries, budget=known.get("budget"), unknown=known.get("unknown"))
        ledger.weights = known.get("weights", {})
        for scope in ledger.scopes():
            ledger.guarantees(scope)
        return ledger

    def save(self, folder: str | os.PathLike) -> Path:
        """Write privacy_ledger.json into a folder; all of it or, if the process dies, the old one."""
        path = Path(folder) / LEDGER_FILE
        write_json(path, self.to_dict())
        return path

    def seal(self, folder: str | os.PathLike) -> None:
        """Write it beside a model's weights, with their digests: it speaks of no others."""
        sealed = PrivacyLedger(self.entries, budget=self.budget, unknown=self.unknown)
        sealed.weights = weight_digests(folder)
        sealed.save(folder)

    @classmethod
    def load(cls, model: str | os.PathLike) -> PrivacyLedger | None:
        """Read the ledger of a model, from its folder or from the Hub: its file, or `privacy_ledger` in its card.

        Args:
            model: a folder, or a name on the Hub.

        Returns:
            The ledger; `None` where the model has none.

        Raises:
            ValueError: the file is damaged.
        """
        path, what = file_of(model, LEDGER_FILE), f"The privacy ledger of {model}"
        if path is not None:
            content: Any = read_as(dict, Path(path).read_bytes(), what)
        else:
            card = file_of(model, "README.md")
            content = _of_card(card, what) if card is not None else None
        if content is None:
            return None
        ledger = cls.from_dict(content, what)
        ledger.own_word = True
        return ledger

    @classmethod
    def of_weights(cls, model: str | os.PathLike) -> PrivacyLedger | None:
        """Read the ledger of a model as `load` does; `None` where it was sealed for other weights, or for none."""
        known = cls.load(model)
        return known if known is not None and has_weights(model, known.weights) else None


def _of_card(card: str, what: str) -> Any:
    """Return the ledger that stands in a card's metadata."""
    try:
        from huggingface_hub import ModelCard

        return ModelCard.load(card, ignore_metadata_errors=False).data.to_dict().get("privacy_ledger")
    except (ValueError, YAMLError):
        raise ValueError(f"{what} cannot be read: the metadata of its card is damaged.") from None
