"""One temperature per token, set by how likely the token is private (Swing distillation, our reading).

T = 1 + (T_max - 1) s^power at private tokens, applied to the *teacher only*; ordinary tokens keep plain distillation:
one base temperature on both sides and the usual T^2.  The same temperature on both sides would protect nothing at
convergence: KL(softmax(z_t/T) || softmax(z_s/T)) is least at z_s = z_t + const for every T.  That symmetric form is
kept as an ablation.

    >>> settings = TemperatureSettings(base=2.0, maximum=16.0)
    >>> settings.for_tokens(torch.tensor([0.0, 1.0]))
    TokenTemperatures(teacher=tensor([ 2., 16.]), student=tensor([2., 1.]), weight=tensor([4., 1.]))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from swingkd.guards import check_numbers, check_positive


class TokenTemperatures(NamedTuple):
    """Per token, all [N]: the teacher's and the student's temperature and the weight of the soft loss."""

    teacher: torch.Tensor
    student: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True)
class TemperatureSettings:
    """How likelihood becomes temperature.

    Args:
        base: temperature of ordinary tokens (likelihood 0), both sides.
        maximum: teacher temperature of a surely private token.
        power: exponent of the likelihood; above 1 only sure tokens are softened much.
        schedule: "power" T = 1 + (maximum - 1) s^power, or "geometric" T = maximum^(s^power).
        mode: "teacher_only", or "symmetric" (ablation: protects nothing at convergence).

    Raises:
        ValueError: a number is not positive and finite.
    """

    base: float = 2.0
    maximum: float = 16.0
    power: float = 1.0
    schedule: Literal["power", "geometric"] = "power"
    mode: Literal["teacher_only", "symmetric"] = "teacher_only"

    def __post_init__(self) -> None:
        check_numbers(self)
        check_positive(self, "base", "maximum", "power")

    def for_tokens(self, likelihood: torch.Tensor) -> TokenTemperatures:
        """Return the temperatures of tokens with this likelihood [N] in [0, 1]."""
        strength = likelihood**self.power
        private = 1 + (self.maximum - 1) * strength if self.schedule == "power" else self.maximum**strength
        base = torch.full_like(likelihood, self.base)
        ordinary = likelihood == 0
        teacher = torch.where(ordinary, base, private)
        student = teacher if self.mode == "symmetric" else torch.where(ordinary, base, torch.ones_like(base))
        return TokenTemperatures(teacher, student, student**2)


def soften_support(log_probs: torch.Tensor, temperature: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Apply a temperature within a support of tokens; the support keeps its total mass, the tail stays.

    Softening a whole vocabulary of 50,000 would leave a 0.98 token 5e-5 at T = 16: mostly noise words.

    Args:
        log_probs: [P, V] the teacher's log-probabilities.
        temperature: [P].
        support: [P, K] token ids.

    Returns:
        [P, K] log-probabilities of the support.
    """
    inside = log_probs.gather(-1, support)
    mass = inside.logsumexp(-1, keepdim=True)
    return (inside / temperature[:, None]).log_softmax(-1) + mass
