"""Load models by name: weights as safetensors only, and one error that says what is wrong."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import HFValidationError
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from swingkd.models.whole import check_finite_weights, check_loaded

Placed = TypeVar("Placed", bound=nn.Module)

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def load_pretrained(
    auto_model: Any, model: str | PreTrainedModel, *, role: str = "model", new_head: bool = False, **options: Any
) -> PreTrainedModel:
    """Load a model that is given by its name; return any other as it is; refuse what is not whole.

    Args:
        auto_model: an Auto class of transformers.
        model: a name on the Hub, a folder, a GGUF file, or a model.
        role: what it is called in an error.
        new_head: it is to be trained for a task of its own: its head need not be in its file.
        **options: for `from_pretrained`.

    Raises:
        ValueError: there is no such model of this architecture, or no weights as safetensors: pickles are not read;
            a tensor is missing, or holds NaN or infinity.
    """
    if isinstance(model, str):
        model = _loaded(auto_model, model, new_head, options)
    check_finite_weights(role, model)
    return model


def placed(model: Placed) -> Placed:
    """Return a model on the GPU, where there is one; what is spread over devices stays where it is."""
    if torch.cuda.is_available() and getattr(model, "hf_device_map", None) is None:
        model.to("cuda")
    return model


def located(name: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """Return what `from_pretrained` takes for a name: of a GGUF file its folder, and as an option which file it is.

    Args:
        name: a name on the Hub, a folder, or a GGUF file.
        **options: for `from_pretrained`; `gguf_file` may be one.

    Raises:
        ImportError: it is a GGUF file, and the package that reads them is missing; names the extra.
    """
    if name.lower().endswith(".gguf"):
        name, options = os.path.dirname(name) or ".", {"gguf_file": os.path.basename(name)} | options
    if options.get("gguf_file") and importlib.util.find_spec("gguf") is None:
        raise ImportError("GGUF files are read by the package gguf: pip install 'swingkd[gguf]'.")
    return name, options


def _loaded(auto_model: Any, name: str, new_head: bool, options: dict[str, Any]) -> PreTrainedModel:
    check_options(options)
    folder, options = located(name, **({"use_safetensors": True} | options))
    if options.get("gguf_file"):
        # Whole numbers on disk; in memory they are what they are trained as.
        options = {"dtype": torch.float32} | options
    try:
        with looked_up(name):
            model, info = auto_model.from_pretrained(folder, output_loading_info=True, **options)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        # Their own words go on to list every class there is.
        kind = auto_model.__name__
        raise ValueError(f"{name} cannot be loaded as {kind}: its architecture has no such model.") from None
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        raise ValueError(
            f"{name} has no weights as safetensors. Those in other formats may be pickles, which run code when they "
            "are read. Save it again with save_pretrained, where you trust it."
        ) from error
    check_loaded(name, model, info, new_head=new_head)
    return _whole_numbers_gone(model, name) if options.get("gguf_file") else model


def _whole_numbers_gone(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Return a model that was read from GGUF as one that can be trained and saved; transformers calls it quantised.

    Args:
        model: with its weights as numbers already.
        name: what it was loaded by.
    """
    config = model.config
    del config.quantization_config
    plain = type(model)._from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.config._name_or_path = name
    return plain.eval()


def check_options(options: dict[str, Any] | None) -> None:
    """Refuse options of `from_pretrained` that would run code from a model's folder.

    Raises:
        ValueError: names the option.
    """
    options = options or {}
    if options.get("trust_remote_code"):
        raise ValueError(
            "trust_remote_code would run code from the model's folder. Choose an architecture of "
            "transformers, or load the model yourself, where you trust it, and pass it."
        )
    if not options.get("use_safetensors", True):
        raise ValueError(
            "use_safetensors=False would read pickles, which run code when they are read. Save the model "
            "again with save_pretrained, where you trust it."
        )


def load_processor(auto_processor: Any, name: str, **options: Any) -> Any:
    """Load what prepares a model's input by the model's name.

    Args:
        auto_processor: an Auto class of transformers.
        name: a name on the Hub, a folder, or a GGUF file.
        **options: for `from_pretrained`.

    Raises:
        ValueError: there is no such folder, and the Hub gave nothing by this name.
    """
    folder, options = located(name, **options)
    with looked_up(name):
        return auto_processor.from_pretrained(folder, **options)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer by its name, see `load_processor`."""
    return load_processor(AutoTokenizer, name)


def load_image_processor(name: str) -> Any:
    """Load an image processor by its name, see `load_processor`."""
    return load_processor(AutoImageProcessor, name)


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
