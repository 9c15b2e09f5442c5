"""DP-SGD inside the trainer: the plan of a run, its batches, its steps, its entry in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from swingkd.privacy import DPSGD, DPSettings, LedgerEntry, PoissonBatches, PrivacyLedger, PrivacyPlan, UnitByUnit
from swingkd.trainer.privacy_arguments import PrivacyArguments

#: Rows that go through the model at once, where nobody says otherwise.
MICRO_BATCH = 16
# Rows that are tried, together and alone, before the first step.
_LOOKED_AT = 8
RowLosses = Callable[[list[dict[str, Any]]], torch.Tensor]


class PrivateRun:
    """What differs in a training run under differential privacy.

    Args:
        args: the Trainer's settings.
        privacy: what is promised.
        dataset: the prepared training set, one row a record.
        losses: makes the losses of rows, [rows], each of its row alone.

    Raises:
        ValueError: the data cannot be sampled by unit, or the settings spend more than `target_epsilon`.
    """

    def __init__(self, args: TrainingArguments, privacy: PrivacyArguments, dataset: Dataset, losses: RowLosses):
        self.args, self.privacy, self.dataset, self.losses = args, privacy, dataset, losses
        #: The rows as they are learnt: without columns that nobody reads.
        self.read = dataset
        self.units = _units(dataset, privacy.privacy_unit)
        self.count = len(dataset) if self.units is None else len(np.unique(self.units))
        self.dp: DPSGD | None = None
        self.plan = self._make_plan()
        self.entry = LedgerEntry.of_plan(self.plan, releases=1, caveat=_caveat(args, privacy))

    def _make_plan(self) -> PrivacyPlan:
        args, privacy, drawn = self.args, self.privacy, self.args.per_device_train_batch_size * self.args.world_size
        if drawn > self.count:
            raise ValueError(
                f"A batch of {drawn} is drawn from {self.count} units ({privacy.privacy_unit}). Lower "
                "per_device_train_batch_size: far below their number, sampling makes the noise cheaper."
            )
        return DPSettings(
            units=self.count,
            batch=drawn,
            epochs=None if args.max_steps > 0 else args.num_train_epochs,
            steps=args.max_steps if args.max_steps > 0 else None,
            epsilon=privacy.target_epsilon,
            noise_multiplier=privacy.noise_multiplier,
            delta=privacy.target_delta,
            clip_norm=privacy.clip_norm,
            unit=privacy.privacy_unit,
        ).plan()

    def loader(self, dataset: Dataset, **options: Any) -> DataLoader:
        """Return the batches of this process: lists of rows, each a Poisson sample, some of them empty.

        Args:
            dataset: the rows that the run was made with, perhaps without some columns.
            **options: of `DataLoader`.
        """
        self.read = dataset
        batches = PoissonBatches(
            self.plan,
            self.units,
            rows=len(dataset),
            most=self.privacy.records_per_user if self.units is not None else 1,
            rank=self.args.process_index,
            processes=self.args.world_size,
        )
        # Not prepared by Accelerate, which would deal one process's sample out to all.
        return DataLoader(dataset, batch_sampler=batches, collate_fn=_rows, **options)

    def _dp_sgd(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> DPSGD:
        """Make what clips and noises."""
        raise NotImplementedError

    def _add(self, rows: list[dict[str, Any]]) -> float:
        """Add the clipped gradients of a batch's units to the sum; return the sum of their losses."""
        raise NotImplementedError

    def wrap(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let the optimizer see clipped and noised gradients only."""
        if self.dp is not None:
            self.dp.attach()
            return optimizer
        self.dp = self._dp_sgd(model, optimizer)
        return self.dp.optimizer

    def begin(self, ledger: PrivacyLedger, steps: int) -> None:
        """Check the budget and the gradients before the first step; count every step from now on.

        Args:
            ledger: what was spent so far.
            steps: how many steps are to come.
        """
        assert self.dp is not None
        ledger.budget = self.privacy.target_epsilon
        ledger.afford(replace(self.entry, releases=steps))
        self.dp.model.train()
        self._look()
        left = iter(range(steps))

        def count(_: Any) -> None:
            if next(left, None) is None:
                ledger.afford(self.entry)
            ledger.record(self.entry)

        # Between the noise and the update: no update is ever uncounted.
        self.dp.optimizer.attach_step_hook(count)

    def _look(self) -> None:
        """Refuse models and losses in which rows meet, by a few rows."""
        assert self.dp is not None
        rows = [self.read[i % len(self.read)] for i in range(_LOOKED_AT)]
        self.dp.check(lambda at: self.losses([rows[i] for i in at.tolist()]), len(rows))

    def end(self) -> None:
        """Make the model an ordinary one again."""
        if self.dp is not None:
            self.dp.detach()

    def step(self, rows: list[dict[str, Any]]) -> float:
        """Sum the clipped gradients of a batch; return its exact loss, which is not private, where it is asked for.

        Args:
            rows: of this process; there may be none.
        """
        assert self.dp is not None
        assert self.dp.optimizer.step_hook is not None, "no step goes uncounted"
        self.dp.zero_grad()
        total = self._add(rows)
        self.dp.finish()
        return total / max(len(rows), 1) if self.privacy.log_nonprivate else 0.0

    def _of_units(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Deal a batch out to its units, wherever their rows stand in it."""
        units: dict[Any, list[dict[str, Any]]] = {}
        for number, row in enumerate(rows):
            units.setdefault(number if self.units is None else row[self.privacy.privacy_unit], []).append(row)
        yield from units.values()


class TogetherRun(PrivateRun):
    """Rows go through the model together; Opacus' hooks make their gradients.

    Args:
        args, privacy, dataset, losses: as of `PrivateRun`; each row's loss is summed over its tokens.
        part: how many rows go through the model at once.
        ghost: make no gradients per row, but two backward passes.
    """

    def __init__(
        self,
        args: TrainingArguments,
        privacy: PrivacyArguments,
        dataset: Dataset,
        losses: RowLosses,
        *,
        part: int | None = None,
        ghost: bool = False,
    ):
        super().__init__(args, privacy, dataset, losses)
        self.part, self.ghost = part or MICRO_BATCH, ghost

    def _dp_sgd(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> DPSGD:
        return DPSGD(model, optimizer, self.plan, self.count, ghost=self.ghost)

    def _add(self, rows: list[dict[str, Any]]) -> float:
        assert self.dp is not None
        total = 0.0
        for part, units in self._parts(rows):
            losses = self.losses(part)
            self.dp.accumulate(losses, units)
            if self.privacy.log_nonprivate:
                total += float(losses.detach().sum())
        return total

    def _parts(self, rows: list[dict[str, Any]]) -> Iterator[tuple[list[dict[str, Any]], torch.Tensor | None]]:
        """Cut a batch into parts that fit the memory; a user's rows stay together."""
        if self.units is None:
            # Rows of like length together: less padding.
            rows = sorted(rows, key=lambda row: len(row.get("input_ids", ())))
            for start in range(0, len(rows), self.part):
                yield rows[start : start + self.part], None
            return
        part: list[dict[str, Any]] = []
        units: list[int] = []
        for number, own in enumerate(self._of_units(rows)):
            if part and len(part) + len(own) > self.part:
                yield part, torch.tensor(units, device=self.args.device)
                part, units = [], []
            part, units = part + own, units + [number] * len(own)
        if part:
            yield part, torch.tensor(units, device=self.args.device)


class AloneRun(PrivateRun):
    """Each row goes through the model alone, so that its loss may be any Trainer's."""

    #: How many batches there were.
    batches: int = 0

    def _dp_sgd(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> DPSGD:
        return UnitByUnit(model, optimizer, self.plan, self.count)

    def step(self, rows: list[dict[str, Any]]) -> float:
        """See `PrivateRun.step`; now and then, and more rarely with time, the loss is looked at once more."""
        self.batches += 1
        if self.batches.bit_count() == 1:
            # A running mean of rewards, say, has nothing to remember before the first step.
            self._look()
        return super().step(rows)

    def _add(self, rows: list[dict[str, Any]]) -> float:
        assert isinstance(self.dp, UnitByUnit)
        return sum(self.dp.accumulate_unit(self.losses([row])[0] for row in own) for own in self._of_units(rows))


def _units(dataset: Dataset, unit: str) -> np.ndarray | None:
    """Return the number of each row's unit, [rows]; `None` where each row is its own."""
    if unit == "record":
        return None
    column = dataset.with_format("arrow")[unit].combine_chunks()
    try:
        missing = int(pc.sum(pc.is_null(column, nan_is_null=True)).as_py() or 0)
        units = pc.dictionary_encode(column).indices
    except pa.ArrowNotImplementedError as error:
        raise ValueError(
            f"privacy_unit={unit!r} holds {column.type}; names or numbers of users are needed."
        ) from error
    if missing:
        raise ValueError(f"{missing} rows have no {unit}. Drop them, or give each an id of its own.")
    return units.to_numpy()


def _caveat(args: TrainingArguments, privacy: PrivacyArguments) -> str:
    """Return what must be known beside the epsilon of a run."""
    caveats = ["counted from the weights it began with"]
    if privacy.log_nonprivate:
        caveats.append("the logged loss is not covered")
    if args.load_best_model_at_end:
        caveats.append("nor is the choice of a checkpoint, if it was evaluated on private data")
    return "; ".join(caveats)


def _rows(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Leave a batch as it is: it is cut and padded part by part."""
    return {"rows": rows}
