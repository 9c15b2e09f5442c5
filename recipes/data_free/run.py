"""Distil an image classifier without data: a generator makes images, a private teacher labels them, noised or not.

accelerate launch recipes/data_free/run.py --config recipes/data_free/mnist.yaml
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from swingkd.experiments.grid import Grid, Plan
from swingkd.experiments.image_teachers import Teachers
from swingkd.experiments.images import audit_rows, fresh, load_images, student_rows, told
from swingkd.experiments.launch import launch
from swingkd.report import Row
from swingkd.vision import DataFreeDistillation
from swingkd.vision.base import Classifier


class DataFree:
    """One student a row and seed."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.grid = config, Grid(config, "images")
        self.train, self.test = (load_images(config["data"], split) for split in ("train", "test"))
        self.teachers = Teachers(config, self.train)

    def student(self, plan: Plan, seed: int) -> DataFreeDistillation:
        """Train the student of a row."""
        folder = self.grid.out / "models" / f"{plan['model']}-seed-{seed}"
        args = self.teachers.arguments(folder, seed, **plan.get("args", {}))
        labeller, teacher, ledger = self.teachers.labeller(plan, folder, args.rounds * args.images_per_round)
        critic = None if plan.get("critic") == "student" else teacher
        generator = self.teachers.new_generator(seed)
        if critic is not None and not args.loss.disagreement:
            # The published generator is judged by the teacher alone: it is trained once, for all rows.
            name = f"generator-{'teacher' if ledger is None else plan['model']}-seed-{seed}"
            generator, args = self.teachers.generator(name, critic, seed), replace(args, generator_epochs=0)
        run = DataFreeDistillation(
            fresh(self.config[plan.get("student", "student")], seed),
            generator,
            labeller,
            critic=critic,
            critic_ledger=ledger,
            classes=self.train.classes,
            args=args,
        )
        run.train(resume_from_checkpoint=True)
        return run

    def attacked(self, name: str, setting: str, run: Classifier) -> list[Row]:
        """Attack a model with images of its teacher and others."""
        return audit_rows(name, setting, run, self.train, self.test, self.config["audit_images"])

    def run(self, only: list[str] | None = None) -> Path:
        """Measure what is not measured yet, and write the card; return the run's folder."""
        name, where = "teacher", "table=teachers"
        if not self.grid.metrics.has(name, where):
            judge = Classifier(self.teachers.plain(), self.teachers.arguments(self.grid.out, 0))
            self.grid.add(student_rows(name, where, judge, self.test) + self.attacked(name, where, judge))
        for plan, name, where, seed in self.grid.cells(lambda plan, seed: f"table=data_free seed={seed}", only):
            run = self.student(plan, seed)
            rows = student_rows(name, where, run, self.test, counts={"labels": len(run.images)})
            if plan.get("picture") and run.accelerator.is_main_process:
                shutil.copy(run.folder / f"round-{run.args.rounds}.png", self.grid.out / f"grid-{name}.png")
            self.grid.add(rows + self.attacked(name, where, run), line=told(rows, run))
        return self.grid.finish()


def main(config: dict[str, Any], only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return DataFree(config).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
