"""Population targets: at private positions the student learns what *such* a thing looks like, not whose it is (ours).

The target is not this context's teacher distribution but its average over all private positions of the same kind:
what the tagger found and where in the span the token stands.  Two rules keep an average from being one record's
secret: each distinct span counts once, however often it was copied, and a kind with too few distinct spans falls back
to a coarser one (any position of what was found, then anything private, then no target at all).

A span that already stands earlier in the *same record* is a copy, not a memory: there the teacher's own distribution
stays.  The private tokens still stand in the student's context.

    >>> builder = PopulationBuilder(vocabulary=3)
    >>> log_probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7]]).log()
    >>> builder.add(log_probs, torch.tensor([65, 65, 65]), torch.tensor([11, 22, 22]))   # span 22 was copied
    >>> table = builder.finish(min_spans=2)
    >>> table.lookup(torch.tensor([65])).exp().round(decimals=2)
    tensor([[0.4000, 0.2000, 0.4000]])
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from swingkd.targets.base import PrivatePositions

# A group is label * GROUP_STRIDE + place: 0 just before a span, 1.. its tokens, then just after it.
GROUP_STRIDE = 64
PLACE_BEFORE, PLACE_AFTER, LAST_PLACE = 0, 62, 61
# The coarser kinds share the numbering: "anywhere in a span of this label", and "anything private" (label 0).
_ANYWHERE, _ANYTHING = 63, 0
COPY = -1


@dataclass(frozen=True)
class PopulationTable:
    """The averages: sorted group `keys` [G] and their log-probabilities [G, V]."""

    keys: torch.Tensor
    log_probs: torch.Tensor

    def lookup(self, groups: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [P, V] of each group [P], from the coarser kind where its own is missing and
        -inf where there is none at all."""
        rows = torch.full_like(groups, -1)
        for keys in (torch.zeros_like(groups) + _ANYTHING, groups // GROUP_STRIDE * GROUP_STRIDE + _ANYWHERE, groups):
            place = torch.searchsorted(self.keys, keys).clamp_max(max(len(self.keys) - 1, 0))
            if len(self.keys):
                rows = torch.where(self.keys[place] == keys, place, rows)
        found = rows >= 0
        result = self.log_probs.new_full((len(groups), self.log_probs.size(-1)), -torch.inf)
        result[found] = self.log_probs[rows[found]]
        return result

    def to(self, device: torch.device) -> PopulationTable:
        """Return the table on another device."""
        return PopulationTable(self.keys.to(device), self.log_probs.to(device))

    def save(self, path: Path) -> None:
        """Write the table as safetensors."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"keys": self.keys, "log_probs": self.log_probs.contiguous()}, path)

    @classmethod
    def load(cls, path: Path) -> PopulationTable:
        """Read a table that `save` wrote."""
        with safe_open(path, "pt") as file:
            return cls(file.get_tensor("keys"), file.get_tensor("log_probs"))


class PopulationBuilder:
    """Collect the teacher's distributions at private positions in one pass over the data.

    Args:
        vocabulary: size of the vocabulary.
    """

    def __init__(self, vocabulary: int):
        self.vocabulary = vocabulary
        self._rows: dict[int, int] = {}
        self._sums = torch.zeros(0, vocabulary, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._seen: set[tuple[int, int]] = set()

    def add(self, log_probs: torch.Tensor, groups: torch.Tensor, spans: torch.Tensor) -> None:
        """Add the teacher's log-probabilities [P, V] at positions of these groups [P] and spans [P] (hashes of the
        span's text).  A (group, span) pair counts once, whenever it comes."""
        fresh, kinds = [], []
        for position, pair in enumerate(zip(groups.tolist(), spans.tolist(), strict=True)):
            if pair[0] > 0 and pair not in self._seen:
                self._seen.add(pair)
                fresh.append(position)
                kinds.append(self._rows.setdefault(pair[0], len(self._rows)))
        if not fresh:
            return
        missing = len(self._rows) - len(self._sums)
        if missing > 0:
            self._sums = torch.cat([self._sums, self._sums.new_zeros(missing, self.vocabulary)])
            self._counts = torch.cat([self._counts, self._counts.new_zeros(missing)])
        rows = torch.tensor(kinds)
        self._sums.index_add_(0, rows, log_probs[fresh].exp().cpu().double())
        self._counts.index_add_(0, rows, torch.ones_like(rows))

    def finish(self, min_spans: int) -> PopulationTable:
        """Average: a group of at least `min_spans` distinct spans gets a row, and so do the coarser kinds."""
        spans_of: dict[int, set[int]] = {}
        members: dict[int, list[int]] = {}
        for group, row in self._rows.items():
            for key in (group, group // GROUP_STRIDE * GROUP_STRIDE + _ANYWHERE, _ANYTHING):
                members.setdefault(key, []).append(row)
                spans_of.setdefault(key, set())
        for group, span in self._seen:
            for key in (group, group // GROUP_STRIDE * GROUP_STRIDE + _ANYWHERE, _ANYTHING):
                spans_of[key].add(span)
        keys = sorted(key for key in members if len(spans_of[key]) >= min_spans)
        table = torch.zeros(len(keys), self.vocabulary)
        for place, key in enumerate(keys):
            rows = members[key]
            table[place] = (self._sums[rows].sum(0) / self._counts[rows].sum()).log().float()
        return PopulationTable(torch.tensor(keys, dtype=torch.int64), table)


class PopulationTarget:
    """Replace the teacher's distribution by its population average.

    q = w * p_teacher + (1 - w) * p_population with w = 1 - s + s * share: a hardly private token keeps the teacher, a
    surely private one keeps only `share` of it.

    Args:
        table: the averages.
        share: what a surely private token keeps of the individual teacher; anything above 0 may leave a secret at
            rank 1 where the average is indifferent (digits).
    """

    def __init__(self, table: PopulationTable, share: float = 0.0):
        self.table = table
        self.share = share

    def protect(self, log_probs: torch.Tensor, positions: PrivatePositions) -> torch.Tensor:
        """See `Protection.protect`."""
        if self.table.log_probs.device != log_probs.device:
            self.table = self.table.to(log_probs.device)
        average = self.table.lookup(positions.group).to(log_probs.dtype)
        individual = 1 - positions.likelihood * (1 - self.share)
        mixed = torch.logaddexp(log_probs + individual.log()[:, None], average + (1 - individual).log()[:, None])
        target = torch.where((positions.group == COPY)[:, None], log_probs, mixed)
        # No average anywhere: no target, rather than the teacher's own.
        orphan = (
            (average[:, :1] == -torch.inf) & (positions.group != COPY)[:, None] & (positions.likelihood == 1)[:, None]
        )
        return torch.where(orphan, -torch.inf, target)
