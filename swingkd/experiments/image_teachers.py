"""The teachers of the recipe: one of all private images, those whose answers have a guarantee; their generators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from swingkd.experiments import images as shared
from swingkd.experiments.grid import Plan
from swingkd.files import written_whole
from swingkd.privacy import (
    NO_TEACHER,
    TEACHER_DATA,
    LedgerEntry,
    PrivacyLedger,
    PrivacyPlan,
    ShardAnswers,
    multi_stage_labels,
)
from swingkd.vision import (
    DataFreeArguments,
    DataFreeDistillation,
    ExactTeacher,
    GeneratorLoss,
    ImageGenerator,
    Images,
    NoisyDifferences,
    RandomizedTeacher,
    ShardLabels,
)
from swingkd.vision.base import Classifier
from swingkd.vision.labelling import Labeller


class Teachers:
    """Teachers are trained once and kept in a folder.

    Args:
        config: the configuration.
        images: the private ones.
    """

    def __init__(self, config: dict[str, Any], images: Images):
        self.config, self.images = config, images
        self.folder = Path(config["output_dir"]) / "models"

    def settings(self, stage: str, **others: Any) -> dict[str, Any]:
        """Return the settings of all stages, and of one."""
        return shared.stage_settings(self.config, stage, **others)

    def trained(self, name: str, images: Images, kind: str, stage: str, **others: Any):
        """Train a classifier once; return it and its ledger."""
        start = shared.fresh(self.config[kind], 0)
        return shared.trained(self.folder / name, start, images, self.settings(stage, **others))

    def plain(self) -> nn.Module:
        """Return the private teacher, trained here or elsewhere."""
        spec = self.config["teacher"]
        return shared.plain_teacher(self.folder / "teacher", spec, self.images, self.settings("teacher"))

    def private(self, epsilon: float) -> tuple[nn.Module, PrivacyLedger]:
        """Return a teacher trained by DP-SGD, and its ledger."""
        return self.trained(f"dp-{epsilon:g}", self.images, "dp_teacher", "dp", target_epsilon=epsilon)

    def arguments(self, folder: Path, seed: int, **others: Any) -> DataFreeArguments:
        """Return the settings of a student's run."""
        loss = GeneratorLoss(**self.config["generator_loss"])
        return DataFreeArguments(output_dir=str(folder), loss=loss, **self.settings("student", seed=seed, **others))

    def new_generator(self, seed: int) -> ImageGenerator:
        """Return a generator that has learnt nothing."""
        torch.manual_seed(seed)
        return ImageGenerator(**self.config["generator"])

    def generator(self, name: str, teacher: nn.Module, seed: int) -> ImageGenerator:
        """Return a generator that a teacher judged: trained once, in a run of a few images, for all students."""
        folder, generator = self.folder / name, self.new_generator(seed)
        path = folder / "model" / "model.safetensors"
        if not path.exists():
            batch = self.config["student_training"]["generator_batch_size"]
            run = DataFreeDistillation(
                shared.fresh(self.config["student"], seed),
                generator,
                ExactTeacher(teacher, shared.PLAIN),
                critic=teacher,
                classes=self.images.classes,
                args=self.arguments(folder, seed, rounds=1, images_per_round=batch, epochs_per_round=1),
            )
            run.train(resume_from_checkpoint=True)
            if run.accelerator.is_main_process:
                path.parent.mkdir(exist_ok=True)
                weights = {name: weight.contiguous() for name, weight in generator.state_dict().items()}
                with written_whole(path) as part:
                    save_file(weights, part)
            run.accelerator.wait_for_everyone()
        return shared.read(generator, path.parent)

    def shards(self, count: int) -> list[nn.Module]:
        """Return teachers of disjoint shards."""
        return [
            self.trained(f"shard-{number}-of-{count}", own, "shard_teacher", "shard")[0]
            for number, own in enumerate(shared.shards(self.images, count))
        ]

    def of_private_labels(self, epsilon: float) -> tuple[nn.Module, PrivacyLedger]:
        """Return a teacher of labels that were randomized before it saw them, and its ledger."""

        def fit(examples: torch.Tensor, answers: torch.Tensor):
            some = replace(self.images.select(examples), labels=answers)
            model = self.trained(f"first-answers-{epsilon:g}", some, "own_teacher", "teacher")[0]
            asker = Classifier(model, self.arguments(self.folder, 0))
            return lambda rows: asker.logits(model, self.images.select(rows)).softmax(-1)

        # Answers are kept before anything learns from them: after a crash no label is answered twice.
        path = self.folder / f"answers-{epsilon:g}.safetensors"
        answers = multi_stage_labels(self.images.labels, self.images.classes, epsilon, fit, path=path)
        randomized = replace(self.images, labels=answers)
        model = self.trained(f"private-labels-{epsilon:g}", randomized, "own_teacher", "teacher")[0]
        entry = LedgerEntry(
            "multi-stage randomized response",
            unit="label",
            neighbours="replace one",
            releases=1,
            pure_epsilon=epsilon,
            caveat="of the labels alone: the images were learnt as they are",
        )
        return model, PrivacyLedger([entry], unknown={TEACHER_DATA: NO_TEACHER})

    def labeller(
        self, plan: Plan, folder: Path, labels: int
    ) -> tuple[Labeller, nn.Module | None, PrivacyLedger | None]:
        """Make what a row names; return it with the model that the labels come from, and that model's ledger.

        Args:
            plan: one entry of `rows` in the configuration.
            folder: where answers are kept.
            labels: how many will be asked for.

        Raises:
            ValueError: there is no such labeller.
        """
        kind, epsilon, delta = plan["labels"], plan.get("epsilon"), self.config["delta"]
        soft = {name: plan[name] for name in ("soft", "temperature") if name in plan}
        if kind == "shards":
            noise = PrivacyPlan.solve(epsilon=epsilon, sampling_rate=1.0, steps=labels, delta=delta)
            answers = ShardAnswers(noise.noise_multiplier, form=plan["form"], path=folder / "answers")
            return ShardLabels(self.shards(plan["shards"]), answers, delta), None, None
        if kind in ("dp", "private_labels"):
            make = self.private if kind == "dp" else self.of_private_labels
            teacher, ledger = make(plan["epsilon"])
            return ExactTeacher(teacher, ledger, **soft), teacher, ledger
        teacher = self.plain()
        if kind == "randomized":
            return RandomizedTeacher(teacher, plan["epsilon"], delta), teacher, None
        if kind == "differences":
            # Each label is one release.
            noise = PrivacyPlan.solve(epsilon=epsilon, sampling_rate=1.0, steps=1, delta=delta)
            return NoisyDifferences(teacher, noise.noise_multiplier, delta=delta, **plan["settings"]), teacher, None
        if kind == "exact":
            return ExactTeacher(teacher, shared.PLAIN, **soft), teacher, None
        raise ValueError(f"labels={kind!r} is none of those that recipes/data_free/README.md lists.")
