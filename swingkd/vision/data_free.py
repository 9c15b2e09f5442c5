"""Distillation without data: a generator makes the images, a private teacher labels them, a student learns.

Rounds: in each, new images are made, the student's prediction is the prior of their labels, each is labelled once, and
the student learns all images so far (Liu et al. 2024, arXiv 2409.12384; our reading).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from swingkd.privacy import DPSGD, SYNTHETIC_LABELS, LedgerEntry, PrivacyLedger, PrivacyPlan
from swingkd.privacy.plan import epoch_steps, run_delta
from swingkd.vision.data import shuffled_batches
from swingkd.vision.generation import GeneratorLoss, save_grid
from swingkd.vision.guidance import check_kept
from swingkd.vision.labelling import LABEL, Answers, Labeller, ShardLabels
from swingkd.vision.models import ImageGenerator, logits_of
from swingkd.vision.staged import ImageArguments, StagedTraining, Unit
from swingkd.vision.supervised import private_epoch


@dataclass(kw_only=True)
class DataFreeArguments(ImageArguments):
    """Settings of `DataFreeDistillation`.

    Args:
        rounds: how many.
        images_per_round: made and labelled in each.
        epochs_per_round: of the student, on all images so far.
        generator_epochs: a hundred updates each, before the first round; where the student is the critic, in each.
        generator_batch_size: images an update of the generator, in all processes together.
        generator_learning_rate: of Adam.
        loss: what the generator is trained for.
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
    generator_epochs: int = 10
    generator_batch_size: int = 256
    generator_learning_rate: float = 1e-3
    loss: GeneratorLoss = field(default_factory=GeneratorLoss)
    forward_correction: bool = True
    gradient_epsilon: float | None = None
    gradient_batch_size: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rounds", "images_per_round", "epochs_per_round", "generator_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive.")
        if self.gradient_epsilon is not None and self.rounds != 1:
            raise ValueError(f"gradient_epsilon needs images that stay the same: rounds=1, not {self.rounds}.")


# Updates of the generator between two checkpoints; gradients of images in memory at a time.
_UPDATES, _MICRO_BATCH = 100, 64
# Below any gradient that a student is left with: clipping to it is normalising.
_NORMALISED = 1e-3


class DataFreeDistillation(StagedTraining):
    """Train a student on images that a generator makes and a private teacher labels.

        run = DataFreeDistillation(student, ImageGenerator(28, channels=1), RandomizedTeacher(teacher, epsilon=10.0),
                                   critic=teacher, args=DataFreeArguments(output_dir="out"))
        run.train()
        print(run.evaluate(test), run.ledger)

    Args:
        student: an image classifier.
        generator: makes images from noise [n, generator.latent].
        labeller: labels them; several: one a round.  See `swingkd.vision.labelling`.
        critic: the classifier that the generator is trained by: the teacher, as published, which no guarantee covers
            unless the teacher has one; or `None`: the student itself, which is post-processing.
        critic_ledger: what is known of the critic's training.
        classes: how many.
        args: the settings.

    Raises:
        ValueError: a setting is out of range, or there are not as many labellers as rounds.
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
    ):
        super().__init__(student, args)
        self.labellers = list(labeller) if isinstance(labeller, Sequence) else [labeller] * args.rounds
        if len(self.labellers) != args.rounds:
            raise ValueError(f"{len(self.labellers)} labellers for {args.rounds} rounds: give one, or one a round.")
        for each in self.labellers:
            if isinstance(each, ShardLabels):
                check_kept(self, each.answers)
        self.generator = self.place(generator)
        self.critic = self.place(critic).eval().requires_grad_(False) if critic is not None else None
        #: Whether the generator learnt from a model without a guarantee.
        self.seen = critic is not None and not (critic_ledger is not None and critic_ledger.as_teacher())
        self.classes = classes
        self.images = torch.empty(0)
        self.answers: list[Answers] = []
        self.plan = self._plan() if args.gradient_epsilon is not None else None
        self.dp: DPSGD | None = None

    def _plan(self) -> PrivacyPlan:
        args = self.args
        rate = min(args.gradient_batch_size / args.images_per_round, 1.0)
        return PrivacyPlan.solve(
            epsilon=args.gradient_epsilon, sampling_rate=rate, steps=args.epochs_per_round * epoch_steps(rate),
            clip_norm=_NORMALISED, unit=LABEL, delta=run_delta(None, args.images_per_round),
        )  # fmt: skip

    # -- stages --------------------------------------------------------------------------------------------------

    def units(self) -> list[Unit]:
        """Return all stages."""
        args = self.args
        making = [Unit("generator", 0, self._train_generator)] * args.generator_epochs
        units = [] if self.critic is None else list(making)
        for number in range(args.rounds):
            units += making if self.critic is None else []
            units += [Unit(f"images {number + 1}", 0, partial(self._make, number))]
            images = (number + 1) * args.images_per_round
            steps = math.ceil(images / args.batch_size) if self.plan is None else epoch_steps(self.plan.sampling_rate)
            learn = self._learn if self.plan is None else self._learn_privately
            units += [Unit(f"student {number + 1}", steps, learn)] * args.epochs_per_round
        return units

    def prepare(self, steps: int) -> None:
        """Hand student and generator to Accelerate."""
        super().prepare(steps)
        rate = self.args.generator_learning_rate
        optimizer = torch.optim.Adam(self.generator.parameters(), lr=rate, betas=(0.5, 0.999))
        self.maker, self.generator_optimizer = self.accelerator.prepare(self.generator, optimizer)

    def protect(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let the optimizer see normalised and noised gradients only, where an epsilon is asked for them."""
        if self.plan is None:
            return optimizer
        self.dp = DPSGD(self.model, optimizer, self.plan, self.args.images_per_round)
        return self.dp.optimizer

    def train(self, resume_from_checkpoint: bool = False) -> None:
        """Run all stages; afterwards the student is an ordinary model.

        Args:
            resume_from_checkpoint: go on from the last checkpoint in `output_dir`, if there is one.

        Raises:
            ValueError: the checkpoint is of other settings.
        """
        if not resume_from_checkpoint:
            for path in self._rounds():
                path.unlink()
        try:
            super().train(resume_from_checkpoint)
        finally:
            if self.dp is not None:
                self.dp.detach()

    def noise(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return this process's part of noise for so many images."""
        drawn = torch.randn(count, self.generator.latent, generator=generator)
        parts = drawn.tensor_split(self.accelerator.num_processes)
        return parts[self.accelerator.process_index].to(self.accelerator.device)

    def _train_generator(self, generator: torch.Generator) -> None:
        critic = self.critic or self.model
        critic.eval()
        self.maker.train()
        trained = [p for p in critic.parameters() if p.requires_grad]
        if self.dp is not None:
            # What flows back through the student here is no gradient of its own.
            self.dp.detach()
        for parameter in trained:
            parameter.requires_grad_(False)
        for _ in range(_UPDATES):
            images = self.maker(self.noise(self.args.generator_batch_size, generator))
            with self.accelerator.autocast():
                loss = self.args.loss(critic, images)
            self.accelerator.backward(loss)
            self.generator_optimizer.step()
            self.generator_optimizer.zero_grad(set_to_none=True)
        for parameter in trained:
            parameter.requires_grad_(True)
        if self.dp is not None:
            self.dp.attach()

    @torch.no_grad()
    def _make(self, number: int, generator: torch.Generator) -> None:
        """Make and label the images of a round, once: what was labelled before a crash is not labelled again."""
        path = self._path(number)
        if not path.exists():
            # As in training: the batch norms of a generator work with the batch at hand.
            self.maker.train()
            sizes = torch.arange(self.args.images_per_round).split(self.args.generator_batch_size)
            made = [self.accelerator.gather(self._even(self.noise(len(part), generator))) for part in sizes]
            images = (
                torch.cat([images[: len(part)] for images, part in zip(made, sizes, strict=True)])
                .half()
                .cpu()
                .contiguous()
            )
            prior = self.prior(images, number)
            answers = self.labellers[number](self, images, prior)
            if self.accelerator.is_main_process:
                save_grid(images[:64], self.folder / f"round-{number + 1}.png")
                temporary = path.with_suffix(".part")
                tensors = {"images": images, "targets": answers.targets, "candidates": answers.candidates}
                save_file(tensors, temporary, {"epsilon": repr(answers.epsilon)})
                temporary.replace(path)
            self.accelerator.wait_for_everyone()
        self._read(number)
        self.ledger = self._said()

    def _even(self, noise: torch.Tensor) -> torch.Tensor:
        """Make images; every process as many, so that they can be gathered."""
        return self.accelerator.pad_across_processes(self.maker(noise).float())

    def prior(self, images: torch.Tensor, number: int) -> torch.Tensor:
        """Return what the student predicts, [n, classes]; before it learnt anything, nothing."""
        if number == 0:
            return torch.full((len(images), self.classes), 1 / self.classes)
        return self.logits(self.model, images).softmax(-1)

    def _learn(self, generator: torch.Generator) -> None:
        self.wrapped.train()
        every = torch.arange(len(self.images))
        for part in shuffled_batches(every, self.args.batch_size, generator):
            own = part.tensor_split(self.accelerator.num_processes)[self.accelerator.process_index]
            logits = logits_of(self.wrapped, self.inputs(self.images[own].float()))
            self.backward(self._losses(logits, own), len(part))
            self.update()

    def _learn_privately(self, generator: torch.Generator) -> None:
        assert self.plan is not None
        assert self.dp is not None
        entry = LedgerEntry.of_plan(self.plan, releases=1, scope=SYNTHETIC_LABELS)

        def losses(rows: torch.Tensor) -> torch.Tensor:
            return self._losses(logits_of(self.model, self.inputs(self.images[rows].float())), rows)

        private_epoch(self, self.dp, len(self.images), losses, entry, _MICRO_BATCH)

    def _losses(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the losses of images by their numbers, each with the answers of its round."""
        found = logits.new_zeros(len(rows))
        for number, answers in enumerate(self.answers):
            own = (rows // self.args.images_per_round == number).nonzero()[:, 0]
            if len(own):
                places = rows[own] - number * self.args.images_per_round
                losses = answers.losses(logits[own.to(logits.device)], places, correct=self.args.forward_correction)
                found = found.index_add(0, own.to(found.device), losses)
        return found

    # -- files and words -----------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where images and labels are kept: they are released, as far as the ledger says."""
        path = Path(self.args.output_dir) / "synthetic"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number + 1}.safetensors"

    def _rounds(self) -> list[Path]:
        return [self._path(number) for number in range(self.args.rounds) if self._path(number).exists()]

    def _read(self, number: int) -> None:
        with safe_open(self._path(number), "pt") as file:
            images = file.get_tensor("images")
            epsilon = float(file.metadata()["epsilon"])
            answers = Answers(file.get_tensor("targets"), file.get_tensor("candidates"), epsilon)
        self.images = images if number == 0 else torch.cat([self.images, images])
        self.answers = [*self.answers[:number], answers]

    def state(self) -> dict[str, Any]:
        """Return how many rounds of images there are."""
        return {"rounds": len(self.answers)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Read the images of the rounds that were made."""
        for number in range(state["rounds"]):
            self._read(number)

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be gone on from."""
        kinds = [type(labeller).__name__ for labeller in self.labellers]
        return super().settings() | {"labellers": kinds, "critic": "teacher" if self.critic is not None else "student"}

    def _said(self) -> PrivacyLedger:
        """Return what all labels so far released."""
        size, ledgers = self.args.images_per_round, []
        for labeller in dict.fromkeys(self.labellers[: len(self.answers)]):
            labels = size * self.labellers[: len(self.answers)].count(labeller)
            ledgers.append(labeller.ledger(labels, self.seen))
        entries = [entry for ledger in ledgers for entry in ledger.entries]
        unknown = {scope: why for ledger in ledgers for scope, why in ledger.unknown.items()}
        return PrivacyLedger(entries, unknown=unknown)
