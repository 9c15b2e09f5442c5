"""Going on from a checkpoint: only of the same run, or its card would tell of half of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher
from torch import nn
from transformers import TrainingArguments
from typing_extensions import TypedDict

from swingkd.data.teacher_columns import model_fingerprint
from swingkd.files import check_seal, read_as, seal, write_json
from swingkd.trainer.public_settings import public_settings

#: It stays on this machine: it knows the rows.
RUN_FILE = "run_settings.json"
# Rows whose bytes are hashed at a time.
_ROWS = 10_000
# Where an optimizer's state is: of the Trainer and Accelerate, and of DeepSpeed.
_OPTIMIZER = ("optimizer*", "global_step*")
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


class _Content(TypedDict):
    """What stands in run_settings.json."""

    settings: dict[str, Any]


def run_settings(args: TrainingArguments, identity: dict[str, Any]) -> dict[str, Any]:
    """Return what a run must keep when it goes on.

    Args:
        args: its settings.
        identity: what else it is known by: its models and its rows.
    """
    kept = {name: value for name, value in public_settings(args).items() if name not in _MAY_CHANGE}
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return kept | {"rows_per_step": batch} | identity


def save_run_settings(checkpoint: str, settings: dict[str, Any]) -> None:
    """Write into a checkpoint which run it is of, and seal it: nothing is written after that."""
    write_json(Path(checkpoint) / RUN_FILE, {"settings": settings})
    seal(checkpoint)


def check_same_run(checkpoint: str, now: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint of a run with other settings, models or rows.

    Args:
        checkpoint: its folder.
        now: what `run_settings` says of this run.

    Raises:
        ValueError: names what differs; or the checkpoint is not whole, or a file in it was changed.
    """
    if not Path(checkpoint).is_dir():
        raise ValueError(f"There is no checkpoint {checkpoint} to go on from.")
    check_seal(checkpoint)
    if not any(path for name in _OPTIMIZER for path in Path(checkpoint).glob(name)):
        raise ValueError(
            f"{Path(checkpoint).name} holds the weights alone (save_only_model=True), so the run cannot go on as it "
            f"began. Start a new one from them: model={checkpoint!r}, in another output folder."
        )
    known = Path(checkpoint) / RUN_FILE
    before = read_as(_Content, known.read_bytes(), str(known))["settings"]
    now = json.loads(json.dumps(now))
    if any(before.get(name) != now.get(name) for name in ("target_epsilon", "noise_multiplier")):
        # It follows from these, and nobody set it.
        for settings in (before, now):
            settings.pop("max_grad_norm", None)
    differ = [
        f"{name}={before.get(name)!r} (now {now.get(name)!r})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
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
    """Hash all rows and their order; of a stream, which nobody can read twice, what it reads from.

    Args:
        dataset: the prepared rows.
    """
    if dataset is None:
        return None
    if not isinstance(dataset, Dataset):
        return _source_fingerprint(dataset)
    digest = xxhash.xxh3_128(f"{len(dataset)} {dataset.features}".encode())
    for batch in dataset.with_format("arrow").iter(_ROWS):
        # As they are stored, with no row made; serialised, so that a slice hides nothing and adds nothing.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema.remove_metadata()) as writer:
            writer.write_table(batch.combine_chunks().replace_schema_metadata(None))
        digest.update(memoryview(sink.getvalue()))
    return digest.hexdigest()


def _source_fingerprint(stream: IterableDataset) -> str:
    """Hash what a stream reads from: the names and sizes of its files, rows in memory, a generator and its arguments.

    Args:
        stream: as a user made it, or with functions mapped over it, which are not looked at.
    """
    described = [_described(part) for source in _sources(stream._ex_iterable) for part in source]
    return xxhash.xxh3_128_hexdigest(repr(described).encode())


def _sources(stream: Any) -> Iterator[list[Any]]:
    below = getattr(stream, "ex_iterables", None) or ([stream.ex_iterable] if hasattr(stream, "ex_iterable") else [])
    for part in below:
        yield from _sources(part)
    if not below:
        # Iterators over files know how far they are, and files what is in them.
        known = {name: value for name, value in stream.kwargs.items() if name != "files_iterables"}
        yield [
            getattr(stream.generate_examples_fn, "__qualname__", "")
            if hasattr(stream, "generate_examples_fn")
            else "",
            known,
        ]


def _described(value: Any) -> Any:
    if isinstance(value, Dataset):
        return rows_fingerprint(value)
    if isinstance(value, dict):
        return [[name, _described(part)] for name, part in sorted(value.items())]
    if isinstance(value, list | tuple):
        return [_described(part) for part in value]
    if isinstance(value, str) and os.path.isfile(value):
        return [value, os.path.getsize(value)]
    return value if isinstance(value, str | int | float | bool | None) else Hasher.hash(value)
