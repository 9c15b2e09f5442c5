"""Distil a text classifier and ask which of its training records it gives away.

accelerate launch recipes/swing_classification/run.py --config recipes/swing_classification/config.yaml
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, concatenate_datasets

from swingkd import CanarySet, RuleTagger, audit_membership
from swingkd.audit import MembershipReport
from swingkd.experiments import corpus
from swingkd.experiments.labels import LabelCanaries, LabelExperiment
from swingkd.experiments.launch import launch
from swingkd.tagging import is_private


class Sections:
    """Records with a label each; the canaries' labels are drawn at random."""

    task = "text-classification"

    def __init__(self, config: dict):
        self.config = config
        self.splits = {name: by_name(corpus.load(spec)) for name, spec in config["data"].items()}
        self.class_names = sorted({str(label) for label in self.splits["train"]["label"]})
        self.paragraphs = corpus.load(config["canaries"]["texts"])["text"][:]

    def draw(self, seed: int, rng: np.random.Generator) -> LabelCanaries:
        """Draw records, half of them in by coin: with the head of a private record before their text, or without.

        What no tagger can find is shown beside what it finds.
        """
        spec = self.config["canaries"]
        drawn = CanarySet.generate(
            spec["head"],
            length=6,
            count=spec["marked"] + spec["unmarked"],
            repetitions=(spec["repetitions"],),
            controls=0,
            assign="coin",
            seed=int(rng.integers(2**63)),
        ).canaries
        labels = rng.choice(self.class_names, len(drawn))
        kinds = {"marked": slice(0, spec["marked"]), "unmarked": slice(spec["marked"], len(drawn))}
        # Each seed has paragraphs of its own as far as they go.
        texts = np.roll(np.array(self.paragraphs, object), -seed * len(drawn))
        groups = {}
        for kind, part in kinds.items():
            rows = [
                {"text": f"{canary.text} {text}" if kind == "marked" else str(text), "label": str(label)}
                for canary, text, label in zip(drawn[part], texts[part], labels[part], strict=False)
            ]
            groups[kind] = (rows, [canary.inserted for canary in drawn[part]])
        return LabelCanaries(groups, spec["repetitions"])

    def insert(self, canaries: LabelCanaries) -> tuple[Dataset, RuleTagger]:
        """Return the training rows with canaries in them, and the rules."""
        rows = Dataset.from_list(canaries.inserted())
        return concatenate_datasets([self.splits["train"], rows]).shuffle(seed=0), RuleTagger()

    def scrubbed(self, data: Dataset, tagger: RuleTagger) -> Dataset:
        """Leave out every record in which the tagger finds something: the plain rival."""
        flagged = [is_private(values.max(initial=0)) for values in tagger.char_likelihood(data["text"][:])]
        return data.select(np.flatnonzero(~np.array(flagged)))

    def audit(self, model, reference, canaries: LabelCanaries, tokenizer) -> Iterator[tuple[str, MembershipReport]]:
        """Ask a model for the labels of each kind of canary."""
        for kind, (rows, inside) in canaries.groups.items():
            data, chosen = Dataset.from_list(rows), np.array(inside)
            own, others = data.select(np.flatnonzero(chosen)), data.select(np.flatnonzero(~chosen))
            options = {"references": [reference], "max_length": self.config["max_length"], "progress": False}
            yield kind, audit_membership(model, tokenizer, own, others, **options)


def by_name(data: Dataset) -> Dataset:
    """Return texts with the names of their labels."""
    kind = data.features["label"]
    names = [kind.int2str(label) if isinstance(kind, ClassLabel) else str(label) for label in data["label"]]
    return Dataset.from_dict({"text": data["text"][:], "label": names})


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return LabelExperiment(config, Sections(config)).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
