"""What a batch asks the student to predict, and what is known of each answer."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from swingkd.data.columns import PII_COLUMNS, likelihoods
from swingkd.tagging.threshold import decided
from swingkd.targets import PrivatePositions, TokenFacts


class PredictedTokens(NamedTuple):
    """The N answers of a batch that have a label: where the model gives them, and facts about each, [N].

    `at` is bool in the shape of the logits without their last dimension: [B, T], or [B] where a whole example has one
    label.
    """

    at: torch.Tensor
    labels: torch.Tensor
    facts: TokenFacts
    context: torch.Tensor

    @property
    def likelihood(self) -> torch.Tensor:
        """[N] in [0, 1] of the token to be predicted."""
        return self.facts.likelihood

    def decided(self, threshold: float) -> PredictedTokens:
        """Return the same with a likelihood of 1 from the threshold on, and 0 below."""
        return self._replace(facts=self.facts._replace(likelihood=decided(self.likelihood, threshold)))

    def ordinary(self) -> PredictedTokens:
        """Return the same with nothing private."""
        return self._replace(facts=self.facts._replace(likelihood=torch.zeros_like(self.likelihood)))

    def private(
        self, temperature: torch.Tensor | None = None, public_log_probs: torch.Tensor | None = None
    ) -> PrivatePositions | None:
        """Return the private ones, with their teacher temperature [N]; `None` where there are none."""
        at = self.likelihood > 0
        if not bool(at.any()):
            return None
        temperature = torch.ones_like(self.likelihood) if temperature is None else temperature
        return PrivatePositions(self.facts.at(at), temperature[at], self.context[at], public_log_probs)

    def private_at(self) -> torch.Tensor:
        """Return bool in the shape of `at`: where a private one is predicted."""
        places = self.at.clone()
        places[self.at] = self.likelihood > 0
        return places


def preceding(ids: torch.Tensor, width: int, end: int | None, positions: torch.Tensor | None = None) -> torch.Tensor:
    """Return the ids just before each token, [B, T, width], the nearest last; -1 where there is none.

    Args:
        ids: [B, T]; -1 where a row is padded.
        width: how many.
        end: id that ends a record; what stands before it belongs to another record and is left out (packed rows).
        positions: [B, T], which begin anew with each record of a packed row.
    """
    if not ids.size(1):
        return ids.new_zeros(len(ids), 0, width)
    windows = F.pad(ids, (width, 0), value=-1)[:, :-1].unfold(1, width, 1)
    if end is not None:
        # Everything up to the last end of a record in the window.
        ended = (windows == end).flip(2).cumsum(2).flip(2) > 0
        windows = windows.masked_fill(ended, -1)
    if positions is not None:
        place = torch.arange(ids.size(1), device=ids.device)
        begins = F.pad(positions.diff(dim=1) != 1, (1, 0), value=True)
        since = place - torch.where(begins, place, 0).cummax(1).values
        back = torch.arange(width, 0, -1, device=ids.device)
        windows = windows.masked_fill(since[..., None] < back, -1)
    return windows


def _fact(inputs: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return a column about privacy, whoever made the batch: with none of them nothing is private.

    Raises:
        ValueError: the batch has some of the columns only.
    """
    if name not in inputs:
        if any(other in inputs for other in PII_COLUMNS):
            raise ValueError(
                f"The batch lacks the column {name}. A data_collator of your own must hand on the columns "
                f"{', '.join(PII_COLUMNS)}, padded with 0."
            )
        return torch.zeros_like(inputs["labels"])
    column = inputs[name]
    # A collator of one's own hands on what the rows keep, 0 to 255.
    return likelihoods(column) if name == "pii_likelihood" and not column.is_floating_point() else column


def predicted_tokens(
    inputs: dict[str, torch.Tensor], at: torch.Tensor, learnt: torch.Tensor, context: torch.Tensor
) -> PredictedTokens:
    """Collect what is known of the answers of a batch.

    Args:
        inputs: the batch.
        at: bool, where the model gives them.
        learnt: bool, where their labels stand, and the facts about them.
        context: what chooses their draw, in the shape of `learnt` and [w].
    """
    facts = TokenFacts(*(_fact(inputs, name)[learnt] for name in PII_COLUMNS))
    return PredictedTokens(at, inputs["labels"][learnt], facts, context[learnt])
