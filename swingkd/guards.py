"""The small checks of numbers that all rooms share; what is not set (`None`) passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def check_numbers(settings: Any, *, infinite: tuple[str, ...] = ()) -> None:
    """Refuse fields of a dataclass that hold no number where one belongs: NaN, infinity, half of a whole one, a word.

    A comparison alone lets them pass: NaN is neither below zero nor above it.

    Args:
        settings: an instance of a dataclass.
        infinite: fields in which infinity has a meaning.

    Raises:
        ValueError: names the first.
    """
    kind: Any = type(settings)
    for name, whole in _numbers(kind).items():
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            raise ValueError(f"{name}={value!r} must be a {'whole ' if whole else ''}number.")
        if name not in infinite:
            check_finite(name, value)
    for field in fields(settings):
        if field.name not in infinite:
            check_finite(field.name, getattr(settings, field.name))


def check_finite(name: str, value: Any) -> None:
    """Refuse NaN and infinity: a number, or any number in lists and dictionaries.

    Raises:
        ValueError: names it.
    """
    for number in _floats(value):
        if not math.isfinite(number):
            raise ValueError(f"{name}={value} must be finite.")


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


@cache
def _numbers(kind: type) -> dict[str, bool]:
    """Return the fields that hold a number, or nothing; and whether it is a whole one."""
    hints = get_type_hints(kind)
    kinds = {field.name: _kinds(hints[field.name]) for field in fields(kind)}
    return {name: own == {int} for name, own in kinds.items() if own and own <= {int, float}}


def _kinds(hint: Any) -> set[Any]:
    """Return what a field may hold beside nothing."""
    several = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return set(several) - {NoneType}


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        yield from (number for part in value.values() for number in _floats(part))
    elif isinstance(value, (list, tuple)):
        yield from (number for part in value for number in _floats(part))
