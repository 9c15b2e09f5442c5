"""Canaries: made-up secrets put into the training data, so that what a model memorised can be measured.

    >>> canaries = CanarySet.generate("the pin of {name} is {secret}", length=4, count=2, repetitions=(1, 10), seed=7)
    >>> [(c.repetitions, c.inserted) for c in canaries.canaries]
    [(1, True), (1, True), (10, True), (10, True), (0, False), (0, False)]

Each canary has a prefix of its own ({name}): behind one shared prefix, secrets compete and cannot all be likeliest.
Controls are made alike and never inserted: their exposure is what chance gives (1 / ln 2 = 1.44 on average).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Literal

from datasets import Dataset, concatenate_datasets

from swingkd.files import read_as, write_json

_FIRST = (
    "adele amir anita boris carla cedric daria dmitri edith elias esther farid fiona gideon greta hamid "
    "hanna igor ingrid jamal jasmin jonas judith karim katja keiko leila leon lydia marek marta miguel "
    "mona nadia nils olga omar paolo petra quentin rania ravi rosa samir selma stefan tamara theo ulla "
    "umberto vera viktor wanda xenia yara yusuf zara zoltan "
).split()
_LAST = (
    "abbot barlow becker castor cohen dalton dorsey ellery engel farrow fuchs garner gruber haddad hollis "
    "ibsen ivanov jansen jordan kadare keller laszlo linden madison moreau nakata norris oakley ortega "
    "palmer petrov quigley quist rahman rowan sadler santos tanaka thorne ulrich usher vance vidal walton "
    "weber xavier yamada yates zeller zimmer "
).split()
_HOSTS = ("acme.example bluesky.example contoso.example fabrikam.example globex.example initech.example ").split()

Kind = Literal["digits", "email", "names"]
_KINDS = ("digits", "email", "names")
_LONGEST = 32


def _slots(kind: Kind, length: int, alphabet: str) -> tuple[tuple[str, ...], ...]:
    """Return the parts of a secret; the space R of all fillings is their product."""
    if kind == "digits":
        return (tuple(alphabet),) * length
    if kind == "email":
        return (tuple(_FIRST), (".",), tuple(_LAST), ("@",), tuple(_HOSTS))
    return (tuple(name.title() for name in _FIRST), (" ",), tuple(name.title() for name in _LAST))


@dataclass(frozen=True, repr=False)
class Canary:
    """One secret in its sentence.

    Args:
        id: position in its set.
        kind: "digits", "email" or "names".
        prefix, secret, suffix: the sentence is their concatenation.
        repetitions: how often it is inserted; 0 for a control.
        inserted: whether it is in the data at all (`assign="coin"` leaves half out).

    Raises:
        ValueError: it is inserted no times, or fewer.
    """

    id: int
    kind: str
    prefix: str
    secret: str
    suffix: str
    repetitions: int
    inserted: bool

    def __post_init__(self) -> None:
        if self.repetitions < 0 or (self.inserted and not self.repetitions):
            raise ValueError(f"canary {self.id}: {self.repetitions} repetitions, inserted={self.inserted}")

    @property
    def text(self) -> str:
        """The whole sentence."""
        return self.prefix + self.secret + self.suffix

    def __repr__(self) -> str:
        return (
            f"Canary(id={self.id}, kind={self.kind!r}, prefix={self.prefix!r}, secret=<redacted>, "
            f"repetitions={self.repetitions}, inserted={self.inserted})"
        )


@dataclass(frozen=True, repr=False)
class CanarySet:
    """Canaries of one template and the space their secrets were drawn from.

    Args:
        template: the sentence, with {secret} and, for more than one canary, {name}.
        kind: what the secrets are.
        slots: the parts of a secret, each with its alternatives; the space R is their product.
        canaries: the canaries, controls last.

    Raises:
        ValueError: there are no canaries, two share their id or their prefix, one is of another kind than the set or
            has a secret that is not of the space, or a slot lists an alternative twice.
    """

    template: str
    kind: str
    slots: tuple[tuple[str, ...], ...]
    canaries: tuple[Canary, ...]

    def __post_init__(self) -> None:
        if not self.canaries:
            raise ValueError("The set has no canaries.")
        if any(len(set(slot)) < len(slot) or not slot for slot in self.slots):
            raise ValueError("An alphabet or slot lists an alternative twice, or none: each must be there once.")
        for what, values in (("id", [c.id for c in self.canaries]), ("prefix", [c.prefix for c in self.canaries])):
            if len(set(values)) < len(values):
                raise ValueError(f"Two canaries share their {what}: give each one of its own.")
        for canary in self.canaries:
            if canary.kind != self.kind:
                raise ValueError(f"canary {canary.id} is of kind {canary.kind!r}, the set of kind {self.kind!r}.")
            # Never with the secret: an error is printed, and logged.
            if not _fills(self.slots, canary.secret):
                raise ValueError(f"the secret of canary {canary.id} is no filling of its template")

    @classmethod
    def generate(
        cls,
        template: str,
        *,
        length: int = 6,
        count: int = 20,
        repetitions: tuple[int, ...] = (1, 10, 100),
        controls: int | None = None,
        kind: Kind = "digits",
        alphabet: str = "0123456789",
        assign: Literal["all", "coin"] = "all",
        seed: int | None = None,
    ) -> CanarySet:
        """Draw canaries.

        Args:
            template: a sentence with {secret} and {name}.
            length: digits (characters of `alphabet`) per secret, for kind "digits".
            count: canaries per level of repetition.
            repetitions: the levels.
            controls: how many are never inserted; default: as many as one level has.
            kind: "digits", "email" or "names".
            alphabet: what "digits" are made of.
            assign: "all" inserts every canary that is no control, "coin" each with probability 1/2.
            seed: for a repeatable set; default: the system's randomness.

        Raises:
            ValueError: the template lacks {secret} or {name}, or more canaries are asked for than there are.
        """
        before, slot, after = template.partition("{secret}")
        if not slot:
            raise ValueError(f"The template {template!r} has no {{secret}}: write it where the secret stands.")
        if "{secret}" in after or "{name}" in after:
            raise ValueError(f"In {template!r}, {{name}} must come before the one {{secret}}.")
        if kind not in _KINDS:
            raise ValueError(f"kind={kind!r} is not known. Choose one of {', '.join(_KINDS)}.")
        if kind == "digits" and not 1 <= length <= _LONGEST:
            raise ValueError(f"length={length} must lie between 1 and {_LONGEST}.")
        others = {field for _, field, *_ in Formatter().parse(before + after) if field not in (None, "name")}
        if others:
            raise ValueError(
                f"The template {template!r} has {{{min(others)}}}; only {{name}} and {{secret}} are filled in."
            )
        slots = _slots(kind, length, alphabet)
        rng: random.Random = random.SystemRandom() if seed is None else random.Random(seed)
        levels = [level for level in repetitions for _ in range(count)]
        levels += [0] * (count if controls is None else controls)
        if any(level < 1 for level in repetitions) or count < 1:
            wrong = f"count={count}" if count < 1 else f"repetitions={min(repetitions, default=0)}"
            raise ValueError(f"{wrong} must be positive.")
        people = [f"{first} {last}" for first in _FIRST for last in _LAST]
        if len(levels) > 1 and "{name}" not in before:
            raise ValueError(
                f"{len(levels)} canaries behind the one prefix {before!r} would compete: "
                "put {name} into the template."
            )
        size = _size(slots)
        if len(levels) > min(len(people), size):
            raise ValueError(
                f"{len(levels)} canaries are asked for, but there are only {len(people)} names and {size} secrets. "
                "Lower count, or use a longer secret."
            )
        drawn = rng.sample(range(size), len(levels))
        canaries = tuple(
            Canary(
                id=i,
                kind=kind,
                prefix=before.replace("{name}", person),
                secret=_filling(slots, index),
                suffix=after,
                repetitions=level,
                inserted=level > 0 and (assign == "all" or rng.random() < 0.5),
            )
            for i, (level, person, index) in enumerate(
                zip(levels, rng.sample(people, len(levels)), drawn, strict=True)
            )
        )
        return cls(template, kind, slots, canaries)

    @property
    def space(self) -> int:
        """|R|: how many secrets the template allows."""
        return _size(self.slots)

    @property
    def coin_levels(self) -> list[int]:
        """The numbers of repetitions at which a coin left canaries out, rising."""
        return sorted({c.repetitions for c in self.canaries if c.repetitions and not c.inserted})

    def head(self, count: int) -> CanarySet:
        """Return a set with the first `count` canaries of each level, of those left out and of the controls."""
        seen: Counter[tuple[int, bool]] = Counter()
        chosen = []
        for canary in self.canaries:
            seen[canary.repetitions, canary.inserted] += 1
            if seen[canary.repetitions, canary.inserted] <= count:
                chosen.append(canary)
        return replace(self, canaries=tuple(chosen))

    def filling(self, index: int) -> str:
        """Return the secret number `index` of the space, 0 <= index < |R|."""
        if not 0 <= index < self.space:
            raise ValueError(f"There is no filling {index}: the space has {self.space}.")
        return _filling(self.slots, index)

    def insert(self, dataset: Dataset, text_column: str = "text", seed: int = 0) -> Dataset:
        """Return the data set with every inserted canary in it, `repetitions` times, at random places.

        Args:
            dataset: map-style data.
            text_column: the column that gets the sentence; other columns get None (a `prompt` stays empty).
            seed: of the places.
        """
        rows = [c.text for c in self.canaries if c.inserted for _ in range(c.repetitions)]
        return _scatter(dataset, rows, text_column, seed)

    def insert_decoys(self, dataset: Dataset, text_column: str = "text", seed: int | None = None) -> Dataset:
        """Return the data set with *other* fillings behind the canaries' own prefixes, as often as `insert` would.

        No secret is in these rows, but a teacher that memorised one is asked for it.
        """
        rng: random.Random = random.SystemRandom() if seed is None else random.Random(seed)
        rows = []
        for canary in self.canaries:
            for _ in range(canary.repetitions if canary.inserted else 0):
                other = canary.secret
                while other == canary.secret:
                    other = self.filling(rng.randrange(self.space))
                rows.append(canary.prefix + other + canary.suffix)
        return _scatter(dataset, rows, text_column, rng.randrange(2**31))

    def save(self, path: str | os.PathLike) -> None:
        """Write the set, secrets included, as JSON that only the owner may read.  Keep it under `_private/`."""
        write_json(path, asdict(self), owner_only=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> CanarySet:
        """Read a set that `save` wrote.

        Raises:
            ValueError: the file is something else.
        """
        try:
            return read_as(cls, Path(path).read_bytes(), str(path))
        except ValueError as error:
            raise ValueError(f"{error} It holds no canaries: give the file that CanarySet.save wrote.") from None

    def __repr__(self) -> str:
        return f"CanarySet(template={self.template!r}, kind={self.kind!r}, canaries={len(self.canaries)})"


def _size(slots: tuple[tuple[str, ...], ...]) -> int:
    size = 1
    for slot in slots:
        size *= len(slot)
    return size


def _fills(slots: tuple[tuple[str, ...], ...], secret: str) -> bool:
    """Tell whether a secret is made of one alternative of each slot."""
    ends = {0}
    for slot in slots:
        ends = {end + len(part) for end in ends for part in slot if secret.startswith(part, end)}
    return len(secret) in ends


def _filling(slots: tuple[tuple[str, ...], ...], index: int) -> str:
    parts = []
    for slot in reversed(slots):
        index, place = divmod(index, len(slot))
        parts.append(slot[place])
    return "".join(reversed(parts))


def _scatter(dataset: Dataset, texts: list[str], text_column: str, seed: int) -> Dataset:
    """Put rows at random places; the order of the others stays."""
    if text_column not in dataset.column_names:
        names = ", ".join(dataset.column_names)
        raise ValueError(f"The data has no column {text_column!r} (it has {names}). Name another one: text_column=...")
    kind = dataset.features[text_column]
    if getattr(kind, "dtype", None) not in ("string", "large_string"):
        # Arrow would say so with the secret that it could not put there.
        raise ValueError(
            f"The column {text_column!r} holds no text ({getattr(kind, 'dtype', kind)}). Name one that does."
        )
    if not texts:
        return dataset
    columns = {name: texts if name == text_column else [None] * len(texts) for name in dataset.column_names}
    added = Dataset.from_dict(columns, features=dataset.features)
    total = len(dataset) + len(texts)
    taken = set(random.Random(seed).sample(range(total), len(texts)))
    own, new = iter(range(len(dataset))), iter(range(len(dataset), total))
    order = [next(new if place in taken else own) for place in range(total)]
    return concatenate_datasets([dataset, added]).select(order)
