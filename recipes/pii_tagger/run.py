"""Train a tagger of private text, calibrate it, and compare it with the rules and with Presidio.

accelerate launch recipes/pii_tagger/run.py --config recipes/pii_tagger/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "swing_clm"))
sys.path.insert(0, str(Path(__file__).parent))
import evaluate
import numpy as np
import prepare
import torch
from annotated import Annotated, make_model
from datasets import Dataset, concatenate_datasets
from launch import launch
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss, log_loss
from transformers import DataCollatorForTokenClassification, Trainer, TrainingArguments, set_seed

from swingkd import EnsembleTagger, PresidioTagger, RuleTagger, TokenClassificationTagger
from swingkd.evaluate_modules import module_path
from swingkd.report import MetricsFile, Row, write_card
from swingkd.tagging import BaseTagger, is_private, label_spans

IGNORE = -100


class TaggerExperiment:
    """One run: a tagger of words in context, and what it finds beside others."""

    def __init__(self, config: dict):
        self.config, self.out = config, Path(config["output_dir"])
        self.metrics = MetricsFile(self.out / "metrics.json", config["run"], config)
        self.data = {name: Annotated.load(spec, config["kinds"]) for name, spec in config["data"].items()}
        whole = self.joined("train")
        self.tokenizer = prepare.make_tokenizer(config["tokenizer"], whole["text"][:])
        self.names = ["O", *sorted(set(config["kinds"].values()))]

    def joined(self, split: str) -> Dataset:
        return concatenate_datasets([data.splits[split] for data in self.data.values()]).shuffle(seed=0)

    def tokens(self, data: Dataset) -> Dataset:
        """Give each token the kind of the span that it touches."""

        def label(batch):
            encoded = self.tokenizer(
                batch["text"], truncation=True, max_length=self.config["max_length"], return_offsets_mapping=True
            )
            labels = []
            for spans, offsets in zip(batch["spans"], encoded.pop("offset_mapping"), strict=True):
                found = np.zeros(len(offsets), np.int64)
                for i, (start, end) in enumerate(offsets):
                    kinds = [s["label"] for s in spans if s["start"] < end and s["end"] > start]
                    found[i] = IGNORE if start == end else self.names.index(kinds[0]) if kinds else 0
                labels.append(found)
            return {"input_ids": encoded["input_ids"], "labels": labels}

        return data.map(label, batched=True, remove_columns=data.column_names)

    def train(self) -> Path:
        """Train the tagger and calibrate it; both once."""
        folder = self.out / "tagger"
        if prepare.is_trained(folder):
            return folder
        set_seed(0)
        trainer = Trainer(
            make_model(prepare.expand(self.config["model"]), self.tokenizer, self.names),
            TrainingArguments(
                str(self.out / "training"),
                report_to=[],
                save_strategy="no",
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=not sys.stderr.isatty(),
                **self.config["training"],
            ),
            DataCollatorForTokenClassification(self.tokenizer),
            train_dataset=self.tokens(self.joined("train")),
            processing_class=self.tokenizer,
        )
        prepare.quiet(trainer).train()
        rows = self.calibrate(trainer)
        trainer.save_model(str(folder))
        if not self.metrics.has("pii_tagger", rows[0]["setting"]):
            self.metrics.add(rows)
        return folder

    def calibrate(self, trainer: Trainer) -> list[dict]:
        """Find the temperature that makes the likelihoods true on validation text, and put it into the last layer."""
        logits, labels, _ = trainer.predict(self.tokens(self.joined("validation")))
        asked = labels != IGNORE
        z, private = torch.tensor(logits[asked]).double(), labels[asked] > 0

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

    def measure(self, name: str, tagger: BaseTagger) -> None:
        """Count the private characters that a tagger finds in the test text of each data set."""
        recall = evaluate.load(module_path("pii_character_recall"))
        for data_name, data in self.data.items():
            setting = f"table=taggers data={data_name}"
            if self.metrics.has(name, setting):
                continue
            test = data.splits["test"]
            likelihoods = tagger.char_likelihood(test["text"][:])
            found = [[span[:2] for span in label_spans(is_private(values).astype(int))] for values in likelihoods]
            truth = [[[span["start"], span["end"]] for span in spans] for spans in test["spans"]]
            numbers = recall.compute(predictions=found, references=truth)
            self.metrics.add([Row(name, setting, metric, value) for metric, value in numbers.items()])


def main(config: dict, only: list[str] | None = None) -> Path:
    experiment = TaggerExperiment(config)
    trained = TokenClassificationTagger(str(experiment.train()))
    taggers = {
        "rules": RuleTagger(),
        "presidio": PresidioTagger(),
        "pii_tagger": trained,
        "rules_and_pii_tagger": EnsembleTagger(RuleTagger(), trained),
    }
    for name, tagger in taggers.items():
        if not only or name in only:
            experiment.measure(name, tagger)
    write_card(experiment.metrics.path, experiment.out)
    return experiment.out


if __name__ == "__main__":
    launch(main, __doc__)
