"""Whether a model is what its file says: every tensor there, every number finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


def check_loaded(name: str, model: PreTrainedModel, info: dict[str, Any], *, new_head: bool = False) -> None:
    """Refuse a model of which some weights were made up, or whose file holds more layers than it has.

    transformers fills in what a file lacks with random numbers and a warning.

    Args:
        name: of the model, for the error.
        model: as it was loaded.
        info: what `from_pretrained(output_loading_info=True)` says.
        new_head: it is to be trained, so its head may be new; everything below it may not.

    Raises:
        ValueError: names the first tensor.
    """
    made_up = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    missing = sorted(key for key in made_up if not (new_head and _outside(model, key)))
    if missing:
        raise ValueError(
            f"The file of {name} lacks {len(missing)} of the model's tensors (such as {missing[0]}), which would be "
            "random numbers. Save the model again, whole, with save_pretrained."
        )
    # Heads of other tasks are left out; a tensor within the model that nobody reads is a part of another model.
    buffers = {key for key, _ in model.named_buffers()}
    more = sorted(key for key in info["unexpected_keys"] if not _outside(model, key) and key not in buffers)
    if more:
        raise ValueError(
            f"The file of {name} holds {len(more)} tensors that its configuration has no place for (such as "
            f"{more[0]}), so it would be another model without them. Save model and configuration together."
        )


def check_finite_weights(role: str, model: nn.Module) -> None:
    """Refuse weights that are not finite: whatever is made of them would be none either.

    Args:
        role: what the model is called in the error.
        model: any; weights that are offloaded are passed over.

    Raises:
        ValueError: names the first tensor.
    """
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor) and not _finite(tensor):
            raise ValueError(
                f"The weights of the {role} are not finite ({name} holds NaN or infinity). Take those of a file that "
                "is whole, or of a checkpoint from before the training went wrong, with a lower learning rate."
            )


def _finite(tensor: torch.Tensor) -> bool:
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # Numbers of 8 bits know few operations.
    return bool(tensor.isfinite().all())


def _outside(model: PreTrainedModel, key: str) -> bool:
    """Tell whether a tensor belongs to no module within the model: to a head or a pooler that it has, or has not."""
    base = model.base_model_prefix
    inner = key.removeprefix(f"{base}.")
    return inner.partition(".")[0] not in dict(getattr(model, base, model).named_children())
