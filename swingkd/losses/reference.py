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

from swingkd.targets.teacher import ProtectedTargets, TopTokens
from swingkd.targets.temperature import TokenTemperatures

_LOG_ZERO = -69.0


class Targets(NamedTuple):
    """What the student learns from: `log_probs` [N, V], and `present` [N] bool, false where there is no target."""

    log_probs: torch.Tensor
    present: torch.Tensor


class TokenLosses(NamedTuple):
    """Per token [N]: `soft` = c_i * D_beta, `hard` = CE(x_i) unweighted, `hard_weight`: what the hard label counts.

    Where the label alone is learnt, it stands in the place of the soft target too, and has the whole weight.
    """

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


def finite(log_probs: torch.Tensor) -> torch.Tensor:
    """Count a probability of 0 as e^-69: the reverse divergence stays finite."""
    return log_probs.clamp_min(_LOG_ZERO)


def dense_targets(targets: ProtectedTargets, student_log_probs: torch.Tensor) -> Targets:
    """Ask for the targets of all N tokens at once.

    Args:
        targets: what the student learns from.
        student_log_probs: [N, V] at the student's temperature; shapes what a cached teacher did not keep.
    """
    private = targets.likelihood > 0
    log_probs = torch.empty_like(student_log_probs)
    for ask, rows in (targets.ordinary, ~private), (targets.private, private):
        where = rows.nonzero()[:, 0]
        if len(where):
            part = ask(where)
            dense = part.dense(student_log_probs[where]) if isinstance(part, TopTokens) else part
            log_probs[where] = dense
    return Targets(finite(log_probs), log_probs.amax(-1) != -torch.inf)


def token_losses(
    student_logits: torch.Tensor,
    targets: ProtectedTargets,
    labels: torch.Tensor,
    temperatures: TokenTemperatures,
    *,
    beta: float = 0.0,
) -> TokenLosses:
    """Return the parts of the loss per token.

    Args:
        student_logits: [N, V].
        targets: what the student learns from, and how likely each token is private; a position without a target is
            left out of the loss.
        labels: [N] ids of the tokens to predict.
        temperatures: from `TemperatureSettings.for_tokens`.
        beta: which divergence, see `divergence`.
    """
    student = (student_logits / temperatures.student[:, None]).log_softmax(-1)
    with torch.no_grad():
        log_probs, present = dense_targets(targets, student)
    soft = torch.where(present, temperatures.weight * divergence(log_probs, student, beta), 0.0)
    hard = F.cross_entropy(student_logits, labels, reduction="none")
    hard_weight = torch.where(present, 1 - targets.likelihood, 0.0)
    if targets.labels_alone:
        private = targets.likelihood > 0
        soft, hard_weight = torch.where(private, hard, soft), torch.where(private, 1.0, hard_weight)
    return TokenLosses(soft, hard, hard_weight)
