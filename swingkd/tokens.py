"""The tokens that a batch asks the student to predict, and what is known of each."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from swingkd.data import IGNORE, PII_COLUMNS
from swingkd.targets import PrivatePositions


class PredictedTokens(NamedTuple):
    """The N predicted tokens of a batch: where they are predicted ([B, T - 1] bool) and facts about each, [N]."""

    at: torch.Tensor
    labels: torch.Tensor
    likelihood: torch.Tensor
    context: torch.Tensor
    group: torch.Tensor
    shape: torch.Tensor
    span: torch.Tensor

    def private(
        self, temperature: torch.Tensor | None = None, public_log_probs: torch.Tensor | None = None
    ) -> PrivatePositions | None:
        """Return the private ones, with their teacher temperature [N]; `None` where there are none."""
        at = self.likelihood > 0
        if not bool(at.any()):
            return None
        temperature = torch.ones_like(self.likelihood) if temperature is None else temperature
        return PrivatePositions(
            likelihood=self.likelihood[at],
            temperature=temperature[at],
            context=self.context[at],
            group=self.group[at],
            shape=self.shape[at],
            span=self.span[at],
            public_log_probs=public_log_probs,
        )

    def private_at(self) -> torch.Tensor:
        """Return [B, T - 1] bool: where a private token is predicted."""
        places = self.at.clone()
        places[self.at] = self.likelihood > 0
        return places


def predicted_tokens(inputs: dict[str, torch.Tensor], width: int, end: int | None) -> PredictedTokens:
    """Find the tokens of a batch that have a label.

    Args:
        inputs: a batch of `DistillationCollator`.
        width: how many preceding tokens to note for each.
        end: id that ends a record; the tokens before it belong to another record and are not noted (packed rows).
    """
    labels = inputs["labels"][:, 1:]
    at = labels != IGNORE
    ids = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -1)
    # Row t of the windows holds the tokens just before t.
    windows = F.pad(ids, (width, 0), value=-1)[:, :-1].unfold(1, width, 1)[:, 1:][at]
    if end is not None:
        # Everything up to the last end of a record in the window.
        ended = (windows == end).flip(1).cumsum(1).flip(1) > 0
        windows = windows.masked_fill(ended, -1)
    likelihood, group, shape, span = (inputs[name][:, 1:][at] for name in PII_COLUMNS)
    return PredictedTokens(at, labels[at], likelihood, windows, group, shape, span)
