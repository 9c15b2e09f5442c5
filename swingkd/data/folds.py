"""Rows dealt into folds, so that a teacher can be asked about each row that never saw it, nor anything like it.

Copies of a secret must share a fold: a teacher that was trained on one of them would answer about the other.  So rows
of one person go together where a column says whose they are, and so do duplicates and near-duplicates, which MinHash
(Broder 1997) and locality-sensitive hashing find.

>>> from datasets import Dataset
>>> rows = Dataset.from_dict({"text": ["my pin is 1", "thank you", "My  PIN is 1", "good bye"]})
>>> folds = Folds.of(rows, 2, seed=0)
>>> int(folds.of_row[0]) == int(folds.of_row[2])
True
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset, Value
from datasketch import MinHash, MinHashLSH
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from swingkd.data.columns import FOLD, UNSEEN
from swingkd.data.row_contents import CHATS, contents_of, holds_text, keys_of, people_of, plain, read_columns
from swingkd.files import read_as, written_whole

# Words of a shingle, and how many hashes stand for the set of a text's shingles.
_WORDS, _HASHES = 5, 128
# A fold with so many times its share of the rows leaves too few to the teacher that is trained without it.
_LARGEST = 1.5


@dataclass(frozen=True, eq=False)
class Folds:
    """Which fold each row is in; rows are known again by what stands in them, in whatever order.

    Args:
        of_row: [rows] int, from 0 on.
        k: how many folds there are.
        keys: [rows] uint64, a hash of each row.
        columns: what of a row is hashed.
        unit: "record", or the column that names people, where the fold of each was drawn for itself (`Folds.apart`);
            `None`: one row may move others.
        group_by: the column that names people, where rows of one are in one fold.
    """

    of_row: np.ndarray
    k: int
    keys: np.ndarray
    columns: tuple[str, ...]
    unit: str | None = None
    group_by: str | None = None

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        k: int = 2,
        *,
        group_by: str | None = None,
        columns: Sequence[str] | None = None,
        near_duplicates: bool = True,
        similarity: float = 0.8,
        seed: int | None = None,
    ) -> Folds:
        """Deal rows into folds of about one size; what belongs together goes together.

        Args:
            dataset: map-style rows, as they will be trained on.
            k: folds.
            group_by: a column that names a person; all rows of one go into one fold, and a row that names nobody
                stands for itself.
            columns: what is learnt from a row, so that an id beside it does not make two rows of one; default: what
                a trainer reads by itself ("messages"; "prompt" and "completion"; "text"; "image"), else all that is
                text.
            near_duplicates: keep rows together whose texts are nearly the same, not only those that are equal but for
                case and blanks.
            similarity: from which share of common shingles (five words in a row) on two texts are nearly the same.
            seed: for a division that others can repeat; default: the system's randomness.

        Raises:
            ValueError: the rows are a stream, have no text, or too few groups for so many folds; or one group holds so
                many rows that a teacher without them has too few.
        """
        _check_k(k)
        if not 0 < similarity <= 1:
            raise ValueError(f"similarity={similarity} must lie in (0, 1].")
        _check_rows(dataset)
        columns = read_columns(dataset, group_by, columns)
        texts = list(contents_of(dataset, columns))
        if near_duplicates and not any(holds_text(dataset.features[name]) for name in columns):
            raise ValueError(
                "The rows have no text to find near-duplicates by. Pass near_duplicates=False, and group_by where a "
                "column says whose rows they are."
            )
        edges = list(_equal(texts))
        if group_by is not None:
            edges += _equal(people_of(dataset, group_by))
        if near_duplicates:
            edges += _alike(texts, similarity)
        return cls(_dealt(_components(edges, len(texts)), k, seed), k, keys_of(texts), columns, group_by=group_by)

    @classmethod
    def apart(
        cls,
        dataset: Dataset,
        k: int = 2,
        *,
        group_by: str | None = None,
        columns: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> Folds:
        """Draw the fold of each row, or person, for itself: no other row moves it.

        For teachers with differential privacy.  A guarantee of each teacher is one of all together only where one
        record is in one place, whoever else is there; near-duplicates, which others decide about, are not looked for.

        Args:
            dataset: map-style rows, as they will be trained on.
            k: folds, of about one size.
            group_by: a column that names a person; default, and where it names nobody: each text is drawn for itself,
                so equal ones share a fold.
            columns: as in `Folds.of`.
            seed: for a division that others can repeat; default: the system's randomness.

        Raises:
            ValueError: the rows are a stream, or a fold got none.
        """
        _check_k(k)
        _check_rows(dataset)
        columns = read_columns(dataset, group_by, columns)
        texts = list(contents_of(dataset, columns))
        people = [""] * len(texts) if group_by is None else people_of(dataset, group_by)
        units = (person or text for person, text in zip(people, texts, strict=True))
        key = secrets.token_bytes(16) if seed is None else seed.to_bytes(16, "little")
        drawn = (hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), key=key, digest_size=8) for unit in units)
        of_row = np.array([int.from_bytes(one.digest(), "little") % k for one in drawn], np.int64)
        if len(np.unique(of_row)) < k:
            raise ValueError(f"{len(of_row)} rows left one of {k} folds empty. Take fewer folds.")
        return cls(of_row, k, keys_of(texts), columns, group_by or "record", group_by)

    def add_to(self, dataset: Dataset) -> Dataset:
        """Return the rows with a column `teacher_fold`.

        Args:
            dataset: rows that were dealt, some of them or in another order.  Where they have the column already, rows
                that were changed since (their values are surrogates now, say) keep their fold.

        Raises:
            ValueError: a row was not dealt, or its column says another fold than it was dealt to.
        """
        _check_rows(dataset)
        missing = [name for name in self.columns if name not in dataset.column_names]
        if missing and FOLD not in dataset.column_names:
            raise ValueError(
                f"The rows were dealt with the columns {', '.join(self.columns)}, and these lack {', '.join(missing)}."
            )
        if missing:  # text of another kind, which says itself what it is like
            place, known = np.zeros(len(dataset), np.int64), np.zeros(len(dataset), bool)
        else:
            place, known = self._places(keys_of(contents_of(dataset, self.columns)))
        folds = self.of_row[place]
        if FOLD in dataset.column_names:
            told = np.array(dataset.with_format(None)[FOLD], np.int64)
            check_folds(told, self.k)
            other = known & (told != folds)
            if other.any():
                row = int(other.argmax())
                raise ValueError(
                    f"Row {row} says fold {told[row]}, and it was dealt to fold {folds[row]}: its teacher would have "
                    f"seen it. Remove the column {FOLD}; it is filled in again."
                )
            folds, dataset = np.where(known, folds, told), dataset.remove_columns(FOLD)
        elif not known.all():
            raise ValueError(
                f"{np.sum(~known)} of {len(known)} rows were not dealt into folds (the first: row "
                f"{int((~known).argmax())}), so a teacher may have seen them, or nearly the same text. Deal all rows "
                "anew and train the teachers on them; or add the folds (Folds.add_to) before rows are changed."
            )
        return dataset.add_column(FOLD, folds.tolist()).cast_column(FOLD, Value("int16"))  # type: ignore[call-arg]

    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the folds of texts, [texts] int; -1 of one that was not dealt.

        Args:
            texts: whole rows, as they are read: of prompts and completions both, one behind the other.

        Raises:
            ValueError: the rows were chats, of which each tokenizer's template makes another text.
        """
        if self.columns in CHATS:
            raise ValueError(
                f"The folds were dealt by the column {self.columns[0]!r}, and which text a chat becomes depends on "
                "the tokenizer's template. Render the chats into a column 'text' before they are dealt."
            )
        place, known = self._places(keys_of(map(plain, texts)))
        return np.where(known, self.of_row[place], UNSEEN)

    def _places(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where rows stand among those that were dealt, and whether they do."""
        order = np.argsort(self.keys, kind="stable")
        place = order[np.searchsorted(self.keys, keys, sorter=order).clip(max=len(order) - 1)]
        return place, self.keys[place] == keys

    def without(self, dataset: Dataset, *folds: int) -> Dataset:
        """Return the rows that are in none of some folds: what a teacher is trained on that must not see these.

        Args:
            dataset: rows that were dealt.
            *folds: from 0 on.
        """
        dealt = self.add_to(dataset)
        return dealt.select(np.flatnonzero(~np.isin(dealt.with_format("numpy")[FOLD][:], folds)))

    def digest(self) -> str:
        """Return a digest of which row is where."""
        order = np.argsort(self.keys, kind="stable")
        parts = self.keys[order].astype("<u8").tobytes(), self.of_row[order].astype("<i8").tobytes()
        return xxhash.xxh3_128_hexdigest(b"".join(parts) + repr((self.k, self.columns, self.unit)).encode())

    def save(self, path: str | os.PathLike) -> None:
        """Write it as safetensors, for the owner alone: whoever has it can tell whether a text was trained on."""
        own = {"columns": self.columns, "unit": self.unit, "group_by": self.group_by}
        known = {"k": str(self.k)} | {name: json.dumps(value) for name, value in own.items()}
        with written_whole(path, owner_only=True) as file:
            save_file({"of_row": self.of_row.astype(np.int64), "keys": self.keys}, file, known)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Folds:
        """Read what `save` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            with safe_open(path, "numpy") as file:
                known, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            of_row, keys, k = arrays["of_row"], arrays["keys"], int(known["k"])
            columns = read_as(tuple[str, ...], known["columns"], str(path))
            unit, group_by = (
                read_as(str | None, known.get(name, "null"), str(path))  # type: ignore[arg-type]
                for name in ("unit", "group_by")
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} does not say which rows are in which fold. Deal them again.") from error
        check_folds(of_row, k)
        return cls(of_row, k, keys, columns, unit, group_by)

    def __repr__(self) -> str:
        sizes = np.bincount(self.of_row, minlength=self.k).tolist()
        return f"Folds(k={self.k}, rows={sizes})"


def _check_rows(dataset: Any) -> None:
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "Folds are drawn for all rows at once, and a stream shows one after the other. Read it into a Dataset "
            "first (Dataset.from_generator)."
        )


def _check_k(k: int) -> None:
    if not isinstance(k, int) or k < 2:
        raise ValueError(f"k={k!r} folds: give 2 or more, so that each row has a teacher that never saw it.")


def check_folds(of_row: np.ndarray, k: int) -> None:
    """Refuse the numbers of folds that there are not.

    Args:
        of_row: [rows] int.
        k: how many folds there are.

    Raises:
        ValueError: names the first row.
    """
    wrong = (of_row < 0) | (of_row >= k)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"Row {row} is said to be in fold {of_row[row]}, and there are folds 0 to {k - 1}.")


def _equal(values: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield pairs of places with equal values, so that all of one value hang together; nothing is equal to nothing."""
    last: dict[str, int] = {}
    for place, value in enumerate(values):
        if value and value in last:
            yield last[value], place
        last[value] = place


def _alike(texts: list[str], similarity: float) -> list[tuple[int, int]]:
    """List pairs of texts of which so many shingles are common."""
    index = MinHashLSH(threshold=similarity, num_perm=_HASHES, weights=(0.2, 0.8))
    first = {text: place for place, text in reversed(list(enumerate(texts))) if text}
    pairs = []
    hashes = MinHash.generator([_shingles(text) for text in first], num_perm=_HASHES, seed=1)
    for place, sketch in zip(first.values(), hashes, strict=True):
        pairs += [(other, place) for other in index.query(sketch)]
        index.insert(place, sketch, check_duplication=False)
    return pairs


def _shingles(text: str) -> list[bytes]:
    words = text.split()
    if len(words) <= _WORDS:
        return [text.encode()]
    ends = zip(*(words[i:] for i in range(_WORDS)), strict=False)
    return [" ".join(shingle).encode() for shingle in ends]


def _components(edges: list[tuple[int, int]], rows: int) -> np.ndarray:
    """Return for each row the number of the group that it hangs together with."""
    ends = np.array(edges, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(rows, rows))
    return connected_components(graph, directed=False)[1]


def _dealt(groups: np.ndarray, k: int, seed: int | None) -> np.ndarray:
    """Deal groups to folds: the largest first, each to the fold with the fewest rows; of one size in random order."""
    sizes = np.bincount(groups)
    if len(sizes) < k:
        raise ValueError(
            f"The rows form {len(sizes)} groups (of one person, or of nearly the same text), too few for {k} folds. "
            "Take fewer folds, or leave out near_duplicates where the texts follow one template."
        )
    rng = np.random.default_rng(secrets.randbits(128) if seed is None else seed)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = [(0, fold) for fold in rng.permutation(k).tolist()]
    fold_of = np.empty(len(sizes), np.int64)
    for group in order:
        rows, fold = heapq.heappop(filled)
        fold_of[group] = fold
        heapq.heappush(filled, (rows + int(sizes[group]), fold))
    most = max(filled)[0]
    if most > _LARGEST * len(groups) / k:
        raise ValueError(
            f"One group of rows (of one person, or of nearly the same text) holds {sizes.max() / len(groups):.0%} of "
            f"them, and the teacher without it would have too few. Raise similarity, pass near_duplicates=False, or "
            "leave rows out."
        )
    return fold_of[groups]


__all__ = ["Folds", "check_folds"]
