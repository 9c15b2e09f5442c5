"""The distillation loss, written plainly: the formula every faster path is compared with.

    L = mean_i [ alpha * c_i * D_beta(q_i, softmax(z_s / T'_i)) + (1 - alpha) * (1 - s_i) * CE(x_i) ]

with q_i the teacher's distribution at temperature T_i, protected where the token is private (s_i > 0).  At s_i = 0 it
is ordinary distillation, bit for bit.  The loss is our derivation; beta has TRL's meaning: 0 forward KL(q || p),
1 reverse KL(p || q), between them the generalised Jensen-Shannon divergence (Agarwal et al. 2023, arXiv 2306.13649).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from swingkd.targets.base import PrivatePositions, Protection
from swingkd.targets.temperature import TokenTemperatures

# Clipped noise leaves zeros in a target.  Forward, they count nothing (0 log 0 = 0); backward, where the divergence
# would be infinite, they count as this much probability.
_LOG_ZERO, _LOG_FLOOR = -1e4, math.log(1e-8)


class TokenLosses(NamedTuple):
    """Per token [N]: `soft` = c_i * D_beta, `hard` = CE(x_i) unweighted, `hard_weight`: what the hard label counts."""

    soft: torch.Tensor
    hard: torch.Tensor
    hard_weight: torch.Tensor

    def total(self, alpha: float) -> torch.Tensor:
        """Return alpha * soft + (1 - alpha) * hard_weight * hard, [N]."""
        return alpha * self.soft + (1 - alpha) * self.hard_weight * self.hard


def divergence(target_log_probs: torch.Tensor, student_log_probs: torch.Tensor, beta: float) -> torch.Tensor:
    """Return D_beta(target, student) per row, [N], in nats.

    Args:
        target_log_probs: [N, V]; may hold -inf.
        student_log_probs: [N, V].
        beta: 0 forward KL, 1 reverse KL, between them generalised JSD (TRL's meaning).
    """
    if beta == 1:
        return _kl(student_log_probs, target_log_probs.clamp_min(_LOG_FLOOR))
    target = target_log_probs.clamp_min(_LOG_ZERO)
    if beta == 0:
        return _kl(target, student_log_probs)
    mixture = torch.logaddexp(student_log_probs + math.log1p(-beta), target + math.log(beta))
    return beta * _kl(target, mixture) + (1 - beta) * _kl(student_log_probs, mixture)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def protected_targets(
    teacher_logits: torch.Tensor,
    temperature: torch.Tensor,
    private: torch.Tensor,
    positions: PrivatePositions | None,
    protection: Protection | None,
) -> torch.Tensor:
    """Return the target's log-probabilities [N, V]: the teacher's at its temperature, protected where private.

    Args:
        teacher_logits: [N, V].
        temperature: [N] teacher temperature.
        private: [N] bool, P of them true.
        positions: facts about the P private positions; `None` where there are none.
        protection: what to do at private positions; `None`: the temperature alone, over the whole vocabulary.
    """
    targets = (teacher_logits / temperature[:, None]).log_softmax(-1)
    if protection is not None and positions is not None:
        targets[private] = protection.protect(teacher_logits[private].log_softmax(-1), positions)
    return targets


def token_losses(
    student_logits: torch.Tensor,
    target_log_probs: torch.Tensor,
    labels: torch.Tensor,
    likelihood: torch.Tensor,
    temperatures: TokenTemperatures,
    *,
    beta: float = 0.0,
) -> TokenLosses:
    """Return the parts of the loss per token.

    Args:
        student_logits: [N, V].
        target_log_probs: [N, V] from `protected_targets`; a row of -inf leaves the position out of the loss.
        labels: [N] ids of the tokens to predict.
        likelihood: [N] in [0, 1]: how likely the token to predict is private.
        temperatures: from `TemperatureSettings.for_tokens`.
        beta: which divergence, see `divergence`.
    """
    student = (student_logits / temperatures.student[:, None]).log_softmax(-1)
    absent = target_log_probs.amax(-1) == -torch.inf
    target = target_log_probs.masked_fill(absent[:, None], 0.0)
    soft = temperatures.weight * divergence(target, student, beta)
    return TokenLosses(
        soft=soft.masked_fill(absent, 0.0),
        hard=F.cross_entropy(student_logits, labels, reduction="none"),
        hard_weight=(1 - likelihood).masked_fill(absent, 0.0),
    )
