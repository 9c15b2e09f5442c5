"""The teachers of the recipe: one of all private images, and those whose answers have a guarantee."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "cifar10_sample_selection"))
import pictures

from swingkd.privacy import NO_TEACHER, TEACHER_DATA, LedgerEntry, PrivacyLedger, multi_stage_labels, shard
from swingkd.vision import Images
from swingkd.vision.classifier import Classifier, ImageArguments


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
            asker = Classifier(model, ImageArguments(output_dir=str(self.folder)))
            return lambda asked: asker.logits(model, self.images.select(asked)).softmax(-1)

        # Answers are kept before anything learns from them: after a crash no label is answered twice.
        path = self.folder / f"answers-{epsilon:g}.safetensors"
        answers = multi_stage_labels(self.images.labels, self.images.classes, epsilon, fit, path=path)
        randomized = replace(self.images, labels=answers)
        model = self.trained(f"private-labels-{epsilon:g}", randomized, "own_teacher", "teacher")[0]
        entry = LedgerEntry(
            "multi-stage randomized response", unit="label", neighbours="replace one", releases=1,
            pure_epsilon=epsilon, caveat="of the labels alone: the images were learnt as they are",
        )  # fmt: skip
        return model, PrivacyLedger([entry], unknown={TEACHER_DATA: NO_TEACHER})
