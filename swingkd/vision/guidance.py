"""What a student is taught in a distillation step, and what of the private teacher it sees.

A guidance is an object whose `learn` leaves gradients at the student and whose `ledger` says what was released.
Passing another one is the only switch between the published method, its controls and its sound forms:

- `Labels`: no teacher at all (control);
- `Teacher`: a teacher's soft targets as they are.  Of a public teacher: a control; of one trained by DP-SGD: sound,
  all that follows is post-processing; of a private one: plain distillation;
- `PublishedNoise`: noise on batch losses, as published; it does not protect the student;
- `ShardTeachers`: noised mean answers of teachers on disjoint shards, each image's once;
- the ones of `noised_guidance`: noise on directional derivatives and on batch gradients.

The published method is that of RONA (Wang et al. 2019, arXiv 1811.05072) with sample selection; our reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from accelerate.utils import broadcast
from torch import nn

from swingkd.models.logits import logits_of
from swingkd.privacy import (
    NO_TEACHER,
    PUBLIC_DATA,
    TEACHER_DATA,
    TRANSFER_SET,
    LedgerEntry,
    PrivacyLedger,
    ShardAnswers,
    content_keys,
)
from swingkd.privacy.accounting import said_delta, said_epsilon
from swingkd.privacy.gaussian import gdp_epsilon
from swingkd.privacy.randomness import secret_generator
from swingkd.vision.data import Images
from swingkd.vision.models import listening
from swingkd.vision.staged_training import Batch, StagedTraining

PUBLIC = {TRANSFER_SET: PUBLIC_DATA}

# Images whose answers by all shard teachers are in memory together.
_AT_A_TIME = 4096


class Guidance(Protocol):
    """What teaches a student in its distillation steps."""

    def begin(self, run: StagedTraining, images: Images) -> None:
        """Get ready to teach about public images, before the first step."""

    def take(self, run: StagedTraining, chosen: torch.Tensor) -> torch.Tensor:
        """Return which of the chosen images, the most wanted first, can be taught about in the next steps."""

    def learn(self, run: StagedTraining, batch: Batch) -> torch.Tensor | None:
        """Leave the gradients of one step at the model of a run; return a loss that may be logged, or nothing."""

    def ledger(self, queries: int) -> PrivacyLedger:
        """Say what so many steps released."""


def soft_cross_entropy(student: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the cross-entropy between soft targets and a student's softened outputs, [n].

    Args:
        student: [n, classes] logits.
        targets: [n, classes] probabilities.
        temperature: of the student's softmax.
    """
    return -(targets * (student / temperature).log_softmax(-1)).sum(-1)


def hint_losses(guess: torch.Tensor, hint: torch.Tensor) -> torch.Tensor:
    """Return half the mean squared difference of each image, [n].

    Args:
        guess: [n, channels, height, width] what the student makes of its own layer.
        hint: the same of the teacher.
    """
    return 0.5 * (guess.float() - hint).square().flatten(1).mean(1)


class Labels:
    """The public labels instead of a teacher: what selection and further training give by themselves."""

    def begin(self, run: StagedTraining, images: Images) -> None:
        """Nothing to do."""

    def take(self, run: StagedTraining, chosen: torch.Tensor) -> torch.Tensor:
        """All of them."""
        return chosen

    def learn(self, run: StagedTraining, batch: Batch) -> torch.Tensor:
        """Cross-entropy with the labels."""
        return run.learn_labels(batch)

    def ledger(self, queries: int) -> PrivacyLedger:
        """Return that there was no teacher."""
        return PrivacyLedger(unknown={**PUBLIC, TEACHER_DATA: NO_TEACHER})


@dataclass(eq=False)
class Teacher:
    """A teacher's soft targets.

    Args:
        model: an image classifier.
        known: what is known of its training: its ledger, of which the student's follows; or in words, why the data
            that it saw is not covered.
        temperature: of both softmax.
        live: ask it about each batch as it is augmented; otherwise once about each image as it is.
    """

    model: nn.Module
    known: PrivacyLedger | str
    temperature: float = 3.0
    live: bool = False
    _table: torch.Tensor | None = field(default=None, init=False, repr=False)
    _images: Images = field(init=False, repr=False)

    def begin(self, run: StagedTraining, images: Images) -> None:
        """Ask about none yet.

        Raises:
            ValueError: the teacher has other classes.
        """
        self.model = run.place(self.model).eval().requires_grad_(False)
        run.check_teacher(self.model, images)
        self._images = images
        if not self.live:
            self._table = torch.full((len(images), images.classes), torch.nan)

    def take(self, run: StagedTraining, chosen: torch.Tensor) -> torch.Tensor:
        """All of them; it is asked about those that it was not asked about before."""
        if self._table is not None:
            new = chosen[self._table[chosen, 0].isnan()]
            # Images may lie in a file, and be more than fit into memory; no images are one empty part.
            for part in new.split(_AT_A_TIME) if len(new) else ():
                self._table[part] = run.logits(self.model, self._images.select(part)).float()
        return chosen

    def targets(self, run: StagedTraining, batch: Batch) -> torch.Tensor:
        """Return soft targets [n, classes]."""
        if self._table is not None:
            logits = self._table[batch.indices].to(batch.inputs.device)
        else:
            with torch.no_grad(), run.accelerator.autocast():
                logits = logits_of(self.model, batch.inputs)
        return (logits / self.temperature).softmax(-1)

    def learn(self, run: StagedTraining, batch: Batch) -> torch.Tensor:
        """Cross-entropy with the soft targets.

        Raises:
            ValueError: some of them are not finite.
        """
        targets = self.targets(run, batch)
        if not targets.isfinite().all():
            raise ValueError(
                f"The teacher, {type(self.model).__name__}, gives no finite logits for a batch of images: look for a "
                "training run that diverged."
            )
        student = logits_of(run.wrapped, batch.inputs)
        return run.backward(soft_cross_entropy(student, targets, self.temperature), batch.whole)

    def hidden(self, run: StagedTraining, layer: str, inputs: torch.Tensor) -> torch.Tensor:
        """Return what a layer of the teacher gives, for hints."""
        with listening(self.model, [layer]) as heard, torch.no_grad(), run.accelerator.autocast():
            logits_of(self.model, inputs)
        if not isinstance(heard[layer], torch.Tensor):
            raise ValueError(f"The teacher's {layer} returns no tensor. Name a layer inside it.")
        return heard[layer].float()

    def hint(self, run: StagedTraining, batch: Batch, layer: str, guess: torch.Tensor) -> torch.Tensor:
        """Return the hint loss of each image, [n].

        Args:
            run, batch: of the step.
            layer: of the teacher.
            guess: what the student says that the layer gives.
        """
        return hint_losses(guess, self.hidden(run, layer, batch.inputs))

    def ledger(self, queries: int) -> PrivacyLedger:
        """Return what the teacher's own training promises: a student of it is post-processing."""
        if isinstance(self.known, str):
            return PrivacyLedger(unknown={**PUBLIC, TEACHER_DATA: self.known})
        why = self.known.why_uncovered()
        return PrivacyLedger(self.known.as_teacher(), unknown=PUBLIC | ({} if why is None else {TEACHER_DATA: why}))


@dataclass(eq=False)
class PublishedNoise:
    """Soft targets whose batch loss is bounded by a public teacher's, with noise added to it: as published.

    The noise has no gradient, so the student is the one of noise 0.  What an epsilon can be claimed for is publishing
    the losses; it is written into the ledger as a claim that does not hold for the student.

    Args:
        teacher: the private one.
        public: a teacher that saw public images only; its loss is the bound.
        noise_multiplier: standard deviation of the noise on a batch loss, in units of the bound.
        delta: of the claim.
    """

    teacher: Teacher
    public: Teacher
    noise_multiplier: float = 10.0
    delta: float = 1e-5
    _generator: torch.Generator = field(default_factory=secret_generator, init=False, repr=False)

    def begin(self, run: StagedTraining, images: Images) -> None:
        """Get both teachers ready."""
        self.teacher.begin(run, images)
        self.public.begin(run, images)

    def take(self, run: StagedTraining, chosen: torch.Tensor) -> torch.Tensor:
        """All of them."""
        self.public.take(run, chosen)
        return self.teacher.take(run, chosen)

    def learn(self, run: StagedTraining, batch: Batch) -> torch.Tensor:
        """Bounded, noised soft cross-entropy; what is logged is the noised loss, of which the claim is true."""
        student = logits_of(run.wrapped, batch.inputs)
        losses, public = (
            soft_cross_entropy(student, teacher.targets(run, batch), teacher.temperature)
            for teacher in (self.teacher, self.public)
        )
        return run.backward(self.noised(run, losses, public.detach(), batch.whole), batch.whole)

    def hint(self, run: StagedTraining, batch: Batch, layer: str, guess: torch.Tensor) -> torch.Tensor:
        """Return the hint losses [n], bounded and noised in the same way; both teachers have the layer."""
        losses, public = (teacher.hint(run, batch, layer, guess) for teacher in (self.teacher, self.public))
        return self.noised(run, losses, public.detach(), batch.whole)

    def noised(self, run: StagedTraining, losses: torch.Tensor, public: torch.Tensor, whole: int) -> torch.Tensor:
        """Bound losses [n] by the public teacher's mean, and add one draw of noise to the mean of the batch.

        Args:
            run: of the step.
            losses, public: [n] with the private and with the public teacher.
            whole: how many images the batch has in all processes.
        """
        bound = run.accelerator.reduce(public.sum(), "sum") / whole
        noise = broadcast(torch.randn((), generator=self._generator).to(bound)) * self.noise_multiplier * bound
        # Added to every loss, it is added once to their mean.
        return torch.minimum(losses, bound) + noise

    def ledger(self, queries: int) -> PrivacyLedger:
        """Return the claim, which does not hold; without noise there is none."""
        if not self.noise_multiplier:
            why = "the student learnt from a private teacher's targets"
            return PrivacyLedger(unknown={**PUBLIC, TEACHER_DATA: why})
        entry = published_claim(queries, self.noise_multiplier, self.delta)
        return PrivacyLedger([entry], unknown=PUBLIC)


def nominal_epsilon(queries: int, noise_multiplier: float, delta: float) -> float:
    """Return the epsilon of publishing so many noised batch losses; infinite without noise."""
    return gdp_epsilon(math.sqrt(queries) / noise_multiplier, delta) if noise_multiplier else math.inf


def published_claim(queries: int, noise_multiplier: float, delta: float) -> LedgerEntry:
    """Return the entry of the published noise: a claim, and why it does not hold."""
    nominal = nominal_epsilon(queries, noise_multiplier, delta)
    return LedgerEntry(
        "noise on batch losses",
        scope=TEACHER_DATA,
        unit="record",
        neighbours="replace one",
        releases=queries,
        delta=delta,
        noise_multiplier=noise_multiplier,
        holds=False,
        claim=f"epsilon {said_epsilon(nominal)} at delta {said_delta(delta)}",
        caveat="it would be that of publishing the losses; noise on a number has no gradient, so the student learnt "
        "from the teacher's exact targets",
    )


def check_kept(run: StagedTraining, answers: ShardAnswers) -> None:
    """Refuse answers that a crash would make forgotten, and so uncounted.

    Raises:
        ValueError: they are kept nowhere.
    """
    if answers.path is None and (run.args.checkpoint_every or run.accelerator.num_processes > 1):
        raise ValueError(
            "A run that can go on after a crash, or has several processes, must keep what was released: give "
            "ShardAnswers(path=...), or set checkpoint_every=0."
        )


@dataclass(eq=False)
class ShardTeachers:
    """Noised mean soft labels of teachers on disjoint shards of the private data; each image's is released once.

    Args:
        models: the teachers, each trained on its own shard.
        answers: noise, cache and count, of the form "mean".
        most: how many different images may be asked about; beyond them, images chosen anew are not taught.
        delta: of the guarantee.
    """

    models: Sequence[nn.Module]
    answers: ShardAnswers
    most: int | None = None
    delta: float = 1e-5
    _keys: list[str] = field(default_factory=list, init=False, repr=False)
    _images: Images = field(init=False, repr=False)
    _table: torch.Tensor = field(init=False, repr=False)

    def begin(self, run: StagedTraining, images: Images) -> None:
        """Name the images by what they show.

        Raises:
            ValueError: the answers would be forgotten in a crash, and asked for again; or a teacher has other classes.
        """
        check_kept(run, self.answers)
        self.models = [run.place(model).eval().requires_grad_(False) for model in self.models]
        for model in self.models:
            run.check_teacher(model, images)
        self._keys, self._images = content_keys(images.pixels), images
        self._table = torch.full((len(images), images.classes), torch.nan)

    def take(self, run: StagedTraining, chosen: torch.Tensor) -> torch.Tensor:
        """Those whose answer was released before, and, as far as `most` allows, the others.

        Raises:
            ValueError: there are none at all.
        """
        order = chosen.tolist()
        keys = [self._keys[i] for i in order]
        places = self.answers.unknown(keys)
        if self.most is not None:
            places = places[: max(self.most - len(self.answers), 0)]
        for start in range(0, len(places), _AT_A_TIME):
            part = torch.tensor(places[start : start + _AT_A_TIME])
            batch = self._images.select(chosen[part])
            answers = torch.stack([run.logits(model, batch).softmax(-1) for model in self.models])
            # One process releases, the others read what it wrote.
            with run.accelerator.main_process_first():
                self.answers([keys[i] for i in part.tolist()], answers)
        kept = torch.tensor([place for place, key in enumerate(keys) if key in self.answers], dtype=torch.int64)
        chosen = chosen[kept]
        if not len(kept):
            # None of them may be asked about any more: those that were are taught once again.
            chosen = torch.tensor([i for i, key in enumerate(self._keys) if key in self.answers], dtype=torch.int64)
        if not len(chosen):
            raise ValueError(f"most={self.most}: not one image may be asked about.")
        self._table[chosen] = self.answers([self._keys[i] for i in chosen.tolist()])
        return chosen

    def learn(self, run: StagedTraining, batch: Batch) -> torch.Tensor:
        """Cross-entropy with the released answers."""
        student = logits_of(run.wrapped, batch.inputs)
        targets = self._table[batch.indices].to(student)
        return run.backward(soft_cross_entropy(student, targets, 1.0), batch.whole)

    def ledger(self, queries: int) -> PrivacyLedger:
        """Return what the answers cost, however often they were used."""
        return PrivacyLedger([self.answers.entry(self.delta)], unknown=PUBLIC)
