"""Losses of distillation, as pure functions on tensors."""

from swingkd.losses.divergence import fused_token_losses
from swingkd.losses.hidden import HintProjection, hint_losses
from swingkd.losses.reference import Targets, TokenLosses, dense_targets, divergence, token_losses

__all__ = [
    "HintProjection",
    "Targets",
    "TokenLosses",
    "dense_targets",
    "divergence",
    "fused_token_losses",
    "hint_losses",
    "token_losses",
]
