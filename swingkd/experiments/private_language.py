"""A base model of public text; a teacher and students that start from it and see private text; one audit for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, set_seed

from swingkd import (
    CanarySet,
    OutOfFoldTeacher,
    PrivacyLedger,
    PrivateDistillationConfig,
    PrivateDistillationTrainer,
    measure_exposure,
    train_out_of_fold,
)
from swingkd.audit import audit_canary_membership
from swingkd.data import DataSettings, prepare_dataset
from swingkd.experiments import corpus
from swingkd.experiments.grid import Grid, Plan
from swingkd.experiments.language import LanguageExperiment, evaluation_settings, folder_of, settings_of
from swingkd.experiments.models import lock, make_model, make_tokenizer, probe, quiet
from swingkd.report import Row, exposure_rows, ledger_rows, membership_rows
from swingkd.tagging import BaseTagger


class PrivateText(Protocol):
    """The private text of an experiment, and how canaries stand in it."""

    def load(self, data: dict[str, Any]) -> tuple[Dataset, dict[str, Dataset]]:
        """Return the training text, and the splits to evaluate on; `data` is the configuration's."""
        ...

    def with_canaries(self, text: Dataset, copied: CanarySet, coins: CanarySet) -> Dataset:
        """Return the text with copied canaries, and with single ones, each in or out by coin."""
        ...


class Records:
    """Private text of which each row is a record."""

    def load(self, data: dict[str, Any]) -> tuple[Dataset, dict[str, Dataset]]:
        """See `PrivateText.load`."""
        return corpus.load_splits(data)

    def with_canaries(self, text: Dataset, copied: CanarySet, coins: CanarySet) -> Dataset:
        """See `PrivateText.with_canaries`."""
        return coins.insert(copied.insert(text.select_columns(["text"])))


@dataclass
class PrivateLanguage:
    """What trains the language models of a configuration, some of them with differential privacy.

    Args:
        config: the configuration.
        secret: where weights are kept.
        tokenizer: of all models.
        tagger: what rates the text.
        texts: training texts by their names in the configuration; or functions that make one, when it is needed.
        insert: returns the private text with other canaries in it, for the attacker's own students.
        teacher_training: which settings the teacher is trained with.
    """

    config: dict[str, Any]
    secret: Path
    tokenizer: PreTrainedTokenizerFast
    tagger: BaseTagger
    texts: dict[str, Dataset | Callable[[PrivateLanguage], Dataset]]
    insert: Callable[[CanarySet], Dataset]
    teacher_training: str = "teacher_training"

    def text(self, name: str) -> Dataset:
        """Return a training text."""
        text = self.texts[name]
        return text if isinstance(text, Dataset) else text(self)

    def tokenise(self, data: Dataset, tagger: BaseTagger | None) -> Dataset:
        """Never pack: a packed block holds parts of several records, and none of them would be a unit."""
        settings = DataSettings(max_length=self.config["max_length"])
        keep = tuple(set(data.column_names) - {"text", "spans", "prompt", "completion"})
        return prepare_dataset(data, self.tokenizer, tagger, settings, keep=keep)  # type: ignore[return-value]

    def distillation(self, folder: str, seed: int, fields: dict[str, Any]) -> PrivateDistillationConfig:
        """Return the settings of a training."""
        arguments = settings_of(self.config, "student_training", self.secret / folder, seed) | fields
        return PrivateDistillationConfig(max_length=self.config["max_length"], **arguments)

    def probe(self, model: PreTrainedModel) -> PrivateDistillationTrainer:
        """Return a trainer that evaluates a model as it is."""
        return probe(model, self.tokenizer, self.secret / "audit", **evaluation_settings(self.config))

    def base(self, kind: str) -> PreTrainedModel:
        """Return a model of the teacher's or the student's size that saw public text only: by name, or made here."""
        if "name" in self.config[kind]:
            return make_model(self.config[kind], self.tokenizer)
        return self.trained(f"base-{kind}", "B")

    def trained(self, name: str, text: str | Dataset) -> PreTrainedModel:
        """Train a base model, or the teacher from its base, on text alone, once; its weights stay in _private/."""
        folder = self.secret / name
        with lock(folder):
            # The ledger is sealed last, when all else is written.
            if PrivacyLedger.of_weights(folder) is None:
                start, kind = self._start(name)
                args = self.distillation(name, 0, {**self.config[kind], "alpha": 0.0})
                data = self.text(text) if isinstance(text, str) else text
                trainer = self.fit(start, None, args, self.tokenise(data, None))
                trainer.save_model(str(folder))
                trainer.accelerator.wait_for_everyone()
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def _start(self, name: str) -> tuple[PreTrainedModel, str]:
        """Return what a model is trained from, and which settings it is trained with."""
        if name == "teacher":
            return self.base("teacher"), self.teacher_training
        if name.startswith("reference"):
            return self.base("student"), "student_training"
        return make_model(self.config[name.removeprefix("base-")], self.tokenizer), "base_training"

    def references(self) -> list[PreTrainedModel]:
        """Return the attacker's own students: trained on such text and such canaries, none of them those in question.

        What they find hard is hard by itself; what they alone find hard was remembered.
        """
        spec, models = self.config["coin_canaries"], []
        for i in range(self.config["references"]):
            others = CanarySet.generate(**spec | {"repetitions": tuple(spec["repetitions"]), "seed": 1000 + i})
            models.append(self.trained(f"reference-{i}", self.insert(others)))
        return models

    def fit(
        self,
        model: PreTrainedModel,
        teacher: str | PreTrainedModel | OutOfFoldTeacher | None,
        args: PrivateDistillationConfig,
        data: Dataset,
        lora: dict[str, Any] | None = None,
        tagger: BaseTagger | None = None,
        public: PreTrainedModel | None = None,
    ) -> PrivateDistillationTrainer:
        """Train, and return the trainer; `lora`: arguments of an adapter, to train that alone."""
        set_seed(args.seed)
        trainer = PrivateDistillationTrainer(
            model=model,
            teacher_model=teacher,
            args=args,
            train_dataset=data,
            processing_class=self.tokenizer,
            tagger=tagger,
            public_model=public,
            peft_config=LoraConfig(**lora) if lora else None,
        )
        quiet(trainer).train()
        trainer.accelerator.wait_for_everyone()
        return trainer

    def out_of_fold(self, k: int) -> OutOfFoldTeacher:
        """Train K teachers as the teacher is, each without one fold of the private text, once."""
        args = self.distillation(f"out-of-fold-{k}", 0, {**self.config[self.teacher_training], "alpha": 0.0})

        def train(rows: Dataset, folder: Path) -> PreTrainedModel:
            own = args.settled(output_dir=str(folder))
            return self.fit(self.base("teacher"), None, own, self.tokenise(rows, None)).model  # type: ignore[return-value]

        with lock(self.secret / f"out-of-fold-{k}"):
            return train_out_of_fold(self.base("teacher"), args, self.text("A"), k=k, train=train)

    def student(self, plan: Plan, setting: str, seed: int) -> PrivateDistillationTrainer:
        """Distil one student; `plan` is one entry of `rows` in the configuration."""
        kind = "dp_training" if "target_epsilon" in plan["args"] else "student_training"
        args = self.distillation(folder_of(plan, setting), seed, {**self.config[kind], **plan["args"]})
        self.trained("teacher", "A")
        text, tagger = corpus.read_by(plan, self.text(plan["transfer"]), self.tagger)
        if plan.get("goldfish"):
            text = corpus.goldfish(self.tokenise(text, None), plan["goldfish"])
        # By its name: its ledger, if it has one, lies in its folder.
        public = self.base("teacher") if args.protection == "mollify" or plan.get("teacher") == "base" else None
        teacher: Any = public if plan.get("teacher") == "base" else str(self.secret / "teacher")
        if plan.get("folds"):
            teacher = self.out_of_fold(plan["folds"])
        return self.fit(
            self.base("student"),
            teacher if args.alpha > 0 else None,
            args,
            text,
            plan.get("lora"),
            tagger,
            public if args.protection == "mollify" else None,
        )


def private_experiment(
    config: dict[str, Any],
    private_text: PrivateText | None = None,
    *,
    teacher_training: str = "teacher_training",
    texts: dict[str, Callable[[PrivateLanguage], Dataset]] | None = None,
) -> LanguageExperiment:
    """Return an experiment of students with and without differential privacy.

    Two sets of canaries: copied ones for exposure, and single ones, each in or out by coin, to prove an epsilon.

    Args:
        config: the recipe's configuration.
        private_text: what is private, and how canaries stand in it; default: each row is a record.
        teacher_training: which of the configuration's settings the teacher is trained with.
        texts: further training texts, made when they are needed.
    """
    grid, private_text = Grid(config, "language"), private_text or Records()
    private, splits = private_text.load(config["data"])
    public = concatenate_datasets([_public(**spec) for spec in config["data"]["public"]])
    tokenizer = make_tokenizer(config["tokenizer"], public["text"])
    copied = corpus.make_canaries(config["canaries"], grid.secret / "canaries.json")
    coins = corpus.make_canaries(config["coin_canaries"], grid.secret / "coin_canaries.json")
    tagger = corpus.make_tagger(private, *splits.values(), canaries=[copied, coins])

    def insert(singles: CanarySet) -> Dataset:
        return private_text.with_canaries(private, copied, singles)

    language = PrivateLanguage(
        config,
        grid.secret,
        tokenizer,
        tagger,
        {"A": insert(coins), "B": public, **(texts or {})},
        insert,
        teacher_training,
    )
    fresh = corpus.fresh_sentences(config["canaries"])
    evaluation = splits | {"fresh": fresh}
    evaluation = {name: language.tokenise(split, tagger) for name, split in evaluation.items()}

    def base() -> PrivateDistillationTrainer:
        return language.probe(language.base("student"))

    def teacher() -> PrivateDistillationTrainer:
        return language.probe(language.trained("teacher", "A"))

    @cache
    def references() -> list[PreTrainedModel]:
        return language.references()

    def audit(name: str, setting: str, trainer: PrivateDistillationTrainer) -> list[Row]:
        # The base and the teacher were trained before; a student has its ledger with it.
        ledger = PrivacyLedger.load(grid.secret / name) or trainer.ledger
        print(ledger, flush=True)
        report = measure_exposure(trainer.model, tokenizer, copied, batch_size=4096, progress=False)
        rows = ledger_rows(name, setting, ledger) + exposure_rows(name, setting, report)
        delta = config["dp_training"]["target_delta"]
        # Secrets and whole sentences, of every seed.
        looks = 2 * len({seed for plan in config["rows"] for seed in plan.get("seeds", [0])})
        for part in ("secrets", "records"):
            membership = audit_canary_membership(
                trainer.model, tokenizer, coins, coins.coin_levels[0], part, references=references(), progress=False
            )
            where = f"{setting} records=canary_{part}"
            rows += membership_rows(name, where, membership, by_coin=True, delta=delta, looks=looks)
        return rows

    probes = {"base": base, "teacher": teacher}
    shown = next(iter([*splits.values(), fresh]))["text"][:3]
    return LanguageExperiment(grid, language, evaluation, audit, probes, shown, ready=references)


def _public(text_column: str = "text", **spec: Any) -> Dataset:
    """Return one of the public texts."""
    return corpus.load_split(spec, text_column).select_columns(["text"])
