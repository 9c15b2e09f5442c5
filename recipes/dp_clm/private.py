"""A base model of public text; a teacher and students that start from it and see private text; one audit for all."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from transformers import AutoModelForCausalLM, set_seed

sys.path.insert(0, str(Path(__file__).parents[1] / "swing_clm"))
import prepare
from run import Experiment

from swingkd import CanarySet, PrivacyLedger, PrivateDistillationTrainer, measure_exposure
from swingkd.audit import audit_canary_membership
from swingkd.data import DataSettings, prepare_dataset
from swingkd.report import MetricsFile, Row, exposure_rows, ledger_rows, membership_rows


class PrivateExperiment(Experiment):
    """A non-private teacher, and students of it with and without differential privacy.

    Two sets of canaries: copied ones for exposure, and single ones, each in or out by coin, to prove an epsilon.
    """

    def __init__(self, config: dict):
        self.config, self.out = config, Path(config["output_dir"])
        self.secret = self.out / "_private"
        self.metrics = MetricsFile(self.out / "metrics.json", config["run"], prepare.without_secrets(config))
        self.private, self.splits = self.load_private()
        self.public = concatenate_datasets([self.load_public(**spec) for spec in config["data"]["public"]])
        self.tagger = prepare.make_tagger(self.private, *self.splits.values())
        self.tokenizer = prepare.make_tokenizer(config["tokenizer"], self.public["text"])
        self.canaries = prepare.make_canaries(config["canaries"], self.secret / "canaries.json")
        self.coins = prepare.make_canaries(config["coin_canaries"], self.secret / "coin_canaries.json")
        self.splits["fresh"] = prepare.fresh_sentences(config["canaries"])
        self.evaluation = {name: self.tokenise(split, self.tagger) for name, split in self.splits.items()}
        self.texts = {"A": self.with_canaries(self.coins), "B": self.public}

    def load_public(self, text_column: str = "text", **spec) -> Dataset:
        """Return one of the public texts."""
        return prepare.load_split(spec, text_column).select_columns(["text"])

    def load_private(self):
        """Return the private text and the splits to evaluate on."""
        return prepare.load_splits(self.config["data"])

    def with_canaries(self, coins: CanarySet) -> Dataset:
        """Return the private text with copied canaries, and with single ones."""
        return coins.insert(self.canaries.insert(self.private.select_columns(["text"])))

    def tokenise(self, data, tagger):
        """Never pack: a packed block holds parts of several records, and none of them would be a unit."""
        settings = DataSettings(max_length=self.config["max_length"])
        keep = tuple(set(data.column_names) - {"text", "spans"})
        return prepare_dataset(data, self.tokenizer, tagger, settings, keep=keep)

    def base(self, kind: str) -> AutoModelForCausalLM:
        """Return a model of the teacher's or the student's size that saw public text only: by name, or made here."""
        if "name" in self.config[kind]:
            return prepare.make_model(self.config[kind], self.tokenizer)
        return self.trained(f"base-{kind}", self.texts["B"])

    def trained(self, name: str, data) -> AutoModelForCausalLM:
        """Train a base model, or the teacher from its base, on text alone, once; its weights stay in _private/."""
        folder = self.secret / name
        # The ledger is sealed last, when all else is written.
        if PrivacyLedger.of_weights(folder) is None:
            start, kind = self.start(name)
            args = self.distillation(name, 0, {**self.config[kind], "alpha": 0.0})
            trainer = self.fit(start, None, args, self.tokenise(data, None))
            trainer.save_model(folder)
            trainer.accelerator.wait_for_everyone()
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def references(self) -> list[AutoModelForCausalLM]:
        """Return the attacker's own students: trained on such text and such canaries, none of them those in question.

        What they find hard is hard by itself; what they alone find hard was remembered.
        """
        models = []
        for i in range(self.config["references"]):
            others = CanarySet.generate(**{**self.coin_spec, "seed": 1000 + i})
            models.append(self.trained(f"reference-{i}", self.with_canaries(others)))
        return models

    @property
    def coin_spec(self) -> dict:
        spec = self.config["coin_canaries"]
        return {**spec, "repetitions": tuple(spec["repetitions"])}

    def start(self, name: str):
        """Return what a model is trained from, and which settings it is trained with."""
        if name == "teacher":
            return self.base("teacher"), "teacher_training"
        if name.startswith("reference"):
            return self.base("student"), "student_training"
        return prepare.make_model(self.config[name.removeprefix("base-")], self.tokenizer), "base_training"

    def fit(self, model, teacher: str | None, args, data, lora: dict | None = None) -> PrivateDistillationTrainer:
        """Train, and return the trainer; `lora`: arguments of an adapter, to train that alone."""
        set_seed(args.seed)
        trainer = PrivateDistillationTrainer(
            model=model,
            teacher_model=teacher,
            args=args,
            train_dataset=data,
            processing_class=self.tokenizer,
            peft_config=LoraConfig(**lora) if lora else None,
        )
        prepare.quiet(trainer).train()
        trainer.accelerator.wait_for_everyone()
        return trainer

    def train_student(self, plan: dict, setting: str, seed: int) -> PrivateDistillationTrainer:
        """Distil one student; `plan` is one entry of `rows` in the configuration."""
        kind = "dp_training" if "target_epsilon" in plan["args"] else "student_training"
        folder = f"{plan['model']} {setting}".replace(" ", "-")
        args = self.distillation(folder, seed, {**self.config[kind], **plan["args"]})
        data = self.tokenise(self.texts[plan["transfer"]], None if plan.get("untagged") else self.tagger)
        self.trained("teacher", self.texts["A"])
        # By its name: its ledger, if it has one, lies in its folder.
        return self.fit(self.base("student"), str(self.secret / "teacher"), args, data, plan.get("lora"))

    def measure(self, name: str, setting: str, trainer: PrivateDistillationTrainer) -> None:
        """Evaluate, audit, and note what was promised; write all rows at once."""
        rows = [
            Row(name, f"{setting} split={split}", metric.removeprefix("eval_"), value)
            for split, dataset in self.evaluation.items()
            for metric, value in trainer.evaluate(dataset).items()
            if "perplexity" in metric
        ]
        # The base and the teacher were trained before; a student has its ledger with it.
        ledger = PrivacyLedger.load(self.secret / name) or trainer.ledger
        rows += ledger_rows(name, setting, ledger)
        if trainer.is_world_process_zero():
            print(f"measuring {name} ({setting})\n{ledger}", flush=True)
            report = measure_exposure(trainer.model, self.tokenizer, self.canaries, batch_size=4096, progress=False)
            rows += exposure_rows(name, setting, report) + self.membership(name, setting, trainer.model)
            self.metrics.add(rows)
        trainer.accelerator.wait_for_everyone()

    def membership(self, name: str, setting: str, model) -> list[dict]:
        """Tell canaries in from canaries out, and note what that proves of epsilon."""
        rows, level = [], self.coins.coin_levels[0]
        for part in ("secrets", "records"):
            report = audit_canary_membership(
                model, self.tokenizer, self.coins, level, part, references=self.references(), progress=False
            )
            where = f"{setting} records=canary_{part}"
            delta = self.config["dp_training"]["target_delta"]
            rows += membership_rows(name, where, report, by_coin=True, delta=delta)
        return rows

    def run(self, only: list[str] | None = None) -> None:
        if not self.metrics.has("base", "seed=0"):
            args = self.distillation("audit", 0, {"alpha": 0.0})
            probe = PrivateDistillationTrainer(self.base("student"), None, args, processing_class=self.tokenizer)
            self.measure("base", "seed=0", probe)
        super().run(only)
