"""Swing-distil a causal language model and measure what leaked.

accelerate launch recipes/swing_clm/run.py --config recipes/swing_clm/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments, set_seed

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import prepare
from launch import launch

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer, measure_exposure
from swingkd.data import PII_COLUMNS, DataSettings, prepare_dataset
from swingkd.report import MetricsFile, Row, exposure_rows, save_tokens, shown_tokens, write_card


class Experiment:
    """One run: a teacher on private text with canaries, students of many kinds, the same audit for all."""

    def __init__(self, config: dict):
        self.config, self.out = config, Path(config["output_dir"])
        self.secret = self.out / "_private"
        self.metrics = MetricsFile(self.out / "metrics.json", config["run"], prepare.without_secrets(config))
        train, self.splits = prepare.load_splits(config["data"])
        cut = int(len(train) * config["data"]["private_share"])
        self.private, self.public = train.select(range(cut)), train.select(range(cut, len(train)))
        self.tagger = prepare.make_tagger(train, *self.splits.values())
        self.tokenizer = prepare.make_tokenizer(config["tokenizer"], self.public["text"])
        self.canaries = prepare.make_canaries(config["canaries"], self.secret / "canaries.json")
        self.splits["fresh"] = prepare.fresh_sentences(config["canaries"])
        self.evaluation = {name: self.tokenise(split, self.tagger) for name, split in self.splits.items()}
        self.texts = {
            "A": self.canaries.insert(self.private.select_columns(["text"])),
            "B": self.public.select_columns(["text"]),
            "B+": self.canaries.insert_decoys(self.public.select_columns(["text"]), seed=0),
        }

    def tokenise(self, data, tagger):
        settings = DataSettings(max_length=self.config["max_length"], packing=True)
        return prepare_dataset(data, self.tokenizer, tagger, settings)

    def arguments(self, kind: str, folder: str, seed: int) -> dict:
        return {
            "output_dir": str(self.secret / folder),
            "seed": seed,
            "report_to": [],
            "save_strategy": "no",
            "use_cpu": not torch.cuda.is_available(),
            "disable_tqdm": not sys.stderr.isatty(),
            **self.config["training"],
            **self.config[kind],
        }

    def distillation(self, folder: str, seed: int, fields: dict) -> PrivateDistillationConfig:
        arguments = self.arguments("student_training", folder, seed) | fields
        return PrivateDistillationConfig(max_length=self.config["max_length"], **arguments)

    def trained(self, name: str, data) -> AutoModelForCausalLM:
        """Train the teacher, or the public model, the ordinary way, once: its weights stay in _private/."""
        folder = self.secret / name
        if not prepare.is_trained(folder):
            set_seed(0)
            trainer = Trainer(
                prepare.make_model(self.config["teacher"], self.tokenizer),
                TrainingArguments(**self.arguments("teacher_training", name, 0)),
                DataCollatorForLanguageModeling(self.tokenizer, mlm=False),
                train_dataset=self.tokenise(data, None).select_columns(["input_ids"]),
            )
            prepare.quiet(trainer).train()
            trainer.save_model(folder)
            trainer.accelerator.wait_for_everyone()
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def train_student(self, plan: dict, setting: str, seed: int):
        """Distil one student; `plan` is one entry of `rows` in the configuration."""
        text, tagger = self.texts[plan["transfer"]], self.tagger
        if plan.get("scrub"):
            text, tagger = prepare.scrub(text, tagger), None
        if plan.get("recall"):
            tagger = prepare.ForgetfulTagger(tagger, plan["recall"], seed)
        data = self.tokenise(text, None if plan.get("untagged") else tagger)
        if "pii_likelihood" in data.column_names and not any(map(any, data["pii_likelihood"])):
            # Public text with nothing private in it: every protection is ordinary distillation there.
            data, plan = data.remove_columns(PII_COLUMNS), {**plan, "args": {"protection": "none"}}
        set_seed(seed)
        folder = f"{plan['model']} {setting}".replace(" ", "-")
        args = self.distillation(folder, seed, plan.get("args", {}))
        public = self.trained("public", self.texts["B"]) if args.protection == "mollify" else None
        # A row may ask the public model in the teacher's place: what a student is without any private text.
        teacher = plan.get("teacher", "teacher")
        trainer = PrivateDistillationTrainer(
            model=prepare.make_model(self.config["student"], self.tokenizer),
            teacher_model=self.trained(teacher, self.texts["B" if teacher == "public" else "A"]),
            args=args,
            train_dataset=data,
            processing_class=self.tokenizer,
            public_model=public,
        )
        prepare.quiet(trainer).train()
        return trainer

    def measure(self, name: str, setting: str, trainer: PrivateDistillationTrainer) -> None:
        """Evaluate and audit a model; write its rows all at once."""
        rows = [
            Row(name, f"{setting} split={split}", metric.removeprefix("eval_"), value)
            for split, dataset in self.evaluation.items()
            for metric, value in trainer.evaluate(dataset).items()
            if "perplexity" in metric
        ]
        if trainer.is_world_process_zero():
            print(f"measuring {name} ({setting})", flush=True)
            report = measure_exposure(trainer.model, self.tokenizer, self.canaries, batch_size=4096, progress=False)
            print(report, flush=True)
            self.metrics.add(rows + exposure_rows(name, setting, report))
        trainer.accelerator.wait_for_everyone()

    def run(self, only: list[str] | None) -> None:
        if not self.metrics.has("teacher", "seed=0"):
            student = prepare.make_model(self.config["student"], self.tokenizer)
            args = self.distillation("audit", 0, {"protection": "none"})
            teacher = self.trained("teacher", self.texts["A"])
            probe = PrivateDistillationTrainer(teacher, student, args, processing_class=self.tokenizer)
            self.measure("teacher", "seed=0", probe)
        for plan in self.config["rows"]:
            for seed in plan.get("seeds", [0]):
                words = [f"transfer={plan['transfer']}", plan.get("setting", ""), f"seed={seed}"]
                setting = " ".join(filter(None, words))
                if (only and plan["model"] not in only) or self.metrics.has(plan["model"], setting):
                    continue
                self.measure(plan["model"], setting, self.train_student(plan, setting, seed))
        if PartialState().is_main_process:
            texts = next(iter(self.splits.values()))["text"][:3]
            settings = self.distillation("audit", 0, {"protection": "noise"}).temperature_settings
            save_tokens(shown_tokens(texts, self.tokenizer, self.tagger, settings), self.out / "tokens.json")
            write_card(self.metrics.path, self.out)


def main(config: dict, only: list[str] | None = None) -> Path:
    experiment = Experiment(config)
    experiment.run(only)
    return experiment.out


if __name__ == "__main__":
    launch(main, __doc__)
