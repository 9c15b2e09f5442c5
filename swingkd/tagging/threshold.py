"""From which likelihood on something counts as private."""

from __future__ import annotations

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
