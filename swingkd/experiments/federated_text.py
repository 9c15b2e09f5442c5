"""Federations of language models: their bases learn the text of people who take no part, then each learns its own."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from swingkd.data import DataSettings, prepare_dataset
from swingkd.decentralized import Federation, LabelledExamples, PlantedExamples
from swingkd.decentralized.partition import PartitionSettings, Tokens, others
from swingkd.experiments.federations import FederationExperiment
from swingkd.experiments.grid import training_settings
from swingkd.experiments.launch import expand
from swingkd.experiments.models import is_trained, lock, make_tokenizer, quiet


class FederatedText(FederationExperiment):
    """One federation of language models a row and seed.

    Args:
        config: as for `FederationExperiment`; `public` says how large the vocabulary is and how the bases are trained,
            `bases` their sizes by name, and `models` which of these the clients begin with.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__(config)
        self.public, self.bases = config["public"], config["bases"]
        self.config = {key: value for key, value in config.items() if key not in ("public", "bases")}

    def federation(self, plan: dict[str, Any], seed: int) -> Federation:
        """Build the federation of a row, its bases trained."""
        models = [{**spec, "name": str(self.base(spec["name"]))} for spec in plan.get("models", self.config["models"])]
        people = {**self.config["people"], **plan.get("people", {}), "tokenizer": str(self._tokenizer_folder)}
        if people.get("surrogates"):
            people["surrogates"] = str(self.grid.secret / f"surrogate_key-{seed}")
        return super().federation({**plan, "models": models, "people": people}, seed)

    def plant(self, plan: dict[str, Any], federation: Federation, seed: int) -> list[PlantedExamples]:
        """Ask about sentences with secrets, each of which a client says some times or never, by coin.

        A client that protects its text does so with these.
        """
        secrets = np.random.default_rng(seed).choice(10**5, plan["planted"], replace=False)
        texts = [plan["template"].format(secret=f"{secret:05d}") for secret in secrets.tolist()]
        settings = PartitionSettings(**federation.settings.people)
        own = Tokens(settings)
        asked = own.read(texts, public=True)
        known, private = federation.partition.reference, federation.partition.train
        reference = LabelledExamples.joined([known, asked])
        federation.partition = replace(federation.partition, reference=reference)
        planted = []
        for place, client in enumerate(federation.names):
            drawn = PlantedExamples.drawn(asked, len(texts), seed * 1_009 + place)
            given = [texts[i] for i in drawn.rows[drawn.given].tolist()]
            private[client] = LabelledExamples.joined([private[client], own.read(given * plan["copies"])])
            planted.append(replace(drawn, rows=drawn.rows + len(known)))
        return planted

    @cached_property
    def texts(self) -> list[str]:
        """What people say who are no clients and give no reference examples."""
        people = self.config["people"]
        return others(PartitionSettings(**people))[people["text"]][:]

    @property
    def _tokenizer_folder(self) -> Path:
        folder = self.grid.secret / "tokenizer"
        with lock(folder):
            if not (folder / "tokenizer.json").exists():
                make_tokenizer({"vocab_size": self.public["vocab_size"]}, self.texts).save_pretrained(folder)
        return folder

    def base(self, name: str) -> Path:
        """Train a base on public text, once; return where it is."""
        folder = self.grid.secret / name
        with lock(folder):
            if not is_trained(folder):
                self._train(expand(self.bases[name]), folder)
        return folder

    def _train(self, spec: dict[str, Any], folder: Path) -> None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self._tokenizer_folder)
        special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        set_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**spec, **special, vocab_size=len(tokenizer)))
        length = self.config["people"].get("max_length", PartitionSettings.max_length)
        settings = DataSettings(max_length=length, packing="wrapped")
        data = prepare_dataset(Dataset.from_dict({"text": self.texts}), tokenizer, None, settings)
        trainer = Trainer(
            model,
            TrainingArguments(**training_settings(output_dir=str(folder), **self.public["training"])),
            DataCollatorForLanguageModeling(tokenizer, mlm=False),
            train_dataset=data.select_columns(["input_ids"]),  # type: ignore[arg-type]  # map-style, as the rows were
        )
        quiet(trainer).train()
        trainer.save_model(str(folder))
