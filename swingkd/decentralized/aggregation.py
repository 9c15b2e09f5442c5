"""Who teaches whom: quality, similarity, and what is made of the messengers that were chosen.

SD-Dist / SQMD: Ye et al. 2022, arXiv 2205.13705, sections 3.2 and 3.3; our reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from swingkd.guards import check_numbers, check_positive, check_share

# Below the smallest number of half precision, whose logarithm is wanted.
_SMALLEST = 1e-8


class Aggregation(Protocol):
    """Makes each client's target of the messengers that there are."""

    def targets(
        self, known: torch.Tensor, labels: torch.Tensor, asking: torch.Tensor, teaching: torch.Tensor, seed: int
    ) -> Iterator[torch.Tensor]:
        """Yield a target [R, C] for each client that asks.

        Args:
            known: messengers, [N, R, C].
            labels: of the reference examples, [R].
            asking: numbers of the clients that are taught, [M].
            teaching: numbers of the clients that may teach, [T].
            seed: of what is drawn.
        """


def quality(known: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of messengers [N, R, C] with the labels, [N]: the lower the better."""
    chosen = known.gather(2, labels.expand(len(known), -1)[..., None])[..., 0]
    return chosen.float().clamp_min(_SMALLEST).log().mean(1).neg()


def tempered(known: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return messengers as their logits divided by a temperature would have made them, float32."""
    probabilities = known.float().clamp_min(_SMALLEST)
    if temperature != 1.0:
        probabilities = probabilities.pow(1 / temperature)
    return probabilities / probabilities.sum(-1, keepdim=True)


def nearest(
    known: torch.Tensor,
    asking: torch.Tensor,
    candidates: torch.Tensor,
    count: int,
    temperature: float = 1.0,
    block: int = 1024,
) -> torch.Tensor:
    """Return the candidates whose messengers diverge least from each asking client's, [M, at most count].

    The divergence of m from n is the mean over examples of KL(S_m || S_n).  A block is one matrix product, and only
    the nearest are kept: memory does not grow with the square of the clients.

    Args:
        known: messengers, [N, R, C].
        asking: [M] numbers of clients.
        candidates: [Q] numbers of clients; nobody is its own neighbour, and -1 stands where there is none.
        count: how many.
        temperature: of both.
        block: clients at a time.
    """
    best = torch.full((len(asking), count), torch.inf)
    neighbours = torch.full((len(asking), count), -1, dtype=torch.int64)
    for them in candidates.split(block):
        theirs = tempered(known[them], temperature).flatten(1)
        entropies = torch.special.xlogy(theirs, theirs).sum(1)
        for start, mine in zip(range(0, len(asking), block), asking.split(block), strict=True):
            logs = tempered(known[mine], temperature).flatten(1).log()
            distances = (entropies - logs @ theirs.T) / known.shape[1]
            distances[mine[:, None] == them] = torch.inf
            rows = slice(start, start + len(mine))
            merged = torch.cat([best[rows], distances], 1)
            numbers = torch.cat([neighbours[rows], them.expand(len(mine), -1)], 1)
            best[rows], places = merged.topk(count, largest=False)
            neighbours[rows] = numbers.gather(1, places)
    return neighbours.masked_fill(best.isinf(), -1)


def without(chosen: torch.Tensor, client: torch.Tensor) -> torch.Tensor:
    """Return the chosen numbers but a client's own."""
    return chosen[chosen != client]


@dataclass(frozen=True)
class SDDist:
    """The mean of the nearest among the best: similarity-based selection after quality control.

    Args:
        quality_share: of the teaching clients, those with the lowest cross-entropy are candidates; 1: all are.
        neighbours: how many of them teach each client; `None`: all candidates, whatever they say.
        temperature: of the messengers that are compared.
        reference_weight: of the reference labels in a target, in [0, 1]; everybody has them, and the paper uses them
            to choose teachers alone (0). `"adaptive"`: of each example's label what the others leave of it, one minus
            how likely they find it. Ours. Clients that `learn_reference_labels` begin with them alone, before anybody
            has said anything.

    Raises:
        ValueError: a number is out of range.
    """

    quality_share: float = 0.7
    neighbours: int | None = 5
    temperature: float = 1.0
    reference_weight: float | Literal["adaptive"] = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if isinstance(self.reference_weight, str):
            if self.reference_weight != "adaptive":
                raise ValueError(f"reference_weight={self.reference_weight!r}: a number is needed, or 'adaptive'.")
        else:
            check_share(self, "reference_weight")
        if not 0 < self.quality_share <= 1:
            raise ValueError(f"quality_share={self.quality_share} must lie in (0, 1].")
        if self.neighbours is not None and self.neighbours < 1:
            raise ValueError(f"neighbours={self.neighbours}: at least one is needed, or None for all candidates.")
        check_positive(self, "temperature")

    def targets(
        self, known: torch.Tensor, labels: torch.Tensor, asking: torch.Tensor, teaching: torch.Tensor, seed: int
    ) -> Iterator[torch.Tensor]:
        """Yield the mean of each client's neighbours, nothing of its own, blended with the reference labels."""
        count = max(1, round(self.quality_share * len(teaching)))
        candidates = teaching[quality(known[teaching], labels).argsort(stable=True)[:count]]
        if self.neighbours is None:
            chosen = [without(candidates, client) for client in asking]
        else:
            neighbours = nearest(known, asking, candidates, min(self.neighbours, len(candidates)), self.temperature)
            chosen = [row[row >= 0] for row in neighbours]
        for client, numbers in zip(asking, chosen, strict=True):
            # Whoever is alone among the best learns from all others; whoever is alone at all, from itself.
            numbers = numbers if len(numbers) else without(teaching, client)
            mean = known[numbers if len(numbers) else client[None]].float().mean(0)
            if self.reference_weight:
                rows = torch.arange(len(labels))
                weight = 1 - mean[rows, labels] if isinstance(self.reference_weight, str) else self.reference_weight
                mean *= 1 - torch.as_tensor(weight).view(-1, 1)
                mean[rows, labels] += weight
            yield mean


@dataclass(frozen=True)
class RandomNeighbours:
    """The mean of clients drawn at random: what selection is compared with.

    Raises:
        ValueError: no neighbour is asked for.
    """

    neighbours: int = 5

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.neighbours < 1:
            raise ValueError(f"neighbours={self.neighbours}: at least one is needed.")

    def targets(
        self, known: torch.Tensor, labels: torch.Tensor, asking: torch.Tensor, teaching: torch.Tensor, seed: int
    ) -> Iterator[torch.Tensor]:
        """Yield the mean of some others."""
        generator = torch.Generator().manual_seed(seed)
        for client in asking:
            others = without(teaching, client)
            drawn = others[torch.randperm(len(others), generator=generator)[: self.neighbours]]
            yield known[drawn if len(drawn) else client[None]].float().mean(0)


@dataclass(frozen=True)
class FedMD:
    """The mean of all messengers (Li and Wang 2019, arXiv 1910.03581)."""

    def consensus(self, messengers: torch.Tensor) -> torch.Tensor:
        """Return what messengers [T, R, C] say together."""
        return messengers.float().mean(0)

    def targets(
        self, known: torch.Tensor, labels: torch.Tensor, asking: torch.Tensor, teaching: torch.Tensor, seed: int
    ) -> Iterator[torch.Tensor]:
        """Yield the same for everybody."""
        target = self.consensus(known[teaching])
        yield from (target for _ in asking)


@dataclass(frozen=True)
class DSFL(FedMD):
    """The mean of all messengers, sharpened: entropy reduction aggregation (Itahara et al. 2020, arXiv 2008.06180).

    Args:
        temperature: of the softmax of the mean *probabilities*.

    Raises:
        ValueError: it is not positive.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self)
        check_positive(self, "temperature")

    def consensus(self, messengers: torch.Tensor) -> torch.Tensor:
        """Return the sharpened mean of messengers [T, R, C]."""
        return (super().consensus(messengers) / self.temperature).softmax(-1)


@dataclass(frozen=True)
class Cronus(FedMD):
    """A robust mean (Chang et al. 2019, arXiv 1912.11279; our reading of its spectral filter).

    For each example, the direction in which the messengers differ most is found; those that lie farthest out along it
    are left out.

    Args:
        corrupted: share of the messengers that is left out at each example, in `filters` parts; of fewer than one over
            that share, none is.
        filters: how often that is done.

    Raises:
        ValueError: a number is out of range.
    """

    corrupted: float = 0.2
    filters: int = 2

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 <= self.corrupted < 0.5:
            raise ValueError(f"corrupted={self.corrupted} must lie in [0, 0.5): no mean withstands a majority.")
        if self.filters < 1:
            raise ValueError(f"filters={self.filters}: at least one is needed.")

    def consensus(self, messengers: torch.Tensor) -> torch.Tensor:
        """Return the robust mean of messengers [T, R, C]."""
        answers = messengers.float().transpose(0, 1)
        kept = torch.ones(answers.shape[:2])
        # As many as there are less a hair: 0.3 of 10 are three.
        total = int(self.corrupted * len(messengers) + 1e-9)
        for number in range(self.filters):
            drop = total * (number + 1) // self.filters - total * number // self.filters
            if not drop:
                continue
            middle = _weighted_mean(answers, kept)
            off = (answers - middle[:, None]) * kept[..., None]
            distances = _along_the_widest(off)
            kept.scatter_(1, distances.topk(drop, dim=1).indices, 0.0)
        return _weighted_mean(answers, kept)


def _along_the_widest(off: torch.Tensor) -> torch.Tensor:
    """Return how far out each of [R, T, C] lies along the direction in which the T differ most, [R, T]."""
    clients, classes = off.shape[1:]
    if clients <= classes:
        # The same of the smaller matrix: of a vocabulary, the other would have its square.
        found = torch.linalg.eigh(off @ off.transpose(1, 2))
        return found.eigenvectors[..., -1].abs() * found.eigenvalues[:, -1:].clamp_min(0).sqrt()
    direction = torch.linalg.eigh(off.transpose(1, 2) @ off).eigenvectors[..., -1:]
    return (off @ direction)[..., 0].abs()


def _weighted_mean(answers: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the means of [R, T, C] with weights [R, T]."""
    return (answers * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
