"""Load models by name: weights as safetensors only, and one error that says what is wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import HFValidationError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def load_pretrained(auto_model: Any, model: str | PreTrainedModel, **options: Any) -> PreTrainedModel:
    """Load a model that is given by its name; return any other as it is.

    Args:
        auto_model: an Auto class of transformers.
        model: a name on the Hub, a folder, or a model.
        **options: for `from_pretrained`.

    Raises:
        ValueError: there is no such model of this architecture, or no weights as safetensors: pickles are not read.
    """
    if not isinstance(model, str):
        return model
    try:
        with looked_up(model):
            return auto_model.from_pretrained(model, **({"use_safetensors": True} | options))
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        # Their own words go on to list every class there is.
        kind = auto_model.__name__
        raise ValueError(f"{model} cannot be loaded as {kind}: its architecture has no such model.") from None
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        raise ValueError(
            f"{model} has no weights as safetensors. Those in other formats may be pickles, which run code when they "
            "are read. Save it again with save_pretrained, where you trust it."
        ) from error


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer by its name.

    Raises:
        ValueError: there is no such folder, and the Hub gave nothing by this name.
    """
    with looked_up(name):
        return AutoTokenizer.from_pretrained(name)


@contextmanager
def looked_up(name: str) -> Iterator[None]:
    """Say that a model is not there, in whatever words a library says it.

    Raises:
        ValueError: there is no such folder, and the Hub gave nothing by this name.
    """
    try:
        yield
    except (OSError, HFValidationError) as error:
        # A full disk has a number; what is not there has words only.
        if os.path.isdir(name) or "safetensors" in str(error) or getattr(error, "errno", None) is not None:
            raise
        raise ValueError(
            f"There is no folder {name}, and the Hub gave no model of that name. Check the path, or HF_HUB_OFFLINE, "
            "the connection and your access to the repository."
        ) from error


def name_of(model: str | PreTrainedModel | None) -> str | None:
    """Return what a model was called when it was loaded."""
    return model if isinstance(model, str) else getattr(getattr(model, "config", None), "_name_or_path", None)


def is_hub_id(name: str | None) -> bool:
    """Tell whether a name could be one on the Hub: `owner/name`, or a name; no folder that is here."""
    return bool(name and _HUB_ID.fullmatch(name) and ".." not in name and not os.path.isdir(name))


def public_name(name: str | None) -> str | None:
    """Return a model's name on the Hub; of a folder, which is nobody else's business, the last part."""
    if not name:
        return None
    return name if is_hub_id(name) else os.path.basename(os.path.abspath(name))
