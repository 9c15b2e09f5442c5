"""Randomized response: labels with pure label differential privacy.

A label y is answered by one of k candidates.  If y is among them, it is kept with probability e^eps / (e^eps + k - 1),
and each other candidate has 1 / (e^eps + k - 1); if it is not, the answer is uniform over the candidates.  For any two
labels the probabilities of any answer differ by a factor of at most e^eps, as long as the candidates do not depend on
the label:

- all classes: k-ary randomized response (Warner 1965);
- a fixed k of them, or the likeliest k under a prior: RRTop-k; with the best k, RRWithPrior (Ghazi et al. 2021, arXiv
  2102.06062, Algorithms 1 and 2).

The guarantee is about each label that is answered once.  It says nothing of the inputs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from swingkd.files import written_whole
from swingkd.privacy.randomness import secret_generator


def response_probabilities(labels: torch.Tensor, candidates: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return the probability of every answer, [n, classes] float64.

    Args:
        labels: [n] true classes.
        candidates: [n, classes] bool, the possible answers; must not depend on the labels.
        epsilon: of the label differential privacy.

    Raises:
        ValueError: epsilon is not positive, a label is no class, or a row has no candidate.
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon={epsilon} must be positive.")
    if candidates.dtype != torch.bool or candidates.ndim != 2 or len(candidates) != len(labels):
        raise ValueError(
            f"candidates have shape {tuple(candidates.shape)} and type {candidates.dtype}; bool "
            f"[{len(labels)}, classes] is needed."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < candidates.shape[1]:
        raise ValueError(f"A label is none of the {candidates.shape[1]} classes.")
    count = candidates.sum(1, keepdim=True).double()
    if not bool((count > 0).all()):
        raise ValueError(f"{int((count == 0).sum())} rows have no candidate to answer with.")
    # Divided by e^eps, so that a large epsilon does not overflow.
    other = math.exp(-epsilon) / (1 + (count - 1) * math.exp(-epsilon))
    uniform = 1 / count
    known = candidates.gather(1, labels[:, None])
    probabilities = torch.where(known, other, uniform) * candidates
    kept = 1 / (1 + (count - 1) * math.exp(-epsilon))
    return probabilities.scatter(1, labels[:, None], torch.where(known, kept, 0.0))


def randomize_labels(
    labels: torch.Tensor, candidates: torch.Tensor, epsilon: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Answer each label once, [n].

    Args:
        labels: [n] true classes.
        candidates: [n, classes] bool; all True: k-ary randomized response.
        epsilon: of the label differential privacy of each answer; asking again adds up.
        generator: default: a secret one.  One that can be replayed undoes the guarantee; for tests only.
    """
    probabilities = response_probabilities(labels, candidates, epsilon)
    return torch.multinomial(probabilities, 1, generator=generator or secret_generator(labels.device))[:, 0]


def best_candidates(prior: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Choose the candidates of RRWithPrior, [n, classes] bool: the k likeliest, with the k that keeps a label most
    often.

    Args:
        prior: [n, classes] probabilities that do not depend on the label, such as a student's predictions.
        epsilon: of the response.

    Raises:
        ValueError: the prior is not finite, negative, or does not sum to one.
    """
    if not bool(prior.isfinite().all()) or bool((prior < 0).any()):
        raise ValueError("The prior must be finite and not negative.")
    sums = prior.sum(1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError(f"Each row of the prior must sum to one; found {float(sums.min()):.4f}. Give probabilities.")
    falling, order = prior.double().sort(dim=1, descending=True, stable=True)
    k = torch.arange(1, prior.shape[1] + 1, device=prior.device)
    kept = falling.cumsum(1) / (1 + (k - 1) * math.exp(-epsilon))
    chosen = torch.arange(prior.shape[1], device=prior.device) <= kept.argmax(1, keepdim=True)
    return torch.zeros_like(prior, dtype=torch.bool).scatter(1, order, chosen)


def multi_stage_labels(
    labels: torch.Tensor,
    classes: int,
    epsilon: float,
    fit: Callable[[torch.Tensor, torch.Tensor], Callable[[torch.Tensor], torch.Tensor]],
    *,
    shares: tuple[float, ...] = (0.5, 0.5),
    path: str | os.PathLike | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Answer labels in stages, each with the model of the stages before it as prior (LP-MST; Ghazi et al. 2021).

    Each label is answered once, so all answers together are epsilon-label-DP.

    Args:
        labels: [n] true classes.
        classes: how many there are.
        epsilon: of the label differential privacy.
        fit: trains on the examples [m] with the answers [m], and returns a function that predicts the class
            probabilities [q, classes] of examples [q]; it must see nothing else of the labels.
        shares: which share of the examples each stage answers.
        path: a file where answers are kept before anybody learns from them; after a crash, and in every process, those
            are the ones: a label is never answered twice.  It holds answers only, no true label.
        generator: default: a secret one.

    Raises:
        ValueError: the shares are not positive, or do not sum to one.
    """
    if min(shares) <= 0 or not math.isclose(sum(shares), 1.0):
        raise ValueError(f"shares={shares} must be positive and sum to one.")
    generator = generator or secret_generator(labels.device)
    cuts = [round(sum(shares[: i + 1]) * len(labels)) for i in range(len(shares) - 1)]

    def begin() -> torch.Tensor:
        order = torch.randperm(len(labels), generator=generator, device=labels.device)
        return torch.stack([order, torch.full_like(order, -1)])

    order, answers = _kept(path, 0, begin)
    answered = order[:0]
    for number, stage in enumerate(order.tensor_split(cuts)):
        candidates = torch.ones(len(stage), classes, dtype=torch.bool, device=labels.device)
        if len(answered):
            candidates = best_candidates(fit(answered, answers[answered])(stage), epsilon)
        answer = partial(randomize_labels, labels[stage], candidates, epsilon, generator)
        answers[stage] = _kept(path, number + 1, answer)
        answered = torch.cat([answered, stage])
    return answers


def _kept(path: str | os.PathLike | None, number: int, draw: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return what was drawn at a place before, or draw it and keep it; whichever process comes first."""
    if path is None:
        return draw()
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        known = load_file(file) if file.exists() else {}
        if str(number) not in known:
            known[str(number)] = draw()
            with written_whole(file) as part:
                save_file(known, part)
        return known[str(number)]


def randomized_response_rdp(epsilon: float, k: int, order: float) -> float:
    """Return the Renyi divergence of one k-ary randomized response at an order above 1 (our derivation: two labels,
    the k - 2 answers that are neither cost nothing).

    Args:
        epsilon: of the response.
        k: how many candidates.
        order: of the divergence.
    """
    keep = 1 / (1 + (k - 1) * math.exp(-epsilon))
    other = keep * math.exp(-epsilon)
    terms = (
        order * math.log(keep) + (1 - order) * math.log(other),
        order * math.log(other) + (1 - order) * math.log(keep),
        math.log((k - 2) * other) if k > 2 else -math.inf,
    )
    largest = max(terms)
    return (largest + math.log(sum(math.exp(term - largest) for term in terms))) / (order - 1)
