"""Poisson samples: in every batch each unit stands with the same probability, whatever the others do.

The accountants count on that: a shuffled pass over fixed-size batches is not a Poisson sample.  They count on secrecy
too: whoever knows the draws knows more than the guarantee allows, so the generator is a secret one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from swingkd.privacy.plan import PrivacyPlan, epoch_steps
from swingkd.privacy.randomness import secret_generator


class PoissonBatches(Sampler[list[int]]):
    """Batches of row numbers, for `DataLoader(batch_sampler=...)`; one may be empty.

    The rows of a unit stand together.  With several processes each draws from units of its own; together their
    batches are one Poisson sample.

    Args:
        plan: says how likely a unit is drawn.
        units: [rows] the unit that each row belongs to, as whole numbers; `None`: each row is its own.
        rows: how many rows there are, where `units` is `None`.
        most: how many rows a unit gives to a batch; where it has more, they are drawn anew each time.
        rank, processes: which process this is, of how many.
        generator: default: a secret one.  One that can be replayed undoes the guarantee; for tests only.

    Raises:
        ValueError: there is nothing to draw from.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        units: np.ndarray | None = None,
        *,
        rows: int | None = None,
        most: int = 1,
        rank: int = 0,
        processes: int = 1,
        generator: torch.Generator | None = None,
    ):
        self.plan, self.most = plan, most
        units = np.arange(rows or 0) if units is None else np.unique(units, return_inverse=True)[1]
        if not len(units):
            raise ValueError("There are no rows to draw from.")
        # The units of this process, renumbered, and their rows one unit after the other.
        own = np.flatnonzero(units % processes == rank)
        self._rows = own[np.argsort(units[own], kind="stable")]
        self._unit = units[self._rows] // processes
        self.units = len(np.unique(self._unit))
        self._generator = generator or secret_generator()

    def __len__(self) -> int:
        """How many batches make an epoch: each unit is drawn once on average."""
        return epoch_steps(self.plan.sampling_rate)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(len(self)):
            yield self._draw()

    def _draw(self) -> list[int]:
        drawn = self._random(self.units) < self.plan.sampling_rate
        chosen = drawn[self._unit]
        rows, unit = self._rows[chosen], self._unit[chosen]
        if not len(rows):
            return []
        # In random order within each unit; of each the first few.
        order = np.lexsort((self._random(len(rows)), unit))
        rows, unit = rows[order], unit[order]
        first = np.flatnonzero(np.diff(unit, prepend=-1))
        place = np.arange(len(rows)) - np.repeat(first, np.diff(np.append(first, len(rows))))
        return rows[place < self.most].tolist()

    def _random(self, count: int) -> np.ndarray:
        return torch.rand(count, dtype=torch.float64, generator=self._generator).numpy()
