"""Collators of transformers: those that pad are replaced by ours, which pad what we know of each token as well."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    DefaultDataCollator,
    default_data_collator,
)

from swingkd.tasks import Task
from swingkd.tasks.language import MaskingCollator

log = logging.getLogger(__name__)
_PADDING = (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    DefaultDataCollator,
)


def chosen_collator(given: Callable | None, own: Callable, task: Task) -> Callable:
    """Return what makes batches: ours, where nobody brought another one or it does nothing but pad.

    Args:
        given: a user's own.
        own: ours, for the task.
        task: what the models are for.

    Raises:
        ValueError: it masks tokens, and the task is another one.
    """
    if given is None:
        return own
    # A class of somebody's own may do more than the one that it is made of.
    if type(given) not in _PADDING and given is not default_data_collator:
        return given
    if isinstance(given, DataCollatorForLanguageModeling) and given.mlm:
        if not isinstance(own, MaskingCollator):
            raise ValueError(
                f"DataCollatorForLanguageModeling(mlm=True) masks tokens, and the models are for {task.name}. Pass "
                "mlm=False, or leave the collator out."
            )
        if given.whole_word_mask:
            raise ValueError("whole_word_mask=True masks words; rows are masked token by token here. Leave it out.")
        return own.masking_as(given)
    if isinstance(given, DataCollatorForLanguageModeling) and isinstance(own, MaskingCollator):
        raise ValueError(
            "DataCollatorForLanguageModeling(mlm=False) masks nothing, and fill-mask learns what is masked. Pass "
            "mlm=True, or leave the collator out."
        )
    if getattr(given, "pad_to_multiple_of", None) or getattr(given, "padding", True) == "max_length":
        log.warning("%s pads further than to the longest row of a batch; here it is left at that.", _name(given))
    log.info("%s pads what it knows; ours pads the columns about privacy too, and takes its place.", _name(given))
    return own


def _name(collator: Any) -> str:
    return getattr(collator, "__name__", type(collator).__name__)
