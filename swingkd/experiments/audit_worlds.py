"""Worlds: the same records, each in or out by coin; in every world a teacher and its students are trained.

The target's world is audited.  The others are the shadows of an attacker who can train as the victim did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import AutoModelForCausalLM, PreTrainedModel

from swingkd import CanarySet, EnsembleTagger, RuleTagger, audit_extraction, audit_membership, measure_exposure
from swingkd.audit import Canary, audit_canary_membership, canary_records
from swingkd.audit.shadows import shadow_halves
from swingkd.experiments import corpus
from swingkd.experiments.grid import Grid
from swingkd.experiments.language import Language, perplexity_rows
from swingkd.experiments.models import is_trained, make_tokenizer
from swingkd.report import Row, exposure_rows, extraction_rows, membership_rows

# Kinds of records that are looked at together: the canaries' secrets, their sentences, dialogues.
_KINDS = 3


class Records:
    """Everything that the worlds share: public text, the records in question, the tokenizer and the tagger.

    Args:
        config: the recipe's configuration.
        secret: where canaries and weights are kept.
    """

    def __init__(self, config: dict[str, Any], secret: Path):
        self.config, self.secret = config, secret
        train, self.splits = corpus.load_splits(config["data"])
        count = config["data"]["records"]
        self.dialogues, self.public = train.select(range(count)), train.select(range(count, len(train)))
        self.tokenizer = make_tokenizer(config["tokenizer"], self.public["text"])
        self.canaries = corpus.make_canaries(config["canaries"], secret / "canaries.json")
        self.published = published_canary(config["published"])
        names = corpus.name_annotation(self.canaries)
        annotated = [split for split in (train, *self.splits.values()) if "spans" in split.column_names]
        self.tagger = EnsembleTagger(corpus.AnnotatedTagger(names, *annotated), RuleTagger())

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


class World:
    """One assignment of the records, with the teacher and the students that were trained in it.

    Args:
        records: of all worlds.
        inside: which of them are in, [size] bool.
        folder: its name; all worlds share one public model.
    """

    def __init__(self, records: Records, inside: np.ndarray, folder: str):
        texts = {"A": records.texts(inside), "B": records.public.select_columns(["text"])}
        self.language = Language(
            records.config, records.secret / folder, records.tokenizer, records.tagger, texts, records.secret
        )

    def model(self, name: str) -> PreTrainedModel:
        """Return the teacher, the public model or a student; whatever is missing is trained first."""
        language = self.language
        if name in ("teacher", "public"):
            return language.teacher(name)
        folder = language.secret / name
        if not is_trained(folder):
            plan = next(plan for plan in language.config["rows"] if plan["model"] == name)
            trainer = language.student(plan, f"transfer={plan['transfer']} seed=0", 0)
            trainer.save_model(str(folder))
            trainer.accelerator.wait_for_everyone()
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


class AuditExperiment:
    """Every attack on the models of the target's world, with the other worlds' models as shadows.

    Args:
        config: the recipe's configuration.
    """

    def __init__(self, config: dict[str, Any]):
        self.config, self.grid = config, Grid(config, "audit")
        self.records = Records(config, self.grid.secret)
        self.target_mask = self.records.target()
        self.target = World(self.records, self.target_mask, "target")
        self.halves = shadow_halves(config["shadows"], self.records.size)
        self.shadows = [World(self.records, half, f"shadow-{i}") for i, half in enumerate(self.halves)]
        dialogues = len(self.records.dialogues)
        self.inside = np.flatnonzero(self.target_mask[:dialogues])
        self.outside = np.flatnonzero(~self.target_mask[:dialogues])
        self.canaries_in = dialogues + np.flatnonzero(self.target_mask[dialogues:])
        self.canaries_out = dialogues + np.flatnonzero(~self.target_mask[dialogues:])

    def shadow_models(self, name: str, *order: np.ndarray) -> Iterator[tuple[PreTrainedModel, np.ndarray]]:
        """Yield the other worlds' models of this name, with what they saw of the records in this order."""
        for world, half in zip(self.shadows, self.halves, strict=True):
            yield world.model(name), half[np.concatenate(order)]

    def utility(self, name: str, model: PreTrainedModel) -> list[Row]:
        """Measure perplexity on text that no model saw."""
        language, records = self.target.language, self.records
        test = {"test": language.tokenise(records.splits["test"], records.tagger)}
        return perplexity_rows(name, "", language.probe(model), test)

    def membership(self, name: str, model: PreTrainedModel) -> list[Row]:
        """Attack the canaries' secrets, their whole sentences, and ordinary dialogues."""
        records, rows = self.records, []
        references = [self.target.model("public")]
        level = records.canaries.coin_levels[0]
        for part in ("secrets", "records"):
            shadows = self.shadow_models(name, self.canaries_in, self.canaries_out)
            report = audit_canary_membership(
                model, records.tokenizer, records.canaries, level, part, references=references, shadows=shadows
            )
            rows += membership_rows(name, f"records=canary_{part}", report, by_coin=True, looks=_KINDS)
        dialogues = records.dialogues.select_columns(["text"])
        report = audit_membership(
            model,
            records.tokenizer,
            dialogues.select(self.inside),
            dialogues.select(self.outside),
            references=references,
            shadows=self.shadow_models(name, self.inside, self.outside),
        )
        return rows + membership_rows(name, "records=dialogues", report, looks=_KINDS)

    def exposure(self, name: str, model: PreTrainedModel) -> list[Row]:
        """Measure the exposure of the first canaries, in and out, and of the published one."""
        records = self.records
        some = records.canaries.head(self.config["exposure_canaries"])
        rows = exposure_rows(name, "canaries=ours", measure_exposure(model, records.tokenizer, some, batch_size=4096))
        report = measure_exposure(model, records.tokenizer, records.published, batch_size=4096)
        return rows + exposure_rows(name, "canaries=published", report)

    def extraction(self, name: str, model: PreTrainedModel) -> list[Row]:
        """Continue texts, and reconstruct and infer private values."""
        records, settings = self.records, self.config["extraction"]
        own, other = (records.dialogues.select(i[: settings["texts"]]) for i in (self.inside, self.outside))
        common = {key: settings[key] for key in ("limit", "prefix_tokens", "suffix_tokens")}
        report = audit_extraction(
            model,
            records.tokenizer,
            own,
            unseen=other,
            attacks=("continuation", "reconstruction", "inference"),
            **common,
        )
        rows = extraction_rows(name, "text=dialogues", report)
        inside, outside = canary_records(records.canaries, records.canaries.coin_levels[0], "secrets")
        report = audit_extraction(
            model, records.tokenizer, inside, unseen=outside, attacks=("continuation",), **common
        )
        return rows + extraction_rows(name, "text=canaries", report)

    def values(self, name: str, model: PreTrainedModel) -> list[Row]:
        """Look for private values in what the model says unasked; the published canary must come up by itself."""
        records, samples = self.records, self.config["extraction"]["samples"]
        report = audit_extraction(
            model,
            records.tokenizer,
            self.target.language.texts["A"],
            attacks=("values",),
            samples=samples,
            unseen=records.texts(~self.target_mask),
        )
        assert report.values is not None  # asked for
        rows = extraction_rows(name, "text=training", report)
        # Its place among all that was found, the most sampled first: nobody told the attack what to look for.
        extracted = [value.value for value in report.values.found]
        secret = records.published.canaries[0].secret
        times = next((value.samples for value in report.values.found if value.value == secret), 0)
        rows.append(Row(name, "canaries=published", "times_said", times, n=samples))
        if secret in extracted:
            rows.append(Row(name, "canaries=published", "place_found", extracted.index(secret) + 1, n=len(extracted)))
        return rows

    def run(self, only: Sequence[str] | None = None) -> Path:
        """Attack what is not attacked yet, and write the card; return the run's folder."""
        plans = [{"model": "teacher"}, *self.config["rows"]]
        for _, name, setting, _ in self.grid.cells(lambda plan, seed: "audit=all", only, plans=plans, seeds=[0]):
            model = self.target.model(name)
            rows = [Row(name, setting, "parameters", model.num_parameters())]
            for part in (self.utility, self.exposure, self.membership, self.extraction, self.values):
                rows += part(name, model)
            self.grid.add(rows)
        return self.grid.finish()


def published_canary(spec: dict[str, Any]) -> CanarySet:
    """Return the data set's own canary as a set of one."""
    prefix, suffix = spec["template"].split("{secret}")
    secret, slots = str(spec["secret"]), (tuple("0123456789"),) * len(str(spec["secret"]))
    canary = Canary(0, "digits", prefix, secret, suffix, spec["repetitions"], True)
    return CanarySet(spec["template"], "digits", slots, (canary,))
