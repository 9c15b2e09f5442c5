"""A model with its adapter switched off: what it was before it was trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def has_adapter(model: Any) -> bool:
    """Tell whether a model has an adapter that can be switched off: of peft, or loaded by transformers."""
    return hasattr(model, "disable_adapter") or bool(getattr(model, "_hf_peft_config_loaded", False))


def check_has_adapter(model: Any) -> None:
    """Refuse a model without an adapter where its base is asked for."""
    if not has_adapter(model):
        raise ValueError(
            "'base' stands for the audited model with its adapter switched off, and this model has no adapter. Name "
            "the model that it was trained from."
        )


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Let a model be its base for a while.

    Args:
        model: with an adapter.

    Raises:
        ValueError: it has none.
    """
    check_has_adapter(model)
    if hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            yield
        return
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()
