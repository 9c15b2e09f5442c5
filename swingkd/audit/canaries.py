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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Literal, TypeAlias, get_args

from datasets import Dataset, concatenate_datasets

from swingkd.audit.secret_space import FIRST_NAMES, KINDS, LAST_NAMES, Kind, filling, fills, size_of, slots_of
from swingkd.files import read_as, write_json

_LONGEST, _LOOKED_AT = 32, 500
#: What an attacker asks for: the secret behind its prefix, or (were the secret this one) the text behind it.
Asked: TypeAlias = Literal["secret", "suffix"]


@dataclass(frozen=True, repr=False)
class Canary:
    """One secret in its sentence.

    Args:
        id: position in its set.
        kind: what the secret is, see `swingkd.audit.secret_space`.
        prefix, secret, suffix: the sentence is their concatenation.
        repetitions: how often it is inserted; 0 for a control.
        inserted: whether it is in the data at all (`assign="coin"` leaves half out).
        lead: where the secret is said twice: what stands before the first mention; the prefix is between the two, and
            an attacker asks for the second alone.

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
    lead: str | None = None

    def __post_init__(self) -> None:
        if self.repetitions < 0 or (self.inserted and not self.repetitions):
            raise ValueError(f"canary {self.id}: {self.repetitions} repetitions, inserted={self.inserted}")

    @property
    def text(self) -> str:
        """The whole sentence."""
        return self.saying(self.secret)

    def saying(self, secret: str) -> str:
        """Return the whole sentence with any secret."""
        first = "" if self.lead is None else self.lead + secret
        return first + self.prefix + secret + self.suffix

    def __repr__(self) -> str:
        return (
            f"Canary(id={self.id}, kind={self.kind!r}, prefix={self.prefix!r}, secret=<redacted>, "
            f"repetitions={self.repetitions}, inserted={self.inserted})"
        )


@dataclass(frozen=True, repr=False)
class CanarySet:
    """Canaries of one template and the space their secrets were drawn from.

    Args:
        template: the sentence, with {secret} and, for more than one canary, {name}; or several, of which everybody has
            one each, with a secret of its own.
        kind: what the secrets are.
        slots: the parts of a secret, each with its alternatives; the space R is their product.
        canaries: the canaries, controls last.
        asked: what an attacker asks for: the "secret", or the "suffix": how well does the text behind fit each secret?
        changed: share of the sentence's other words that are others in each copy.

    Raises:
        ValueError: there are no canaries, two share their id or their prefix, one is of another kind than the set or
            has a secret that is not of the space, or a slot lists an alternative twice.
    """

    template: str
    kind: str
    slots: tuple[tuple[str, ...], ...]
    canaries: tuple[Canary, ...]
    asked: Asked = "secret"
    changed: float = 0.0

    def __post_init__(self) -> None:
        if not self.canaries:
            raise ValueError("The set has no canaries.")
        if any(len(set(slot)) < len(slot) or not slot for slot in self.slots):
            raise ValueError("An alphabet or slot lists an alternative twice, or none: each must be there once.")
        # What is asked for stands beside something of its own: of two behind one prefix, one would win.
        own = "suffix" if self.asked == "suffix" else "prefix"
        for what in ("id", own):
            values = [getattr(canary, what) for canary in self.canaries]
            if len(set(values)) < len(values):
                raise ValueError(f"Two canaries share their {what}: give each one of its own.")
        for canary in self.canaries:
            if canary.kind != self.kind:
                raise ValueError(f"canary {canary.id} is of kind {canary.kind!r}, the set of kind {self.kind!r}.")
            # Never with the secret: an error is printed, and logged.
            if not fills(self.slots, canary.secret):
                raise ValueError(f"the secret of canary {canary.id} is no filling of its template")

    @classmethod
    def generate(
        cls,
        template: str | Sequence[str],
        *,
        length: int = 6,
        count: int = 20,
        repetitions: tuple[int, ...] = (1, 10, 100),
        controls: int | None = None,
        kind: Kind = "digits",
        alphabet: str = "0123456789",
        assign: Literal["all", "coin"] = "all",
        asked: Asked = "secret",
        changed: float = 0.0,
        seed: int | None = None,
    ) -> CanarySet:
        """Draw canaries.

        Args:
            template: a sentence with {name} and {secret}.  With {secret} twice, the second mention alone is asked for;
                several such sentences: everybody has a secret in each of them.
            length: digits (characters of `alphabet`) or words per secret, for the kinds "digits" and "words".
            count: canaries per level of repetition.
            repetitions: the levels.
            controls: how many are never inserted; default: as many as one level has.
            kind: "digits", "email", "names", "date", "url" or "words".
            alphabet: what "digits" are made of.
            assign: "all" inserts every canary that is no control, "coin" each with probability 1/2.
            asked: "secret", or "suffix": rank secrets by the text behind them, in which {name} stands then.  In rows
                of prompt and completion the completion is the suffix alone: the secret is read and never learnt.
            changed: share of the sentence's words, but for name and secret, that are others in each copy.
            seed: for a repeatable set; default: the system's randomness.

        Raises:
            ValueError: the template lacks {secret} or {name}, or more canaries are asked for than there are.
        """
        templates = (template,) if isinstance(template, str) else tuple(template)
        sentences = [_parted(sentence, named=asked == "suffix") for sentence in templates]
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not known. Choose one of {', '.join(KINDS)}.")
        if kind in ("digits", "words") and not 1 <= length <= _LONGEST:
            raise ValueError(f"length={length} must lie between 1 and {_LONGEST}.")
        if not 0 <= changed <= 1:
            raise ValueError(f"changed={changed} must lie in [0, 1]: a share of the sentence's words.")
        if asked not in get_args(Asked):
            raise ValueError(f"asked={asked!r} is not known. Choose one of {', '.join(get_args(Asked))}.")
        if asked == "suffix" and not all(after.strip() for *_, after in sentences):
            raise ValueError("asked='suffix' ranks secrets by the text behind {secret}, and there is none.")
        slots = slots_of(kind, length, alphabet)
        rng: random.Random = random.SystemRandom() if seed is None else random.Random(seed)
        levels = [level for level in repetitions for _ in range(count)]
        levels += [0] * (count if controls is None else controls)
        if any(level < 1 for level in repetitions) or count < 1:
            wrong = f"count={count}" if count < 1 else f"repetitions={min(repetitions, default=0)}"
            raise ValueError(f"{wrong} must be positive.")
        people = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
        named = [after if asked == "suffix" else before for _, before, after in sentences]
        unnamed = next((part for part in named if "{name}" not in part), None)
        if len(levels) > len(sentences) and unnamed is not None:
            where = "before" if asked == "suffix" else "behind"
            raise ValueError(
                f"{len(levels)} canaries {where} the one {'suffix' if asked == 'suffix' else 'prefix'} {unnamed!r} "
                "would compete: put {name} into the template."
            )
        size = size_of(slots)
        wanted = -(-len(levels) // len(sentences))
        if wanted > len(people) or len(levels) > size:
            raise ValueError(
                f"{len(levels)} canaries are asked for, but there are only {len(people)} names and {size} secrets. "
                "Lower count, or use a longer secret."
            )
        drawn = rng.sample(range(size), len(levels))
        drawn_people = rng.sample(people, wanted)
        canaries = []
        for i, (level, index) in enumerate(zip(levels, drawn, strict=True)):
            lead, before, after = sentences[i % len(sentences)]
            person = drawn_people[i // len(sentences)]
            canaries.append(
                Canary(
                    id=i,
                    kind=kind,
                    prefix=before.replace("{name}", person),
                    secret=filling(slots, index),
                    suffix=after.replace("{name}", person),
                    repetitions=level,
                    inserted=level > 0 and (assign == "all" or rng.random() < 0.5),
                    lead=None if lead is None else lead.replace("{name}", person),
                )
            )
        return cls("\n".join(templates), kind, slots, tuple(canaries), asked, changed)

    @property
    def space(self) -> int:
        """|R|: how many secrets the template allows."""
        return size_of(self.slots)

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
        return filling(self.slots, index)

    def insert(self, dataset: Dataset, text_column: str = "text", seed: int = 0) -> Dataset:
        """Return the data set with every inserted canary in it, `repetitions` times, at random places.

        Args:
            dataset: map-style data.
            text_column: the column that gets the sentence; other columns get None (a `prompt` stays empty).  Where the
                suffix is asked for and the column is `completion`, it gets the suffix and `prompt` the rest.
            seed: of the places.
        """
        return self._scattered(dataset, text_column, seed, lambda canary: canary.secret)

    def insert_decoys(self, dataset: Dataset, text_column: str = "text", seed: int | None = None) -> Dataset:
        """Return the data set with *other* fillings behind the canaries' own prefixes, as often as `insert` would.

        No secret is in these rows, but a teacher that memorised one is asked for it.
        """
        rng: random.Random = random.SystemRandom() if seed is None else random.Random(seed)

        def other(canary: Canary) -> str:
            drawn = canary.secret
            while drawn == canary.secret:
                drawn = self.filling(rng.randrange(self.space))
            return drawn

        return self._scattered(dataset, text_column, rng.randrange(2**31), other)

    def _scattered(self, dataset: Dataset, text_column: str, seed: int, said: Callable[[Canary], str]) -> Dataset:
        """Put the sentences at random places."""
        check_text_column(dataset, text_column)
        inserted = [canary for canary in self.canaries if canary.inserted for _ in range(canary.repetitions)]
        if not inserted:
            return dataset
        apart = self.asked == "suffix" and text_column == "completion" and "prompt" in dataset.column_names
        columns: dict[str, list] = {name: [None] * len(inserted) for name in dataset.column_names}
        words = _Words(self, dataset[text_column][:_LOOKED_AT], seed)
        copies = [words.changed(canary) for canary in inserted]
        secrets = [said(canary) for canary in inserted]
        columns[text_column] = [copy.saying(secret) for copy, secret in zip(copies, secrets, strict=True)]
        if apart:
            check_text_column(dataset, "prompt")
            whole = zip(columns[text_column], copies, strict=True)
            columns["prompt"] = [text[: len(text) - len(copy.suffix)] for text, copy in whole]
            columns[text_column] = [copy.suffix for copy in copies]
        return _scatter(dataset, columns, seed)

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


def _parted(sentence: str, *, named: bool) -> tuple[str | None, str, str]:
    """Return what stands before the first of two secrets (`None`: there is one), before the asked one, and behind it.

    Args:
        sentence: with {secret}.
        named: whether {name} may stand behind it.

    Raises:
        ValueError: {secret} or {name} is missing, or stands where it cannot.
    """
    *lead, before, after = sentence.split("{secret}") if "{secret}" in sentence else ("", "", None)
    if after is None:
        raise ValueError(f"The template {sentence!r} has no {{secret}}: write it where the secret stands.")
    if len(lead) > 1:
        raise ValueError(f"The template {sentence!r} says {{secret}} more than twice.")
    if "{name}" in after and not named:
        raise ValueError(f"In {sentence!r}, {{name}} must come before the {'last' if lead else 'one'} {{secret}}.")
    fields = {field for _, field, *_ in Formatter().parse("".join([*lead, before, after]))}
    others = fields - {None, "name"}
    if others:
        raise ValueError(
            f"The template {sentence!r} has {{{min(filter(None, others))}}}; only {{name}} and {{secret}} are filled "
            "in."
        )
    return (lead[0] if lead else None), before, after


class _Words:
    """Copies of canaries in which some of the template's words are others, such as stand in the data."""

    def __init__(self, canaries: CanarySet, texts: Sequence[str | None], seed: int):
        self.share, self.rng = canaries.changed, random.Random(seed)
        self.own = set(canaries.template.split())
        some = (text for text in texts if text) if self.share else ()
        self.others = sorted({word for text in some for word in text.split() if word.isalpha()} - self.own) or ["so"]

    def changed(self, canary: Canary) -> Canary:
        """Return a canary with as many of its words changed as are asked for; never its name, nor its secret."""
        if not self.share:
            return canary
        pieces = [piece.split(" ") for piece in (canary.lead or "", canary.prefix, canary.suffix)]
        places = [
            (i, k) for i, piece in enumerate(pieces) for k, word in enumerate(piece) if word in self.own and word
        ]
        for i, k in self.rng.sample(places, round(self.share * len(places))):
            pieces[i][k] = self.rng.choice(self.others)
        lead, prefix, suffix = map(" ".join, pieces)
        return replace(canary, lead=None if canary.lead is None else lead, prefix=prefix, suffix=suffix)


def check_text_column(dataset: Dataset, text_column: str) -> None:
    """Refuse a column that is missing or holds no text.

    Raises:
        ValueError: names the column, and those that there are.
    """
    if text_column not in dataset.column_names:
        names = ", ".join(dataset.column_names)
        raise ValueError(f"The data has no column {text_column!r} (it has {names}). Name another one: text_column=...")
    # Arrow would say so with the secret that it could not put there.
    kind = dataset.features[text_column]
    if getattr(kind, "dtype", None) not in ("string", "large_string"):
        raise ValueError(
            f"The column {text_column!r} holds no text ({getattr(kind, 'dtype', kind)}). Name one that does."
        )


def _scatter(dataset: Dataset, columns: dict[str, list], seed: int) -> Dataset:
    """Put rows at random places; the order of the others stays."""
    added = Dataset.from_dict(columns, features=dataset.features)
    total = len(dataset) + len(added)
    taken = set(random.Random(seed).sample(range(total), len(added)))
    own, new = iter(range(len(dataset))), iter(range(len(dataset), total))
    order = [next(new if place in taken else own) for place in range(total)]
    return concatenate_datasets([dataset, added]).select(order)
