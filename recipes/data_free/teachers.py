"""The teachers of the recipe: one of all private images, those whose answers have a guarantee; their generators."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "cifar10_sample_selection"))
import pictures

from swingkd.files import written_whole
from swingkd.privacy import NO_TEACHER, TEACHER_DATA, LedgerEntry, PrivacyLedger, multi_stage_labels, shard
from swingkd.vision import DataFreeArguments, DataFreeDistillation, ExactTeacher, GeneratorLoss, Images
from swingkd.vision.base import Classifier


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
        return pictures.stage_settings(self.config, stage, **others)

    def trained(self, name: str, images: Images, kind: str, stage: str, **others: Any):
        """Train a classifier once; return it and its ledger."""
        start = pictures.fresh(self.config[kind], 0)
        return pictures.trained(self.folder / name, start, images, self.settings(stage, **others))

    def plain(self) -> nn.Module:
        """Return the private teacher, trained here or elsewhere."""
        if pictures.trained_elsewhere(self.config["teacher"]):
            return pictures.fresh(self.config["teacher"], 0).eval()
        return self.trained("teacher", self.images, "teacher", "teacher")[0]

    def private(self, epsilon: float) -> tuple[nn.Module, PrivacyLedger]:
        """Return a teacher trained by DP-SGD, and its ledger (METHODS S1)."""
        return self.trained(f"dp-{epsilon:g}", self.images, "dp_teacher", "dp", target_epsilon=epsilon)

    def arguments(self, folder: Path, seed: int, **others: Any) -> DataFreeArguments:
        """Return the settings of a student's run."""
        loss = GeneratorLoss(**self.config["generator_loss"])
        return DataFreeArguments(output_dir=str(folder), loss=loss, **self.settings("student", seed=seed, **others))

    def new_generator(self, seed: int) -> nn.Module:
        """Return a generator that has learnt nothing."""
        return pictures.fresh({"kind": "ImageGenerator", **self.config["generator"]}, seed)

    def generator(self, name: str, teacher: nn.Module, seed: int) -> nn.Module:
        """Return a generator that a teacher judged: trained once, in a run of a few images, for all students."""
        folder, generator = self.folder / name, self.new_generator(seed)
        path = folder / "model" / "model.safetensors"
        if not path.exists():
            batch = self.config["student_training"]["generator_batch_size"]
            run = DataFreeDistillation(
                pictures.fresh(self.config["student"], seed),
                generator,
                ExactTeacher(teacher, pictures.PLAIN),
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
        return pictures.read(generator, path.parent)

    def shards(self, count: int) -> list[nn.Module]:
        """Return teachers of disjoint shards (S2)."""
        dealt = torch.from_numpy(shard(len(self.images), count, torch.Generator().manual_seed(0)))
        parts = [self.images.select((dealt == number).nonzero()[:, 0]) for number in range(count)]
        names = [f"shard-{number}-of-{count}" for number in range(count)]
        return [self.trained(name, part, "shard_teacher", "shard")[0] for name, part in zip(names, parts, strict=True)]

    def of_private_labels(self, epsilon: float) -> tuple[nn.Module, PrivacyLedger]:
        """Return a teacher of labels that were randomized before it saw them, and its ledger (S3)."""

        def fit(examples: torch.Tensor, answers: torch.Tensor):
            some = replace(self.images.select(examples), labels=answers)
            model = self.trained(f"first-answers-{epsilon:g}", some, "own_teacher", "teacher")[0]
            asker = Classifier(model, self.arguments(self.folder, 0))
            return lambda asked: asker.logits(model, self.images.select(asked)).softmax(-1)

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
