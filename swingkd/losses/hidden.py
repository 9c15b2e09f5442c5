"""Hint matching: the student's hidden states learn from the teacher's (FitNets, Romero et al. 2015, arXiv 1412.6550).

Hidden states leak like hard labels: the state that predicts a private token holds that token.  So the loss carries the
weight 1 - s of the token it predicts (our derivation).
"""

from __future__ import annotations

import torch
from torch import nn


class HintProjection(nn.Linear):
    """A learnt map from the student's width to the teacher's; used in training only, never shipped with the student.

    Args:
        student_width: size of the student's hidden states.
        teacher_width: size of the teacher's.
    """

    def __init__(self, student_width: int, teacher_width: int):
        super().__init__(student_width, teacher_width, bias=False)


def hint_losses(student: torch.Tensor, teacher: torch.Tensor, likelihood: torch.Tensor) -> torch.Tensor:
    """Return the weighted squared distance per token, [N]: (1 - s) * mean_d (teacher - student)^2 / 2.

    Args:
        student: [N, D] projected hidden states of the student.
        teacher: [N, D] hidden states of the teacher.
        likelihood: [N] in [0, 1] of the token that the state predicts.
    """
    distance = (teacher.detach().float() - student.float()).square().mean(-1) / 2
    return (1 - likelihood) * distance
