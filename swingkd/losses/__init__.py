"""Losses of distillation, as pure functions on tensors."""

from swingkd.losses.hidden import HintProjection, hint_losses
from swingkd.losses.reference import TokenLosses, divergence, protected_targets, token_losses

__all__ = ["HintProjection", "TokenLosses", "divergence", "hint_losses", "protected_targets", "token_losses"]
