"""The rows of a configuration, each a federation: a method, a seed, and what is changed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from swingkd.decentralized import (
    DecentralizedDistillation,
    Federation,
    FederationSettings,
    Outcome,
    PlantedExamples,
    attack_messengers,
)
from swingkd.report import MetricsFile, membership_rows, write_card

# What a row says that is no setting of its federation.
_OF_A_ROW = ("table", "model", "words", "seeds", "planted", "copies")


class Experiment:
    """One federation a row and seed.

    Args:
        config: the configuration.
    """

    def __init__(self, config: dict[str, Any]):
        self.config, self.out = config, Path(config["output_dir"])
        self.metrics = MetricsFile(self.out / "metrics.json", config["run"], config)

    def federation(self, plan: dict[str, Any], seed: int) -> Federation:
        """Build the federation of a row."""
        changed = {key: value for key, value in plan.items() if key not in _OF_A_ROW}
        client = self.config["client"] | plan.get("client", {})
        return Federation(FederationSettings.of(self.config | changed | {"client": client, "seed": seed}))

    def plant(self, plan: dict[str, Any], federation: Federation, seed: int) -> list[PlantedExamples]:
        """Give each client some reference examples with labels drawn at random; return which."""
        private, reference = federation.people.train, federation.people.reference
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
        rows = run.outcome().rows(name, where)
        if planted:
            report = attack_messengers(planted, [client.say() for client in clients])
            rows += membership_rows(name, f"{where} records=planted", report, by_coin=True)
        self.metrics.add(rows)

    def majority(self, where: str, seed: int) -> None:
        """Write down what guessing each client's most frequent class would get."""
        people = self.federation({"method": "local"}, seed).people
        found = {
            client: float((people.test[client].labels == own.labels.mode().values).double().mean())
            for client, own in people.train.items()
        }
        self.metrics.add(Outcome(found).rows("majority_class", where))

    def run(self, only: list[str] | None = None) -> None:
        """Measure what is not in the file yet, and write the card."""
        torch.set_num_threads(1)
        for plan in self.config["rows"]:
            words = "".join(f" {key}={value}" for key, value in plan.get("words", {}).items())
            for seed in plan.get("seeds", [0]):
                where = f"table={plan['table']}{words} seed={seed}"
                wanted = not only or {plan["table"], plan["model"]} & set(only)
                if not wanted or self.metrics.has(plan["model"], where):
                    continue
                if plan["model"] == "majority_class":
                    self.majority(where, seed)
                else:
                    self.measure(plan, where, seed)
                print(f"{plan['model']} ({where}): {self.said(plan['model'], where)}", flush=True)
        write_card(self.metrics.path, self.out)

    def said(self, model: str, where: str) -> str:
        """Return the mean and the worst client of a row that was measured."""
        found = {r["metric"]: r["value"] for r in self.metrics.rows if (r["model"], r["setting"]) == (model, where)}
        return f"mean {found['accuracy']:.4f}, worst {found['worst']:.4f}"


def main(config: dict[str, Any], only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    experiment = Experiment(config)
    experiment.run(only)
    return experiment.out
