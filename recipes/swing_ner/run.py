"""Distil a tagger of words (NER), whose labels are the private values, and ask which of them it gives away.

accelerate launch recipes/swing_ner/run.py --config recipes/swing_ner/config.yaml
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from swingkd.audit import MembershipReport
from swingkd.audit.membership import judge_scores
from swingkd.experiments import corpus
from swingkd.experiments.annotated import tagged_spans, word_scores, words_and_tags
from swingkd.experiments.labels import LabelCanaries, LabelExperiment
from swingkd.experiments.launch import launch

SYLLABLES = (
    "ba be bi bo bra cor da del dra fen ga gor hul ja kel kra lo lum ma mer na nov or pel qui ra rin sol tas tor ul "
    "vek wil xan yor zam"
).split()


class Words:
    """Words with a tag each; the canaries are made-up names whose tags are drawn at random."""

    task = "token-classification"

    def __init__(self, config: dict):
        self.config, limits = config, config.get("limit", {})
        loaded = {name: corpus.load(spec) for name, spec in config["data"].items()}
        self.splits = {
            name: data.select(range(min(limits.get(name, len(data)), len(data)))).map(
                words_and_tags, remove_columns=data.column_names
            )
            for name, data in loaded.items()
        }
        self.class_names = ["O", *sorted({tag for row in self.splits["train"]["ner_tags"] for tag in row} - {"O"})]

    def draw(self, seed: int, rng: np.random.Generator) -> LabelCanaries:
        """Draw sentences with a name that nobody has, tagged at random; half of them in by coin."""
        spec = self.config["canaries"]
        begins = [tag for tag in self.class_names if tag.startswith("B-")]
        names, rows = set(), []
        while len(names) < spec["count"]:
            names.add("".join(rng.choice(SYLLABLES, 3)).title())
        for name in sorted(names):
            tokens = spec["sentence"].format(name=name).split()
            tag = str(rng.choice(begins))
            rows.append({"tokens": tokens, "ner_tags": [tag if name in word else "O" for word in tokens]})
        return LabelCanaries({"names": (rows, (rng.random(len(rows)) < 0.5).tolist())}, spec["repetitions"])

    def insert(self, canaries: LabelCanaries) -> tuple[Dataset, corpus.AnnotatedTagger]:
        """Return the training rows with canaries in them, and their labels as annotation: what has one is private."""
        data = concatenate_datasets([self.splits["train"], Dataset.from_list(canaries.inserted())]).shuffle(seed=0)
        spans = [{"text": " ".join(row["tokens"]), "spans": list(tagged_spans(row))} for row in data]
        return data, corpus.AnnotatedTagger(Dataset.from_list(spans))

    def scrubbed(self, data: Dataset, tagger: corpus.AnnotatedTagger) -> Dataset:
        """Refuse: without the private words nothing would be left to tag."""
        raise ValueError("scrub leaves a tagger of words nothing to learn: its labels are what is private.")

    def audit(self, model, reference, canaries: LabelCanaries, tokenizer) -> Iterator[tuple[str, MembershipReport]]:
        """Ask each model for the tag of each made-up name."""
        for kind, (rows, inside) in canaries.groups.items():
            order = np.argsort(np.logical_not(inside), kind="stable")  # members first
            own, other = (word_scores(each, tokenizer, [rows[i] for i in order]) for each in (model, reference))
            yield kind, judge_scores(own, sum(inside), references=[other])


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return LabelExperiment(config, Words(config)).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
