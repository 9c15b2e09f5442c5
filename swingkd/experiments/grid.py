"""A grid of rows and seeds, measured one by one; what metrics.json has already is skipped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState

from swingkd.models.half import multiplies_in_bf16
from swingkd.report import MetricsFile, Row, write_card
from swingkd.report.metrics import Kind

Plan = dict[str, Any]
# What a row may be asked for by on the command line.
_NAMES = ("model", "table", "world")


class Cell(NamedTuple):
    """One model to be measured: its plan, its name, the words that tell it from others, and its seed."""

    plan: Plan
    model: str
    setting: str
    seed: int


class Grid:
    """The rows of a run, its folder and its metrics.

    Args:
        config: the recipe's configuration: `run`, `output_dir`, `rows`, ...
        kind: which card the run gets.
    """

    def __init__(self, config: dict[str, Any], kind: Kind):
        self.config, self.out = config, Path(config["output_dir"])
        #: What never leaves this machine: canaries, weights.
        self.secret = self.out / "_private"
        told = without_secrets(with_precision(config, kind))
        self.metrics = MetricsFile(self.out / "metrics.json", config["run"], told, kind=kind)

    def cells(
        self,
        setting: Callable[[Plan, int], str],
        only: Sequence[str] | None = None,
        *,
        plans: Sequence[Plan] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[Cell]:
        """Yield what is not measured yet, row by row and seed by seed.

        Args:
            setting: the words that tell a row and seed from others.
            only: names of models, tables or worlds; default: all.
            plans: the rows; default: those of the configuration.
            seeds: default: those of each row, or 0.
        """
        for plan in self.config["rows"] if plans is None else plans:
            for seed in plan.get("seeds", [0]) if seeds is None else seeds:
                where = setting(plan, seed)
                if wanted(plan, only) and not self.metrics.has(plan["model"], where):
                    yield Cell(plan, plan["model"], where, seed)

    def add(self, rows: list[Row], *, line: str = "") -> None:
        """Write what was measured, all of it at once, from one process; say so in a line."""
        state = PartialState()
        if state.is_main_process:
            if line:
                print(line, flush=True)
            self.metrics.add(rows)
        state.wait_for_everyone()

    def finish(self) -> Path:
        """Write the card of what was measured, if anything was; return the run's folder."""
        if PartialState().is_main_process and self.metrics.rows:
            write_card(self.metrics.path, self.out)
        return self.out


def wanted(plan: Plan, only: Sequence[str] | None) -> bool:
    """Tell whether a row is asked for, by its model, its table or its world."""
    return not only or bool({plan[name] for name in _NAMES if name in plan} & set(only))


def without_secrets(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out the seeds of the canaries: whoever has one can draw them again."""
    if "canaries" not in config:
        return config
    return {**config, "canaries": _unseeded(config["canaries"])}


def with_precision(config: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Return a configuration that says whether its models compute in half precision: what is decided here."""
    if kind == "images":
        return {"mixed_precision": precision(), **config}
    if "training" not in config:
        return config
    return {**config, "training": {"bf16": multiplies_in_bf16(), **config["training"]}}


def precision() -> str:
    """Return what Accelerate calls the precision that is fast here."""
    return "bf16" if multiplies_in_bf16() else "no"


def _unseeded(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _unseeded(value) if isinstance(value, dict) else value for key, value in spec.items() if key != "seed"
    }


def training_settings(**others: Any) -> dict[str, Any]:
    """Return the settings that every training of a recipe has: bf16 where it is fast, nothing reported or saved.

    Args:
        **others: of this training; they win.
    """
    common = {
        "report_to": [],
        "save_strategy": "no",
        "bf16": multiplies_in_bf16(),
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": not sys.stderr.isatty(),
    }
    return common | others
