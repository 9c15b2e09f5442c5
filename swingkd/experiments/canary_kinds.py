"""Canaries of every kind in one teacher's text, and what students of all protections give away of each."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from swingkd import CanarySet, PrivateDistillationTrainer, measure_exposure
from swingkd.experiments import corpus
from swingkd.experiments.grid import Grid
from swingkd.experiments.language import Language, LanguageExperiment
from swingkd.experiments.models import make_tokenizer
from swingkd.report import Row, exposure_rows


def canary_experiment(config: dict[str, Any]) -> LanguageExperiment:
    """Return the experiment: rows are students as elsewhere; each is asked for every kind of canary.

    The text becomes rows of prompt and completion, so that some canaries are read and never learnt.

    Args:
        config: as for `language_experiment`, but that `canaries` has a set for each name, and what all share in
            `all`.  There, `apart: true` gives each kind people and secrets of its own; else all kinds speak of the
            same ones, as a person's letters do, and what one sentence gives away may have been learnt from another.
    """
    grid = Grid(config, "canaries")
    private, public, splits = corpus.load_halves(config["data"])
    tokenizer = make_tokenizer(config["tokenizer"], public["text"])
    specs = kinds_of(config["canaries"])
    sets = {name: corpus.make_canaries(spec, grid.secret / f"canaries_{name}.json") for name, spec in specs.items()}
    texts = {"A": with_canaries(as_completions(private), sets), "B": as_completions(public)}
    tagger = corpus.make_tagger(private, public, *splits.values())
    language = Language(config, grid.secret, tokenizer, tagger, texts)
    evaluation = {name: language.tokenise(split, tagger) for name, split in splits.items()}

    def teacher() -> PrivateDistillationTrainer:
        return language.probe(language.teacher())

    def audit(name: str, setting: str, trainer: PrivateDistillationTrainer) -> list[Row]:
        rows = []
        for kind, canaries in sets.items():
            report = measure_exposure(
                trainer.model, tokenizer, canaries, method="sampled", references=255, progress=False
            )
            print(kind, report, flush=True)
            rows += exposure_rows(name, f"{setting} canaries={kind}", report)
        return rows

    shown = next(iter(splits.values()))["text"][:3]
    return LanguageExperiment(grid, language, evaluation, audit, {"teacher": teacher}, shown)


def kinds_of(canaries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what each kind of canaries is drawn by."""
    common = dict(canaries["all"])
    apart, seed = common.pop("apart", False), common.get("seed")
    specs = {name: {**common, **spec} for name, spec in canaries.items() if name != "all"}
    if apart and seed is not None:
        for number, spec in enumerate(specs.values()):
            spec["seed"] = 1000 * seed + number
    return specs


def as_completions(texts: Dataset) -> Dataset:
    """Return texts as completions of an empty prompt: so some canaries are read and never learnt."""
    rows = texts.select_columns(["text"]).rename_column("text", "completion")
    return rows.add_column("prompt", [""] * len(rows))  # type: ignore[call-arg]  # the fingerprint has a default


def with_canaries(rows: Dataset, sets: dict[str, CanarySet]) -> Dataset:
    """Return rows of prompt and completion with the canaries of every kind in them."""
    for seed, canaries in enumerate(sets.values()):
        rows = canaries.insert(rows, text_column="completion", seed=seed)
    return rows.map(lambda row: {"prompt": row["prompt"] or ""})
