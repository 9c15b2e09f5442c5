"""Who labels synthetic images, and what the labels release about the private teacher.

A labeller is called with images and the student's prediction of them, and returns `Answers`; its `ledger` says what
that released.  Every image is labelled once; the answers are kept.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

import torch
from opacus.accountants.analysis.rdp import get_privacy_spent
from torch import nn

from swingkd.guards import check_finite, check_positive
from swingkd.privacy import (
    NO_DATA,
    PUBLIC_DATA,
    SYNTHETIC_LABELS,
    TEACHER_DATA,
    TRANSFER_SET,
    LedgerEntry,
    PrivacyLedger,
    ShardAnswers,
    best_candidates,
    content_keys,
    randomize_labels,
)
from swingkd.privacy.accounting import said_delta
from swingkd.privacy.label_dp import randomized_response_rdp
from swingkd.privacy.pate import onto_simplex
from swingkd.privacy.randomness import secret_generator
from swingkd.vision.base import Classifier

SYNTHETIC = {TRANSFER_SET: NO_DATA}
#: Unit of guarantees about labels.
LABEL = "label"


@dataclass(frozen=True, eq=False)
class Answers:
    """Labels of synthetic images.

    Args:
        targets: [n, classes] probabilities; a one where a class was answered.
        candidates: [n, classes] bool, the answers that were possible; all of them where the answer is no random one.
        epsilon: of the random answers; infinite where they are none.
        temperature: at which the targets were made, and the student is asked; its loss counts by its square, so that
            gradients are of one size (Hinton et al. 2015, arXiv 1503.02531, section 2).
    """

    targets: torch.Tensor
    candidates: torch.Tensor
    epsilon: float = math.inf
    temperature: float = 1.0

    def losses(self, logits: torch.Tensor, rows: torch.Tensor, *, correct: bool) -> torch.Tensor:
        """Return a student's cross-entropy with some of the answers, [n].

        Args:
            logits: [n, classes] of the student.
            rows: [n] which answers.
            correct: ask how likely the *answer* is, not the class: forward correction.
        """
        targets = self.targets[rows].to(logits)
        if correct and math.isfinite(self.epsilon):
            candidates = self.candidates[rows].to(logits.device)
            answers = answer_probabilities(logits, candidates, self.epsilon)
            # What is no candidate is never answered; the logarithm of 0 has no gradient.
            log_probs = torch.where(candidates, answers, 1.0).log()
        else:
            log_probs = (logits / self.temperature).log_softmax(-1)
        return -(targets * log_probs).sum(-1) * self.temperature**2


def joined(answers: Sequence[Answers]) -> list[Answers]:
    """Return answers in their order, those of one epsilon and temperature that follow each other as one."""
    runs = [list(run) for _, run in groupby(answers, key=lambda each: (each.epsilon, each.temperature))]
    return [
        replace(
            run[0],
            targets=torch.cat([each.targets for each in run]),
            candidates=torch.cat([each.candidates for each in run]),
        )
        for run in runs
    ]


def answer_probabilities(logits: torch.Tensor, candidates: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return how likely each answer of a selective randomized response is, [n, classes] (Patrini et al. 2017, forward
    correction, with the response's own transition matrix).

    Args:
        logits: [n, classes] what a student thinks of the true class.
        candidates: [n, classes] bool, the possible answers.
        epsilon: of the response.
    """
    probs = logits.float().softmax(-1)
    count = candidates.sum(1, keepdim=True)
    kept = 1 / (1 + (count - 1) * math.exp(-epsilon))
    other = math.exp(-epsilon) * kept
    inside = (probs * candidates).sum(1, keepdim=True)
    answers = kept * probs + other * (inside - probs) + (1 - inside).clamp_min(0) / count
    return answers * candidates


class Labeller(Protocol):
    """What labels synthetic images."""

    def __call__(self, run: Classifier, images: torch.Tensor, prior: torch.Tensor) -> Answers:
        """Label images [n, channels, height, width]; `prior` is the student's prediction of them, [n, classes]."""

    def ledger(self, labels: int, seen: bool) -> PrivacyLedger:
        """Say what so many labels released; `seen`: the generator was trained by a model without a guarantee."""


@dataclass(eq=False)
class ExactTeacher:
    """A teacher's own labels: no privacy of their own.  Of a teacher with a guarantee they are post-processing.

    Args:
        model: an image classifier.
        known: its ledger, or in words why its data is not covered.
        soft: take its probabilities instead of the likeliest class.
        temperature: of those.

    Raises:
        ValueError: the temperature is not above 0, or there are no probabilities that it could be of.
    """

    model: nn.Module
    known: PrivacyLedger | str
    soft: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_finite("temperature", self.temperature)
        check_positive(self, "temperature")
        if self.temperature != 1 and not self.soft:
            raise ValueError(f"temperature={self.temperature} is of probabilities: soft=True.")

    def __call__(self, run: Classifier, images: torch.Tensor, prior: torch.Tensor) -> Answers:
        """Return the teacher's labels."""
        logits = run.finite_logits(run.place(self.model), images)
        soft = (logits / self.temperature).softmax(-1)
        targets = soft if self.soft else one_hot(logits.argmax(1), logits.shape[1])
        return Answers(targets, torch.ones_like(targets, dtype=torch.bool), temperature=self.temperature)

    def ledger(self, labels: int, seen: bool) -> PrivacyLedger:
        """Return what the teacher's own training promises."""
        entries = [] if isinstance(self.known, str) else self.known.as_teacher()
        why = self.known if isinstance(self.known, str) else self.known.why_uncovered()
        if why == PUBLIC_DATA:
            return PrivacyLedger(unknown={**SYNTHETIC, TEACHER_DATA: PUBLIC_DATA})
        if why is not None:
            # An entry, so that no round with a guarantee hides this one.
            entries = [uncovered("exact labels", labels, why)]
        return PrivacyLedger([*entries, *_seen(seen)], unknown=SYNTHETIC)


@dataclass(eq=False)
class RandomizedTeacher:
    """Selective randomized response: an answer among the classes that the student thinks likeliest.

    RRWithPrior (Ghazi et al. 2021, arXiv 2102.06062) with the student's prediction as prior, as in data-free
    distillation with label differential privacy (Liu et al. 2024, arXiv 2409.12384; our reading).  The candidates
    follow from the prior, which is all that this class lets them depend on: from the teacher, they would give its
    label away.

    Args:
        model: the private teacher.
        epsilon: of the label differential privacy of each synthetic label.
        delta: of what the labels add up to for a record.
    """

    model: nn.Module
    epsilon: float
    delta: float = 1e-5
    _generator: torch.Generator = field(default_factory=secret_generator, init=False, repr=False)

    def __post_init__(self) -> None:
        check_finite("epsilon", self.epsilon)
        check_positive(self, "epsilon")

    def __call__(self, run: Classifier, images: torch.Tensor, prior: torch.Tensor) -> Answers:
        """Return random answers."""
        candidates = best_candidates(prior, self.epsilon)
        labels = run.logits(run.place(self.model), images).argmax(1)
        answers = randomize_labels(labels, candidates, self.epsilon, self._generator)
        return Answers(one_hot(answers, prior.shape[1]), candidates, self.epsilon)

    def ledger(self, labels: int, seen: bool) -> PrivacyLedger:
        """Return what holds for each label, and what that adds up to for a record of the teacher's data."""
        each = LedgerEntry(
            "selective randomized response",
            scope=SYNTHETIC_LABELS,
            unit=LABEL,
            neighbours="replace one",
            releases=1,
            pure_epsilon=self.epsilon,
            caveat=f"each of {labels:,} labels was answered once",
        )
        composed = composed_epsilon(labels, self.epsilon, self.delta)
        record = LedgerEntry(
            "selective randomized response",
            scope=TEACHER_DATA,
            neighbours="replace one",
            releases=labels,
            pure_epsilon=self.epsilon,
            holds=not seen,
            claim=f"epsilon {self.epsilon:g}" if seen else "",
            caveat=f"one record can move all {labels:,} labels, which add up to epsilon {composed:,.0f} at delta "
            f"{said_delta(self.delta)}" + (f", and {_SEEN}" if seen else ""),
        )
        return PrivacyLedger([each, record], unknown=SYNTHETIC)


@dataclass(eq=False)
class ShardLabels:
    """Labels of teachers on disjoint shards of the private data, noised (PATE); sound.

    Args:
        models: the teachers.
        answers: noise, cache and count.
        delta: of the guarantee.
    """

    models: Sequence[nn.Module]
    answers: ShardAnswers
    delta: float = 1e-5

    def __call__(self, run: Classifier, images: torch.Tensor, prior: torch.Tensor) -> Answers:
        """Return the noised answers."""
        probabilities = torch.stack([run.logits(run.place(model), images).softmax(-1) for model in self.models])
        targets = self.answers(content_keys(images), probabilities)
        return Answers(targets, torch.ones_like(targets, dtype=torch.bool))

    def ledger(self, labels: int, seen: bool) -> PrivacyLedger:
        """Return what the answers cost."""
        return PrivacyLedger([self.answers.entry(self.delta), *_seen(seen)], unknown=SYNTHETIC)


@dataclass(eq=False)
class NoisyDifferences:
    """What the teacher thinks beyond the student, on the student's likeliest classes, clipped and noised.

    The target is the student's prediction plus the noised difference, brought back to a distribution (our reading of
    the soft branch of DPSD, arXiv 2304.12528's family).  Another label in the teacher's place moves the difference by
    at most 2 `clip`.

    Args:
        model: the private teacher.
        noise_multiplier: standard deviation of the noise, in units of that.
        clip: bound on a difference's length.
        top: how many classes, the student's likeliest.
        delta: of the guarantee of each label.
    """

    model: nn.Module
    noise_multiplier: float
    clip: float = 1.0
    top: int = 3
    delta: float = 1e-5
    _generator: torch.Generator = field(default_factory=secret_generator, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "clip"):
            check_finite(name, getattr(self, name))
        check_positive(self, "noise_multiplier", "clip", "top")

    def __call__(self, run: Classifier, images: torch.Tensor, prior: torch.Tensor) -> Answers:
        """Return the student's predictions, moved."""
        answers = run.logits(run.place(self.model), images).softmax(-1).double()
        order = prior.topk(min(self.top, prior.shape[1])).indices
        # A teacher that says no number says nothing.
        difference = (answers - prior).nan_to_num(0.0).gather(1, order)
        length = difference.norm(dim=1, keepdim=True).clamp_min(1e-12)
        released = difference * (self.clip / length).clamp_max(1.0)
        noise = torch.randn(released.shape, generator=self._generator, dtype=torch.float64)
        released = released + noise * self.noise_multiplier * 2 * self.clip
        targets = onto_simplex(prior.double().scatter_add(1, order, released)).float()
        return Answers(targets, torch.ones_like(targets, dtype=torch.bool))

    def ledger(self, labels: int, seen: bool) -> PrivacyLedger:
        """Return what holds for each label, and for a record, which can move them all."""
        common: dict[str, Any] = {
            "neighbours": "replace one",
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
        }
        each = LedgerEntry(
            "noisy differences",
            scope=SYNTHETIC_LABELS,
            unit=LABEL,
            releases=1,
            **common,
            caveat=f"each of {labels:,} labels was answered once",
        )
        record = LedgerEntry("noisy differences", scope=TEACHER_DATA, releases=labels, **common)
        return PrivacyLedger([each, record, *_seen(seen)], unknown=SYNTHETIC)


_SEEN = "the generator was trained by the teacher itself, which no noise covers"


def _seen(seen: bool) -> list[LedgerEntry]:
    """Return that a generator learnt from a teacher without a guarantee, where it did."""
    if not seen:
        return []
    return [uncovered("generator", 1, _SEEN)]


def uncovered(mechanism: str, releases: int, why: str) -> LedgerEntry:
    """Return an entry that undoes any guarantee of the teacher's data beside it."""
    return LedgerEntry(
        mechanism, scope=TEACHER_DATA, neighbours="replace one", releases=releases, holds=False, caveat=why
    )


def composed_epsilon(labels: int, epsilon: float, delta: float, candidates: int = 2) -> float:
    """Return what so many randomized responses add up to, at a delta: the better of adding and the Renyi bound.

    Args:
        labels: how many answers.
        epsilon: of each.
        delta: of the sum.
        candidates: of each answer; two are the worst case, of which any mechanism of this epsilon is post-processing
            (Kairouz, Oh and Viswanath 2015, arXiv 1311.0776).
    """
    orders = [1 + 0.001 * 1.1**i for i in range(130)]
    divergences = [labels * randomized_response_rdp(epsilon, candidates, order) for order in orders]
    with warnings.catch_warnings():
        # Far out, adding is the better bound.
        warnings.filterwarnings("ignore", "Optimal order is the")
        renyi, _ = get_privacy_spent(orders=orders, rdp=divergences, delta=delta)
    return min(labels * epsilon, float(renyi))


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return labels [n] as distributions [n, classes]."""
    return nn.functional.one_hot(labels, classes).float()
