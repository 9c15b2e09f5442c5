"""Distillation on the samples that a student finds hard, chosen anew from time to time (RONA; Wang et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from swingkd.guards import check_not_negative, check_positive
from swingkd.models.logits import logits_of
from swingkd.privacy import PrivacyLedger
from swingkd.vision.arguments import ImageArguments
from swingkd.vision.base import check_trainable
from swingkd.vision.data import Images, said, shuffled_batches
from swingkd.vision.guidance import Guidance, PublishedNoise, Teacher
from swingkd.vision.models import listening
from swingkd.vision.sample_scores import Score, geometric, margin
from swingkd.vision.staged_training import Batch, Mix, StagedTraining, Unit, described

Pair = tuple[str, str]


@dataclass(kw_only=True)
class SampleSelectionArguments(ImageArguments):
    """Settings of `DynamicSampleSelection`; the defaults are RONA's for CIFAR-10, with a geometric schedule.

    Args:
        hint_epochs: over all public images, before anything else.
        hint_layers: a layer of the teacher and one of the student, by their names, for the hints; or several such
            pairs, whose losses are added up.
        warm_up_epochs: on public labels, before the first iteration.
        shares: of the public images that each iteration distils on; one number an iteration.
        self_learning_epochs: on public labels, in each iteration.
        distillation_epochs: on the chosen images, in each iteration.
        distillation_batch_size: images a distillation step, in all processes together.

    Raises:
        ValueError: a number is out of range, or hints without layers.
    """

    hint_epochs: int = 0
    hint_layers: Pair | Sequence[Pair] | None = None
    warm_up_epochs: int = 0
    shares: Sequence[float] = tuple(geometric(0.5, 0.8, 5))
    self_learning_epochs: int = 8
    distillation_epochs: int = 8
    distillation_batch_size: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "distillation_batch_size")
        check_not_negative(self, "hint_epochs", "warm_up_epochs", "self_learning_epochs", "distillation_epochs")
        self.shares = [float(share) for share in self.shares]
        wrong = [share for share in self.shares if not 0 < share <= 1]
        if wrong:
            raise ValueError(f"shares={list(self.shares)}: {wrong[0]} is no share; each must lie in (0, 1].")
        if self.hint_epochs and self.hint_layers is None:
            raise ValueError("hint_epochs is set: say which layers, hint_layers=(of the teacher, of the student).")

    @property
    def hint_pairs(self) -> list[Pair]:
        """The pairs of layers."""
        given: Sequence[Any] = self.hint_layers or ()
        return [(taught, own) for taught, own in ([given] if given and isinstance(given[0], str) else given)]

    def chosen(self, images: int) -> list[int]:
        """Return how many images each iteration distils on."""
        # Rounded first: 0.2 as a float, times 40,000, may be a hair below 8,000.
        return [max(math.floor(round(share * images, 6)), 1) for share in self.shares]

    def distillation_steps(self, images: int) -> int:
        """Return how often the teacher's batch losses are asked for, hints apart."""
        size = self.distillation_batch_size
        return sum(self.distillation_epochs * math.ceil(count / size) for count in self.chosen(images))

    def hint_steps(self, images: int) -> int:
        """Return how often hints are asked for."""
        return self.hint_epochs * len(self.hint_pairs) * math.ceil(images / self.distillation_batch_size)


class DynamicSampleSelection(StagedTraining):
    """Train a student on public labels and on a private teacher's answers about public images that it chooses itself.

    Stages: hints (if asked for), warm-up, then in each iteration self-learning on labels, selection of a share of the
    images by what the student says of them, and distillation on those.

        selection = DynamicSampleSelection(student, guidance, public, args=SampleSelectionArguments(output_dir="out"))
        selection.train()
        print(selection.evaluate(test), selection.ledger)
        selection.push_to_hub("me/student")

    Args:
        student: an `AutoModelForImageClassification`, or a module that returns logits.
        guidance: what a distillation step sees of the teacher; see `swingkd.vision.guidance`.
        public: the images with labels that everybody may see.
        args: the settings.
        score: chooses the images.
        mix: mixes images and labels of a batch that learns public labels, such as `torchvision.transforms.v2.MixUp`.
        origin: what is known of the weights that the student begins with, where they saw other data.

    Raises:
        ValueError: the student has other classes than the images, or hints are asked of a guidance that has none.
    """

    args: SampleSelectionArguments

    def __init__(
        self,
        student: nn.Module,
        guidance: Guidance,
        public: Images,
        *,
        args: SampleSelectionArguments,
        score: Score = margin,
        mix: Mix | None = None,
        origin: PrivacyLedger | None = None,
    ):
        super().__init__(student, args, origin)
        self.mix = mix
        if isinstance(guidance, nn.Module):
            raise ValueError(f"guidance is a {type(guidance).__name__}. Say what of it is seen: Teacher(model, ...).")
        if args.hint_epochs and not isinstance(guidance, Teacher | PublishedNoise):
            raise ValueError(
                f"{type(guidance).__name__} releases no hidden layer, so it has no hints: set hint_epochs=0."
            )
        self.guidance, self.public, self.score = guidance, public, score
        self.check_student(public)
        #: The images that are distilled on; none were chosen yet.
        self.chosen = torch.arange(0)
        #: How many queries there were so far: steps, and images in them.
        self.queries = 0
        self.queried_images = 0
        self.guidance.begin(self, public)
        check_trainable(student)
        if args.hint_epochs:
            self._translators(self._two())

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be gone on from."""
        return super().settings() | {
            "guidance": described(self.guidance),
            "score": described(self.score),
            "images": self.public.described(),
            **({} if self.mix is None else {"mix": said(self.mix)}),
        }

    @property
    def shown(self) -> Images:
        """The public images."""
        return self.public

    def released(self) -> PrivacyLedger:
        """Return what the guidance released."""
        return self.guidance.ledger(self.queries)

    def state(self) -> dict[str, Any]:
        """Return the chosen images and the number of queries."""
        return {"chosen": self.chosen.tolist(), "queries": self.queries, "queried_images": self.queried_images}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.queries, self.queried_images = state["queries"], state["queried_images"]
        if state["chosen"]:
            # The teachers have to answer for them again, or know that they did.
            self.chosen = self.guidance.take(self, torch.tensor(state["chosen"]))

    def units(self) -> list[Unit]:
        """Return all stages, epoch by epoch."""
        args, everything = self.args, len(self.public)
        learning = math.ceil(everything / args.batch_size)
        units = [Unit("hints", args.hint_steps(everything), self._hints)] if args.hint_epochs else []
        units += [Unit("warm-up", learning, self._self_learning)] * args.warm_up_epochs
        for number, count in enumerate(args.chosen(everything)):
            steps = math.ceil(count / args.distillation_batch_size)
            units += [Unit(f"self-learning {number + 1}", learning, self._self_learning)] * args.self_learning_epochs
            units += [Unit(f"selection {number + 1}", 0, partial(self._select, count))]
            units += [
                Unit(f"distillation {number + 1}", steps, partial(self._distil, count))
            ] * args.distillation_epochs
        return units

    def _batches(self, indices: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[Batch]:
        for part in shuffled_batches(indices, size, generator):
            yield self.batch(self.public, part, generator)

    def _self_learning(self, generator: torch.Generator) -> None:
        self.wrapped.train()
        for batch in self._batches(torch.arange(len(self.public)), self.args.batch_size, generator):
            loss = self.learn_labels(batch)
            self.update()
            self.note("labels", loss)

    def _select(self, count: int, generator: torch.Generator) -> None:
        logits = self.finite_logits(self.model, self.public)
        self.chosen = self.guidance.take(self, self.score(logits, self.public.labels, count, generator))

    def _distil(self, count: int, generator: torch.Generator) -> None:
        self.wrapped.train()
        # Where fewer can be taught about than were chosen, each comes more often: as many steps as planned.
        indices = self.chosen.repeat(math.ceil(count / len(self.chosen)))[:count]
        for batch in self._batches(indices, self.args.distillation_batch_size, generator):
            loss = self.guidance.learn(self, batch)
            self._count(batch)
            self.update()
            self.note("distillation", loss)

    def _count(self, batch: Batch) -> None:
        """Count a query before the student makes use of it."""
        self.queries += 1
        self.queried_images += batch.whole

    def _hints(self, generator: torch.Generator) -> None:
        """Bring layers of the student, seen through 1x1 convolutions, near to layers of the teacher.

        One unit of work: the convolutions live no longer.
        """
        assert isinstance(self.guidance, Teacher | PublishedNoise)
        pairs, everything = self.args.hint_pairs, torch.arange(len(self.public))
        translators = self._translators(self._two())
        optimizer = torch.optim.AdamW(translators.parameters(), lr=self.args.learning_rate)
        trained = [p for p in (*self.model.parameters(), *translators.parameters()) if p.requires_grad]
        self.wrapped.train()
        for _ in range(self.args.hint_epochs):
            for batch in self._batches(everything, self.args.distillation_batch_size, generator):
                with listening(self.model, [own for _, own in pairs]) as heard:
                    logits_of(self.model, batch.inputs)
                losses = torch.stack(
                    [
                        self.guidance.hint(self, batch, layer, translator(heard[own].float()))
                        for (layer, own), translator in zip(pairs, translators, strict=True)
                    ]
                )
                gradients = torch.autograd.grad(losses.sum() / batch.whole, trained, allow_unused=True)
                for parameter, gradient in zip(trained, gradients, strict=True):
                    # The layers behind the hints learn nothing yet.
                    parameter.grad = None if gradient is None else self.accelerator.reduce(gradient, "sum")
                # Each pair of layers is asked about.
                for _ in pairs:
                    self._count(batch)
                optimizer.step()
                self.update()

    def _two(self) -> Batch:
        return self.batch(self.public, torch.arange(min(2, len(self.public))), None)

    def _translators(self, batch: Batch) -> nn.ModuleList:
        """Return a 1x1 convolution for each pair of layers, from the student's to the teacher's.

        Raises:
            ValueError: there is no such layer, or what they give differs in size.
        """
        assert isinstance(self.guidance, Teacher | PublishedNoise)
        both = (
            (self.guidance,) if isinstance(self.guidance, Teacher) else (self.guidance.teacher, self.guidance.public)
        )
        with listening(self.model, [own for _, own in self.args.hint_pairs]) as heard:
            self.logits(self.model, self.public.select(batch.indices))
        torch.manual_seed(self.args.seed)
        translators = nn.ModuleList()
        for layer, own in self.args.hint_pairs:
            shapes = [tuple(teacher.hidden(self, layer, batch.inputs).shape[1:]) for teacher in both]
            if not isinstance(heard[own], torch.Tensor):
                raise ValueError(f"hint_layers: {own}, of {(layer, own)}, returns no tensor. Name a layer inside it.")
            shape = tuple(heard[own].shape[1:])
            if len(shape) != 3 or len(set(shapes)) > 1 or shapes[0][1:] != shape[1:]:
                raise ValueError(
                    f"hint_layers: of {(layer, own)}, the teachers' gives {shapes}, the student's {shape}. Choose "
                    "layers that give images of the same height and width, and for both teachers the same."
                )
            translators.append(nn.Conv2d(shape[0], shapes[0][0], 1).to(heard[own].device))
        return translators
