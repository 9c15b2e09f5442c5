"""Packed rows: does a model keep the texts of a row apart?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel

from swingkd.data.columns import flat, in_parts
from swingkd.data.prepare import column_names
from swingkd.models.inputs import first_position, takes
from swingkd.tasks import Task

# Two texts, by their first ids and lengths; in each of two rows, since some kernels keep one row's texts apart only.
_TEXTS = ((1, 5), (3, 4))


def check_packing(
    datasets: Iterable[Dataset | IterableDataset | None], task: Task, models: dict[str, PreTrainedModel], asked: bool
) -> None:
    """Refuse rows of several texts that a model would read as one; each model is tried once, where there are any.

    Args:
        datasets: prepared rows, of training and of evaluation.
        task: how models are called.
        models: by their role.
        asked: whether rows were packed here; else they are looked at.

    Raises:
        ValueError: names the model that lets the texts of a row see each other.
    """
    if not any(_several_texts(dataset, asked) for dataset in datasets if dataset is not None):
        return
    for role, model in models.items():
        if not keeps_apart(model, task):
            raise ValueError(
                f"The {role} model ({type(model).__name__}) does not keep the texts of a packed row apart with its "
                f"attention ({model.config._attn_implementation}). Choose packing_strategy='wrapped', whose texts see "
                "each other, or packing=False."
            )


def _several_texts(dataset: Dataset | IterableDataset, asked: bool) -> bool:
    return "position_ids" in column_names(dataset) and (asked or _packed(dataset))


def _packed(dataset: Dataset | IterableDataset) -> bool:
    """Tell whether a row's positions begin anew; of a stream nobody knows."""
    if not isinstance(dataset, Dataset):
        return False
    for column in in_parts(dataset, "position_ids"):
        if not pa.types.is_nested(column.type):
            return False
        row, position = pc.list_parent_indices(column).to_numpy(), flat(column).to_numpy()
        if ((np.diff(position) != 1) & (np.diff(row) == 0)).any():
            return True
    return False


@torch.no_grad()
def keeps_apart(model: PreTrainedModel, task: Task) -> bool:
    """Tell whether a model reads each text of a packed row as if it stood alone.

    Args:
        model: a language model; weights that are elsewhere cannot be asked.
        task: how it is called.
    """
    if not takes(model, "position_ids"):
        return False
    if any(p.is_meta for p in model.parameters()):
        return True
    first, training = first_position(model), model.training
    ids = [torch.arange(start, start + length) for start, length in _TEXTS]
    places = [torch.arange(first, first + length) for _, length in _TEXTS]
    packed = torch.stack([torch.cat(ids), torch.cat(ids[::-1])]).to(model.device)
    positions = torch.stack([torch.cat(places), torch.cat(places[::-1])]).to(model.device)
    model.eval()
    try:
        together = model(**task.call({"input_ids": packed, "position_ids": positions}, model)).logits.float()
        alone = [model(**task.call({"input_ids": one[None].to(model.device)}, model)).logits[0].float() for one in ids]
    finally:
        model.train(training)
    expected = torch.stack([torch.cat(alone), torch.cat(alone[::-1])])
    # Half precision has three digits.
    loose = 1e-4 if model.dtype in (torch.float32, torch.float64) else 0.05
    return bool((together - expected).abs().max() <= loose * expected.abs().max() + 1e-6)
