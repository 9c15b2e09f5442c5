"""Experiments on classifiers: for each seed a teacher on private records with canaries, and students of it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer
from swingkd.audit import MembershipReport
from swingkd.experiments import corpus
from swingkd.experiments.grid import Grid, Plan, training_settings
from swingkd.experiments.launch import expand
from swingkd.experiments.models import is_trained, lock, probe, quiet
from swingkd.files import read_as, write_json
from swingkd.report import Row, ledger_rows, membership_rows
from swingkd.tagging import Tagger
from swingkd.tasks import task_of

SPECIAL = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
_SCORES = ("accuracy", "macro_f1", "f1", "precision", "recall")


@dataclass(frozen=True)
class LabelCanaries:
    """Made-up records by kind, each kind with who is in, and how many copies those have."""

    groups: dict[str, tuple[list[dict[str, Any]], list[bool]]]
    repetitions: int

    def inserted(self) -> list[dict[str, Any]]:
        """Return the records that are in, with their copies."""
        chosen = [
            row for rows, inside in self.groups.values() for row, chosen in zip(rows, inside, strict=True) if chosen
        ]
        return chosen * self.repetitions


class LabelRecords(Protocol):
    """What an experiment is about: private records with labels, canaries among them, and how they are attacked."""

    #: As the Hub names it.
    task: str
    #: `train`, `validation` and `test`.
    splits: dict[str, Dataset]
    class_names: list[str]

    def draw(self, seed: int, rng: np.random.Generator) -> LabelCanaries:
        """Draw the canaries of a seed."""
        ...

    def insert(self, canaries: LabelCanaries) -> tuple[Dataset, Tagger]:
        """Return the training rows with canaries in them, and what rates them."""
        ...

    def scrubbed(self, data: Dataset, tagger: Tagger) -> Dataset:
        """Return the rows without what is private: the plain rival."""
        ...

    def audit(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        canaries: LabelCanaries,
        tokenizer: PreTrainedTokenizerFast,
    ) -> Iterator[tuple[str, MembershipReport]]:
        """Yield each kind of canary, and which of them a model gives away."""
        ...


def make_tokenizer(spec: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Load a tokenizer by name, or train word pieces on *public* text."""
    if "name" in spec:
        return AutoTokenizer.from_pretrained(expand(spec)["name"])
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    special = list(SPECIAL.values())
    trainer = trainers.WordPieceTrainer(vocab_size=spec["vocab_size"], special_tokens=special, show_progress=False)
    pieces.train_from_iterator(corpus.load(spec["data"])["text"][:], trainer)
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, pieces.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **SPECIAL)


class Classifiers:
    """What trains the classifiers of a configuration.

    Args:
        config: the configuration.
        secret: where weights are kept.
        records: what they are about.
    """

    def __init__(self, config: dict[str, Any], secret: Path, records: LabelRecords):
        self.config, self.secret, self.records = config, secret, records
        self.auto_model = task_of("", records.task).auto_model
        folder = secret / "tokenizer"
        with PartialState().main_process_first(), lock(folder):
            # Training word pieces twice gives two vocabularies.
            if not folder.exists():
                make_tokenizer(config["tokenizer"]).save_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def new(self, kind: str) -> PreTrainedModel:
        """Load the teacher or the student by name, or build it from its sizes."""
        spec, names = self.config[kind], self.records.class_names
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        if "name" in spec:
            return self.auto_model.from_pretrained(expand(spec)["name"], **labels)
        if "pretraining" in self.config:
            return self.auto_model.from_pretrained(self._pretrained(spec), **labels)
        return self.auto_model.from_config(AutoConfig.for_model(**self._sizes(spec), **labels))

    def _sizes(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id, **spec}

    def _pretrained(self, spec: dict[str, Any]) -> Path:
        """Let a model guess masked words of public text first, once."""
        folder = self.secret / f"pretrained-{spec['model_type']}-{zlib.crc32(repr(spec).encode())}"
        with lock(folder):
            if not is_trained(folder):
                set_seed(0)
                model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**self._sizes(spec)))
                text = corpus.load(self.config["tokenizer"]["data"]).select_columns(["text"])
                fields = {"alpha": 0.0, "protection": "none", "task": "fill-mask", **self.config["pretraining"]}
                args = self.arguments(folder.name, 0, "teacher_training", fields)
                trainer = PrivateDistillationTrainer(
                    model, args, teacher_model=None, train_dataset=text, processing_class=self.tokenizer
                )
                quiet(trainer).train()
                trainer.save_model(str(folder))
                trainer.accelerator.wait_for_everyone()
        return folder

    def arguments(self, folder: str, seed: int, kind: str, fields: dict[str, Any]) -> PrivateDistillationConfig:
        """Return the settings of a training."""
        given = {"max_length": self.config["max_length"], **self.config["training"], **self.config[kind], **fields}
        return PrivateDistillationConfig(
            **training_settings(**{"output_dir": str(self.secret / folder), "seed": seed, **given})
        )

    def fit(
        self, kind: str, folder: str, seed: int, data: Dataset, fields: dict[str, Any], **others: Any
    ) -> PrivateDistillationTrainer:
        """Train the teacher or a student, and return the trainer.

        Args:
            kind: "teacher" or "student".
            folder: its name.
            seed: of weights and batches.
            data: what it learns.
            fields: settings of its own.
            **others: for the trainer: teacher, tagger.
        """
        set_seed(seed)
        args = self.arguments(folder, seed, f"{kind}_training", fields)
        trainer = PrivateDistillationTrainer(
            self.new(kind), args=args, train_dataset=data, processing_class=self.tokenizer, **others
        )
        quiet(trainer).train()
        return trainer

    def learnt(self, name: str, data: Dataset, seed: int) -> PreTrainedModel:
        """Train a model of the teacher's size on labels alone, once; its weights stay in _private/."""
        folder = self.secret / name
        with lock(folder):
            if not is_trained(folder):
                fields = {"alpha": 0.0, "protection": "none", "task": self.records.task}
                trainer = self.fit("teacher", name, seed, data, fields, teacher_model=None)
                trainer.save_model(str(folder))
                trainer.accelerator.wait_for_everyone()
        return self.auto_model.from_pretrained(folder)


class LabelExperiment:
    """One run: for each seed a teacher on private records with canaries, and students of it.

    Args:
        config: the recipe's configuration.
        records: what it is about.
    """

    def __init__(self, config: dict[str, Any], records: LabelRecords):
        self.config, self.records, self.grid = config, records, Grid(config, "labels")
        self.classifiers = Classifiers(config, self.grid.secret, records)

    def canaries(self, seed: int) -> LabelCanaries:
        """Draw the canaries of a seed once; without a seed in the configuration nobody can draw them again."""
        path, own = self.grid.secret / f"canaries-{seed}.json", self.config["canaries"].get("seed")
        with PartialState().main_process_first(), lock(path):
            if not path.exists():
                rng = np.random.default_rng(None if own is None else [own, seed])
                write_json(path, asdict(self.records.draw(seed, rng)), owner_only=True)
        return read_as(LabelCanaries, path.read_bytes(), str(path))

    def reference(self) -> PreTrainedModel:
        """Return a model that saw no canary."""
        return self.classifiers.learnt("reference", self.records.splits["train"], 100)

    def probe(self, model: PreTrainedModel) -> PrivateDistillationTrainer:
        """Return a trainer that evaluates a model as it is."""
        settings = {"task": self.records.task, "max_length": self.config["max_length"]}
        return probe(model, self.classifiers.tokenizer, self.grid.secret / "audit", **settings)

    def student(self, plan: Plan, seed: int, data: Dataset, tagger: Tagger) -> PrivateDistillationTrainer:
        """Distil one student; `plan` is one entry of `rows` in the configuration."""
        teacher = self.classifiers.learnt(f"teacher-{seed}", data, seed)
        rates: Tagger | None = None if plan.get("untagged") else tagger
        if plan.get("scrub"):
            data, rates = self.records.scrubbed(data, tagger), None
        # Students of other settings have folders, and noise keys, of their own.
        folder = f"{plan['model']} {_setting(plan, seed)}".replace(" ", "-")
        return self.classifiers.fit("student", folder, seed, data, plan["args"], teacher_model=teacher, tagger=rates)

    def measure(self, name: str, setting: str, trainer: PrivateDistillationTrainer, canaries: LabelCanaries) -> None:
        """Evaluate and audit a model; write its rows all at once."""
        rows = [
            Row(name, f"{setting} split={split}", metric.removeprefix("eval_"), value)
            for split in ("validation", "test")
            for metric, value in trainer.evaluate(self.records.splits[split]).items()
            if metric.removeprefix("eval_") in _SCORES
        ]
        # Trained by all processes of a launch together.
        reference = self.reference()
        if trainer.is_world_process_zero():
            print(f"measuring {name} ({setting})", flush=True)
            rows += ledger_rows(name, setting, trainer.ledger)
            tokenizer = self.classifiers.tokenizer
            looks = len(canaries.groups) * len(self.config["seeds"])
            for kind, report in self.records.audit(trainer.model, reference, canaries, tokenizer):
                rows += membership_rows(name, f"{setting} records={kind}", report, by_coin=True, looks=looks)
        self.grid.add(rows)

    def run(self, only: Sequence[str] | None = None) -> Path:
        """Measure what is not measured yet, and write the card; return the run's folder."""
        plans = [{"model": "teacher"}, *self.config["rows"]]
        for seed in self.config["seeds"]:
            canaries = self.canaries(seed)
            data, tagger = self.records.insert(canaries)
            for plan, name, setting, _ in self.grid.cells(_setting, only, plans=plans, seeds=[seed]):
                if name == "teacher":
                    trainer = self.probe(self.classifiers.learnt(f"teacher-{seed}", data, seed))
                else:
                    trainer = self.student(plan, seed, data, tagger)
                self.measure(name, setting, trainer, canaries)
        # Everything is compared with plain distillation.
        if any(row.model == "kd" for row in self.grid.metrics.rows):
            self.grid.finish()
        return self.grid.out


def _setting(plan: Plan, seed: int) -> str:
    return " ".join(filter(None, ["table=main", plan.get("setting", ""), f"seed={seed}"]))
