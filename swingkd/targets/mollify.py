"""Mollified targets: the private teacher may move a public model's distribution only so far (ours).

q = lam * p_teacher + (1 - lam) * p_public with the largest lam for which both Renyi divergences, D(q || p_public) and
D(p_public || q), stay within bound(s).  The bound limits what the private teacher can say at one token.  It is not a
privacy guarantee for a record: where the public model is indifferent (the digits of a number), any lam > 0 keeps the
secret at rank 1, so the bound of a surely private token is 0 and its target is the public model's.
"""

from __future__ import annotations

import math

import torch

from swingkd.guards import check_not_negative, check_positive
from swingkd.targets.base import PrivatePositions


def renyi_divergence(log_p: torch.Tensor, log_q: torch.Tensor, order: float) -> torch.Tensor:
    """Return D_order(p || q) in nats, [P], for log-probabilities [P, V]; `order` 1 is KL, infinity the max-ratio."""
    # Where p has no mass its ratio must not count, and -inf - (-inf) would be nan.
    ratio = torch.where(log_p == -torch.inf, -torch.inf, log_p - log_q)
    if math.isinf(order):
        return ratio.amax(-1)
    if order == 1:
        return torch.where(log_p == -torch.inf, 0.0, log_p.exp() * ratio).sum(-1)
    return (log_p + (order - 1) * ratio).logsumexp(-1) / (order - 1)


class MollifiedTarget:
    """Mix the teacher into the public model as far as a divergence bound allows.

    Args:
        bound: the bound in nats at likelihood 1/2; bound(s) = bound * (1 - s) / s, so a surely private token follows
            the public model alone and a hardly private one the teacher.
        order: order of the Renyi divergence (1: KL; `math.inf`: the largest log-ratio).
    """

    def __init__(self, bound: float = 0.1, order: float = 2.0):
        self.bound = bound
        self.order = order
        check_not_negative(self, "bound")
        check_positive(self, "order")

    def protect(self, log_probs: torch.Tensor, positions: PrivatePositions) -> torch.Tensor:
        """See `Protection.protect`."""
        public = positions.public_log_probs
        if public is None:
            raise ValueError("protection='mollify' needs a public model: pass public_model=... to the trainer.")
        # In float64: a small divergence grows with the square of lam, and rounding must not let lam through.
        teacher, public = log_probs.double(), public.double()
        bound = (self.bound * (1 - positions.likelihood) / positions.likelihood).double()
        low, high = torch.zeros_like(bound), torch.ones_like(bound)
        # Both divergences grow with lam (they are convex and 0 at lam = 0), so bisection finds the largest.
        for _ in range(24):
            middle = (low + high) / 2
            fits = self._divergence(teacher, public, middle) <= bound
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        whole = self._divergence(teacher, public, torch.ones_like(bound)) <= bound
        share = torch.where(whole, 1.0, low).masked_fill(bound == 0, 0.0)
        return self._mix(teacher, public, share).to(log_probs.dtype)

    def _mix(self, log_probs: torch.Tensor, public: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        return torch.logaddexp(log_probs + share.log()[:, None], public + (1 - share).log()[:, None])

    def _divergence(self, log_probs: torch.Tensor, public: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        mixed = self._mix(log_probs, public, share)
        return torch.maximum(renyi_divergence(mixed, public, self.order), renyi_divergence(public, mixed, self.order))
