"""The loss of one batch, made in several ways: what the benchmarks compare."""

from __future__ import annotations

import torch

from swingkd.losses import fused_token_losses, token_losses
from swingkd.targets import Head, LiveTeacher, ProtectedTargets, TemperatureSettings

STUDENT, TEACHER = 256, 512
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Case:
    """Hidden states and heads of a student and a wider teacher, N tokens over a vocabulary."""

    def __init__(self, tokens: int, vocabulary: int, dtype: torch.dtype = torch.float32, temperature: float = 1.0):
        torch.manual_seed(0)
        make = {"device": DEVICE, "dtype": dtype}
        self.hidden = torch.randn(tokens, STUDENT, **make).requires_grad_()
        self.weight = (torch.randn(vocabulary, STUDENT, **make) / STUDENT**0.5).requires_grad_()
        self.teacher_hidden = torch.randn(tokens, TEACHER, **make)
        self.teacher_weight = torch.randn(vocabulary, TEACHER, **make) / TEACHER**0.5 * 3
        self.labels = torch.randint(0, vocabulary, (tokens,), device=DEVICE)
        self.likelihood = torch.zeros(tokens, device=DEVICE, dtype=torch.promote_types(dtype, torch.float32))
        self.temperatures = TemperatureSettings(base=temperature).for_tokens(self.likelihood)

    def targets(self) -> ProtectedTargets:
        head = Head(self.teacher_weight)
        teacher = LiveTeacher(lambda rows: head.logits(self.teacher_hidden[rows]), self.temperatures.teacher)
        return ProtectedTargets(teacher, self.likelihood)

    @property
    def known(self) -> tuple:
        return self.targets(), self.labels, self.temperatures


def fused(case: Case, beta: float = 0.0, alpha: float = 1.0) -> tuple[torch.Tensor, ...]:
    """The one pass: returns the gradients of the student's states and head."""
    total, *_ = fused_token_losses(case.hidden, Head(case.weight), *case.known, alpha=alpha, beta=beta)
    return torch.autograd.grad(total, [case.hidden, case.weight])


def dense(case: Case, beta: float = 0.0, alpha: float = 1.0) -> tuple[torch.Tensor, ...]:
    """The plain formula."""
    logits = Head(case.weight).logits(case.hidden)
    total = token_losses(logits, *case.known, beta=beta).total(alpha).sum()
    return torch.autograd.grad(total, [case.hidden, case.weight])


def products(case: Case, chunk: int = 256) -> None:
    """The four matrix products that no such loss can do without: the floor."""
    with torch.no_grad():
        weight, gradient = case.weight, torch.zeros_like(case.weight)
        for rows in torch.arange(len(case.hidden), device=DEVICE).split(chunk):
            hidden = case.hidden[rows]
            _ = case.teacher_hidden[rows] @ case.teacher_weight.T
            logits = hidden @ weight.T
            _ = logits @ weight
            gradient.addmm_(logits.T, hidden)


def trl(case: Case, beta: float = 0.0) -> tuple[torch.Tensor, ...]:
    """TRL's chunked kernel, which knows neither hard labels nor a temperature, a weight or a target per token."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    losses, _ = ChunkedDivergenceFunction.apply(
        case.hidden, case.weight, None, case.teacher_hidden, case.teacher_weight, None, beta, 1.0
    )
    return torch.autograd.grad(losses.sum(), [case.hidden, case.weight])
