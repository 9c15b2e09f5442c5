"""A split into public and private images, and the models that several rows of the recipe need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swingkd.experiments import images as shared
from swingkd.experiments.grid import Plan
from swingkd.privacy import PUBLIC_DATA, PrivacyLedger, PrivacyPlan, ShardAnswers
from swingkd.vision import (
    BatchGradient,
    Images,
    Labels,
    PublishedNoise,
    SampleSelectionArguments,
    ShardTeachers,
    Teacher,
    ZerothOrder,
    sample_scores,
)
from swingkd.vision.guidance import Guidance

SCHEDULES: dict[str, Callable[..., list[float]]] = {
    "fixed": sample_scores.fixed,
    "linear": sample_scores.linear,
    "geometric": sample_scores.geometric,
}
SCORES: dict[str, sample_scores.Score] = {
    score.__name__: score
    for score in (
        sample_scores.margin,
        sample_scores.entropy,
        sample_scores.gini,
        sample_scores.k_centre,
        sample_scores.cluster_diverse,
        sample_scores.confident_and_correct,
        sample_scores.random,
    )
}


class World:
    """Public and private images; teachers and starting points are trained once and kept in a folder.

    Args:
        config: the whole configuration; `config["worlds"][name]` says what differs here.
        name: of this world.
        images: all training images.
        seed: of the student, after a warm-up that all seeds share.
    """

    def __init__(self, config: dict[str, Any], name: str, images: Images, seed: int):
        self.config, self.world, self.seed = config, config["worlds"][name], seed
        self.folder = Path(config["output_dir"]) / "models" / name
        self.everything = images
        self.public, self.private = images.split(self.world["public_share"], seed=0)
        if "images" in self.world:
            self.public = self.public.select(torch.arange(self.world["images"]))

    def settings(self, stage: str, **others: Any) -> dict[str, Any]:
        """Return the settings of a training stage: those of all, those of the stage, those of this world."""
        return shared.stage_settings(self.config, stage, self.world, **others)

    def trained(self, name: str, start: nn.Module, images: Images, stage: str, **others: Any):
        """Train a classifier once; return it and its ledger."""
        public = images is self.public
        return shared.trained(self.folder / name, start, images, self.settings(stage, **others), public=public)

    def teacher(self) -> nn.Module:
        """Return the private teacher, trained on all images, here or elsewhere."""
        folder = Path(self.config["output_dir"]) / "models" / "teacher"
        return shared.plain_teacher(folder, self.config["teacher"], self.everything, self.settings("teacher"))

    def public_teacher(self) -> nn.Module:
        """Return a teacher of the public images."""
        return self.trained("public", shared.fresh(self.config["public_teacher"], 0), self.public, "public")[0]

    def start(self) -> nn.Module:
        """Return the student after its warm-up, which all guidances and seeds share."""
        return self.trained("warm", shared.fresh(self.config["student"], 0), self.public, "warm")[0]

    def private_start(self) -> nn.Module:
        """Return what DP-SGD begins with: a network without batch norm that saw public images."""
        model = shared.fresh(self.config["dp_teacher"], 0)
        return self.trained("dp-start", model, self.public, "dp_start")[0]

    def dp_teacher(self, target_epsilon: float) -> tuple[nn.Module, PrivacyLedger]:
        """Return a teacher that learnt the private images by DP-SGD."""
        name = f"dp-{target_epsilon:g}"
        return self.trained(name, self.private_start(), self.private, "dp", target_epsilon=target_epsilon)

    def shard_teachers(self, count: int) -> list[nn.Module]:
        """Return teachers of disjoint shards of the private images, each begun as the public teacher."""
        return [
            self.trained(f"shard-{number}-of-{count}", self.public_teacher(), own, "shard")[0]
            for number, own in enumerate(shared.shards(self.private, count))
        ]

    def arguments(self, folder: str, shares: list[float], **others: Any) -> SampleSelectionArguments:
        """Return the settings of a student's run."""
        output = str(self.folder / folder)
        return SampleSelectionArguments(
            output_dir=output, **self.settings("student", seed=self.seed, shares=shares, **others)
        )

    def guidance(self, plan: dict[str, Any], queries: int) -> Guidance:
        """Make what a row names; `queries`: how many steps ask for it."""
        kind, delta = plan["guidance"], self.config["delta"]
        common = {"temperature": plan.get("temperature", 3.0)}
        if kind == "labels":
            return Labels()
        if kind == "public_teacher":
            return Teacher(self.public_teacher(), PUBLIC_DATA, **common)
        if kind == "dp_teacher":
            return Teacher(*self.dp_teacher(plan["epsilon"]), **common)
        if kind == "shard_teachers":
            noise = PrivacyPlan.solve(epsilon=plan["epsilon"], sampling_rate=1.0, steps=plan["most"], delta=delta)
            path = self.folder / f"answers-{plan['shards']}-{plan['most']}-seed-{self.seed}"
            answers = ShardAnswers(noise.noise_multiplier, path=path)
            return ShardTeachers(self.shard_teachers(plan["shards"]), answers, most=plan["most"], delta=delta)
        if kind in ("zeroth_order", "batch_gradient"):
            directions = plan.get("directions", 1)
            noise = PrivacyPlan.solve(
                epsilon=plan["epsilon"], sampling_rate=1.0, steps=queries * directions, delta=delta
            )
            noised = {"noise_multiplier": noise.noise_multiplier, "delta": delta, **common}
            teachers = self.shard_teachers(plan["shards"])
            if kind == "zeroth_order":
                return ZerothOrder(teachers, directions=directions, **noised)
            return BatchGradient(teachers, **noised)
        teacher = Teacher(self.teacher(), shared.PLAIN, **common)
        if kind == "teacher":
            return teacher
        if kind == "published":
            public = Teacher(self.public_teacher(), PUBLIC_DATA, **common)
            return PublishedNoise(teacher, public, noise_multiplier=plan.get("noise_multiplier", 10.0), delta=delta)
        raise ValueError(f"guidance={kind!r} is none of those that recipes/cifar10_sample_selection/README.md lists.")


def words_of_world(config: dict[str, Any], name: str, images: int) -> str:
    """Return what tells a world from others, as words of a setting.

    Args:
        config: the whole configuration.
        name: of the world.
        images: how many training images there are in all.
    """
    world = config["worlds"][name]
    public = world.get("images", round(world["public_share"] * images))
    return f"public={world['public_share']:g} images={public}"


def schedule_of(plan: Plan) -> list[float]:
    """Return which share of the images a row's student chooses in each iteration.

    Raises:
        KeyError: there is no such schedule.
    """
    schedule = {"kind": "geometric", "first": 0.5, "factor": 0.8, "iterations": 5} | plan.get("schedule", {})
    if schedule["kind"] != "geometric":
        schedule.pop("factor", None)
    if schedule["kind"] == "fixed":
        schedule["rate"] = schedule.pop("first")
    return SCHEDULES[schedule.pop("kind")](**schedule)


def score_of(plan: Plan) -> sample_scores.Score:
    """Return by what a row's student ranks images."""
    return SCORES[plan.get("score", "margin")]
