"""Train a teacher and its students with 1,000 canaries in or out by coin, and run every attack on all of them.

python recipes/audit_clm/run.py --config recipes/audit_clm/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from launch import launch
from worlds import Records, World, prepare

from swingkd import PrivateDistillationTrainer, audit_extraction, audit_membership, measure_exposure
from swingkd.audit import audit_canary_membership, canary_records
from swingkd.audit.shadows import shadow_halves
from swingkd.report import MetricsFile, Row, exposure_rows, extraction_rows, membership_rows, write_card


class Audit:
    """Every attack on the models of the target's world, with the other worlds' models as shadows."""

    def __init__(self, config: dict):
        self.config, self.out = config, Path(config["output_dir"])
        self.records = Records(config)
        self.metrics = MetricsFile(self.out / "metrics.json", config["run"], prepare.without_secrets(config))
        self.target_mask = self.records.target()
        self.target = World(self.records, self.target_mask, "target")
        self.halves = shadow_halves(config["shadows"], self.records.size)
        self.shadows = [World(self.records, half, f"shadow-{i}") for i, half in enumerate(self.halves)]
        dialogues = len(self.records.dialogues)
        self.inside = np.flatnonzero(self.target_mask[:dialogues])
        self.outside = np.flatnonzero(~self.target_mask[:dialogues])
        self.canaries_in = dialogues + np.flatnonzero(self.target_mask[dialogues:])
        self.canaries_out = dialogues + np.flatnonzero(~self.target_mask[dialogues:])

    def shadow_models(self, name: str, *order: np.ndarray):
        """Yield the other worlds' models of this name, with what they saw of the records in this order."""
        for world, half in zip(self.shadows, self.halves, strict=True):
            yield world.model(name), half[np.concatenate(order)]

    def utility(self, name: str, model) -> list[dict]:
        """Measure perplexity on text that no model saw."""
        arguments = self.target.distillation("audit", 0, {"protection": "none"})
        tokenizer = self.records.tokenizer
        probe = PrivateDistillationTrainer(model, self.target.model("teacher"), arguments, processing_class=tokenizer)
        measured = probe.evaluate(self.target.tokenise(self.records.splits["test"], self.records.tagger))
        return [
            Row(name, "split=test", metric.removeprefix("eval_"), value)
            for metric, value in measured.items()
            if "perplexity" in metric
        ]

    def membership(self, name: str, model) -> list[dict]:
        """Attack the canaries' secrets, their whole sentences, and ordinary dialogues."""
        records, rows = self.records, []
        references = [self.target.model("public")]
        level = records.canaries.coin_levels[0]
        for part in ("secrets", "records"):
            shadows = self.shadow_models(name, self.canaries_in, self.canaries_out)
            report = audit_canary_membership(
                model, records.tokenizer, records.canaries, level, part, references=references, shadows=shadows
            )
            rows += membership_rows(name, f"records=canary_{part}", report, by_coin=True)
        dialogues = records.dialogues.select_columns(["text"])
        report = audit_membership(
            model,
            records.tokenizer,
            dialogues.select(self.inside),
            dialogues.select(self.outside),
            references=references,
            shadows=self.shadow_models(name, self.inside, self.outside),
        )
        return rows + membership_rows(name, "records=dialogues", report)

    def exposure(self, name: str, model) -> list[dict]:
        """Measure the exposure of the first canaries, in and out, and of the published one."""
        records = self.records
        some = records.canaries.head(self.config["exposure_canaries"])
        rows = exposure_rows(name, "canaries=ours", measure_exposure(model, records.tokenizer, some, batch_size=4096))
        report = measure_exposure(model, records.tokenizer, records.published, batch_size=4096)
        return rows + exposure_rows(name, "canaries=published", report)

    def extraction(self, name: str, model) -> list[dict]:
        """Continue texts, and reconstruct and infer private values."""
        records, asked = self.records, self.config["extraction"]
        own, other = (records.dialogues.select(i[: asked["texts"]]) for i in (self.inside, self.outside))
        attacks = ("continuation", "reconstruction", "inference")
        common = {key: asked[key] for key in ("limit", "prefix_tokens", "suffix_tokens")}
        report = audit_extraction(model, records.tokenizer, own, unseen=other, attacks=attacks, **common)
        rows = extraction_rows(name, "text=dialogues", report)
        inside, outside = canary_records(records.canaries, records.canaries.coin_levels[0], "secrets")
        report = audit_extraction(
            model, records.tokenizer, inside, unseen=outside, attacks=("continuation",), **common
        )
        rows += extraction_rows(name, "text=canaries", report)
        return rows

    def values(self, name: str, model) -> list[dict]:
        """Look for private values in what the model says unasked; the published canary must come up by itself."""
        records, samples = self.records, self.config["extraction"]["samples"]
        report = audit_extraction(
            model,
            records.tokenizer,
            self.target.texts["A"],
            attacks=("values",),
            samples=samples,
            unseen=records.texts(~self.target_mask),
        )
        rows = extraction_rows(name, "text=training", report)
        # Its place among all that was found, the most sampled first: nobody told the attack what to look for.
        found = [value.value for value in report.values.found]
        secret = records.published.canaries[0].secret
        place = found.index(secret) + 1 if secret in found else None
        times = next((value.samples for value in report.values.found if value.value == secret), 0)
        rows.append(Row(name, "canaries=published", "times_said", times, n=samples))
        return rows + ([Row(name, "canaries=published", "place_found", place, n=len(found))] if place else [])

    def run(self, only: list[str] | None = None) -> None:
        for name in ["teacher", *(plan["model"] for plan in self.config["rows"])]:
            if (only and name not in only) or self.metrics.has(name, "audit=all"):
                continue
            model = self.target.model(name)
            rows = [Row(name, "audit=all", "parameters", model.num_parameters())]
            for part in (self.utility, self.exposure, self.membership, self.extraction, self.values):
                rows += part(name, model)
            if PartialState().is_main_process:
                self.metrics.add(rows)
        if PartialState().is_main_process:
            write_card(self.metrics.path, self.out)


def main(config: dict, only: list[str] | None = None) -> Path:
    audit = Audit(config)
    audit.run(only)
    return audit.out


if __name__ == "__main__":
    launch(main, __doc__)
