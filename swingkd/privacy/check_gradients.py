"""Whether a model has gradients per row, and whether what Opacus' hooks call a row is one.

A hook takes the first dimension of a layer's input for the rows.  Layers that flatten their tokens, or put time first,
give it tokens: each would be clipped by itself, and one record could move the sum by as many clips as it has tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ADAPTER = "Train an adapter instead: peft_config=LoraConfig(...)."
_ELSEWHERE = (
    "Leave this layer out of the training (requires_grad_(False)), or put the adapter elsewhere: "
    'LoraConfig(target_modules=["q_proj", "v_proj"]), or what the attention of this model is called.'
)


def check_left(name: str, left: Any, rows: int) -> torch.Tensor:
    """Return what the hooks left at a parameter, [rows, ...].

    Args:
        name: of the parameter.
        left: what they left.
        rows: how many rows the model was given.

    Raises:
        ValueError: nothing, too much, or gradients of something else than the rows.
    """
    if left is None:
        raise ValueError(
            f"{name} got no gradient per row: the loss does not use it (freeze it: requires_grad_(False)), "
            "reads it past its module, or gradient checkpointing hides it (use_reentrant=True is needed)."
        )
    if isinstance(left, list):
        raise ValueError(f"{name} saw two forward passes: call accumulate once for each.")
    if len(left) == 1 < rows:
        raise ValueError(
            f"{name} has a gradient for 1 row where {rows} were given: the whole batch shares it. For position "
            "embeddings, pass position_ids of shape [batch, length] to the model."
        )
    if len(left) != rows:
        raise ValueError(
            f"{name} has gradients for {len(left)} rows where {rows} were given: its layer sees tokens or patches in "
            f"the place of rows, so each would be clipped by itself, and no epsilon would hold for a record. "
            f"{_ELSEWHERE}"
        )
    return left


def check_gradient(
    name: str, gradient: torch.Tensor, expected: torch.Tensor, *, loose: bool = False, whole: float = 0.0
) -> None:
    """Compare a row's gradient, or its norm, with that of the row's own backward pass.

    Args:
        name: of the parameter.
        gradient: what the hooks found.
        expected: of the row's own pass.
        loose: it was computed in half precision.
        whole: norm of the row's whole gradient.  Some parts are zero but for rounding (the bias of an attention's
            keys): beside the whole they are.

    Raises:
        ValueError: they differ.
    """
    allowed = 0.1 if loose else 1e-3
    error = (gradient - expected).norm() / expected.norm().clamp_min(max(allowed * whole, 1e-12))
    if not error <= allowed:
        raise ValueError(
            f"What is clipped at {name} is not the gradient of a row (off by {float(error):.0%}): its layer mixes "
            "rows or tokens, or is used in a way that Opacus' hooks do not see (tied weights that a loss reads, say). "
            f"{_ELSEWHERE}"
        )


def check_weights(model: nn.Module) -> None:
    """Refuse models that DP-SGD cannot train, however their gradients are made.

    Args:
        model: with its trainable parameters marked.

    Raises:
        ValueError: nothing is trained, weights are in half precision, or a layer remembers what it sees.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("The model has no trainable parameter.")
    half = sorted({str(p.dtype) for p in trained if p.dtype not in (torch.float32, torch.float64)})
    if half:
        raise ValueError(
            f"Trainable weights are {', '.join(half)}; noise and clipped gradients need float32. Load the model with "
            "dtype=torch.float32; bf16=True still multiplies in half precision."
        )
    watching = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    ]
    if watching:
        raise ValueError(
            f"{watching[0]} keeps running averages of what it sees, which no noise covers. Set "
            "track_running_stats=False, or use group norm."
        )


def check_modules(model: nn.Module, *, ghost: bool = False) -> None:
    """Refuse modules that have no gradients per row.

    Args:
        model: with its trainable parameters marked.
        ghost: for ghost clipping.

    Raises:
        ValueError: what is in the way, and what to do instead.
    """
    batch_norm = [
        name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    if batch_norm:
        raise ValueError(
            f"{batch_norm[0]} is a batch norm: it mixes the rows of a batch, so no row has a gradient of its own. Use "
            "group norm (opacus.validators.ModuleValidator.fix replaces it)."
        )
    check_weights(model)
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ghost and parameter.requires_grad and id(parameter) in names:
            raise ValueError(
                f"{names[id(parameter)]} and {name} are one matrix, and ghost clipping is wrong for tied weights. Set "
                "ghost_clipping=False, tie_word_embeddings=False, or train an adapter."
            )
        names.setdefault(id(parameter), name)
    if any("lora_magnitude_vector" in name for name, _ in model.named_parameters()):
        raise ValueError("DoRA adapters have no gradients per row: use LoraConfig(use_dora=False).")
