"""A teacher on private text with canaries, students of many kinds, and the same measurement for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from swingkd import (
    OutOfFoldTeacher,
    PrivateDistillationConfig,
    PrivateDistillationTrainer,
    measure_exposure,
    train_out_of_fold,
)
from swingkd.data import DataSettings, prepare_dataset
from swingkd.experiments import corpus
from swingkd.experiments.grid import Grid, Plan, training_settings
from swingkd.experiments.models import is_trained, lock, make_model, make_tokenizer, probe, quiet
from swingkd.report import Row, exposure_rows, save_tokens, shown_tokens
from swingkd.report.page import TOKENS_FILE
from swingkd.tagging import BaseTagger

#: Makes the rows of a model beside its perplexities: its name, its setting, its trainer.
Audit = Callable[[str, str, PrivateDistillationTrainer], list[Row]]


@dataclass
class Language:
    """What trains the language models of a configuration.

    Args:
        config: the configuration.
        secret: where weights are kept.
        tokenizer: of all models.
        tagger: what rates the text.
        texts: training texts by their names in the configuration: A private, B public, ...
        shared: where the public model is kept, if others use it too; default: `secret`.
    """

    config: dict[str, Any]
    secret: Path
    tokenizer: PreTrainedTokenizerFast
    tagger: BaseTagger
    texts: dict[str, Dataset]
    shared: Path | None = None

    def tokenise(self, data: Dataset, tagger: BaseTagger | None) -> Dataset:
        """Return packed rows."""
        settings = DataSettings(max_length=self.config["max_length"], packing="wrapped")
        return prepare_dataset(data, self.tokenizer, tagger, settings)  # type: ignore[return-value]

    def arguments(self, kind: str, folder: str, seed: int) -> dict[str, Any]:
        """Return the settings of a training: those of all, and of its kind."""
        return settings_of(self.config, kind, self.secret / folder, seed)

    def distillation(self, folder: str, seed: int, fields: dict[str, Any]) -> PrivateDistillationConfig:
        """Return the settings of a student's training."""
        arguments = self.arguments("student_training", folder, seed) | fields
        return PrivateDistillationConfig(max_length=self.config["max_length"], **arguments)

    def new(self, kind: str) -> PreTrainedModel:
        """Return a model of the teacher's or the student's size that has learnt nothing here."""
        return make_model(self.config[kind], self.tokenizer)

    def trained(self, name: str, data: Dataset) -> PreTrainedModel:
        """Train the teacher, or the public model, the ordinary way, once."""
        folder = (self.shared or self.secret if name == "public" else self.secret) / name
        with lock(folder):
            if not is_trained(folder):
                trainer = self.fit(data, folder)
                trainer.save_model(str(folder))
                trainer.accelerator.wait_for_everyone()
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def fit(self, data: Dataset, folder: Path) -> Trainer:
        """Train a model of the teacher's size on text."""
        set_seed(0)
        trainer = Trainer(
            self.new("teacher"),
            TrainingArguments(**settings_of(self.config, "teacher_training", folder, 0)),
            DataCollatorForLanguageModeling(self.tokenizer, mlm=False),
            train_dataset=self.tokenise(data, None).select_columns(["input_ids"]),
        )
        quiet(trainer).train()
        return trainer

    def out_of_fold(self, data: Dataset, k: int) -> OutOfFoldTeacher:
        """Train K teachers as the teacher is, each without one fold of the text, once."""
        folder = self.secret / f"out-of-fold-{k}"
        args = PrivateDistillationConfig(**settings_of(self.config, "teacher_training", folder, 0))
        with lock(folder):
            return train_out_of_fold(
                self.new("teacher"), args, data, k=k, train=lambda rows, part: self.fit(rows, part).model
            )

    def teacher(self, name: str = "teacher") -> PreTrainedModel:
        """Return the teacher of the private text, or the public model in its place."""
        return self.trained(name, self.texts["B" if name == "public" else "A"])

    def probe(self, model: PreTrainedModel) -> PrivateDistillationTrainer:
        """Return a trainer that evaluates a model as it is."""
        return probe(model, self.tokenizer, self.secret / "audit", **evaluation_settings(self.config))

    def student(self, plan: Plan, setting: str, seed: int) -> PrivateDistillationTrainer:
        """Distil one student.

        Args:
            plan: one entry of `rows` in the configuration.
            setting: the words that tell it from others.
            seed: of its weights and batches.
        """
        text, tagger = corpus.read_by(plan, self.texts[plan["transfer"]], self.tagger)
        if plan.get("recall") and tagger is not None:
            tagger = corpus.ForgetfulTagger(self.tagger, plan["recall"], seed)
        fields = plan.get("args", {})
        if tagger is not None and corpus.finds_nothing(text, tagger):
            # Public text with nothing private in it: every protection is ordinary distillation there.
            tagger, fields = None, {**fields, "protection": "none"}
        set_seed(seed)
        args = self.distillation(folder_of(plan, setting), seed, fields)
        args.packing, args.packing_strategy = True, "wrapped"
        if plan.get("before"):
            # As it was: every mention is found for itself, and a likelihood is a dose.
            text, tagger, args.likelihood_is_dose = self.tokenise(text, tagger), None, True
        if plan.get("goldfish"):
            text = corpus.goldfish(self.tokenise(text, tagger), plan["goldfish"])
        # Before the student is made: training them draws from the same generator.
        teacher: Any
        if plan.get("folds"):
            if "input_ids" in text.column_names:
                raise ValueError("Rows of out-of-fold teachers are text: leave before and goldfish out.")
            teacher = self.out_of_fold(self.texts[plan["transfer"]], plan["folds"])
        else:
            # A row may ask the public model in the teacher's place: what a student is without any private text.
            teacher = self.teacher(plan.get("teacher", "teacher"))
        public = self.teacher("public") if args.protection == "mollify" else None
        trainer = PrivateDistillationTrainer(
            model=self.new("student"),
            teacher_model=teacher,
            args=args,
            train_dataset=text,
            processing_class=self.tokenizer,
            public_model=public,
            tagger=tagger,
        )
        quiet(trainer).train()
        return trainer


class Trains(Protocol):
    """What trains the students of an experiment: `Language`, or one with differential privacy."""

    tokenizer: PreTrainedTokenizerFast
    tagger: BaseTagger

    def distillation(self, folder: str, seed: int, fields: dict[str, Any]) -> PrivateDistillationConfig:
        """Return the settings of a student's training."""
        ...

    def student(self, plan: Plan, setting: str, seed: int) -> PrivateDistillationTrainer:
        """Distil one student."""
        ...


class LanguageExperiment:
    """One run: models that are probed first, then a student for each row and seed; all are measured alike.

    Args:
        grid: the rows.
        language: trains the students.
        evaluation: splits to evaluate on, tokenised and tagged, by name.
        audit: makes the rows of a model beside its perplexities, in one process.
        probes: names of what is measured first, and functions that return a trainer of it.
        shown: texts to show on the page, masked.
        ready: makes what the audit needs, in all processes of a launch together.
    """

    def __init__(
        self,
        grid: Grid,
        language: Trains,
        evaluation: dict[str, Dataset],
        audit: Audit,
        probes: dict[str, Callable[[], PrivateDistillationTrainer]],
        shown: Sequence[str],
        ready: Callable[[], object] = lambda: None,
    ):
        self.grid, self.language, self.evaluation = grid, language, evaluation
        self.audit, self.probes, self.shown, self.ready = audit, probes, shown, ready

    def measure(self, name: str, setting: str, trainer: PrivateDistillationTrainer) -> None:
        """Evaluate and audit a model; write its rows all at once."""
        rows = perplexity_rows(name, setting, trainer, self.evaluation)
        self.ready()
        if trainer.is_world_process_zero():
            print(f"measuring {name} ({setting})", flush=True)
            rows += self.audit(name, setting, trainer)
        self.grid.add(rows)

    def run(self, only: Sequence[str] | None = None) -> Path:
        """Measure what is not measured yet, and write the card; return the run's folder."""
        probes = [{"model": name} for name in self.probes]
        for _, model, setting, _ in self.grid.cells(lambda plan, seed: "seed=0", only, plans=probes, seeds=[0]):
            self.measure(model, setting, self.probes[model]())
        for plan, model, setting, seed in self.grid.cells(setting_of, only):
            self.measure(model, setting, self.language.student(plan, setting, seed))
        if PartialState().is_main_process:
            settings = self.language.distillation("audit", 0, {"protection": "noise"}).temperature_settings
            tokens = shown_tokens(self.shown, self.language.tokenizer, self.language.tagger, settings)
            save_tokens(tokens, self.grid.out / TOKENS_FILE)
        return self.grid.finish()


def language_experiment(config: dict[str, Any]) -> LanguageExperiment:
    """Return the experiment that stands in for the paper's: students on private text, on public text, and between."""
    grid = Grid(config, "language")
    private, public, splits = corpus.load_halves(config["data"])
    tokenizer = make_tokenizer(config["tokenizer"], public["text"])
    canaries = corpus.make_canaries(config["canaries"], grid.secret / "canaries.json")
    tagger = corpus.make_tagger(private, public, *splits.values(), canaries=[canaries])
    texts = {
        "A": canaries.insert(private.select_columns(["text"])),
        "B": public.select_columns(["text"]),
        "B+": canaries.insert_decoys(public.select_columns(["text"]), seed=0),
    }
    language = Language(config, grid.secret, tokenizer, tagger, texts)
    fresh = corpus.fresh_sentences(config["canaries"])
    evaluation = splits | {"fresh": fresh}
    evaluation = {name: language.tokenise(split, tagger) for name, split in evaluation.items()}

    def teacher() -> PrivateDistillationTrainer:
        return language.probe(language.teacher())

    def audit(name: str, setting: str, trainer: PrivateDistillationTrainer) -> list[Row]:
        report = measure_exposure(trainer.model, tokenizer, canaries, batch_size=4096, progress=False)
        print(report, flush=True)
        return exposure_rows(name, setting, report)

    shown = next(iter([*splits.values(), fresh]))["text"][:3]
    return LanguageExperiment(grid, language, evaluation, audit, {"teacher": teacher}, shown)


def settings_of(config: dict[str, Any], kind: str, folder: Path, seed: int) -> dict[str, Any]:
    """Return the settings of a training: those of all trainings of a configuration, and of its kind."""
    return training_settings(**{"output_dir": str(folder), "seed": seed, **config["training"], **config[kind]})


def evaluation_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an evaluation: what a student's training says of batches and precision."""
    fields = config["training"] | config["student_training"]
    return {"max_length": config["max_length"], **fields}


def setting_of(plan: Plan, seed: int) -> str:
    """Return the words that tell a student from others."""
    return " ".join(filter(None, [f"transfer={plan['transfer']}", plan.get("setting", ""), f"seed={seed}"]))


def folder_of(plan: Plan, setting: str) -> str:
    """Return what a student's folder is called."""
    return f"{plan['model']} {setting}".replace(" ", "-")


def perplexity_rows(
    name: str, setting: str, trainer: PrivateDistillationTrainer, evaluation: dict[str, Dataset]
) -> list[Row]:
    """Return the perplexities of a model, split by split."""
    return [
        Row(name, f"{setting} split={split}".strip(), metric.removeprefix("eval_"), value)
        for split, dataset in evaluation.items()
        for metric, value in trainer.evaluate(dataset).items()
        if "perplexity" in metric
    ]
