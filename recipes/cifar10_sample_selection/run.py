"""Distil an image classifier of private images on public ones that the student chooses: published, controls, sound.

accelerate launch recipes/cifar10_sample_selection/run.py --config recipes/cifar10_sample_selection/config.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swingkd.experiments.grid import Grid, Plan, wanted
from swingkd.experiments.image_worlds import World, schedule_of, score_of, words_of_world
from swingkd.experiments.images import audit_rows, load_images, student_rows, told
from swingkd.experiments.launch import launch
from swingkd.report import Row
from swingkd.vision import DynamicSampleSelection, PublishedNoise
from swingkd.vision.base import Classifier
from swingkd.vision.guidance import nominal_epsilon


class SampleSelection:
    """One student a row and seed."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.grid = config, Grid(config, "images")
        self.train, self.test = (load_images(config["data"], split) for split in ("train", "test"))

    def world(self, name: str, seed: int = 0) -> World:
        """Return a split of the images, and its teachers."""
        return World(self.config, name, self.train, seed)

    def setting(self, plan: Plan, seed: int) -> str:
        """Return the words that tell a row from the others."""
        words = {"table": plan["table"], **plan.get("words", {}), "seed": seed}
        world = words_of_world(self.config, plan["world"], len(self.train))
        return " ".join([world, *(f"{key}={value}" for key, value in words.items())])

    def student(self, plan: Plan, setting: str, world: World) -> DynamicSampleSelection:
        """Train the student of a row."""
        folder = f"{plan['model']} {setting}".replace(" ", "-")
        args = world.arguments(folder, schedule_of(plan), **plan.get("args", {}))
        queries = args.distillation_steps(len(world.public)) + args.hint_steps(len(world.public))
        guidance = world.guidance(plan, queries)
        run = DynamicSampleSelection(world.start(), guidance, world.public, args=args, score=score_of(plan))
        run.train(resume_from_checkpoint=True)
        return run

    def attacked(self, name: str, setting: str, run: Classifier, world: World) -> list[Row]:
        """Attack a model with private images and others; the reference saw public ones."""
        count, reference = self.config["audit_images"], world.public_teacher()
        return audit_rows(name, setting, run, world.private, self.test, count, [reference])

    def measure_teachers(self, name: str) -> None:
        """Measure the teachers of a world."""
        world = self.world(name)
        where = f"{words_of_world(self.config, name, len(self.train))} table=teachers"
        for model, make in (("teacher", world.teacher), ("public_teacher", world.public_teacher)):
            if not self.grid.metrics.has(model, where):
                run = Classifier(make(), world.arguments(model, [1.0]))
                rows = student_rows(model, where, run, self.test)
                self.grid.add(rows + (self.attacked(model, where, run, world) if model == "teacher" else []))

    def run(self, only: list[str] | None = None) -> Path:
        """Measure what is not measured yet, and write the card; return the run's folder."""
        for plan, name, where, seed in self.grid.cells(self.setting, only):
            world = self.world(plan["world"], seed)
            run = self.student(plan, where, world)
            counts = {"queries": run.queries, "queried_images": run.queried_images}
            rows = student_rows(name, where, run, self.test, counts=counts)
            if isinstance(run.guidance, PublishedNoise) and run.guidance.noise_multiplier:
                nominal = nominal_epsilon(run.queries, run.guidance.noise_multiplier, run.guidance.delta)
                rows.append(Row(name, where, "epsilon_claimed", nominal, n=run.queries))
            rows += self.attacked(name, where, run, world) if plan.get("audit") else []
            self.grid.add(rows, line=told(rows, run))
        for name in dict.fromkeys(plan["world"] for plan in self.config["rows"] if wanted(plan, only)):
            self.measure_teachers(name)
        return self.grid.finish()


def main(config: dict[str, Any], only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return SampleSelection(config).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
