"""Going on from a checkpoint: only of the same run, or its card would tell of half of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xxhash
from datasets import Dataset, IterableDataset
from torch import nn

from swingkd.data.teacher_columns import model_fingerprint
from swingkd.files import write_json
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.publishing import public_settings

#: It stays on this machine: it knows the rows.
RUN_FILE = "run_settings.json"
# What a run may change on its way: how long it is, and how the work is done.
_MAY_CHANGE = {
    "fused_loss",
    "loss_memory",
    "micro_batch_size",
    "ghost_clipping",
    "log_nonprivate",
    "dataset_num_proc",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
}


def run_settings(args: PrivateDistillationConfig, identity: dict[str, Any]) -> dict[str, Any]:
    """Return what a run must keep when it goes on.

    Args:
        args: its settings.
        identity: what else it is known by: its models and its rows.
    """
    kept = {name: value for name, value in public_settings(args).items() if name not in _MAY_CHANGE}
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return kept | {"rows_per_step": batch} | identity


def save_run_settings(checkpoint: str, settings: dict[str, Any]) -> None:
    """Write into a checkpoint which run it is of."""
    write_json(Path(checkpoint) / RUN_FILE, settings)


def check_same_run(checkpoint: str, now: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint of a run with other settings, models or rows.

    Args:
        checkpoint: its folder.
        now: what `run_settings` says of this run.

    Raises:
        ValueError: names what differs.
    """
    path = Path(checkpoint) / RUN_FILE
    before = json.loads(path.read_text()) if path.exists() else {}
    differ = [
        f"{name}={before[name]!r} (now {value!r})"
        for name, value in now.items()
        if name in before and before[name] != value
    ]
    if differ:
        raise ValueError(
            f"{Path(checkpoint).name} was written with {', '.join(differ)}. Use these, or another output folder."
        )


def weights_fingerprint(model: nn.Module | None) -> str | None:
    """Hash a model's weights; `None` of one that is not there, or not in memory."""
    if model is None or any(tensor.is_meta for tensor in model.state_dict().values()):
        return None
    return model_fingerprint(model)  # type: ignore[arg-type]


def rows_fingerprint(dataset: Dataset | IterableDataset | None) -> str | None:
    """Hash how many rows there are and what the first ones hold; `None` of a stream, which nobody can count."""
    if not isinstance(dataset, Dataset):
        return None
    known = [name for name in ("input_ids", "labels", "pii_likelihood") if name in dataset.column_names]
    first = dataset.with_format(None).select_columns(known)[:200]
    return xxhash.xxh3_64_hexdigest(json.dumps([len(dataset), first]).encode())
