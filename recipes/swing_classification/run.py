"""Distil a text classifier and ask which of its training records it gives away.

accelerate launch recipes/swing_classification/run.py --config recipes/swing_classification/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "swing_clm"))
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import prepare
from datasets import ClassLabel, Dataset, concatenate_datasets
from experiment import Canaries, Experiment
from launch import launch

from swingkd import CanarySet, RuleTagger, audit_membership
from swingkd.report import membership_rows
from swingkd.tagging import is_private


class SectionExperiment(Experiment):
    """Records with a label each; the canaries' labels are drawn at random."""

    def __init__(self, config: dict):
        super().__init__(config)
        self.splits = {name: by_name(data) for name, data in self.splits.items()}
        self.paragraphs = prepare.load(config["canaries"]["texts"])["text"][:]
        self.tagger = RuleTagger()

    def class_names(self) -> list[str]:
        return sorted({str(label) for label in self.splits["train"]["label"]})

    def draw_canaries(self, seed: int, rng: np.random.Generator) -> Canaries:
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
        labels = rng.choice(self.class_names(), len(drawn))
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
        return Canaries(groups, spec["repetitions"])

    def scrubbed(self, data: Dataset) -> Dataset:
        """Leave out every record in which the tagger finds something: the plain rival."""
        flagged = [is_private(values.max(initial=0)) for values in self.tagger.char_likelihood(data["text"][:])]
        return data.select(np.flatnonzero(~np.array(flagged)))

    def audit(self, name: str, setting: str, model, canaries: Canaries) -> list[dict]:
        found = []
        for kind, (rows, inside) in canaries.groups.items():
            data = Dataset.from_list(rows)
            report = audit_membership(
                model,
                self.tokenizer,
                data.select(np.flatnonzero(inside)),
                data.select(np.flatnonzero(np.logical_not(inside))),
                references=[self.reference()],
                max_length=self.config["max_length"],
                progress=False,
            )
            found += membership_rows(name, f"{setting} records={kind}", report, by_coin=True)
        return found

    def with_canaries(self, canaries: Canaries) -> Dataset:
        rows = Dataset.from_list(canaries.inserted())
        return concatenate_datasets([self.splits["train"], rows]).shuffle(seed=0)


def by_name(data: Dataset) -> Dataset:
    """Return texts with the names of their labels."""
    kind = data.features["label"]
    names = [kind.int2str(label) if isinstance(kind, ClassLabel) else str(label) for label in data["label"]]
    return Dataset.from_dict({"text": data["text"][:], "label": names})


def main(config: dict, only: list[str] | None = None) -> Path:
    experiment = SectionExperiment(config)
    experiment.run(only)
    return experiment.out


if __name__ == "__main__":
    launch(main, __doc__)
