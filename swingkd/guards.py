"""The small checks of numbers that all rooms share."""

from __future__ import annotations


def check_positive(settings: object, *names: str) -> None:
    """Refuse settings that are not positive.

    Args:
        settings: the object that has them.
        *names: of those to look at.

    Raises:
        ValueError: names the first.
    """
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name}={getattr(settings, name)} must be positive.")
