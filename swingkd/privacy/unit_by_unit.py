"""DP-SGD of any loss: each unit goes through the model alone, so its gradient is its own whatever the model does.

No hooks, and no gradients per row in memory: one unit's gradient at a time is clipped and added to the sum.  A record
cannot move another one's clipped gradient, since the two never meet.  The price is time: nothing is computed together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from swingkd.privacy.check_gradients import check_weights
from swingkd.privacy.check_rows_apart import check_rows_apart
from swingkd.privacy.dp_sgd import DPSGD

# The same row and the same draws: on some devices sums are added up in another order each time.
_ALLOWED = 1e-3


class UnitByUnit(DPSGD):
    """Clip and noise what an optimizer sees of a model, for losses that cannot be told row by row.

        for units in batches:
            dp.zero_grad()
            for rows in units:
                dp.accumulate_unit(loss(model, row) for row in rows)
            dp.finish()
            dp.optimizer.step()

    Args:
        model, optimizer, plan, units, generator: as of `DPSGD`.

    Raises:
        ValueError: the model cannot be trained with DP-SGD, and what to do instead; or there are no units.
    """

    def _check_model(self) -> None:
        check_weights(self.model)

    def attach(self) -> None:
        """Nothing is attached: gradients are the model's own."""

    def accumulate_unit(self, losses: Iterable[torch.Tensor]) -> float:
        """Run the backward passes of one unit's rows; clip their sum and add it; return the sum of the losses.

        Args:
            losses: of its rows, each a number; made one after the other, so that one graph at a time is in memory.
        """
        total = 0.0
        try:
            for loss in losses:
                loss.backward()
                total += float(loss.detach())
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._named.values()]
            self._clip([gradient[None] for gradient in gradients])
        finally:
            self._forget()
        return total

    def check(self, losses: Callable[[torch.Tensor], torch.Tensor], rows: int = 2) -> None:
        """Refuse a model, or a loss, that remembers what it read.

        Args:
            losses: runs the model on the rows with these numbers, [n], one by one, and returns their losses, [n].
            rows: how many there are to try.

        Raises:
            ValueError: it does.
        """
        check_rows_apart(self.model, losses, rows)
        first, others = torch.zeros(1, dtype=torch.long), torch.arange(1, rows)
        with torch.no_grad():
            with _same_draws():
                before = float(losses(first))
            losses(others)
            with _same_draws():
                after = float(losses(first))
        if not abs(after - before) <= _ALLOWED * max(1.0, abs(before)):
            raise ValueError(
                f"A row's loss is {before:.6g}, and {after:.6g} after others were read: the loss remembers rows (a "
                "running mean, say), and no clip bounds what one of them does to the others. Take another loss."
            )


@contextmanager
def _same_draws() -> Iterator[None]:
    """Let everything that is drawn inside be drawn from the same numbers, and outside go on as if nothing was."""
    own, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(arrays)
