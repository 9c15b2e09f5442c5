"""From which likelihood on something counts as private."""

from __future__ import annotations

import math
from typing import Any

#: More likely private than not.
THRESHOLD = 0.5


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
        likelihood: a tensor in [0, 1]; perhaps read from a column, which rounds up to 255ths.
        threshold: from where on; rounded up likewise.
    """
    return is_private(likelihood, math.ceil(threshold * 255) / 255).to(likelihood)
