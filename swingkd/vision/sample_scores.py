"""Which samples a student is taught next, and how many: from what the student says of public samples alone.

A score is a function `(logits, labels, count, generator) -> [count] indices` of the student's logits [n, classes] and
the public labels [n].  The teacher does not come into it, so choosing costs no privacy.  Yours can be passed as well.
The shares that are kept are Python lists, one number an iteration.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.cluster.vq import kmeans2

Score = Callable[[torch.Tensor, torch.Tensor, int, torch.Generator], torch.Tensor]


def fixed(rate: float, iterations: int) -> list[float]:
    """Keep the same share in every iteration."""
    return [rate] * iterations


def linear(first: float, last: float, iterations: int) -> list[float]:
    """Let the share fall by the same amount each time."""
    if iterations == 1:
        return [first]
    return [first + (last - first) * i / (iterations - 1) for i in range(iterations)]


def geometric(first: float, factor: float, iterations: int) -> list[float]:
    """Let the share fall by the same factor each time."""
    return [first * factor**i for i in range(iterations)]


def margin(logits, labels, count, generator):
    """Keep the samples whose two likeliest classes are closest to each other, the closest first."""
    two = logits.softmax(-1).topk(2).values
    return (two[:, 0] - two[:, 1]).argsort(stable=True)[:count]


def entropy(logits, labels, count, generator):
    """Keep the samples of highest entropy."""
    log_probs = logits.log_softmax(-1)
    return (log_probs.exp() * log_probs).sum(-1).argsort(stable=True)[:count]


def gini(logits, labels, count, generator):
    """Keep the samples of highest Gini impurity, 1 - sum p^2."""
    return logits.softmax(-1).square().sum(-1).argsort(stable=True)[:count]


def random(logits, labels, count, generator):
    """Keep any samples: what the others have to beat."""
    return torch.randperm(len(logits), generator=generator)[:count]


def confident_and_correct(logits, labels, count, generator):
    """Keep the samples whose own label is likeliest: an easy course, for students of noisy teachers."""
    own = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    return own.argsort(descending=True, stable=True)[:count]


def k_centre(logits, labels, count, generator):
    """Keep samples that cover all others: each next one is the furthest, in Kullback-Leibler divergence, from those
    kept (the greedy k-centre algorithm; Gonzalez 1985).  Time grows with n times count.
    """
    log_probs = logits.double().log_softmax(-1).float()
    probs = log_probs.exp()
    negentropy = (probs * log_probs).sum(-1)
    kept = torch.empty(count, dtype=torch.int64)
    distance = torch.full((len(logits),), torch.inf)
    place = torch.randint(len(logits), (), generator=generator)
    for number in range(count):
        kept[number] = place
        # How badly the kept sample describes each other one.
        distance = torch.minimum(distance, negentropy - probs @ log_probs[place])
        distance[place] = -torch.inf
        place = distance.argmax()
    return kept


def cluster_diverse(logits, labels, count, generator):
    """Keep samples of small margin from all clusters of the student's outputs alike (our reading).

    There are as many clusters as classes (k-means of the probabilities); the first of each, by margin, come first,
    then the second, and so on.
    """
    probs = logits.double().softmax(-1)
    seed = int(torch.randint(2**31, (), generator=generator))
    _, cluster = kmeans2(probs.numpy(), min(probs.shape[1], len(probs)), minit="++", rng=seed)
    order = margin(logits, labels, len(logits), generator)
    sorted_clusters = torch.from_numpy(cluster).long()[order]
    # Of a sample in the order of margins: how many of its cluster stand before it.
    stable = sorted_clusters.argsort(stable=True)
    first = torch.searchsorted(sorted_clusters[stable], sorted_clusters[stable])
    place = torch.empty_like(stable)
    place[stable] = torch.arange(len(stable)) - first
    return order[place.argsort(stable=True)[:count]]
