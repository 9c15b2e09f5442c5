"""An experiment on taggers: one is trained and calibrated, and counted beside others what each of them finds."""

from __future__ import annotations

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
        """Return one split of all data sets."""
        return concatenate_datasets([data.splits[split] for data in self.data.values()]).shuffle(seed=0)

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
            train_dataset=self.tokens(self.joined("train")),
            processing_class=self.tokenizer,
        )
        quiet(trainer).train()
        rows = self.calibrate(trainer)
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

    def run(self, taggers: dict[str, BaseTagger], only: Sequence[str] | None = None) -> Path:
        """Measure taggers by their names, and write the card; return the run's folder."""
        for name, tagger in taggers.items():
            if wanted({"model": name}, only):
                self.measure(name, tagger)
        return self.grid.finish()

    def measure(self, name: str, tagger: BaseTagger) -> None:
        """Count the private characters that a tagger finds in the test text of each data set."""
        recall = evaluate.load(module_path("pii_character_recall"))
        for data_name, data in self.data.items():
            setting = f"table=taggers data={data_name}"
            if self.grid.metrics.has(name, setting):
                continue
            test = data.splits["test"]
            likelihoods = tagger.char_likelihood(test["text"][:])
            flagged = [[span[:2] for span in label_spans(is_private(values).astype(int))] for values in likelihoods]
            truth = [[[span["start"], span["end"]] for span in spans] for spans in test["spans"]]
            numbers = recall.compute(predictions=flagged, references=truth)
            self.grid.add([Row(name, setting, metric, value) for metric, value in numbers.items()])
