"""Distil a tagger of words (NER), whose labels are the private values, and ask which of them it gives away.

accelerate launch recipes/swing_ner/run.py --config recipes/swing_ner/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "swing_clm"))
sys.path.insert(0, str(Path(__file__).parents[1] / "swing_classification"))
import numpy as np
import prepare
import torch
from datasets import Dataset, concatenate_datasets
from experiment import Canaries, Experiment
from launch import launch

from swingkd.audit.membership import judge_scores
from swingkd.audit.scores import score_logits
from swingkd.report import membership_rows
from swingkd.tasks.labels import first_tokens

SYLLABLES = (
    "ba be bi bo bra cor da del dra fen ga gor hul ja kel kra lo lum ma mer na nov or pel qui ra rin sol tas tor ul "
    "vek wil xan yor zam"
).split()


def words_and_tags(row: dict) -> dict:
    """Cut a text at its blanks; say of each word which span it begins (B-) or goes on with (I-)."""
    words, tags, at = row["text"].split(), [], 0
    for word in words:
        start = row["text"].index(word, at)
        at = start + len(word)
        span = next((s for s in row["spans"] if s["start"] < at and s["end"] > start), None)
        tags.append("O" if span is None else f"{'B' if start <= span['start'] else 'I'}-{span['label']}")
    return {"tokens": words, "ner_tags": tags}


class WordExperiment(Experiment):
    """Words with a tag each; the canaries are made-up names whose tags are drawn at random."""

    task = "token-classification"

    def __init__(self, config: dict):
        super().__init__(config)
        self.splits = {
            name: data.select(range(min(config.get("limit", {}).get(name, len(data)), len(data)))).map(
                words_and_tags, remove_columns=data.column_names
            )
            for name, data in self.splits.items()
        }

    def class_names(self) -> list[str]:
        return ["O", *sorted({tag for row in self.splits["train"]["ner_tags"] for tag in row} - {"O"})]

    def draw_canaries(self, seed: int, rng: np.random.Generator) -> Canaries:
        """Draw sentences with a name that nobody has, tagged at random; half of them in by coin."""
        spec = self.config["canaries"]
        begins = [tag for tag in self.class_names() if tag.startswith("B-")]
        names, rows = set(), []
        while len(names) < spec["count"]:
            names.add("".join(rng.choice(SYLLABLES, 3)).title())
        for name in sorted(names):
            tokens = spec["sentence"].format(name=name).split()
            tag = str(rng.choice(begins))
            rows.append({"tokens": tokens, "ner_tags": [tag if name in word else "O" for word in tokens]})
        return Canaries({"names": (rows, (rng.random(len(rows)) < 0.5).tolist())}, spec["repetitions"])

    def with_canaries(self, canaries: Canaries) -> Dataset:
        data = concatenate_datasets([self.splits["train"], Dataset.from_list(canaries.inserted())]).shuffle(seed=0)
        # The labels are the annotation: what has one is private.
        spans = [{"text": " ".join(row["tokens"]), "spans": list(tagged(row))} for row in data]
        self.tagger = prepare.AnnotatedTagger(Dataset.from_list(spans))
        return data

    def audit(self, name: str, setting: str, model, canaries: Canaries) -> list[dict]:
        """Ask each model for the tag of each made-up name."""
        found = []
        for kind, (rows, inside) in canaries.groups.items():
            order = np.argsort(np.logical_not(inside), kind="stable")  # members first
            own, reference = (self.scores(asked, [rows[i] for i in order]) for asked in (model, self.reference()))
            report = judge_scores(own, sum(inside), references=[reference])
            found += membership_rows(name, f"{setting} records={kind}", report, by_coin=True)
        return found

    def scores(self, model, rows: list[dict]):
        model.eval()
        logits, labels = [], []
        with torch.no_grad():
            for row in rows:
                place = next(i for i, tag in enumerate(row["ner_tags"]) if tag != "O")
                encoded = self.tokenizer(" ".join(row["tokens"]), return_tensors="pt", return_offsets_mapping=True)
                first = first_tokens(row["tokens"], encoded["offset_mapping"][0].numpy())[place]
                inputs = {key: encoded[key].to(model.device) for key in ("input_ids", "attention_mask")}
                logits.append(model(**inputs).logits[0, first].float().cpu())
                labels.append(model.config.label2id[row["ner_tags"][place]])
        return score_logits(torch.stack(logits), torch.tensor(labels))


def tagged(row: dict):
    """Yield the tagged words of a row as spans."""
    at = 0
    for word, tag in zip(row["tokens"], row["ner_tags"], strict=True):
        if tag != "O":
            yield {"start": at, "end": at + len(word), "label": tag[2:]}
        at += len(word) + 1


def main(config: dict, only: list[str] | None = None) -> Path:
    experiment = WordExperiment(config)
    experiment.run(only)
    return experiment.out


if __name__ == "__main__":
    launch(main, __doc__)
