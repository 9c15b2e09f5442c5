"""From which likelihood on something counts as private."""

from __future__ import annotations

from typing import Any

#: More likely private than not.
THRESHOLD = 0.5
# What 32 bits may take from a number.
_ROUNDED = 1e-6


def is_private(likelihood: Any, threshold: float = THRESHOLD) -> Any:
    """Tell what counts as private.

    Args:
        likelihood: in [0, 1]; an array, a tensor or a number.
        threshold: from where on.
    """
    return likelihood >= threshold


def decided(likelihood: Any, threshold: float = THRESHOLD) -> Any:
    """Return 1 for what counts as private and 0 for the rest: a likelihood is a probability, not a dose.

    Half a protection would leave the other half of a secret where the tagger was only fairly sure.

    Args:
        likelihood: a tensor in [0, 1]; a column keeps it rounded up, so nothing that was likely enough is lost.
        threshold: from where on.
    """
    return is_private(likelihood, threshold - _ROUNDED).to(likelihood)
