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

import heapq
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset, Value
from datasketch import MinHash, MinHashLSH
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

#: The column that says in which fold a row is.
FOLD = "fold"
# Words of a shingle, and how many hashes stand for the set of a text's shingles.
_WORDS, _HASHES = 5, 128
# A fold with so many times its share of the rows leaves too few to the teacher that is trained without it.
_LARGEST = 1.5


@dataclass(frozen=True, eq=False)
class Folds:
    """Which fold each row is in.

    Args:
        of_row: [rows] int, from 0 on.
        k: how many folds there are.
    """

    of_row: np.ndarray
    k: int

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        k: int = 2,
        *,
        group_by: str | None = None,
        near_duplicates: bool = True,
        similarity: float = 0.8,
        seed: int | None = None,
    ) -> Folds:
        """Deal rows into folds of about one size; what belongs together goes together.

        Args:
            dataset: map-style rows, as they will be trained on.
            k: folds.
            group_by: a column that names a person; all rows of one go into one fold.
            near_duplicates: keep rows together whose texts are nearly the same, not only those that are equal but for
                case and blanks.
            similarity: from which share of common shingles (five words in a row) on two texts are nearly the same.
            seed: for a division that others can repeat; default: the system's randomness.

        Raises:
            ValueError: the rows are a stream, have no text, or too few groups for so many folds; or one group holds so
                many rows that a teacher without them has too few.
        """
        if not isinstance(dataset, Dataset):
            raise ValueError(
                "Folds are drawn for all rows at once, and a stream shows one after the other. Read it into a Dataset "
                "first (Dataset.from_generator)."
            )
        if not isinstance(k, int) or k < 2:
            raise ValueError(f"k={k!r} folds: give 2 or more, so that each row has a teacher that never saw it.")
        if not 0 < similarity <= 1:
            raise ValueError(f"similarity={similarity} must lie in (0, 1].")
        if group_by is not None and group_by not in dataset.column_names:
            raise ValueError(f"group_by={group_by!r} is no column of the rows ({', '.join(dataset.column_names)}).")
        texts = [_text(row, group_by) for row in dataset.with_format(None)]
        if near_duplicates and not any(texts):
            raise ValueError(
                "The rows have no text to find near-duplicates by. Pass near_duplicates=False, and group_by where a "
                "column says whose rows they are."
            )
        edges = list(_equal(texts))
        if group_by is not None:
            edges += _equal(map(repr, dataset.with_format(None)[group_by]))
        if near_duplicates:
            edges += _alike(texts, similarity)
        return cls(_dealt(_components(edges, len(texts)), k, seed), k)

    def add_to(self, dataset: Dataset) -> Dataset:
        """Return the rows with a column `fold`.

        Args:
            dataset: the rows that were dealt, in their order.

        Raises:
            ValueError: these are not as many.
        """
        if len(dataset) != len(self.of_row):
            raise ValueError(
                f"{len(self.of_row)} rows were dealt into folds, and these are {len(dataset)}. Deal the rows that are "
                "trained on."
            )
        if FOLD in dataset.column_names:
            dataset = dataset.remove_columns(FOLD)
        numbers = self.of_row.tolist()
        return dataset.add_column(FOLD, numbers).cast_column(FOLD, Value("int16"))  # type: ignore[call-arg]

    def without(self, dataset: Dataset, fold: int) -> Dataset:
        """Return the rows that are in other folds than one: what its teacher is trained on.

        Args:
            dataset: the rows that were dealt, in their order.
            fold: from 0 on.
        """
        return self.add_to(dataset).select(np.flatnonzero(self.of_row != fold))

    def digest(self) -> str:
        """Return a digest of which row is where."""
        return xxhash.xxh3_128_hexdigest(self.of_row.astype("<i4").tobytes())

    def __repr__(self) -> str:
        sizes = np.bincount(self.of_row, minlength=self.k).tolist()
        return f"Folds(k={self.k}, rows={sizes})"


def _text(row: Any, group_by: str | None) -> str:
    """Return all that is text in a row, without case and in single blanks."""
    parts = _strings({name: value for name, value in row.items() if name != group_by})
    return " ".join(" ".join(parts).casefold().split())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


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


__all__ = ["FOLD", "Folds"]
