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

# A protected target of probability 0 counts as e^-69: the reverse divergence stays finite.
_LOG_ZERO = -69.0


class Targets(NamedTuple):
    """What the student learns from: `log_probs` [N, V], and `present` [N] bool, false where there is no target."""

    log_probs: torch.Tensor
    present: torch.Tensor


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
        target_log_probs: [N, V], finite.
        student_log_probs: [N, V].
        beta: 0 forward KL, 1 reverse KL, between them generalised JSD (TRL's meaning).
    """
    if beta == 0:
        return _kl(target_log_probs, student_log_probs)
    if beta == 1:
        return _kl(student_log_probs, target_log_probs)
    mixture = torch.logaddexp(student_log_probs + math.log1p(-beta), target_log_probs + math.log(beta))
    return beta * _kl(target_log_probs, mixture) + (1 - beta) * _kl(student_log_probs, mixture)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def protected_targets(
    teacher_logits: torch.Tensor,
    temperature: torch.Tensor,
    private: torch.Tensor,
    positions: PrivatePositions | None,
    protection: Protection | None,
) -> Targets:
    """Return the teacher's distribution at its temperature, protected where private.

    Args:
        teacher_logits: [N, V].
        temperature: [N] teacher temperature.
        private: [N] bool, P of them true.
        positions: facts about the P private positions; `None` where there are none.
        protection: what to do at private positions; `None`: the temperature alone, over the whole vocabulary.
    """
    targets = (teacher_logits / temperature[:, None]).log_softmax(-1)
    present = torch.ones_like(private)
    if protection is not None and positions is not None:
        rows = protection.protect(teacher_logits[private].log_softmax(-1), positions)
        present[private] = rows.amax(-1) > -torch.inf
        targets[private] = rows.clamp_min(_LOG_ZERO)
    return Targets(targets, present)


def token_losses(
    student_logits: torch.Tensor,
    targets: Targets,
    labels: torch.Tensor,
    likelihood: torch.Tensor,
    temperatures: TokenTemperatures,
    *,
    beta: float = 0.0,
) -> TokenLosses:
    """Return the parts of the loss per token.

    Args:
        student_logits: [N, V].
        targets: from `protected_targets`; a position without one is left out of the loss.
        labels: [N] ids of the tokens to predict.
        likelihood: [N] in [0, 1]: how likely the token to predict is private.
        temperatures: from `TemperatureSettings.for_tokens`.
        beta: which divergence, see `divergence`.
    """
    student = (student_logits / temperatures.student[:, None]).log_softmax(-1)
    soft = temperatures.weight * divergence(targets.log_probs, student, beta)
    return TokenLosses(
        soft=torch.where(targets.present, soft, 0.0),
        hard=F.cross_entropy(student_logits, labels, reduction="none"),
        hard_weight=torch.where(targets.present, 1 - likelihood, 0.0),
    )
