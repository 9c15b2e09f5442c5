"""Load any model for an audit: what it is stands in its configuration."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from swingkd.models.architectures import architecture
from swingkd.models.loading import load_pretrained, load_processor, placed

_KINDS = (
    ("ForCausalLM", AutoModelForCausalLM, AutoTokenizer),
    ("LMHeadModel", AutoModelForCausalLM, AutoTokenizer),
    ("ForSequenceClassification", AutoModelForSequenceClassification, AutoTokenizer),
    ("ForImageClassification", AutoModelForImageClassification, AutoImageProcessor),
)

#: The tasks, as the Hub calls them, whose models can be audited.
AUDITED = ("text-generation", "text-classification", "image-classification")


def load_model(name: str) -> tuple[PreTrainedModel, Any]:
    """Load a causal language model, a sequence classifier or an image classifier, and what prepares its input.

    Args:
        name: a name on the Hub or a folder.  An adapter's folder is loaded with its base model.

    Raises:
        ValueError: the model is of another kind.
    """
    base, kind, _ = architecture(name)
    for ending, model_class, processing_class in _KINDS:
        if kind.endswith(ending):
            model = placed(load_pretrained(model_class, name, dtype=torch.float32))
            try:
                return model.eval(), load_processor(processing_class, name)
            except (OSError, ValueError):
                if base == name:
                    raise
                return model.eval(), load_processor(processing_class, base)  # adapters come without a tokenizer
    raise ValueError(
        f"{name} is a {kind}. Audited can be causal language models (…ForCausalLM), sequence classifiers "
        "and image classifiers."
    )


def load_reference(name: str, processing_class) -> PreTrainedModel:
    """Load a model to compare with.

    Args:
        name: a name on the Hub or a folder.
        processing_class: that of the audited model.

    Raises:
        ValueError: the two models number their tokens differently.
    """
    model, own = load_model(name)
    if hasattr(own, "get_vocab") and own.get_vocab() != processing_class.get_vocab():
        raise ValueError(
            f"The reference {name} has another tokenizer than the audited model, so their log-likelihoods do not "
            "compare. Choose a reference with the same tokenizer."
        )
    return model
