"""What a training would do, before it does it: the rows, the steps, what is protected, the memory and the time."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable

import torch
from datasets import Dataset

from swingkd.data.columns import row_lengths
from swingkd.progress import duration
from swingkd.report.protected import protected_lines
from swingkd.targets import Drop
from swingkd.trainer.distillation import PrivateDistillationTrainer

_STEPS = 3
_GIGABYTE = 2**30


def dry_run(trainer: PrivateDistillationTrainer) -> list[str]:
    """Return what a trainer would do, a line each; a few batches go through the models, and no weight changes.

    Args:
        trainer: as it is made, before it trains; it is not to be trained afterwards.
    """
    args = trainer.args
    lines = [*_rows(trainer), *protected_lines(trainer.protected), *map(str, trainer.ledger.lines())]
    if trainer.train_dataset is None:
        return lines
    averages = trainer._protection is None and args.protection == "population"
    if averages:
        # They are made from all rows at the beginning of a training; a step takes the same time without them.
        trainer._protection = Drop()
    batch_size = args.per_device_train_batch_size
    if args.differentially_private:
        batch_size = min(batch_size, args.micro_batch_size or 16)
    source = trainer.train_dataset
    rows = list(source.select(range(min(batch_size, len(source)))) if isinstance(source, Dataset) else source.take(8))
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    seconds = _timed(lambda: _forward_and_back(trainer, batch))
    per_step = seconds * args.gradient_accumulation_steps
    if args.differentially_private:
        per_step = seconds * math.ceil(args.per_device_train_batch_size / batch_size)
        lines.append("A step with gradients per row takes longer than what is told here, up to three times.")
    steps = _steps(trainer)
    total = steps * per_step
    if averages and isinstance(source, Dataset):
        with torch.no_grad():
            one = _timed(lambda: list(trainer.distillation.teacher_log_probs(batch)))
        total += one * len(source) / len(rows)
        lines.append("The averages over private tokens are made first: one pass of the teacher over the rows.")
    lines.append(f"Time: {per_step:.2g} seconds a step, about {duration(total)} for {steps:,} steps on this machine.")
    return [*lines, _memory(trainer)]


def _rows(trainer: PrivateDistillationTrainer) -> list[str]:
    rows = trainer.train_dataset
    if not isinstance(rows, Dataset):
        return ["Rows: a stream; nobody knows how many."]
    if "input_ids" not in rows.column_names:
        return [f"Rows: {len(rows):,}."]
    lengths = row_lengths(rows)
    return [f"Rows: {len(rows):,}, {int(lengths.sum()):,} tokens; the longest has {int(lengths.max()):,}."]


def _steps(trainer: PrivateDistillationTrainer) -> int:
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return max(math.ceil(len(trainer.train_dataset) / batch), 1) * math.ceil(args.num_train_epochs)


def _forward_and_back(trainer: PrivateDistillationTrainer, batch: dict) -> None:
    trainer.model.train()
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    trainer.model.zero_grad()


def _timed(work: Callable[[], object]) -> float:
    """Return the seconds of one run; the first one, which warms up, is not counted."""
    work()
    began = time.perf_counter()
    for _ in range(_STEPS):
        work()
    return (time.perf_counter() - began) / _STEPS


def _memory(trainer: PrivateDistillationTrainer) -> str:
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    # What Adam keeps of each weight: two moments in float32, beside its gradient.
    state = 12 * trained / _GIGABYTE
    device = trainer.args.device
    if device.type == "cuda":
        peak, where = torch.cuda.max_memory_allocated(device), "on the GPU"
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak, where = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "in this process"
    return (
        f"Memory: {peak / _GIGABYTE:.1f} GB {where} for a batch; {state:.1f} GB more for gradients and Adam of "
        f"{trained:,} trained weights."
    )
