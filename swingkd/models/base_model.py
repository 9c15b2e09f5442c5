"""A model with its adapter switched off: what it was before it was trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def has_adapter(model: Any) -> bool:
    """Tell whether a model has an adapter that can be switched off: of peft, or loaded by transformers."""
    return hasattr(model, "disable_adapter") or bool(getattr(model, "_hf_peft_config_loaded", False))


def check_has_adapter(model: Any) -> None:
    """Refuse a model where its base is asked for, and to switch an adapter off does not give it.

    Args:
        model: any.

    Raises:
        ValueError: it has no adapter, or biases of the base, or a classifier's head, were trained with the adapter.
    """
    if not has_adapter(model):
        raise ValueError(
            "'base' stands for the audited model with its adapter switched off, and this model has no adapter. Name "
            "the model that it was trained from."
        )
    for name, config in model.peft_config.items():
        trained = f"bias={config.bias!r}" if getattr(config, "bias", "none") != "none" else ""
        # A classifier's head was drawn at random for the base; what it says without training is nothing.
        if str(getattr(config, "task_type", "")).upper().endswith("_CLS"):
            trained = f"task_type={config.task_type!r}"
        if trained:
            raise ValueError(
                f"'base' stands for the audited model with its adapter switched off, and the adapter {name!r} changed "
                f"more than its own weights ({trained}). Name the model that it was trained from."
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
