"""Worlds: the same records, each in or out by coin; in every world a teacher and its students are trained.

The target's world is audited.  The others are the shadows of an attacker who can train as the victim did.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "swing_clm"))
import prepare
from run import Experiment

from swingkd import CanarySet, EnsembleTagger, RuleTagger
from swingkd.audit import Canary


class Records:
    """Everything that the worlds share: public text, the records in question, the tokenizer and the tagger."""

    def __init__(self, config: dict):
        self.config, self.secret = config, Path(config["output_dir"]) / "_private"
        train, self.splits = prepare.load_splits(config["data"])
        asked = config["data"]["records"]
        self.dialogues, self.public = train.select(range(asked)), train.select(range(asked, len(train)))
        self.tokenizer = prepare.make_tokenizer(config["tokenizer"], self.public["text"])
        self.canaries = prepare.make_canaries(config["canaries"], self.secret / "canaries.json")
        self.published = published_canary(config["published"])
        names = name_annotation(self.canaries)
        annotated = [split for split in (train, *self.splits.values()) if "spans" in split.column_names]
        self.tagger = EnsembleTagger(prepare.AnnotatedTagger(names, *annotated), RuleTagger())

    @property
    def size(self) -> int:
        """How many records are in or out: dialogues first, then canaries."""
        return len(self.dialogues) + len(self.canaries.canaries)

    def target(self) -> np.ndarray:
        """Return which records the audited models were trained on, [size] bool."""
        coins = np.random.default_rng(self.config["data"]["coin_seed"]).random(len(self.dialogues)) < 0.5
        return np.concatenate([coins, [canary.inserted for canary in self.canaries.canaries]])

    def texts(self, inside: np.ndarray) -> Dataset:
        """Return the training text of a world: dialogues, canaries with all their copies, the published one."""
        dialogues, canaries = np.split(inside, [len(self.dialogues)])
        rows = [self.published.canaries[0].text] * self.published.canaries[0].repetitions
        for canary, chosen in zip(self.canaries.canaries, canaries, strict=True):
            rows += [canary.text] * (canary.repetitions if chosen else 0)
        own = self.dialogues.select(np.flatnonzero(dialogues)).select_columns(["text"])
        return concatenate_datasets([own, Dataset.from_dict({"text": rows})]).shuffle(seed=0)


class World(Experiment):
    """One assignment of the records, with the teacher and the students that were trained in it."""

    def __init__(self, records: Records, inside: np.ndarray, folder: str):
        self.config, self.records = records.config, records
        self.secret, self.tokenizer, self.tagger = records.secret / folder, records.tokenizer, records.tagger
        self.texts = {"A": records.texts(inside), "B": records.public.select_columns(["text"])}

    def trained(self, name: str, data) -> AutoModelForCausalLM:
        """Train once; all worlds share one public model."""
        own, shared = self.secret, self.records.secret
        self.secret = shared if name == "public" else own
        try:
            return super().trained(name, data)
        finally:
            self.secret = own

    def model(self, name: str) -> AutoModelForCausalLM:
        """Return the teacher, the public model or a student; whatever is missing is trained first."""
        if name in ("teacher", "public"):
            return self.trained(name, self.texts["A" if name == "teacher" else "B"])
        folder = self.secret / name
        if not prepare.is_trained(folder):
            plan = next(plan for plan in self.config["rows"] if plan["model"] == name)
            trainer = self.train_student(plan, f"transfer={plan['transfer']} seed=0", 0)
            trainer.save_model(folder)
            trainer.accelerator.wait_for_everyone()
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def published_canary(spec: dict) -> CanarySet:
    """Return the data set's own canary as a set of one."""
    prefix, suffix = spec["template"].split("{secret}")
    secret, slots = str(spec["secret"]), (tuple("0123456789"),) * len(str(spec["secret"]))
    canary = Canary(0, "digits", prefix, secret, suffix, spec["repetitions"], True)
    return CanarySet(spec["template"], "digits", slots, (canary,))


def name_annotation(canaries: CanarySet) -> Dataset:
    """Annotate the names in the canaries' sentences, as the data's own annotation does in dialogues."""
    before = canaries.template.partition("{secret}")[0]
    start, after = before.index("{name}"), len(before.partition("{name}")[2])
    rows = [
        {"text": c.text, "spans": [{"start": start, "end": len(c.prefix) - after, "label": "NAME"}]}
        for c in canaries.canaries
    ]
    return Dataset.from_list(rows)


def train_world(records: Records, inside: np.ndarray, folder: str, names: list[str]) -> World:
    """Train all that is asked for in one world."""
    world = World(records, inside, folder)
    for name in names:
        world.model(name)
    if PartialState().is_main_process:
        print(f"{folder}: {', '.join(names)} trained", flush=True)
    return world
