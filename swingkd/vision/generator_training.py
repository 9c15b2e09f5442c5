"""A generator that learns beside a student: judged by a critic, or by the student itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from swingkd.guards import check_not_negative, check_positive
from swingkd.privacy import PrivacyLedger
from swingkd.vision.arguments import ImageArguments
from swingkd.vision.dp_training import DPStagedTraining
from swingkd.vision.generator_loss import GeneratorLoss, Moments
from swingkd.vision.models import ImageGenerator


@dataclass(kw_only=True)
class GeneratorArguments(ImageArguments):
    """How a generator learns.

    Args:
        generator_epochs: before the first round; where the student has a say in what is made, in each. 0: it was
            trained before, by the critic that is given.
        generator_updates: of the generator, in each of its epochs.
        renew_generator: begin its first layer anew in each round but the first, so that no two rounds are alike.
        generator_batch_size: images an update of the generator, in all processes together.
        generator_learning_rate: of Adam.
        noise_learning_rate: of a round's noise, which then learns with the generator: one batch of it, and the round's
            images are what becomes of it (Fang et al. 2021, arXiv 2105.08584, section 3; a generator alone comes to
            ignore its noise). 0: each update draws its own.
        loss: what it is trained for.

    Raises:
        ValueError: a number is out of range, or a layer would begin anew and never learn.
    """

    generator_epochs: int = 10
    generator_updates: int = 100
    renew_generator: bool = False
    generator_batch_size: int = 256
    generator_learning_rate: float = 1e-3
    noise_learning_rate: float = 0.0
    loss: GeneratorLoss = field(default_factory=GeneratorLoss)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "generator_updates", "generator_batch_size", "generator_learning_rate")
        check_not_negative(self, "generator_epochs", "noise_learning_rate")
        if self.renew_generator and not (self.generator_epochs or self.noise_learning_rate):
            raise ValueError("renew_generator is set, and generator_epochs=0 would leave the new layer untrained.")


class GeneratorTraining(DPStagedTraining):
    """Train a student, and a generator beside it.

    Args:
        student: an image classifier.
        generator: makes images from noise [n, generator.latent]; if it has `classes`, from noise and labels [n]; if it
            has `renew()`, its noise can begin anew.
        critic: the classifier that the generator is trained by; `None`: the student.
        args: the settings.
        classes: how many.
        origin: what is known of the weights that the student begins with, where they were trained before.

    Raises:
        ValueError: generator and settings do not fit.
    """

    args: GeneratorArguments

    def __init__(
        self,
        student: nn.Module,
        generator: ImageGenerator,
        critic: nn.Module | None,
        *,
        args: GeneratorArguments,
        classes: int,
        origin: PrivacyLedger | None = None,
    ):
        super().__init__(student, args, origin)
        self.generator = self.place(generator)
        self.critic = self.place(critic).eval().requires_grad_(False) if critic is not None else None
        self.classes = classes
        self.moments: Moments = ()
        kind, told = type(generator).__name__, getattr(generator, "classes", None)
        if not isinstance(getattr(generator, "latent", None), int):
            raise ValueError(f"{kind} does not say how long its noise is: give it an attribute latent.")
        if told is not None and told != classes:
            raise ValueError(f"The generator is told of {told} classes, and there are {classes}.")
        if args.renew_generator and not hasattr(generator, "renew"):
            raise ValueError(f"renew_generator is set, and {kind} has no renew().")
        if args.loss.disagreement and critic is None:
            raise ValueError("disagreement is that of the student with a critic, and there is none: leave it out.")

    def prepare(self, steps: int) -> None:
        """Hand student and generator to Accelerate."""
        super().prepare(steps)
        rate = self.args.generator_learning_rate
        optimizer = torch.optim.Adam(self.generator.parameters(), lr=rate, betas=(0.5, 0.999))
        self.maker, self.generator_optimizer = self.accelerator.prepare(self.generator, optimizer)

    def release(self) -> None:
        """Give student and generator back."""
        super().release()
        self.unwrapped(self.maker)

    def noise(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return this process's part of noise for so many images, and what they are to show.

        As many of each class, in random order; `None` where neither the generator nor the noise could learn it.
        """
        drawn = self.own(torch.randn(count, self.generator.latent, generator=generator))
        noise = drawn.to(next(self.generator.parameters()))
        if not self.told and not self.args.noise_learning_rate:
            return noise, None
        labels = (torch.randperm(count, generator=generator) % self.classes).to(noise.device)
        return noise, self.own(labels)

    @contextmanager
    def learnt_noise(self, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor | None] | None]:
        """Let noise learn with the generator meanwhile; `None` where each update draws its own."""
        if not self.args.noise_learning_rate:
            yield None
            return
        noise, labels = self.noise(self.args.generator_batch_size, generator)
        # Of the mean over all processes' images, not over this one's.
        noise.requires_grad_().register_hook(lambda gradient: gradient / self.accelerator.num_processes)
        optimizer = self.generator_optimizer
        optimizer.add_param_group({"params": [noise], "lr": self.args.noise_learning_rate})
        try:
            yield noise, labels
        finally:
            # The next round has its own.
            optimizer.param_groups.pop()
            optimizer.state.pop(noise, None)

    @property
    def told(self) -> bool:
        """Whether the generator is told which class to show."""
        return getattr(self.generator, "classes", None) is not None

    def made(self, noise: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Return this process's part of images."""
        return self.maker(noise, labels) if self.told else self.maker(noise)

    def renew_generator(self, generator: torch.Generator) -> None:
        """Begin the generator's first layer anew, in all processes alike, and its optimizer."""
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        renewed = self.accelerator.unwrap_model(self.maker)
        renewed.renew()
        self.generator_optimizer.state.clear()

    def state(self) -> dict[str, Any]:
        """Return what the critic saw of the rounds before as well."""
        return super().state() | {"moments": [[part.tolist() for part in layer] for layer in self.moments]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        super().load_state(state)
        device = self.accelerator.device
        self.moments = [
            (torch.tensor(mean, device=device), torch.tensor(variance, device=device))
            for mean, variance in state["moments"]
        ]

    def train_generator(self, generator: torch.Generator) -> torch.Tensor:
        """Train the generator for an epoch, by the critic or the student; neither learns anything.

        Returns:
            This process's part of the last update's images, as they were before it.
        """
        critic = self.critic or self.model
        self.model.eval()
        self.maker.train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if self.dp is not None:
            # What flows back through the student here is no gradient of its own.
            self.dp.detach()
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            with self.learnt_noise(generator) as learnt:
                for _ in range(self.args.generator_updates):
                    noise, labels = learnt or self.noise(self.args.generator_batch_size, generator)
                    images = self.made(noise, labels)
                    with self.accelerator.autocast():
                        loss = self.args.loss(critic, images, labels=labels, student=self.model, earlier=self.moments)
                    self.accelerator.backward(loss)
                    self.generator_optimizer.step()
                    self.generator_optimizer.zero_grad(set_to_none=True)
            # A loss that was not finite once is never again.
            self.checked("the generator", loss, self.args.generator_updates)
            moments = self.args.loss.moments(critic, images.detach(), self.moments)
            whole = self.accelerator.reduce
            self.moments = [(whole(mean, "mean"), whole(variance, "mean")) for mean, variance in moments]
            return images.detach()
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            if self.dp is not None:
                self.dp.attach()
