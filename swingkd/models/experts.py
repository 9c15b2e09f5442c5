"""Mixtures of experts: the loss that keeps their experts equally busy, which a model makes beside its logits."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

_WEIGHT = "router_aux_loss_coef"


def balance_loss(model: PreTrainedModel, outputs: Any) -> torch.Tensor | float:
    """Return the weighted auxiliary loss that `transformers` adds to a mixture's own loss; 0 where it makes none.

    Args:
        model: whose configuration holds its weight.
        outputs: of its forward.
    """
    loss = outputs.get("aux_loss") if isinstance(outputs, dict) else None
    if not isinstance(loss, torch.Tensor):
        return 0.0
    return getattr(model.config.get_text_config(), _WEIGHT) * loss


def check_balance(model: PreTrainedModel, private: bool) -> None:
    """Refuse a student whose experts would be balanced in a way that this library does not know.

    Args:
        model: the student.
        private: it is trained with DP-SGD.

    Raises:
        ValueError: says to turn it off.
    """
    config = model.config.get_text_config()
    if not getattr(config, "output_router_logits", False):
        return
    why = ""
    if private:
        why = "it is a loss of a whole batch, and no row has a gradient of its own"
    elif model.config.is_encoder_decoder or not hasattr(config, _WEIGHT):
        why = f"{type(model).__name__} adds it inside its own loss, which distillation does not use"
    if why:
        raise ValueError(
            f"output_router_logits=True asks for an auxiliary loss of the experts, and {why}. Set "
            "output_router_logits=False in the student's config (model_init_kwargs)."
        )
