"""Distil an image classifier of private images on public ones that the student chooses: published, controls, sound.

accelerate launch recipes/cifar10_sample_selection/run.py --config recipes/cifar10_sample_selection/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import pictures
from image_worlds import World
from launch import launch

from swingkd.report import MetricsFile, Row, ledger_rows, membership_rows, write_card
from swingkd.vision import DynamicSampleSelection, PublishedNoise, sample_scores
from swingkd.vision.base import Classifier
from swingkd.vision.guidance import nominal_epsilon

SCHEDULES = {"fixed": sample_scores.fixed, "linear": sample_scores.linear, "geometric": sample_scores.geometric}
SCORES = {
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


class Experiment:
    """One student a row and seed."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.out = config, Path(config["output_dir"])
        self.metrics = MetricsFile(self.out / "metrics.json", config["run"], config)
        self.train, self.test = (pictures.load_images(config["data"], split) for split in ("train", "test"))

    def student(self, plan: dict[str, Any], seed: int) -> tuple[DynamicSampleSelection, World]:
        """Train the student of a row."""
        world = World(self.config, plan["world"], self.train, seed)
        schedule = {"kind": "geometric", "first": 0.5, "factor": 0.8, "iterations": 5} | plan.get("schedule", {})
        if schedule["kind"] != "geometric":
            schedule.pop("factor", None)
        if schedule["kind"] == "fixed":
            schedule["rate"] = schedule.pop("first")
        shares = SCHEDULES[schedule.pop("kind")](**schedule)
        folder = f"{plan['model']} {self.setting(plan, seed)}".replace(" ", "-")
        args = world.arguments(folder, shares, **plan.get("args", {}))
        queries = args.distillation_steps(len(world.public)) + args.hint_steps(len(world.public))
        guidance = world.guidance(plan, queries)
        score = SCORES[plan.get("score", "margin")]
        run = DynamicSampleSelection(world.start(), guidance, world.public, args=args, score=score)
        run.train(resume_from_checkpoint=True)
        return run, world

    def setting(self, plan: dict[str, Any], seed: int) -> str:
        """Return the words that tell a row from the others."""
        words = {"table": plan["table"], **plan.get("words", {}), "seed": seed}
        return " ".join([self.of_world(plan["world"]), *(f"{key}={value}" for key, value in words.items())])

    def of_world(self, name: str) -> str:
        """Return the words that tell a world from the others."""
        world = self.config["worlds"][name]
        images = world.get("images", round(world["public_share"] * len(self.train)))
        return f"public={world['public_share']:g} images={images}"

    def measure(self, plan: dict[str, Any], seed: int) -> None:
        """Train and measure a row's student; write all its rows at once."""
        run, world = self.student(plan, seed)
        name, where = plan["model"], self.setting(plan, seed)
        rows = [
            Row(name, where, "accuracy", run.evaluate(self.test), n=len(self.test)),
            Row(name, where, "queries", run.queries),
            Row(name, where, "queried_images", run.queried_images),
            Row(name, where, "parameters", pictures.parameters(run.model)),
        ]
        if isinstance(run.guidance, PublishedNoise) and run.guidance.noise_multiplier:
            nominal = nominal_epsilon(run.queries, run.guidance.noise_multiplier, run.guidance.delta)
            rows.append(Row(name, where, "epsilon_claimed", nominal, n=run.queries))
        rows += ledger_rows(name, where, run.ledger)
        if plan.get("audit"):
            rows += self.audit(name, where, run, world)
        if run.accelerator.is_main_process:
            print(f"{name} ({where}): accuracy {rows[0]['value']:.4f}\n{run.ledger}", flush=True)
            self.metrics.add(rows)
        run.accelerator.wait_for_everyone()

    def audit(self, name: str, where: str, run: Classifier, world: World) -> list[dict[str, Any]]:
        """Attack a student: were these private images among the teacher's?"""
        members, others = pictures.audited(world.private, self.test, self.config["audit_images"])
        report = run.audit(members, others, references=[world.public_teacher()])
        return membership_rows(name, f"{where} records=private", report)

    def teachers(self, worlds: list[str]) -> None:
        """Measure the teachers of each world."""
        for name in worlds:
            world = World(self.config, name, self.train, 0)
            for model, make in (("teacher", world.teacher), ("public_teacher", world.public_teacher)):
                where = f"{self.of_world(name)} table=teachers"
                if self.metrics.has(model, where):
                    continue
                run = Classifier(make(), world.arguments(model, [1.0]))
                rows = [
                    Row(model, where, "accuracy", run.evaluate(self.test), n=len(self.test)),
                    Row(model, where, "parameters", pictures.parameters(run.model)),
                ]
                rows += self.audit(model, where, run, world) if model == "teacher" else []
                if run.accelerator.is_main_process:
                    self.metrics.add(rows)
                run.accelerator.wait_for_everyone()

    def run(self, only: list[str] | None = None) -> None:
        plans = [p for p in self.config["rows"] if not only or {p["table"], p["model"], p["world"]} & set(only)]
        for plan in plans:
            for seed in plan.get("seeds", [0]):
                if not self.metrics.has(plan["model"], self.setting(plan, seed)):
                    self.measure(plan, seed)
        self.teachers(list(dict.fromkeys(plan["world"] for plan in plans)))
        if PartialState().is_main_process:
            write_card(self.metrics.path, self.out)


def main(config: dict[str, Any], only: list[str] | None = None) -> Path:
    experiment = Experiment(config)
    experiment.run(only)
    return experiment.out


if __name__ == "__main__":
    launch(main, __doc__)
