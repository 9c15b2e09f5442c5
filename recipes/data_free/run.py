"""Distil an image classifier without data: a generator makes images, a private teacher labels them, noised or not.

accelerate launch recipes/data_free/run.py --config recipes/data_free/mnist.yaml
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from launch import launch
from teachers import Teachers, pictures

from swingkd.privacy import PrivacyPlan, ShardAnswers
from swingkd.report import MetricsFile, Row, ledger_rows, membership_rows, write_card
from swingkd.vision import DataFreeDistillation, ExactTeacher, NoisyDifferences, RandomizedTeacher, ShardLabels
from swingkd.vision.base import Classifier


class Experiment:
    """One student a row and seed."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.out = config, Path(config["output_dir"])
        self.metrics = MetricsFile(self.out / "metrics.json", config["run"], config)
        self.train, self.test = (pictures.load_images(config["data"], split) for split in ("train", "test"))
        self.teachers = Teachers(config, self.train)

    def labeller(self, plan: dict[str, Any], folder: Path, labels: int):
        """Make what a row names; return it with the model that the labels come from, and that model's ledger."""
        kind, epsilon, delta = plan["labels"], plan.get("epsilon"), self.config["delta"]
        if kind == "shards":
            noise = PrivacyPlan.solve(epsilon=epsilon, sampling_rate=1.0, steps=labels, delta=delta)
            answers = ShardAnswers(noise.noise_multiplier, form=plan["form"], path=folder / "answers")
            return ShardLabels(self.teachers.shards(plan["shards"]), answers, delta), None, None
        if kind in ("dp", "private_labels"):
            make = self.teachers.private if kind == "dp" else self.teachers.of_private_labels
            teacher, ledger = make(epsilon)
            return ExactTeacher(teacher, ledger, soft=plan.get("soft", False)), teacher, ledger
        teacher = self.teachers.plain()
        if kind == "randomized":
            return RandomizedTeacher(teacher, epsilon, delta), teacher, None
        if kind == "differences":
            # Each label is one release.
            noise = PrivacyPlan.solve(epsilon=epsilon, sampling_rate=1.0, steps=1, delta=delta)
            return NoisyDifferences(teacher, noise.noise_multiplier, delta=delta, **plan["settings"]), teacher, None
        if kind == "exact":
            return ExactTeacher(teacher, pictures.PLAIN, soft=plan.get("soft", False)), teacher, None
        raise ValueError(f"labels={kind!r} is none of those that recipes/data_free/README.md lists.")

    def student(self, plan: dict[str, Any], seed: int) -> DataFreeDistillation:
        """Train the student of a row."""
        folder = self.out / "models" / f"{plan['model']}-seed-{seed}"
        args = self.teachers.arguments(folder, seed, **plan.get("args", {}))
        labeller, teacher, ledger = self.labeller(plan, folder, args.rounds * args.images_per_round)
        critic = None if plan.get("critic") == "student" else teacher
        generator = self.teachers.new_generator(seed)
        if critic is not None:
            # The published generator is judged by the teacher alone: it is trained once, for all rows.
            name = f"generator-{'teacher' if ledger is None else plan['model']}-seed-{seed}"
            generator, args = self.teachers.generator(name, critic, seed), replace(args, generator_epochs=0)
        run = DataFreeDistillation(
            pictures.fresh(self.config[plan.get("student", "student")], seed),
            generator,
            labeller,
            critic=critic,
            critic_ledger=ledger,
            classes=self.train.classes,
            args=args,
        )
        run.train(resume_from_checkpoint=True)
        return run

    def measure(self, plan: dict[str, Any], seed: int) -> None:
        """Train and measure a row's student; write all its rows at once, and keep a picture of its images."""
        name, where = plan["model"], f"table=data_free seed={seed}"
        run = self.student(plan, seed)
        rows = [
            Row(name, where, "accuracy", run.evaluate(self.test), n=len(self.test)),
            Row(name, where, "labels", len(run.images)),
            Row(name, where, "parameters", pictures.parameters(run.model)),
        ]
        rows += ledger_rows(name, where, run.ledger) + self.audit(name, where, run)
        if run.accelerator.is_main_process:
            print(f"{name} ({where}): accuracy {rows[0]['value']:.4f}\n{run.ledger}", flush=True)
            if plan.get("picture"):
                shutil.copy(run.folder / f"round-{run.args.rounds}.png", self.out / f"grid-{name}.png")
            self.metrics.add(rows)
        run.accelerator.wait_for_everyone()

    def audit(self, name: str, where: str, run: Classifier) -> list[dict[str, Any]]:
        """Attack a model: were these private images among the teacher's?"""
        report = run.audit(*pictures.audited(self.train, self.test, self.config["audit_images"]))
        return membership_rows(name, f"{where} records=private", report)

    def run(self, only: list[str] | None = None) -> None:
        if not self.metrics.has("teacher", "table=teachers"):
            judge = Classifier(self.teachers.plain(), self.teachers.arguments(self.out, 0))
            rows = [
                Row("teacher", "table=teachers", "accuracy", judge.evaluate(self.test), n=len(self.test)),
                Row("teacher", "table=teachers", "parameters", pictures.parameters(judge.model)),
                *self.audit("teacher", "table=teachers", judge),
            ]
            if judge.accelerator.is_main_process:
                self.metrics.add(rows)
            judge.accelerator.wait_for_everyone()
        for plan in self.config["rows"]:
            for seed in plan.get("seeds", [0]):
                wanted = not only or plan["model"] in only
                if wanted and not self.metrics.has(plan["model"], f"table=data_free seed={seed}"):
                    self.measure(plan, seed)
        if PartialState().is_main_process:
            write_card(self.metrics.path, self.out)


def main(config: dict[str, Any], only: list[str] | None = None) -> Path:
    experiment = Experiment(config)
    experiment.run(only)
    return experiment.out


if __name__ == "__main__":
    launch(main, __doc__)
