"""Distillation without data: a generator makes the images, a private teacher labels them, a student learns.

Rounds: in each, new images are made, the student's prediction is the prior of their labels, each is labelled once, and
the student learns all images so far (Liu et al. 2024, arXiv 2409.12384; our reading).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from swingkd.files import PRIVATE, digest_of, private_folder, written_whole
from swingkd.guards import check_not_negative, check_positive
from swingkd.models.logits import logits_of
from swingkd.models.same import shared_weights
from swingkd.privacy import SYNTHETIC_LABELS, TEACHER_DATA, DPSettings, LedgerEntry, PrivacyLedger, module_digest
from swingkd.privacy.plan import epoch_steps
from swingkd.vision.base import check_trainable
from swingkd.vision.data import Images, augment, shuffled_batches
from swingkd.vision.generator_loss import save_grid
from swingkd.vision.generator_training import GeneratorArguments, GeneratorTraining
from swingkd.vision.guidance import check_kept
from swingkd.vision.labelling import (
    LABEL,
    Answers,
    ExactTeacher,
    Labeller,
    NoisyDifferences,
    RandomizedTeacher,
    ShardLabels,
    joined,
    uncovered,
)
from swingkd.vision.models import ImageGenerator
from swingkd.vision.staged_training import Unit, described


@dataclass(kw_only=True)
class DataFreeArguments(GeneratorArguments):
    """Settings of `DataFreeDistillation`; those of its generator are `GeneratorArguments`'.

    Args:
        rounds: how many.
        images_per_round: made and labelled in each.
        epochs_per_round: of the student, on the images of all rounds so far.
        images_per_epoch: it learns so many of them in each, drawn at random; default: all.
        crop, flip: move the images that it learns by so many pixels, mirror half of them; their labels stay.
        forward_correction: let the student learn how likely each random *answer* is.
        gradient_epsilon: train the student by DP-SGD on the labels, each gradient normalised, with this epsilon for
            each label; for labellers without noise of their own.  Needs a student without batch norm, and one round.
        gradient_batch_size: images an update of that, on average.

    Raises:
        ValueError: a number is out of range.
    """

    rounds: int = 4
    images_per_round: int = 5000
    epochs_per_round: int = 5
    images_per_epoch: int | None = None
    crop: int = 0
    flip: bool = False
    forward_correction: bool = True
    gradient_epsilon: float | None = None
    gradient_batch_size: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rounds", "images_per_round", "epochs_per_round", "images_per_epoch")
        check_positive(self, "gradient_epsilon", "gradient_batch_size")
        check_not_negative(self, "crop")
        if self.gradient_epsilon is not None and self.rounds != 1:
            raise ValueError(f"gradient_epsilon needs images that stay the same: rounds=1, not {self.rounds}.")
        if self.noise_learning_rate and self.images_per_round != self.generator_batch_size:
            raise ValueError(
                f"With noise_learning_rate a round's images learn as one batch: images_per_round="
                f"{self.images_per_round} and generator_batch_size={self.generator_batch_size} have to be alike."
            )
        if self.label_smoothing:
            raise ValueError("label_smoothing is of given labels, and a labeller answers here: leave it out.")
        if self.gradient_epsilon is not None and self.images_per_epoch is not None:
            raise ValueError("gradient_epsilon draws its own batches: leave images_per_epoch out.")


# Gradients of images in memory at a time.
_MICRO_BATCH = 64
_OF_ONE_TEACHER = (ExactTeacher, RandomizedTeacher, NoisyDifferences)
# Below any gradient that a student is left with: clipping to it is normalising.
_NORMALISED = 1e-3


class DataFreeDistillation(GeneratorTraining):
    """Train a student on images that a generator makes and a private teacher labels.

        run = DataFreeDistillation(student, ImageGenerator(28, channels=1), RandomizedTeacher(teacher, epsilon=10.0),
                                   critic=teacher, args=DataFreeArguments(output_dir="out"))
        run.train()
        print(run.evaluate(test), run.ledger)

    Args:
        student: an image classifier.
        generator: an `ImageGenerator`, or a module of one's own that makes images from noise [n, generator.latent]; if
            it has `classes`, from noise and labels [n]; if it has `renew()`, its noise can begin anew.
        labeller: labels them; several: one a round.  See `swingkd.vision.labelling`.
        critic: the classifier that the generator is trained by: the teacher, as published, which no guarantee covers
            unless the teacher has one; or `None`: the student itself, which is post-processing.
        critic_ledger: what is known of the critic's training.
        classes: how many.
        args: the settings.
        origin: what is known of the weights that the student begins with, where they were trained before.
        processor: the teacher's image processor of Hugging Face: the generator learns to make images as that shows
            them. A student of Hugging Face's is saved with it, and with the teacher's names of the classes.

    Raises:
        ValueError: a setting is out of range, there are not as many labellers as rounds, or the models do not fit.
    """

    args: DataFreeArguments

    def __init__(
        self,
        student: nn.Module,
        generator: ImageGenerator,
        labeller: Labeller | Sequence[Labeller],
        *,
        args: DataFreeArguments,
        critic: nn.Module | None = None,
        critic_ledger: PrivacyLedger | None = None,
        classes: int = 10,
        origin: PrivacyLedger | None = None,
        processor: Any = None,
    ):
        super().__init__(student, generator, critic, args=args, origin=origin, classes=classes)
        self.processor = processor
        self.labellers = list(labeller) if isinstance(labeller, Sequence) else [labeller] * args.rounds
        if len(self.labellers) != args.rounds:
            raise ValueError(f"{len(self.labellers)} labellers for {args.rounds} rounds: give one, or one a round.")
        self.critic_entries = critic_ledger.as_teacher() if critic is not None and critic_ledger is not None else []
        #: Whether the generator learnt from a model without a guarantee.
        self.seen = critic is not None and not self.critic_entries
        self.images = torch.empty(0)
        self.answers: list[Answers] = []
        self._alike: list[Answers] = []
        self._digests: list[str] = []
        if args.gradient_epsilon is not None:
            settings = DPSettings(
                units=args.images_per_round,
                # Of fewer images each step takes all.
                batch=min(args.gradient_batch_size, args.images_per_round),
                epochs=args.epochs_per_round,
                epsilon=args.gradient_epsilon,
                clip_norm=_NORMALISED,
                unit=LABEL,
            )
            self.make_private(settings)
        self._check()

    def _check(self) -> None:
        """Refuse models that do not fit each other, before anything is trained."""
        check_trainable(self.model)
        teachers = [each.model for each in self.labellers if isinstance(each, _OF_ONE_TEACHER)]
        for each in self.labellers:
            if isinstance(each, ShardLabels):
                check_kept(self, each.answers)
        for teacher in teachers:
            if shared_weights(self.model, teacher):
                raise ValueError(
                    "Student and teacher share weights: what the student predicts would give the teacher's labels "
                    "away. Begin with a student that saw nothing of the private data."
                )
        with torch.no_grad():
            noise, labels = self.noise(2 * self.accelerator.num_processes, torch.Generator().manual_seed(0))
            images = self.generator(noise, labels) if self.told else self.generator(noise)
        for model in (self.model, *teachers, *([self.critic] if self.critic is not None else [])):
            logits = self.check_sees(self.place(model), images)
            if logits.shape[1] != self.classes:
                raise ValueError(f"{type(model).__name__} has {logits.shape[1]} classes; classes={self.classes}.")

        self._check_processor(images)

    def _check_processor(self, images: torch.Tensor) -> None:
        """Refuse a processor of other images than the generator's."""
        shown = self.shown
        if shown is not None and shown.pixels.shape[1:] != images.shape[1:]:
            made, known = (tuple(each.shape[1:]) for each in (images, shown.pixels))
            raise ValueError(f"The generator makes images of {made}, the processor of {known}: make them alike.")

    @property
    def shown(self) -> Images | None:
        """No image, and how the teacher was shown others, where a processor says."""
        if self.processor is None:
            return None
        teachers = [each.model for each in self.labellers if isinstance(each, _OF_ONE_TEACHER)]
        known = [model.config.id2label for model in teachers if isinstance(model, PreTrainedModel)]
        return Images.none(self.processor, list(known[0].values()) if known else self.classes)

    # -- stages --------------------------------------------------------------------------------------------------

    def units(self) -> list[Unit]:
        """Return all stages."""
        args = self.args
        one = [Unit("generator", 0, self.train_generator)]
        renewing = [Unit("new layer", 0, self.renew_generator)] if args.renew_generator else []
        if args.noise_learning_rate:
            # A round's noise learns where its images are made; before the first, the generator tries how.
            before, again = (renewing + one) * args.generator_epochs + renewing, renewing
        else:
            before = one * args.generator_epochs
            asked = self.critic is None or bool(args.loss.disagreement) or args.renew_generator
            again = renewing + (before if asked else [])
        units = []
        for number in range(args.rounds):
            units += again if number else before
            units += [Unit(f"images {number + 1}", 0, partial(self._make, number))]
            images = min((number + 1) * args.images_per_round, args.images_per_epoch or math.inf)
            steps = math.ceil(images / args.batch_size) if self.plan is None else epoch_steps(self.plan.sampling_rate)
            learn = self._learn if self.plan is None else self._learn_privately
            units += [Unit(f"student {number + 1}", steps, learn)] * args.epochs_per_round
        return units

    def forget(self) -> None:
        """Remove checkpoint and images of another run from the folder."""
        if self.accelerator.is_main_process:
            for number in range(self.args.rounds):
                self._path(number).unlink(missing_ok=True)
        super().forget()

    def _make(self, number: int, generator: torch.Generator) -> None:
        """Make and label the images of a round, once: what was labelled before a crash is not labelled again."""
        path = self._path(number)
        # Where noise learns, the generator does: whether the images were labelled before a crash or not.
        learnt = self.train_generator(generator) if self.args.noise_learning_rate else None
        if not path.exists():
            images = self._images(generator) if learnt is None else self.together(learnt, self.args.images_per_round)
            images = images.half().cpu().contiguous()
            prior = self.prior(images, number)
            answers = self.labellers[number](self, images, prior)
            if self.accelerator.is_main_process:
                tensors = {"images": images, "targets": answers.targets, "candidates": answers.candidates}
                with written_whole(path) as part:
                    about = {"epsilon": repr(answers.epsilon), "temperature": repr(answers.temperature)}
                    save_file(tensors, part, about | {"made_by": self._made_by})
                save_grid(images[:64], self.folder / f"round-{number + 1}.png")
            self.accelerator.wait_for_everyone()
        self._read(number)

    @torch.no_grad()
    def _images(self, generator: torch.Generator) -> torch.Tensor:
        """Return a round's images of noise that learns nothing."""
        # As in training: the batch norms of a generator work with the batch at hand.
        self.maker.train()
        sizes = [len(part) for part in torch.arange(self.args.images_per_round).split(self.args.generator_batch_size)]
        return torch.cat([self.together(self.made(*self.noise(size, generator)).float(), size) for size in sizes])

    @cached_property
    def _made_by(self) -> str:
        """A digest of what makes images and answers; weights are read for it, once."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()

    def prior(self, images: torch.Tensor, number: int) -> torch.Tensor:
        """Return what the student predicts, [n, classes]; before it learnt anything, nothing."""
        if number == 0:
            return torch.full((len(images), self.classes), 1 / self.classes)
        return self.finite_logits(self.model, images).softmax(-1)

    def _learn(self, generator: torch.Generator) -> None:
        self.wrapped.train()
        every = torch.arange(len(self.images))
        if self.args.images_per_epoch is not None:
            every = torch.randperm(len(every), generator=generator)[: self.args.images_per_epoch]
        for part in shuffled_batches(every, self.args.batch_size, generator):
            places = self.own(torch.arange(len(part)))
            logits = logits_of(self.wrapped, self._shown(part, places, generator))
            loss = self.backward(self._losses(logits, part[places]), len(part))
            self.update()
            self.note("student", loss)

    def _learn_privately(self, generator: torch.Generator) -> None:
        def losses(rows: torch.Tensor) -> torch.Tensor:
            return self._losses(logits_of(self.model, self._shown(rows, torch.arange(len(rows)), generator)), rows)

        self.private_epoch(losses, _MICRO_BATCH)

    def _shown(self, rows: torch.Tensor, places: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return what the student sees of some rows of images: those in this process's places."""
        images = self.images[rows[places]].float()
        return self.inputs(augment(images, self.args.crop, self.args.flip, generator, len(rows), places))

    def _losses(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the losses of images by their numbers, each with the answers of its round."""
        all_losses, first = logits.new_zeros(len(rows)), 0
        for answers in self._alike:
            own = ((rows >= first) & (rows < first + len(answers.targets))).nonzero()[:, 0]
            if len(own):
                places, here = rows[own] - first, own.to(logits.device)
                losses = answers.losses(logits[here], places, correct=self.args.forward_correction)
                all_losses = all_losses.index_add(0, here, losses)
            first += len(answers.targets)
        return all_losses

    # -- files and words -----------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where images and labels are kept: exact labels of a private teacher are as private as the teacher."""
        return private_folder(private_folder(Path(self.args.output_dir) / PRIVATE) / "synthetic")

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number + 1}.safetensors"

    def _read(self, number: int) -> None:
        with safe_open(self._path(number), "pt") as file:
            images = file.get_tensor("images")
            known = file.metadata()
            if known.pop("made_by") != self._made_by:
                raise ValueError(
                    f"{self._path(number)} was made with other settings, labels or teachers, and their guarantee is "
                    "another. Use those that it was made with, or another output_dir."
                )
            about = {name: float(value) for name, value in known.items()}
            answers = Answers(file.get_tensor("targets"), file.get_tensor("candidates"), **about)
        self._digests = [*self._digests[:number], digest_of(self._path(number))]
        if number == 0:
            # For all rounds at once: a bank of thousands would be copied for each.
            self._bank = images.new_empty(self.args.rounds * len(images), *images.shape[1:])
        end = (number + 1) * len(images)
        self._bank[end - len(images) : end] = images
        self.images = self._bank[:end]
        self.answers = [*self.answers[:number], answers]
        self._alike = joined(self.answers)

    def state(self) -> dict[str, Any]:
        """Return the digests of each round's images and answers, and how many private steps there were."""
        return super().state() | {"rounds": self._digests}

    def load_state(self, state: dict[str, Any]) -> None:
        """Read the images of the rounds that were made.

        Raises:
            ValueError: they are not those that were labelled.
        """
        super().load_state(state)
        for number, digest in enumerate(state["rounds"]):
            path = self._path(number)
            if not path.exists() or digest_of(path) != digest:
                raise ValueError(f"{path} is gone, or was changed after it was written: start afresh.")
            self._read(number)

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be gone on from."""
        critic = (
            [module_digest(self.critic), *PrivacyLedger(self.critic_entries).lines()]
            if self.critic is not None
            else "student"
        )
        # One labeller of many rounds is read once.
        known = {labeller: described(labeller) for labeller in dict.fromkeys(self.labellers)}
        labels = [known[labeller] for labeller in self.labellers]
        return super().settings() | {"labellers": labels, "critic": critic, "classes": self.classes}

    def released(self) -> PrivacyLedger:
        """Return what all labels so far released, what the critic's training did, and what noised gradients did."""
        size, ledgers = self.args.images_per_round, []
        used = self.labellers[: len(self.answers)]
        for labeller in dict.fromkeys(used):
            ledgers.append(labeller.ledger(size * used.count(labeller), self.seen))
        entries = [entry for ledger in ledgers for entry in ledger.entries]
        # A critic that is the labelling teacher as well was trained once.
        entries += [entry for entry in self.critic_entries if entry not in entries]
        units = {entry.unit for entry in entries if entry.scope == TEACHER_DATA}
        if len(units) > 1:
            kinds = " and each ".join(sorted(units))
            entries.append(uncovered("together", 1, f"guarantees of each {kinds} do not add up"))
        if self.plan is not None:
            entries.append(LedgerEntry.of_plan(self.plan, releases=self.private_steps, scope=SYNTHETIC_LABELS))
        unknown = {scope: why for ledger in ledgers for scope, why in ledger.unknown.items()}
        return PrivacyLedger(entries, unknown=unknown)
