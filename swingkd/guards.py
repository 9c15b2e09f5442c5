"""The small checks of numbers that all rooms share; what is not set (`None`) passes."""

from __future__ import annotations

from collections.abc import Callable


def check_positive(settings: object, *names: str) -> None:
    """Refuse settings that are not positive.

    Args:
        settings: the object that has them.
        *names: of those to look at.

    Raises:
        ValueError: names the first.
    """
    _check(settings, names, lambda value: value > 0, "must be positive")


def check_not_negative(settings: object, *names: str) -> None:
    """Refuse settings below 0, see `check_positive`."""
    _check(settings, names, lambda value: value >= 0, "must not be negative")


def check_at_least_one(settings: object, *names: str) -> None:
    """Refuse settings below 1, see `check_positive`."""
    _check(settings, names, lambda value: value >= 1, "must be at least 1")


def check_share(settings: object, *names: str) -> None:
    """Refuse settings outside [0, 1], see `check_positive`."""
    _check(settings, names, lambda value: 0 <= value <= 1, "must lie in [0, 1]")


def _check(settings: object, names: tuple[str, ...], holds: Callable[[float], bool], rule: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not holds(value):
            raise ValueError(f"{name}={value} {rule}.")
