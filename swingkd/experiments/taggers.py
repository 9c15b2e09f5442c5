"""An experiment on taggers: one is trained and calibrated, and counted beside others what each of them finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss, log_loss
from transformers import DataCollatorForTokenClassification, Trainer, TrainingArguments, set_seed

from swingkd.data.columns import IGNORE
from swingkd.evaluate_modules import module_path
from swingkd.experiments.annotated import Annotated, make_model
from swingkd.experiments.grid import Grid, training_settings, wanted
from swingkd.experiments.launch import expand
from swingkd.experiments.models import is_trained, make_tokenizer, quiet
from swingkd.report import Row
from swingkd.surrogates import Surrogates
from swingkd.tagging import BaseTagger, is_private, label_spans


class TaggerExperiment:
    """One run: a tagger of words in context, and what it finds beside others.

    Args:
        config: the recipe's configuration.
    """

    def __init__(self, config: dict[str, Any]):
        self.config, self.grid = config, Grid(config, "taggers")
        self.data = {name: Annotated.load(spec, config["kinds"]) for name, spec in config["data"].items()}
        whole = self.joined("train")
        self.tokenizer = make_tokenizer(config["tokenizer"], whole["text"][:])
        self.names = ["O", *sorted(set(config["kinds"].values()))]

    def joined(self, split: str) -> Dataset:
        """Return one split of all data sets that have it."""
        return concatenate_datasets(list(self.having(split).values())).shuffle(seed=0)

    def training_rows(self) -> Dataset:
        """Return the training text, and `versions` of it with made-up values: a name is told by what is around it."""
        rows = self.joined("train")
        made = [Surrogates(seed=seed).map(rows) for seed in range(self.config.get("versions", 0))]
        return concatenate_datasets([rows, *(version.select_columns(rows.column_names) for version in made)])  # type: ignore[union-attr]

    def having(self, split: str) -> dict[str, Dataset]:
        """Return one split of each data set that has it."""
        return {name: data.splits[split] for name, data in self.data.items() if split in data.splits}

    def tokens(self, data: Dataset) -> Dataset:
        """Give each token the kind of the span that it touches."""

        def label(batch):
            encoded = self.tokenizer(
                batch["text"], truncation=True, max_length=self.config["max_length"], return_offsets_mapping=True
            )
            labels = []
            for spans, offsets in zip(batch["spans"], encoded.pop("offset_mapping"), strict=True):
                classes = np.zeros(len(offsets), np.int64)
                for i, (start, end) in enumerate(offsets):
                    kinds = [s["label"] for s in spans if s["start"] < end and s["end"] > start]
                    classes[i] = IGNORE if start == end else self.names.index(kinds[0]) if kinds else 0
                labels.append(classes)
            return {"input_ids": encoded["input_ids"], "labels": labels}

        return data.map(label, batched=True, remove_columns=data.column_names)

    def train(self) -> Path:
        """Train the tagger and calibrate it; both once."""
        folder = self.grid.out / "tagger"
        if is_trained(folder):
            return folder
        set_seed(0)
        trainer = Trainer(
            make_model(expand(self.config["model"]), self.tokenizer, self.names),
            TrainingArguments(
                **training_settings(**{"output_dir": str(self.grid.out / "training"), **self.config["training"]})
            ),
            DataCollatorForTokenClassification(self.tokenizer),
            train_dataset=self.tokens(self.training_rows()),
            processing_class=self.tokenizer,
        )
        quiet(trainer).train()
        rows = self.calibrate(trainer)
        if "false_flags" in self.config:
            rows += self.set_threshold(trainer, self.config["false_flags"])
        trainer.save_model(str(folder))
        # Once, however often it was trained; every process comes along here.
        self.grid.add([] if self.grid.metrics.has("pii_tagger", rows[0].setting) else rows)
        return folder

    def calibrate(self, trainer: Trainer) -> list[Row]:
        """Find the temperature that makes the likelihoods true on validation text, and put it into the last layer."""
        logits, labels, _ = trainer.predict(self.tokens(self.joined("validation")))
        labelled = labels != IGNORE
        z, private = torch.tensor(logits[labelled]).double(), labels[labelled] > 0

        def likelihood(temperature: float) -> np.ndarray:
            return 1 - (z / temperature).softmax(-1)[:, 0].numpy()

        best = minimize_scalar(lambda t: log_loss(private, likelihood(t)), bounds=(0.2, 10), method="bounded").x
        with torch.no_grad():
            for parameter in trainer.model.classifier.parameters():
                parameter.div_(best)
        return [
            Row("pii_tagger", f"table=calibration temperature={t:.3f}", metric, score(private, likelihood(t)))
            for t in (1.0, best)
            for metric, score in (("log_loss", log_loss), ("brier", brier_score_loss))
        ]

    def set_threshold(self, trainer: Trainer, false_flags: float) -> list[Row]:
        """Move the last layer's bias until no more than a share is flagged falsely at a likelihood of 1/2.

        What is missed is given away, what is flagged falsely costs a little quality: the two do not weigh the same.

        Args:
            trainer: of the calibrated model.
            false_flags: the largest share, of the tokens of all validation sets that are not private.
        """
        logits, labels, _ = trainer.predict(self.tokens(self.joined("validation")))
        public = torch.tensor(logits[labels == 0]).double()
        threshold = np.quantile(1 - public.softmax(-1)[:, 0].numpy(), 1 - false_flags)
        threshold = float(np.clip(threshold, 1e-3, 1 - 1e-3))
        with torch.no_grad():
            trainer.model.classifier.bias[0] += math.log(threshold / (1 - threshold))
        return [Row("pii_tagger", "table=threshold", "threshold", threshold)]

    def run(self, taggers: dict[str, BaseTagger], only: Sequence[str] | None = None) -> Path:
        """Measure taggers by their names, and write the card; return the run's folder."""
        for name, tagger in taggers.items():
            if wanted({"model": name}, only):
                self.measure(name, tagger)
        return self.grid.finish()

    def measure(self, name: str, tagger: BaseTagger) -> None:
        """Count the private characters that a tagger finds in the test text of each data set."""
        recall = evaluate.load(module_path("pii_character_recall"))
        for data_name, test in self.having("test").items():
            setting = f"table=taggers data={data_name}"
            if self.grid.metrics.has(name, setting):
                continue
            texts = test["text"][:]
            likelihoods = tagger.char_likelihood(texts)
            flagged = [[span[:2] for span in label_spans(is_private(values).astype(int))] for values in likelihoods]
            truth = [[[span["start"], span["end"]] for span in spans] for spans in test["spans"]]
            numbers = recall.compute(predictions=flagged, references=truth, lengths=[len(text) for text in texts])
            self.grid.add([Row(name, setting, metric, value) for metric, value in numbers.items()])
