"""Losses of distillation, as pure functions on tensors."""

from swingkd.losses.hidden import HintProjection, hint_losses, projecting
from swingkd.losses.reference import Targets, TokenLosses, divergence, protected_targets, token_losses

__all__ = [
    "HintProjection",
    "Targets",
    "TokenLosses",
    "divergence",
    "hint_losses",
    "projecting",
    "protected_targets",
    "token_losses",
]
