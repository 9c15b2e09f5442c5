"""Texts in which every private value is replaced by a made-up one of its kind (our derivation)."""

from __future__ import annotations

import copy
import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset

from swingkd.files import keep_secret
from swingkd.surrogates.dates import YEARS
from swingkd.surrogates.drawn_record import DrawnRecord
from swingkd.surrogates.names import pools, pools_like
from swingkd.surrogates.record import Record
from swingkd.surrogates.rows import FOUND, Everywhere, find_values, outside, replace_values
from swingkd.surrogates.template import letters
from swingkd.surrogates.value_table import ValueTable
from swingkd.tagging import THRESHOLD, ConsistentTagger, Tagger, private_spans, tag_texts
from swingkd.tagging.base import tagger_labels
from swingkd.tagging.identity import code_fingerprint
from swingkd.tagging.propagation import stands_for_one

#: What the file of its secret is called, in a run's private folder.
KEY_FILE = "surrogate_key"
_KEY_BYTES = 16


class Replaced(NamedTuple):
    """A `text` with made-up values, and the `spans` where they stand: {"start", "end", "label"}."""

    text: str
    spans: list[dict[str, Any]]


class Surrogates:
    """Replace private values by made-up ones.

    In a record, a value has one surrogate, however it is written and wherever it stands, and so have the parts of a
    name; dates of a record move together, so that the days between them stay.  Another record, and another copy of the
    same one, gets others.  Formatted values keep their shape, and checksums that hold for the value hold for its
    surrogate.  Names, streets, cities and companies come from Faker's lists.

    What is drawn depends on a secret of the system's randomness and on the number of the row, never on a value.  It
    says nothing of the real values but their kind, their shape, their number, where they stand, and how many days lie
    between the dates of a record.  What the tagger missed stays in the text.

    Args:
        *kinds: the labels to replace, such as "PHONE_NUMBER"; without any, all.
        locale: of the names, such as "en_US" or "de_DE"; names in other scripts are made of lists of theirs.
        seed: draw from this number instead, for a run that others can repeat: whoever knows it learns what was drawn,
            and still no value.
        key: 16 bytes, the secret of an earlier run.
        examples: public values by their labels, such as `values_of` finds in public text of the same kind: names,
            streets and towns are drawn from these, the frequent ones more often, in the place of Faker's.
        years: the latest date of a record is made one of these, from the first year to the last, whenever it was.
        table: draw from this noised table of values, and of nothing else: then the draws are differentially private in
            the values that it counted, see `ValueTable`.

    Raises:
        ValueError: Faker does not know the locale, a seed and a key are given, or there are no such years.
    """

    def __init__(
        self,
        *kinds: str,
        locale: str = "en_US",
        seed: int | None = None,
        key: bytes | None = None,
        examples: Mapping[str, Sequence[str]] | None = None,
        years: tuple[int, int] = YEARS,
        table: ValueTable | None = None,
    ):
        if seed is not None and key is not None:
            raise ValueError("A seed and a key are two sources of one draw. Give one of them.")
        if not 1 <= years[0] <= years[1] <= 9998:
            raise ValueError(f"years={years} must be a first and a last one, such as (2015, 2025).")
        pools(locale)
        self.kinds, self.locale, self._years = kinds, locale, years
        self._key = key or (secrets.token_bytes(_KEY_BYTES) if seed is None else f"seed {seed}".encode())
        self._avoid: set[str] = set()
        self._table = table
        self._home = pools_like(examples, locale) if examples else None

    @classmethod
    def kept_in(
        cls,
        path: str | os.PathLike,
        *kinds: str,
        locale: str = "en_US",
        examples: Mapping[str, Sequence[str]] | None = None,
        years: tuple[int, int] = YEARS,
        table: ValueTable | None = None,
    ) -> Surrogates:
        """Return surrogates whose secret is kept in a file, so that a run that is resumed makes the same ones.

        Args:
            path: such as `out/_private/surrogate_key`, readable by its owner only.
            *kinds, locale, examples, years, table: see the class.

        Raises:
            ValueError: the file holds something else.
        """
        keep_secret(path, _KEY_BYTES)
        try:
            key = bytes.fromhex(Path(path).read_text().strip())
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise ValueError(f"{path} does not hold the secret of surrogates. Delete it to draw another one.")
        return cls(*kinds, locale=locale, key=key, examples=examples, years=years, table=table)

    def again(self) -> Surrogates:
        """Return surrogates that make the same values, and avoid further ones by themselves."""
        made = copy.copy(self)
        made._avoid = set(self._avoid)
        return made

    def of_part(self, name: str) -> Surrogates:
        """Return surrogates of another part of a corpus, whose rows are numbered from 0 as well."""
        made = self.again()
        made._key = hashlib.blake2b(name.encode(), key=self._key, digest_size=_KEY_BYTES).digest()
        return made

    def avoid(self, values: Iterable[str]) -> None:
        """Never make up one of these values; of dates there are too few for that.

        Another person's first name may come up, beside another last one: were it never to, the most frequent names
        would be missing, and their absence would tell whose they are.

        Args:
            values: those of the corpus.
        """
        self._avoid.update(map(letters, values))

    def replace(self, text: str, spans: Sequence[dict[str, Any]], row: int = 0) -> Replaced:
        """Return a text with its private values replaced.

        Args:
            text: of one record.
            spans: where the values stand, as {"start", "end", "label"}, in characters, the end exclusive; of those
                that overlap, the first begins, and the last ends, what is replaced as one.
            row: the record's number: another one gets other values.

        Raises:
            ValueError: a span does not lie in the text.
        """
        return self.replace_parts([text], [spans], row)[0]

    def replace_parts(
        self, texts: Sequence[str], spans: Sequence[Sequence[dict[str, Any]]], row: int = 0
    ) -> list[Replaced]:
        """Replace the values of one record that has several texts, such as the turns of a chat; see `replace`."""
        digest = hashlib.blake2b(row.to_bytes(8, "little", signed=True), key=self._key, digest_size=16).digest()
        rng = Random(int.from_bytes(digest, "little"))
        record: Record | DrawnRecord = Record(rng, self.locale, self._avoid, self._home, self._years)
        if self._table is not None:
            record = DrawnRecord(rng, self._table)
        every = [_apart(text, own, self.kinds) for text, own in zip(texts, spans, strict=True)]
        record.read([(text[s:e], label) for text, own in zip(texts, every, strict=True) for s, e, label in own])
        return [_replaced(text, own, record) for text, own in zip(texts, every, strict=True)]

    def spans_of(self, text: str, spans: Sequence[dict[str, Any]]) -> list[tuple[int, int, str]]:
        """Return what `replace` replaces, (start, end, label) in its order: spans that overlap are one."""
        return _apart(text, spans, self.kinds)

    def map(
        self,
        dataset: Dataset | IterableDataset,
        *,
        tagger: Tagger | None = None,
        text_column: str | Sequence[str] = "text",
        num_proc: int | None = None,
    ) -> Dataset | IterableDataset:
        """Return rows whose texts hold made-up values, their `spans`, and `surrogates`: how many there are in a row.

        Args:
            dataset: map-style or streaming; its other columns stay.
            tagger: finds the values, every mention of them; `None`: the column `spans` says where they stand.
            text_column: the column with the text, or several that belong together (`spans` needs one).
            num_proc: processes for map-style data.

        Raises:
            ValueError: a column is missing, a row has no text, or the rows are tokenised already.
        """
        columns = [text_column] if isinstance(text_column, str) else list(text_column)
        names = dataset.column_names or list(next(iter(dataset), {}))
        missing = [name for name in (*columns, *(["spans"] if tagger is None else [])) if name not in names]
        if missing:
            raise ValueError(
                f"The dataset has no column {missing[0]!r} (it has {', '.join(names)}). Name the text by "
                "text_column, and give a tagger, or spans of {start, end, label}."
            )
        if "input_ids" in names:
            raise ValueError("The rows are tokenised already, so their text cannot be changed. Pass the text alone.")
        if tagger is None and len(columns) > 1:
            raise ValueError("The column 'spans' speaks of one text. Name one text_column, or give a tagger.")
        if tagger is not None and not isinstance(tagger, ConsistentTagger):
            tagger = ConsistentTagger(tagger)
        known = {"tagger": tagger, "columns": columns, "version": code_fingerprint(self, tagger)}
        options: dict[str, Any] = {"batched": True, "with_indices": True}
        if isinstance(dataset, Dataset):
            options |= {"num_proc": num_proc, "desc": "Looking for private values"}
        found = dataset.map(find_values, fn_kwargs=known, **options)
        everywhere = Everywhere(self._read(found, columns) if isinstance(found, Dataset) else {})
        if isinstance(dataset, Dataset):
            options["desc"] = "Replacing private values"
        made = {"surrogates": self, "columns": columns, "everywhere": everywhere, "version": known["version"]}
        return found.map(replace_values, fn_kwargs=made, **options).remove_columns(FOUND)

    def _read(self, found: Dataset, columns: list[str]) -> dict[str, str]:
        """Read all values of a corpus, none of which is made up; return those that are private in every row.

        Args:
            found: rows with what was found in them.
            columns: their texts.
        """
        everywhere: dict[str, str] = {}
        for batch in found.select_columns([*columns, FOUND]).iter(1000):
            for *texts, own in zip(*(batch[name] for name in columns), batch[FOUND], strict=True):
                for text, spans in zip(texts, own, strict=True):
                    values = [(text[span["start"] : span["end"]], span) for span in spans]
                    self.avoid(value for value, _ in values)
                    everywhere |= {v: span["label"] for v, span in values if span["sure"] and stands_for_one(v)}
        return everywhere

    def __repr__(self) -> str:
        return f"Surrogates(kinds={self.kinds}, locale={self.locale!r}, key=<redacted>)"


def _apart(text: str, spans: Sequence[dict[str, Any]], kinds: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """List spans in their order; those that overlap are one."""
    apart: list[tuple[int, int, str]] = []
    chosen = ((s["start"], s["end"], s.get("label") or "") for s in spans or ())
    for start, end, label in sorted(s for s in chosen if not kinds or s[2] in kinds):
        if not 0 <= start < end <= len(text):
            raise ValueError(outside(text, start, end))
        if apart and start < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]), apart[-1][2])
        else:
            apart.append((start, end, label))
    return apart


def _replaced(text: str, spans: list[tuple[int, int, str]], record: Record | DrawnRecord) -> Replaced:
    pieces, made, place, length = [], [], 0, 0
    for start, end, label in spans:
        value = record.surrogate(text[start:end], label)
        pieces += [text[place:start], value]
        length += start - place
        made.append({"start": length, "end": length + len(value), "label": label})
        length, place = length + len(value), end
    return Replaced("".join(pieces) + text[place:], made)


def values_of(texts: Iterable[str], tagger: Tagger) -> dict[str, list[str]]:
    """Return the values that a tagger finds in public texts, by label, as often as they stand there.

    Args:
        texts: public: what they say of people may come up in surrogates.
        tagger: what finds the values.
    """
    every = list(texts)
    labels, found = tagger_labels(tagger), dict[str, list[str]]()
    for text, tags in zip(every, tag_texts(tagger, every), strict=True):
        for start, end, label in private_spans(tags, THRESHOLD):
            found.setdefault(labels[label], []).append(text[start:end])
    return found


def counted(rows: Dataset) -> dict[str, int]:
    """Return how many values of each label were replaced, the most frequent first.

    Args:
        rows: as `Surrogates.map` returns them, with `spans`.
    """
    counts: dict[str, int] = {}
    for spans in rows["spans"]:
        for span in spans:
            counts[span["label"]] = counts.get(span["label"], 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
