"""Population targets: at private positions the student learns what *such* a thing looks like, not whose it is (ours).

The target is not this context's teacher distribution but its average over all private positions of the same kind.
Kinds go from fine to coarse: what the tagger found, where in the span the token stands, and the two tokens, the one
token or the shape of the text before it; at last anything private.  Two rules keep an average from being one record's
secret: each distinct span counts once, however often it was copied, and a kind with too few distinct spans gives way
to the next coarser one (where even the last is too small, to no target at all).

A span that stands earlier in the same record is a mention like any other: what the teacher says there would tell the
secret to whoever reads the second mention alone.  The private tokens still stand in the student's context.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from swingkd.files import written_whole
from swingkd.guards import check_share
from swingkd.tagging import is_private
from swingkd.targets.base import PrivatePositions
from swingkd.targets.hashing import absorb

# A group is label * GROUP_STRIDE + place: 0 just before a span, 1.. its tokens, then just after it.
GROUP_STRIDE = 64
PLACE_BEFORE, PLACE_AFTER, LAST_PLACE = 0, 63, 62
# How many preceding tokens the finest kind looks at.
CONTEXT = 2


def kinds(positions: PrivatePositions) -> torch.Tensor:
    """Return the kinds of each position as hashes, [P, 10] int64, from fine to coarse."""
    group, ending, shape = positions.facts.group, positions.facts.shape, positions.facts.shape >> 32
    label = torch.div(group, GROUP_STRIDE, rounding_mode="floor")
    second, first = positions.context[:, -CONTEXT:].unbind(-1)
    levels = [(group, first, second), (group, first), (group, ending), (group, shape), (label, shape, first)]
    levels += [(label, ending), (label, shape), (group,), (label,), ()]
    columns = []
    for level, words in enumerate(levels):
        state = torch.full_like(group, level, dtype=torch.int64)
        for word in words:
            state = absorb(state, word)
        columns.append(state)
    return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class PopulationTable:
    """The averages: sorted `keys` [K] of the kinds that have one, and their log-probabilities [K, V]."""

    keys: torch.Tensor
    log_probs: torch.Tensor

    def lookup(self, positions: PrivatePositions) -> torch.Tensor:
        """Return the average's log-probabilities [P, V] of each position's finest kind; -inf where there is none."""
        rows = find(self.keys, kinds(positions))
        # Coarse to fine: the finest kind that has an average wins.
        best = torch.full_like(positions.facts.group, -1, dtype=torch.int64)
        for column in rows.flip(1).unbind(1):
            best = torch.where(column >= 0, column, best)
        result = self.log_probs.new_full((len(best), self.log_probs.size(-1)), -torch.inf)
        result[best >= 0] = self.log_probs[best[best >= 0]]
        return result

    def to(self, device: torch.device) -> PopulationTable:
        """Return the table on another device."""
        return PopulationTable(self.keys.to(device), self.log_probs.to(device))

    def save(self, path: Path) -> None:
        """Write the table as safetensors."""
        with written_whole(path, owner_only=True) as part:
            save_file({"keys": self.keys, "log_probs": self.log_probs.contiguous()}, part)

    @classmethod
    def load(cls, path: Path) -> PopulationTable:
        """Read a table that `save` wrote."""
        with safe_open(path, "pt") as file:
            return cls(file.get_tensor("keys"), file.get_tensor("log_probs"))


def find(keys: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return where each of the wanted stands in the sorted keys; -1 where it does not."""
    if not len(keys):
        return torch.full_like(wanted, -1)
    place = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
    return torch.where(keys[place] == wanted, place, -1)


class PopulationBuilder:
    """Make the table in two passes over the same data: `count` all positions, then `add` what the teacher says there.

    Args:
        vocabulary: size of the vocabulary.
        min_spans: fewest distinct spans that make an average.
        max_bytes: the table's largest size; beyond it the kinds with the fewest spans give way to coarser ones.
    """

    def __init__(self, vocabulary: int, min_spans: int, max_bytes: int = 2**30):
        self.vocabulary = vocabulary
        self.min_spans = min_spans
        self.max_bytes = max_bytes
        self._counted: set[tuple[int, int]] = set()
        self._added: set[tuple[int, int]] = set()
        self._pairs: list[np.ndarray] = []
        self._table: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def count(self, positions: PrivatePositions) -> None:
        """First pass: note which spans each kind holds."""
        fresh = _first_visits(positions, self._counted)
        keys = kinds(positions)[fresh].cpu().numpy()
        spans = positions.facts.span[fresh].cpu().numpy()
        pairs = np.stack([keys.ravel(), np.repeat(spans, keys.shape[1])], axis=1)
        self._pairs.append(np.unique(pairs, axis=0))

    def add(self, log_probs: torch.Tensor, positions: PrivatePositions) -> None:
        """Second pass, in the order of the first: add the teacher's log-probabilities [P, V]."""
        keys, sums, counts = self._chosen()
        fresh = _first_visits(positions, self._added)
        rows = find(keys, kinds(positions)[fresh].cpu())
        at, level = (rows >= 0).nonzero(as_tuple=True)
        sums.index_add_(0, rows[at, level], log_probs[fresh].float().exp().cpu()[at])
        counts.index_add_(0, rows[at, level], torch.ones(len(at)))

    def finish(self) -> PopulationTable:
        """Return the averages."""
        keys, sums, counts = self._chosen()
        return PopulationTable(keys, (sums / counts[:, None]).log())

    def _chosen(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keep the kinds with enough distinct spans; return their keys [K], sums [K, V] and counts [K]."""
        if self._table is not None:
            return self._table
        pairs = np.unique(np.concatenate(self._pairs), axis=0) if self._pairs else np.zeros((0, 2), np.int64)
        keys, spans = np.unique(pairs[:, 0], return_counts=True)
        order = np.argsort(-spans, kind="stable")[: self.max_bytes // (4 * self.vocabulary)]
        kept = np.sort(keys[order][spans[order] >= self.min_spans])
        self._table = (torch.from_numpy(kept), torch.zeros(len(kept), self.vocabulary), torch.zeros(len(kept)))
        self._pairs = []
        return self._table


def _first_visits(positions: PrivatePositions, seen: set[tuple[int, int]]) -> list[int]:
    """List the positions whose place in whose span was not seen before (copies are none)."""
    fresh = []
    for i, pair in enumerate(zip(positions.facts.group.tolist(), positions.facts.span.tolist(), strict=True)):
        if pair[0] > 0 and pair not in seen:
            seen.add(pair)
            fresh.append(i)
    return fresh


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
        check_share(self, "share")

    def protect(self, log_probs: torch.Tensor, positions: PrivatePositions) -> torch.Tensor:
        """See `Protection.protect`."""
        if self.table.log_probs.device != log_probs.device:
            self.table = self.table.to(log_probs.device)
        average = self.table.lookup(positions).to(log_probs.dtype)
        individual = 1 - positions.likelihood * (1 - self.share)
        mixed = torch.logaddexp(log_probs + individual.log()[:, None], average + (1 - individual).log()[:, None])
        # No average anywhere: a token that is likely private gets no target, one that hardly is keeps the teacher's.
        orphan = average[:, 0] == -torch.inf
        target = torch.where(orphan[:, None], log_probs, mixed)
        return target.masked_fill((orphan & (is_private(positions.likelihood)))[:, None], -torch.inf)
