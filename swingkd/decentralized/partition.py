"""Clients that are people: a data set with a column that says whose each row is, dealt out to them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer

from swingkd.decentralized.labelled_examples import LabelledExamples
from swingkd.decentralized.text_examples import text_examples
from swingkd.guards import check_at_least_one, check_numbers
from swingkd.surrogates import Surrogates
from swingkd.tagging import RuleTagger

log = logging.getLogger(__name__)
#: Makes examples of rows.
Reader: TypeAlias = Callable[[Dataset], LabelledExamples]


@dataclass(frozen=True, kw_only=True)
class PartitionSettings:
    """How rows become clients and reference examples.

    Args:
        data: arguments of `load_dataset`; $VARIABLES are filled in.
        client: column that says whose a row is.
        label: column of class numbers, of class names, or of numbers that `label_cuts` makes classes of.
        inputs: columns of numbers (features), or of lists of numbers of one length (signals over time).
        text: in their place, a column of text: an example is `context` characters, its label the next one.
        context: characters of an example.
        stride: characters between two examples.
        tokenizer: read the text as tokens, for language models, with this tokenizer (on the Hub or in a folder): an
            example is a row, and each of its tokens is learnt.
        max_length: of a row, in tokens; what is longer is cut.
        tag: let the rules say how likely the next character or token is private; see max_temperature of
            `ClientArguments`.
        surrogates: of rows of tokens, put made-up values in the place of what the rules find, but in the reference
            examples; the file that keeps their secret, which is drawn where there is none.
        label_cuts: between classes.
        classes: how many there are, or their names in order; `None`: what the rows have, names in the order of the
            alphabet.  A node that has only its own rows must say it.
        missing: what becomes of rows in which an input or a label is missing or no finite number: "refuse" them,
            "drop" them, or "fill" inputs with the mean of the reference people's (a label never is).
        at_least: smallest value of other columns; rows below are left out.
        together: column of which all rows go to training or all to test: recordings that overlap, say.
        test_share: of each client's rows or recordings, at most a half; every n-th is tested.
        validate: leave the test rows out altogether, and test on a like share of the others: to choose settings by.
        most_clients: the clients with the most rows; `None`: all.
        reference_clients: who gives the reference examples and takes no part: so many, drawn at random, or by name.
        reference_examples: how many of theirs are used.
        reference_seed: of both draws.

    Raises:
        ValueError: neither `inputs` nor `text` is given, or both, a label is missing, or a share is out of range.
    """

    data: dict[str, Any]
    client: str
    label: str | None = None
    inputs: tuple[str, ...] = ()
    text: str | None = None
    context: int = 80
    stride: int = 20
    tokenizer: str | None = None
    max_length: int = 64
    tag: bool = False
    surrogates: str | None = None
    label_cuts: tuple[float, ...] = ()
    classes: int | tuple[str, ...] | None = None
    missing: Literal["refuse", "drop", "fill"] = "refuse"
    at_least: dict[str, float] | None = None
    together: str | None = None
    test_share: float = 0.25
    validate: bool = False
    most_clients: int | None = None
    reference_clients: int | tuple[str, ...] = 5
    reference_examples: int = 500
    reference_seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self)
        if isinstance(self.classes, list | tuple):
            object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        elif self.classes is not None and self.classes < 1:
            raise ValueError(f"classes={self.classes}: at least one is needed.")
        if self.missing not in ("refuse", "drop", "fill"):
            raise ValueError(f"missing={self.missing!r} is none of refuse, drop, fill.")
        check_at_least_one(self, "context", "stride", "max_length", "most_clients", "reference_examples")
        if bool(self.inputs) == (self.text is not None):
            raise ValueError("Give either inputs (columns of numbers) or text (a column).")
        if self.inputs and self.label is None:
            raise ValueError("Say which column is the label.")
        if self.tokenizer is not None and self.text is None:
            raise ValueError("tokenizer reads text: say which column that is.")
        if self.surrogates and self.tokenizer is None:
            raise ValueError("surrogates change what language models read: say which tokenizer, or leave them out.")
        if not 0 < self.test_share <= 0.5:
            raise ValueError(f"test_share={self.test_share} must lie in (0, 0.5].")
        if self.reference_clients in (0, (), []):
            raise ValueError("reference_clients: somebody must give the reference examples.")


@dataclass(frozen=True, eq=False)
class Partition:
    """Each client's own examples, and those that all share.

    Args:
        train, test: by client.
        reference: labelled, of people who take no part.
    """

    train: dict[str, LabelledExamples]
    test: dict[str, LabelledExamples]
    reference: LabelledExamples


def load_partition(settings: PartitionSettings) -> Partition:
    """Deal a data set out to its people.

    Raises:
        ValueError: a column is missing, holds what is no number, or there are too few people.
    """
    _, rows, own, shared, drawn = _people(settings)
    whose = np.asarray(rows[settings.client]).astype(str)
    read = _reader(settings, rows, np.isin(whose, list(shared)))
    read_shared = read.as_it_is if isinstance(read, Tokens) else read
    parts = [read_shared(rows.select(np.flatnonzero(whose == name))) for name in sorted(shared)]
    reference = LabelledExamples.joined(parts)
    some = torch.from_numpy(drawn.permutation(len(reference))[: settings.reference_examples]).sort().values
    train, test = {}, {}
    for name in sorted(own):
        try:
            train[name], test[name] = _split(rows.select(np.flatnonzero(whose == name)), read, settings)
        except ValueError as error:
            raise ValueError(f"Client {name}: {error}") from error
    return Partition(train, test, reference.select(some))


def others(settings: PartitionSettings) -> Dataset:
    """Return all rows of people who are no clients and give no reference examples: who may learn them is up to you."""
    rows, _, own, shared, _ = _people(settings)
    whose = np.asarray(rows[settings.client]).astype(str)
    return rows.select(np.flatnonzero(~np.isin(whose, [*own, *shared])))


def _people(settings: PartitionSettings) -> tuple[Dataset, Dataset, set[str], set[str], np.random.Generator]:
    """Return all rows, those that are used, who the clients are, who gives reference examples, and what drew these."""
    filled = {k: os.path.expandvars(v) if isinstance(v, str) else v for k, v in settings.data.items()}
    every = load_dataset(**filled)
    if not isinstance(every, Dataset):
        raise ValueError(f"data names {len(every)} splits; add split: train, say.")
    named = [settings.client, settings.label, settings.text, settings.together, *settings.inputs]
    for column in [*(c for c in named if c is not None), *(settings.at_least or {})]:
        if column not in every.column_names:
            raise ValueError(f"There is no column {column!r} among {', '.join(every.column_names)}.")
    rows = every
    for column, least in (settings.at_least or {}).items():
        rows = rows.select(np.flatnonzero(np.asarray(rows[column]) >= least))
    if settings.missing == "drop":
        rows = without_missing(rows, settings)
    for column in filter(None, (settings.client, settings.text)):
        gone = np.flatnonzero([not _is_whole(value) for value in rows[column]])
        if len(gone):
            raise ValueError(
                f"Column {column!r} holds nothing in {len(gone)} rows (the first: {gone[0]}). Leave them out: "
                "missing: drop."
            )
    names, counts = np.unique(np.asarray(rows[settings.client]).astype(str), return_counts=True)
    order = names[np.argsort(-counts, kind="stable")][: settings.most_clients]
    drawn = np.random.default_rng(settings.reference_seed)
    shared = _shared(settings, order if isinstance(settings.reference_clients, int) else names, drawn)
    return every, rows, set(order.tolist()) - shared, shared, drawn


def _reader(settings: PartitionSettings, rows: Dataset, shared: np.ndarray) -> Reader:
    """Return what makes examples of rows; `shared` says which are the reference people's."""
    if settings.tokenizer is not None:
        return Tokens(settings)
    return Characters(settings) if settings.text is not None else Numbers(settings, rows, shared)


def _shared(settings: PartitionSettings, people: np.ndarray, drawn: np.random.Generator) -> set[str]:
    """Return who gives the reference examples."""
    chosen = settings.reference_clients
    if not isinstance(chosen, int):
        missing = set(map(str, chosen)) - set(people.tolist())
        if missing:
            raise ValueError(f"reference_clients: there are no rows of {', '.join(sorted(missing))}.")
        return set(map(str, chosen))
    if len(people) < chosen + 2:
        raise ValueError(f"{len(people)} people, of whom {chosen} give the reference examples: two more are needed.")
    return set(drawn.choice(people, chosen, replace=False).tolist())


def _split(rows: Dataset, read: Reader, settings: PartitionSettings) -> tuple[LabelledExamples, LabelledExamples]:
    """Return a client's examples to learn from and to be tested on: whole recordings, where rows belong together."""
    groups = np.asarray(rows[settings.together] if settings.together else range(len(rows))).astype(str)
    names = list(dict.fromkeys(groups.tolist()))
    # Dealt out evenly, not the last ones alone: what people do changes over a session.
    every = round(1 / settings.test_share)
    tested = names[::every]
    left = [name for name in names if name not in set(tested)]
    if settings.validate:
        tested = left[::every]
        left = [name for name in left if name not in set(tested)]
    if not left:
        raise ValueError(f"{len(names)} rows or recordings are too few to learn from some and to be tested on others.")
    learnt, away = (read(rows.select(np.flatnonzero(np.isin(groups, some)))) for some in (left, tested))
    return learnt, away


def without_missing(rows: Dataset, settings: PartitionSettings) -> Dataset:
    """Leave out rows in which an input or a label is missing; say how many those are."""
    columns = [settings.client, *settings.inputs, *filter(None, (settings.text, settings.label))]
    kept = np.ones(len(rows), bool)
    for column in columns:
        kept &= np.array([_is_whole(value) for value in rows[column]])
    if not kept.all():
        log.warning(
            "%d of %d rows are left out: an input, a label or whose they are is missing there.",
            (~kept).sum(),
            len(rows),
        )
    return rows.select(np.flatnonzero(kept))


def _is_whole(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_whole, value))
    return value is not None and (not isinstance(value, float) or math.isfinite(value))


class Numbers:
    """Reads columns of numbers, on the scale of the reference people's: mean 0 and standard deviation 1 each."""

    def __init__(self, settings: PartitionSettings, rows: Dataset, shared: np.ndarray):
        self.settings = settings
        self._names = self._class_names(rows)
        values = self._values(rows.select(np.flatnonzero(shared)))
        axes = (0, *range(2, values.ndim))
        self.mean, self.std = np.nanmean(values, axes, keepdims=True), np.nanstd(values, axes, keepdims=True) + 1e-8
        if not np.isfinite(self.mean).all():
            raise ValueError("An input is missing in every row of the reference people, so there is no mean to fill.")
        labels = self._labels(rows)
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"Column {settings.label!r} must hold class numbers or names, whole and none missing (missing: drop), "
                "or label_cuts."
            )
        given = settings.classes if isinstance(settings.classes, int) else None
        self.classes = len(self._names) or given or int(labels.max()) + 1

    def _class_names(self, rows: Dataset) -> list[str]:
        """Return the classes' names, where the labels are names."""
        if isinstance(self.settings.classes, tuple):
            return list(self.settings.classes)
        values = rows[self.settings.label][:]
        names = sorted(set(values)) if values and all(isinstance(value, str) for value in values) else []
        if 2 * len(names) > len(values):
            raise ValueError(
                f"Column {self.settings.label!r} must hold class numbers or names, and has {len(names)} different "
                f"texts in {len(values)} rows."
            )
        return names

    def _values(self, rows: Dataset) -> np.ndarray:
        """Return [n, columns] of numbers, or [n, columns, length] of lists."""
        columns = []
        for column in self.settings.inputs:
            try:
                columns.append(np.asarray(rows[column], dtype=np.float32))
            except (TypeError, ValueError) as error:
                raise ValueError(f"Column {column!r} must hold numbers, or lists of numbers of one length.") from error
            wrong = ~np.isfinite(columns[-1])
            if wrong.any() and self.settings.missing != "fill":
                count = wrong.reshape(len(rows), -1).any(1).sum()
                raise ValueError(
                    f"Column {column!r} holds what is no finite number in {count} of {len(rows)} rows. Say "
                    "missing: drop or missing: fill."
                )
            columns[-1][wrong] = np.nan
        return np.stack(columns, 1)

    def _labels(self, rows: Dataset) -> np.ndarray:
        column = rows[self.settings.label][:]
        if any(isinstance(value, list) for value in column):
            raise ValueError(
                f"Column {self.settings.label!r} holds lists: one class a row is needed. Take one of them before, or "
                "name another column."
            )
        values = np.asarray(column)
        if self._names:
            unknown = sorted({str(value) for value in values} - set(self._names))
            if unknown:
                raise ValueError(
                    f"Column {self.settings.label!r} holds {len(unknown)} names that are no class, such as "
                    f"{unknown[0]!r}. There are {', '.join(self._names)}."
                )
            return np.array([self._names.index(str(value)) for value in values], np.int64)
        if not self.settings.label_cuts:
            return values
        if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
            raise ValueError(f"Column {self.settings.label!r} holds what is no finite number.")
        return np.digitize(values, self.settings.label_cuts)

    def __call__(self, rows: Dataset) -> LabelledExamples:
        """Return rows as examples."""
        # What is missing becomes the reference people's mean, which is 0 on their scale.
        inputs = torch.from_numpy(np.nan_to_num((self._values(rows) - self.mean) / self.std))
        return LabelledExamples(inputs, torch.from_numpy(self._labels(rows).astype(np.int64)), self.classes)


#: What `Characters` knows; the first stands for all others.
ALPHABET = "\x00\n" + "".join(map(chr, range(32, 127)))


class Characters:
    """Reads text: some characters, and the next one as their label."""

    def __init__(self, settings: PartitionSettings):
        self.settings = settings
        self._numbers = np.zeros(0x110000, dtype=np.int64)
        self._numbers[[ord(character) for character in ALPHABET]] = np.arange(len(ALPHABET))

    def __call__(self, rows: Dataset) -> LabelledExamples:
        """Return windows of the rows' text, joined by line breaks.

        Raises:
            ValueError: it is shorter than a window.
        """
        text = "\n".join(rows[self.settings.text])
        ids = torch.from_numpy(self._numbers[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)])
        size = self.settings.context + 1
        if len(ids) < size:
            raise ValueError(f"A text of {len(ids)} characters is shorter than context={size - 1} and a label.")
        windows = ids.unfold(0, size, self.settings.stride)
        likelihood = None
        if self.settings.tag:
            likelihoods = RuleTagger().tag([text])[0].likelihood
            likelihood = torch.as_tensor(likelihoods, dtype=torch.float32)[size - 1 :: self.settings.stride]
        return LabelledExamples(
            {"input_ids": windows[:, :-1].contiguous()}, windows[:, -1].contiguous(), len(ALPHABET), likelihood
        )


class Tokens:
    """Reads text for language models: each row's tokens."""

    def __init__(self, settings: PartitionSettings):
        self.settings = settings
        self.tokenizer = AutoTokenizer.from_pretrained(os.path.expandvars(settings.tokenizer or ""))
        self._surrogates = None
        if settings.surrogates is not None:
            self._surrogates = Surrogates.kept_in(os.path.expandvars(settings.surrogates))
        self._parts = 0

    def __call__(self, rows: Dataset) -> LabelledExamples:
        """Return rows as examples."""
        return self.read(rows[self.settings.text][:])

    def as_it_is(self, rows: Dataset) -> LabelledExamples:
        """Return rows that are nobody's secret as examples."""
        return self.read(rows[self.settings.text][:], public=True)

    def read(self, texts: Sequence[str], *, public: bool = False) -> LabelledExamples:
        """Return texts as examples, with made-up values where those are asked for: the same whenever this begins anew.

        Args:
            texts: one a row.
            public: they are nobody's secret, and are read as they are.

        Raises:
            ValueError: a text has no token that could be predicted.
        """
        settings = self.settings
        if settings.missing == "drop":
            lengths = [len(ids) for ids in self.tokenizer(list(texts))["input_ids"]]
            texts = [text for text, length in zip(texts, lengths, strict=True) if length > 1]
        surrogates = None
        if self._surrogates is not None and not public:
            self._parts += 1
            surrogates = self._surrogates.of_part(str(self._parts))
        tagger = RuleTagger() if settings.tag or surrogates is not None else None
        return text_examples(
            texts, self.tokenizer, max_length=settings.max_length, tagger=tagger, surrogates=surrogates
        )


def scarce(examples: LabelledExamples, share: float, seed: int) -> LabelledExamples:
    """Keep a share of examples, drawn at random; one at least."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    return examples.select(order[: max(1, round(share * len(examples)))].sort().values)


def mislabelled(examples: LabelledExamples, share: float, seed: int) -> LabelledExamples:
    """Give a share of examples, drawn at random, another label.

    Raises:
        ValueError: they are texts, which have none.
    """
    if examples.are_texts:
        raise ValueError("Texts have no labels that could be wrong: leave mislabelled_clients out.")
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(examples), generator=generator) < share
    moved = examples.labels + torch.randint(1, examples.classes, (len(examples),), generator=generator)
    return replace(examples, labels=torch.where(wrong, moved % examples.classes, examples.labels))
