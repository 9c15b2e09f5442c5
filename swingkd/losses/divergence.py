"""The distillation loss in one pass over the vocabulary: loss and gradient together, a few tokens at a time.

The formula is `reference.py`'s.  Here it is a function of hidden states and of the student's output head: the logits
of a chunk of tokens are made, turned into their own gradient in place, multiplied back onto the head and the hidden
states, and forgotten.  So [N, V] never exists, and there are four vocabulary-sized products (teacher's logits,
student's logits, gradient of the hidden states, gradient of the head) where a kernel that recomputes the logits in its
backward needs six.

With p the student's distribution at its temperature, q the target and g = dD/dp, the gradient of a divergence with
respect to p's logits is p * (g - sum p g) (our derivation):

    forward KL   p - q
    reverse KL   p * (log p - log q - D)
    JSD          (1 - beta) * p * (log p - log m - KL(p || m)),   m = (1 - beta) p + beta q
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from swingkd.losses.reference import TokenLosses, finite
from swingkd.models.head import Head, at_least_float32, compute_dtype
from swingkd.targets.teacher import ProtectedTargets, TopTokens
from swingkd.targets.temperature import TokenTemperatures

# Chunks at private tokens are smaller: a protection works on several copies of them, some in float64.
_PRIVATE_SHARE = 8
# The steps between the products take so many numbers at a time: few enough for a CPU's caches, and in both cases for
# their temporary copies to be small beside the chunk.
_BLOCK = {"cpu": 2**18}
_BLOCK_ELSEWHERE = 2**24


@dataclass(frozen=True)
class _Work:
    """Everything a pass needs beside the tensors that have a gradient."""

    targets: ProtectedTargets
    labels: torch.Tensor
    temperatures: TokenTemperatures
    alpha: float
    beta: float
    scale: float
    softcap: float | None
    memory: int
    gradient: bool


def fused_token_losses(
    hidden: torch.Tensor,
    head: Head,
    targets: ProtectedTargets,
    labels: torch.Tensor,
    temperatures: TokenTemperatures,
    *,
    alpha: float,
    beta: float = 0.0,
    memory: int = 2**27,
) -> tuple[torch.Tensor, torch.Tensor, TokenLosses]:
    """Return the loss summed over tokens and per token [N], and the parts of it, which carry no gradient.

    The loss per token carries one where the head is frozen: each token's slope is kept for the hidden states, and the
    head's is a sum over tokens.

    Args:
        hidden: [N, D] the student's hidden states where tokens are predicted.
        head: the student's output head.
        targets: what the student learns from, and how likely each token is private.
        labels: [N] ids of the tokens to predict.
        temperatures: from `TemperatureSettings.for_tokens`.
        alpha: weight of the soft loss; the rest is the hard labels'.
        beta: which divergence, see `reference.divergence`.
        memory: bytes for the chunks; more is no faster beyond a few hundred tokens a chunk.
    """
    work = _Work(targets, labels, temperatures, alpha, beta, head.scale, head.softcap, memory, torch.is_grad_enabled())
    total, per_token, *parts = _OnePass.apply(hidden, head.weight, head.bias, work)
    return total, per_token, TokenLosses(*parts)


class _OnePass(torch.autograd.Function):
    """Loss and gradient in the forward; the backward only multiplies."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, work: _Work) -> Any:
        wants = [needed and work.gradient for needed in ctx.needs_input_grad[:3]]
        # Not in float16: the gradient is made here, before a loss scale could lift it out of the underflow.
        dtype = compute_dtype(hidden.device) or weight.dtype
        dtype = torch.float32 if dtype == torch.float16 else dtype
        head = Head(weight, bias, work.scale, work.softcap).cast(dtype)
        states = hidden.to(head.weight.dtype)
        exact = torch.float64 if head.weight.dtype == torch.float64 else torch.float32
        # Sums over chunks are kept in float32, whatever the products are made in.
        grads = tuple(
            torch.zeros(tensor.shape, dtype=exact, device=hidden.device) if tensor is not None and wanted else None
            for tensor, wanted in zip((hidden, weight, bias), wants, strict=True)
        )
        losses = TokenLosses(*(torch.zeros(len(hidden), dtype=exact, device=hidden.device) for _ in range(3)))
        with torch.autocast(hidden.device.type, enabled=False):
            for rows, private in _chunks(work, head.weight.size(0)):
                _chunk(head, states, rows, private, work, losses, grads)
        ctx.save_for_backward(
            *(
                grad.to(tensor.dtype) if tensor is not None and grad is not None else None
                for grad, tensor in zip(grads, (hidden, weight, bias), strict=True)
            )
        )
        per_token = losses.total(work.alpha)
        summed = grads[1] is not None or grads[2] is not None
        ctx.mark_non_differentiable(*losses, *([per_token] if summed else []))
        return per_token.sum(), per_token, *losses

    @staticmethod
    def backward(ctx: Any, of_sum: torch.Tensor, of_tokens: torch.Tensor, *_: Any) -> Any:  # type: ignore[override]
        hidden, *head = ctx.saved_tensors
        if hidden is not None:
            hidden = hidden * (of_sum + of_tokens)[:, None].to(hidden)
        # In place: a second copy of the head's gradient would be the largest thing in memory.  A second backward
        # through the same graph (retain_graph=True) is therefore an error, torch's own.
        return hidden, *(grad.mul_(of_sum) if grad is not None else None for grad in head), None


def _chunks(work: _Work, vocabulary: int) -> Iterator[tuple[torch.Tensor, bool]]:
    """Split the tokens into chunks that fit the memory, ordinary and private ones apart."""
    width = 8 if work.targets.likelihood.dtype == torch.float64 else 4
    # The student's logits and the targets.
    size = max(work.memory // (2 * width * vocabulary), 1)
    private = work.targets.likelihood > 0
    for rows, is_private in ((~private).nonzero()[:, 0], False), (private.nonzero()[:, 0], True):
        for part in rows.split(max(size // _PRIVATE_SHARE, 1) if is_private else size) if len(rows) else ():
            yield part, is_private


def _chunk(
    head: Head,
    states: torch.Tensor,
    rows: torch.Tensor,
    private: bool,
    work: _Work,
    losses: TokenLosses,
    grads: tuple[torch.Tensor | None, ...],
) -> None:
    """Fill in the losses of a chunk of tokens, and add to the gradients of states, weight and bias what it says."""
    grad_hidden, grad_weight, grad_bias = grads
    wanted = any(grad is not None for grad in grads)
    logits = head.logits(states[rows])
    if private and work.targets.labels_alone:
        _label_losses_and_slope(logits, rows, work, losses, wanted)
    else:
        target = work.targets.private(rows) if private else work.targets.ordinary(rows)
        _losses_and_slope(logits, target, rows, private, work, losses, wanted)
    if not wanted:
        return
    slope = logits.to(head.weight.dtype)
    if grad_hidden is not None:
        grad_hidden[rows] = at_least_float32(slope @ head.weight)
    if grad_weight is not None:
        if slope.dtype == grad_weight.dtype:
            grad_weight.addmm_(slope.T, states[rows])
        else:
            grad_weight += slope.T @ states[rows]
    if grad_bias is not None:
        grad_bias += logits.sum(0)


def _losses_and_slope(
    logits: torch.Tensor,
    target: torch.Tensor | TopTokens,
    rows: torch.Tensor,
    private: bool,
    work: _Work,
    losses: TokenLosses,
    gradient: bool,
) -> None:
    """Fill in the losses; turn the logits into their gradient, in place."""
    step = max(_BLOCK.get(logits.device.type, _BLOCK_ELSEWHERE) // logits.size(1), 1)
    temperature = work.temperatures.student[rows, None].to(logits)
    softness = (work.alpha * work.temperatures.weight[rows, None]).to(logits)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        z, here, own = logits[part], rows[part], temperature[part]
        log_p = (z / own).log_softmax(-1)
        log_q = target[part]
        if isinstance(log_q, TopTokens):
            log_q = log_q.dense(log_p)
        # A private token may have no target; then nothing is learnt there.
        present = log_q.amax(1, keepdim=True) != -torch.inf if private else torch.ones_like(own)
        divergence, slope = _divergence_and_slope(log_p, finite(log_q), work.beta)
        log_z = z.log_softmax(-1)
        label = work.labels[here, None]
        hard_weight = present * (1 - work.targets.likelihood[here, None]).to(z)
        losses.soft[here] = (present * work.temperatures.weight[here, None] * divergence)[:, 0].to(z)
        losses.hard[here] = -log_z.gather(1, label)[:, 0]
        hardness = (1 - work.alpha) * hard_weight
        losses.hard_weight[here] = hard_weight[:, 0]
        if not gradient:
            continue
        slope.mul_(softness[part] * present / own)
        slope.addcmul_(log_z.exp_(), hardness).scatter_add_(1, label, -hardness)
        _into_logits(slope, z, work)


def _label_losses_and_slope(
    logits: torch.Tensor, rows: torch.Tensor, work: _Work, losses: TokenLosses, gradient: bool
) -> None:
    """The same where the label is learnt, with the whole weight, and no teacher is asked."""
    label = work.labels[rows, None]
    log_z = logits.log_softmax(-1)
    losses.soft[rows] = losses.hard[rows] = -log_z.gather(1, label)[:, 0]
    losses.hard_weight[rows] = 1
    if gradient:
        slope = log_z.exp_().scatter_add_(1, label, torch.full_like(label, -1, dtype=log_z.dtype))
        _into_logits(slope, logits, work)


def _into_logits(slope: torch.Tensor, z: torch.Tensor, work: _Work) -> None:
    """Write the slope with respect to the head's product over the logits."""
    if work.softcap is not None:
        slope.mul_(1 - (z / work.softcap).square())
    torch.mul(slope, work.scale, out=z)


def _divergence_and_slope(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return D_beta [c, 1] and its derivative with respect to the logits of p [c, V]."""
    p = log_p.exp()
    if beta == 0:
        q = log_q.exp()
        value = (log_q - log_p).mul_(q).sum(-1, keepdim=True)
        return value, p.sub_(q)
    if beta == 1:
        ratio = log_p - log_q
        value = (p * ratio).sum(-1, keepdim=True)
        return value, ratio.sub_(value).mul_(p)
    log_m = torch.logaddexp(log_p + math.log1p(-beta), log_q + math.log(beta))
    ratio = log_p - log_m
    near = (p * ratio).sum(-1, keepdim=True)
    far = (log_q - log_m).mul_(log_q.exp()).sum(-1, keepdim=True)
    return beta * far + (1 - beta) * near, ratio.sub_(near).mul_(p).mul_(1 - beta)
