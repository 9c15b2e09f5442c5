"""A real pretrained model, private records in or out by coin, canaries of every kind: quality against every leak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from swingkd import PrivacyLedger, PrivateDistillationTrainer, audit_membership, measure_exposure, sample_transfer
from swingkd.audit.candidates import candidate_scores
from swingkd.experiments import corpus
from swingkd.experiments.canary_kinds import as_completions, kinds_of, with_canaries
from swingkd.experiments.grid import Grid
from swingkd.experiments.identities import with_identities
from swingkd.experiments.language import LanguageExperiment
from swingkd.experiments.models import make_tokenizer
from swingkd.experiments.private_language import PrivateLanguage
from swingkd.models.loading import placed
from swingkd.report import Row, exposure_rows, ledger_rows, membership_rows

# How a record goes on behind the dialogue; the task is to say which section the note belongs to.
_SECTION, _NOTE = "\nSection: ", "\nNote: "


def clinical_experiment(config: dict[str, Any]) -> LanguageExperiment:
    """Return the experiment: base, teacher and students, each with its quality, its canaries and its records.

    Args:
        config: the recipe's configuration.  `data.in_share` of the records are in, by coin; the others are what the
            attacks have to tell them from.
    """
    grid, data = Grid(config, "frontier"), config["data"]
    tokenizer = make_tokenizer(config["tokenizer"], [])
    records, validation, test = (_records(split, tokenizer, data) for split in ("train", "validation", "test"))
    splits = {"validation": validation, "test": test}
    coins = np.random.default_rng(data["coin_seed"]).random(len(records)) < data["in_share"]
    inside, outside = (records.select(np.flatnonzero(side)) for side in (coins, ~coins))
    specs = kinds_of(config["canaries"])
    sets = {name: corpus.make_canaries(spec, grid.secret / f"canaries_{name}.json") for name, spec in specs.items()}
    tagger = corpus.make_tagger(records, *splits.values())

    whole = with_canaries(as_completions(inside), sets)
    texts: dict[str, Dataset | Callable[[PrivateLanguage], Dataset]] = {
        "A": whole,
        "sampled": lambda own: _sampled(own, config["sampled"]),
    }
    language = PrivateLanguage(config, grid.secret, tokenizer, tagger, texts, lambda _: whole)
    fresh = corpus.fresh_sentences(next(iter(specs.values())))
    read = {name: split.select_columns(["text", "spans"]) for name, split in splits.items()} | {"fresh": fresh}
    evaluation = {name: language.tokenise(split, tagger) for name, split in read.items()}
    asked = test.select(range(min(len(test), config["task"]["texts"])))
    sections = sorted(set(records["section"]))
    if not grid.metrics.has("records", "split=test"):
        # A model that knows nothing says the most frequent one.
        share = max(map(asked["section"][:].count, sections)) / len(asked)
        grid.add([Row("records", "split=test", "section_majority", share, n=len(asked))])
    looks = max(len(plan.get("seeds", [0])) for plan in config["rows"])

    @cache
    def base() -> PreTrainedModel:
        return language.base("teacher")

    def untrained() -> PrivateDistillationTrainer:
        return language.probe(base())

    def cut() -> PrivateDistillationTrainer:
        return language.probe(language.base("student"))

    def teacher() -> PrivateDistillationTrainer:
        return language.probe(language.trained("teacher", "A"))

    def audit(name: str, setting: str, trainer: PrivateDistillationTrainer) -> list[Row]:
        model = trainer.model
        rows = ledger_rows(name, setting, PrivacyLedger.load(grid.secret / name) or trainer.ledger)
        rows.append(Row(name, setting, "section_accuracy", _accuracy(model, tokenizer, asked, sections), n=len(asked)))
        for kind, canaries in sets.items():
            report = measure_exposure(
                model, tokenizer, canaries, method="sampled", references=config["references"], progress=False
            )
            rows += exposure_rows(name, f"{setting} canaries={kind}", report)
        membership = audit_membership(
            model,
            tokenizer,
            inside.select_columns(["text"]),
            outside.select_columns(["text"]),
            references=[base()] if name != "base" else [],
            max_length=config["max_length"],
            progress=False,
        )
        where = f"{setting} records=dialogues"
        delta = config["dp_training"]["target_delta"]
        return rows + membership_rows(name, where, membership, by_coin=True, delta=delta, looks=looks)

    probes = {"base": untrained, "base_layers": cut, "teacher": teacher}
    return LanguageExperiment(grid, language, evaluation, audit, probes, test["text"][:3])


def _records(split: str, tokenizer: Any, data: dict[str, Any]) -> Dataset:
    """Return dialogues with their notes, each about a made-up person; none is longer than the models read."""
    columns = data["columns"]

    def write(row: dict[str, Any]) -> dict[str, Any]:
        said = row[columns["dialogue"]].replace("\r\n", "\n").replace(" \n", "\n").strip()
        section, note = row[columns["section"]], row[columns["note"]].strip()
        return {"said": said, "end": f"{_SECTION}{section}{_NOTE}{note}", "section": section}

    rows = corpus.load(data[split])
    written = rows.map(write, remove_columns=rows.column_names)
    people = with_identities(written, "said", f"{data['people_seed']} {split}")
    whole = people.map(lambda row: {"text": row["text"] + row["end"]})
    lengths = np.array([len(ids) for ids in tokenizer(whole["text"][:])["input_ids"]])
    fitting = np.flatnonzero(lengths <= data["longest"])[: data["limit"].get(split)]
    return whole.select(fitting).select_columns(["text", "spans", "section"])


def _sampled(language: PrivateLanguage, spec: dict[str, Any]) -> Dataset:
    """Let the teachers out of fold write the transfer text."""
    private, teacher = language.text("A"), placed(language.out_of_fold(spec["folds"]))
    own = [prompt + completion for prompt, completion in zip(private["prompt"], private["completion"], strict=True)]
    text, report = sample_transfer(
        teacher,
        language.tokenizer,
        spec["count"],
        own,
        prompts=spec["prompts"],
        max_new_tokens=spec["max_new_tokens"],
        seed=0,
    )
    print(report, flush=True)
    return text


def _accuracy(model: Any, tokenizer: Any, records: Dataset, sections: Sequence[str]) -> float:
    """Return how often the section that a model finds likeliest behind a dialogue is that of its note."""
    groups, lengths = [], []
    for text in records["text"]:
        dialogue = text.rpartition(_SECTION)[0]
        group = [f"{dialogue}{_SECTION}{section}{_NOTE}" for section in sections]
        groups.append(group)
        lengths.append([len(ids) - 1 for ids in tokenizer(group)["input_ids"]])
    scores = candidate_scores(model, tokenizer, groups, progress=False)
    # Of means over tokens back to sums: sections are of different lengths.
    said = [
        sections[int(np.argmax(score * length))] for score, length in zip(scores, map(np.array, lengths), strict=True)
    ]
    return float(np.mean([one == other for one, other in zip(said, records["section"], strict=True)]))
