"""What a model reads: which ids there are, which of them is padding, and what else its forward takes."""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
#: Beside ids and mask, what a batch may say of each token: as TRL, Transformers and tokenizers name it.
OF_TOKENS = ("position_ids", "token_type_ids")


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return one more than the largest id of a tokenizer; more than its length where ids were left out."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values(), default=-1) + 1)


def padding(tokenizer: Any) -> Any:
    """Return a tokenizer that can pad: one without a padding token gets the end of a text for it, as with TRL.

    The copy is what is saved with the student; labels are taken before a row is padded, so a real end stays learnt.

    Args:
        tokenizer: a user's own, which is left as it is; what pads nothing (an image processor, `None`) is returned.

    Raises:
        ValueError: it has no end of a text either.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.pad_token_id is not None:
        return tokenizer
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "The tokenizer has neither a padding token nor one that ends a text, so rows of different length cannot "
            "share a batch. Set one: tokenizer.pad_token = <one of its tokens that no text holds>."
        )
    own = copy.deepcopy(tokenizer)
    own.pad_token = own.eos_token
    log.warning("The tokenizer has no padding token: rows are padded with %s, which ends a text.", own.eos_token)
    return own


def takes(model: nn.Module, name: str) -> bool:
    """Tell whether a model's forward has an argument of this name."""
    # Of an adapter, or of several teachers in one.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return name in inspect.signature(base.forward).parameters


def first_position(model: nn.Module) -> int:
    """Return the number of a row's first position: 0, or behind the padding token's (RoBERTa and its kin)."""
    padding = _positions_padding(model)
    return 0 if padding is None else padding + 1


def row_positions(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return where tokens [n, length] stand, [n, length]: what all rows share has no gradient of one row."""
    first = first_position(model)
    return torch.arange(first, first + ids.shape[1], device=ids.device).repeat(len(ids), 1)


def _positions_padding(model: nn.Module) -> int | None:
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None) if name.endswith("position_embeddings") else None
        if padding is not None:
            return padding
    return None


def of_tokens(inputs: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Return position ids and token types of a batch, where it brings them and the model takes them."""
    return {name: inputs[name] for name in OF_TOKENS if name in inputs and takes(model, name)}


def align_padding(role: str, model: PreTrainedModel, tokenizer: Any) -> None:
    """Let a model know which id its batches are padded with: classifiers on decoders answer at the last other one.

    Args:
        role: what the model is called in an error.
        model: its configuration is changed where it says something else.
        tokenizer: that pads its batches.

    Raises:
        ValueError: the model counts its positions from another padding token (RoBERTa and its kin).
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        return
    own = _positions_padding(model)
    if own is not None and own != pad:
        raise ValueError(
            f"The {role} counts positions from padding token {own}, the tokenizer pads with {pad}. Pass the tokenizer "
            "that it was trained with."
        )
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        if getattr(config, "pad_token_id", None) != pad:
            log.info("The %s is told the tokenizer's padding token: pad_token_id=%d.", role, pad)
            config.pad_token_id = pad
