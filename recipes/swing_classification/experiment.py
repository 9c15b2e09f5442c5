"""What the experiments on classifiers share: data, models, a teacher a seed, students, and their rows."""

from __future__ import annotations

import json
import sys
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast, set_seed

sys.path.insert(0, str(Path(__file__).parents[1] / "swing_clm"))
import prepare

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer
from swingkd.files import write_json
from swingkd.report import MetricsFile, Row, ledger_rows, write_card
from swingkd.tasks import task_of

SPECIAL = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True)
class Canaries:
    """Made-up records by kind, each kind with who is in, and how many copies those have."""

    groups: dict[str, tuple[list[dict], list[bool]]]
    repetitions: int

    def inserted(self) -> list[dict]:
        """Return the records that are in, with their copies."""
        chosen = [
            row for rows, inside in self.groups.values() for row, chosen in zip(rows, inside, strict=True) if chosen
        ]
        return chosen * self.repetitions


def lock(folder: Path) -> FileLock:
    """Let several processes that share the work train a model once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock")


def make_tokenizer(spec: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Load a tokenizer by name, or train word pieces on *public* text."""
    if "name" in spec:
        return AutoTokenizer.from_pretrained(prepare.expand(spec)["name"])
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    special = list(SPECIAL.values())
    trainer = trainers.WordPieceTrainer(vocab_size=spec["vocab_size"], special_tokens=special, show_progress=False)
    pieces.train_from_iterator(prepare.load(spec["data"])["text"][:], trainer)
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, pieces.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **SPECIAL)


class Experiment:
    """One run: for each seed a teacher on private records with canaries, and students of it."""

    task = "text-classification"

    def __init__(self, config: dict):
        self.config, self.out = config, Path(config["output_dir"])
        self.secret = self.out / "_private"
        self.metrics = MetricsFile(self.out / "metrics.json", config["run"], prepare.without_secrets(config))
        self.splits = {name: prepare.load(spec) for name, spec in config["data"].items()}
        folder = self.secret / "tokenizer"
        with lock(folder):
            # Training word pieces twice gives two vocabularies.
            if not folder.exists():
                make_tokenizer(config["tokenizer"]).save_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    # --- what an experiment says for itself ------------------------------------------------------------------------

    def class_names(self) -> list[str]:
        raise NotImplementedError

    def draw_canaries(self, seed: int, rng: np.random.Generator) -> Canaries:
        raise NotImplementedError

    def with_canaries(self, canaries: Canaries) -> Dataset:
        raise NotImplementedError

    def audit(self, name: str, setting: str, model, canaries: Canaries) -> list[dict]:
        raise NotImplementedError

    def make_canaries(self, seed: int) -> Canaries:
        """Draw the canaries of a seed once; without a seed in the configuration nobody can draw them again."""
        path, own = self.secret / f"canaries-{seed}.json", self.config["canaries"].get("seed")
        with lock(path):
            if not path.exists():
                rng = np.random.default_rng(None if own is None else [own, seed])
                write_json(path, asdict(self.draw_canaries(seed, rng)), owner_only=True)
        return Canaries(**json.loads(path.read_text()))

    # --- models ----------------------------------------------------------------------------------------------------

    def make_model(self, spec: dict[str, Any]):
        """Load a model by name, or build one from its sizes."""
        names = self.class_names()
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        auto = task_of("", self.task).auto_model
        if "name" in spec:
            return auto.from_pretrained(prepare.expand(spec)["name"], **labels)
        if "pretraining" in self.config:
            return auto.from_pretrained(self.pretrained(spec), **labels)
        return auto.from_config(AutoConfig.for_model(**self.sizes(spec), **labels))

    def sizes(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id, **spec}

    def pretrained(self, spec: dict[str, Any]) -> Path:
        """Let a model guess masked words of public text first, once."""
        folder = self.secret / f"pretrained-{spec['model_type']}-{zlib.crc32(repr(spec).encode())}"
        with lock(folder):
            if not prepare.is_trained(folder):
                set_seed(0)
                model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**self.sizes(spec)))
                text = prepare.load(self.config["tokenizer"]["data"]).select_columns(["text"])
                fields = {"alpha": 0.0, "protection": "none", "task": "fill-mask", **self.config["pretraining"]}
                args = self.arguments(folder.name, 0, "teacher_training", fields)
                trainer = PrivateDistillationTrainer(
                    model, None, args, train_dataset=text, processing_class=self.tokenizer
                )
                prepare.quiet(trainer).train()
                trainer.save_model(str(folder))
        return folder

    def arguments(self, folder: str, seed: int, kind: str, fields: dict) -> PrivateDistillationConfig:
        return PrivateDistillationConfig(
            output_dir=str(self.secret / folder),
            **{
                "seed": seed,
                "report_to": [],
                "save_strategy": "no",
                "use_cpu": not torch.cuda.is_available(),
                "disable_tqdm": not sys.stderr.isatty(),
                "max_length": self.config["max_length"],
                **self.config["training"],
                **self.config[kind],
                **fields,
            },
        )

    def train(self, folder: str, seed: int, student: dict, teacher, data: Dataset, tagger, fields: dict):
        set_seed(seed)
        kind = "student_training" if teacher is not None else "teacher_training"
        trainer = PrivateDistillationTrainer(
            self.make_model(student),
            teacher,
            self.arguments(folder, seed, kind, fields),
            train_dataset=data,
            processing_class=self.tokenizer,
            tagger=tagger,
        )
        prepare.quiet(trainer).train()
        return trainer

    def learnt(self, name: str, data: Dataset, seed: int):
        """Train a model on labels alone, once; its weights stay in _private/."""
        folder = self.secret / name
        with lock(folder):
            if not prepare.is_trained(folder):
                fields = {"alpha": 0.0, "protection": "none", "task": self.task}
                self.train(name, seed, self.config["teacher"], None, data, None, fields).save_model(str(folder))
        return task_of("", self.task).auto_model.from_pretrained(folder)

    def reference(self):
        """Return a model that saw no canary."""
        return self.learnt("reference", self.splits["train"], 100)

    # --- rows ------------------------------------------------------------------------------------------------------

    def measure(self, name: str, setting: str, trainer: PrivateDistillationTrainer, canaries: Canaries) -> None:
        """Evaluate and audit a model; write its rows all at once."""
        rows = [
            Row(name, f"{setting} split={split}", metric.removeprefix("eval_"), value)
            for split in ("validation", "test")
            for metric, value in trainer.evaluate(self.splits[split]).items()
            if metric.removeprefix("eval_") in ("accuracy", "macro_f1", "f1", "precision", "recall")
        ]
        if trainer.is_world_process_zero():
            print(f"measuring {name} ({setting})", flush=True)
            rows += ledger_rows(name, setting, trainer.ledger) + self.audit(name, setting, trainer.model, canaries)
            self.metrics.add(rows)
        trainer.accelerator.wait_for_everyone()

    def student(self, plan: dict, seed: int, data: Dataset):
        teacher = self.learnt(f"teacher-{seed}", data, seed)
        tagger = None if plan.get("untagged") else self.tagger
        if plan.get("scrub"):
            data, tagger = self.scrubbed(data), None
        return self.train(f"{plan['model']}-{seed}", seed, self.config["student"], teacher, data, tagger, plan["args"])

    def run(self, only: list[str] | None) -> None:
        for seed in self.config["seeds"]:
            canaries = self.make_canaries(seed)
            data = self.with_canaries(canaries)
            for plan in [{"model": "teacher"}, *self.config["rows"]]:
                words = filter(None, ["table=main", plan.get("setting", ""), f"seed={seed}"])
                name, setting = plan["model"], " ".join(words)
                if (only and name not in only) or self.metrics.has(name, setting):
                    continue
                if name == "teacher":
                    teacher = self.learnt(f"teacher-{seed}", data, seed)
                    args = PrivateDistillationConfig(
                        str(self.secret / "audit"),
                        alpha=0.0,
                        protection="none",
                        task=self.task,
                        report_to=[],
                        max_length=self.config["max_length"],
                        use_cpu=not torch.cuda.is_available(),
                        disable_tqdm=True,
                    )
                    trainer = PrivateDistillationTrainer(teacher, None, args, processing_class=self.tokenizer)
                else:
                    trainer = self.student(plan, seed, data)
                self.measure(name, setting, trainer, canaries)
        # Everything is compared with plain distillation.
        if PartialState().is_main_process and any(row["model"] == "kd" for row in self.metrics.rows):
            write_card(self.metrics.path, self.out)
