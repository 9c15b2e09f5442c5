"""The rows of a configuration, each a federation: a method, a seed, and what is changed for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from swingkd.decentralized import (
    DecentralizedDistillation,
    Federation,
    FederationResult,
    FederationSettings,
    PlantedExamples,
    attack_messengers,
)
from swingkd.experiments.grid import Grid, Plan
from swingkd.report import Row, membership_rows

# What a row says that is no setting of its federation.
_OF_A_ROW = ("table", "model", "words", "seeds", "planted", "copies", "template")


class FederationExperiment:
    """One federation a row and seed.

    Args:
        config: the configuration.
    """

    def __init__(self, config: dict[str, Any]):
        self.config, self.grid = config, Grid(config, "federation")

    def federation(self, plan: dict[str, Any], seed: int) -> Federation:
        """Build the federation of a row."""
        changed = {key: value for key, value in plan.items() if key not in _OF_A_ROW}
        client = self.config["client"] | plan.get("client", {})
        return Federation(FederationSettings.of(self.config | changed | {"client": client, "seed": seed}))

    def plant(self, plan: dict[str, Any], federation: Federation, seed: int) -> list[PlantedExamples]:
        """Give each client some reference examples with labels drawn at random; return which."""
        private, reference = federation.partition.train, federation.partition.reference
        planted = []
        for place, client in enumerate(federation.names):
            planted.append(PlantedExamples.drawn(reference, plan["planted"], seed * 1_009 + place))
            private[client] = planted[-1].planted(private[client], reference, plan["copies"])
        return planted

    def measure(self, plan: dict[str, Any], where: str, seed: int) -> None:
        """Run a row's federation and write down what each client got and what it cost."""
        federation, name = self.federation(plan, seed), plan["model"]
        planted = self.plant(plan, federation, seed) if "planted" in plan else []
        clients = [federation.client(client) for client in federation.names]
        run = DecentralizedDistillation(clients, federation.server(), rounds=federation.rounds)
        run.run()
        result, reference = run.result(), federation.partition.reference
        rows = result.rows(name, where)
        if reference.are_texts:
            losses = list(result.losses.values())
            rows.append(Row(name, where, "perplexity", math.exp(sum(losses) / len(losses)), n=len(losses)))
        if planted:
            report = attack_messengers(planted, [client.messenger() for client in clients], reference)
            rows += membership_rows(
                name, f"{where} records=planted", report, by_coin=True, looks=len(plan.get("seeds", [0]))
            )
        self.grid.add(rows)

    def majority(self, where: str, seed: int) -> None:
        """Write down what guessing each client's most frequent class would get."""
        people = self.federation({"method": "local"}, seed).partition
        accuracies = {
            client: float((people.test[client].flat_labels == own.flat_labels.mode().values).double().mean())
            for client, own in people.train.items()
        }
        self.grid.add(FederationResult(accuracies).rows("majority_class", where))

    def run(self, only: Sequence[str] | None = None) -> Path:
        """Measure what is not measured yet, and write the card; return the run's folder."""
        torch.set_num_threads(1)
        for plan, model, where, seed in self.grid.cells(_setting, only):
            if model == "majority_class":
                self.majority(where, seed)
            else:
                self.measure(plan, where, seed)
            print(f"{model} ({where}): {self.told(model, where)}", flush=True)
        return self.grid.finish()

    def told(self, model: str, where: str) -> str:
        """Return the mean and the worst client of a row that was measured."""
        rows = self.grid.metrics.rows
        numbers = {row.metric: row.value for row in rows if (row.model, row.setting) == (model, where)}
        return f"mean {numbers['accuracy']:.4f}, worst {numbers['worst']:.4f}"


def _setting(plan: Plan, seed: int) -> str:
    words = {"table": plan["table"], **plan.get("words", {}), "seed": seed}
    return " ".join(f"{key}={value}" for key, value in words.items())
