"""What kind of model a name leads to, adapters included, without loading its weights."""

from __future__ import annotations

from typing import NamedTuple

from peft import PeftConfig
from transformers import AutoConfig
from transformers.utils import find_adapter_config_file

from swingkd.models.loading import located, looked_up

# How peft names tasks, and how the classes of their models end.
_ADAPTERS = {
    "CAUSAL_LM": "ForCausalLM",
    "SEQ_2_SEQ_LM": "ForConditionalGeneration",
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
}

# Files in GGUF hold language models, and few say so.
_OF_GGUF = "ForCausalLM"


class Architecture(NamedTuple):
    """The base model's name, the class of the model (or how it ends), and whether it has an encoder and a decoder."""

    base: str
    kind: str
    is_encoder_decoder: bool


def architecture(name: str) -> Architecture:
    """Return what a name on the Hub or a folder holds; of an adapter, what it was trained for."""
    base, kind = name, None
    folder, file = located(name)
    if file:
        with looked_up(name):
            config = AutoConfig.from_pretrained(folder, **file)
        return Architecture(name, (config.architectures or [_OF_GGUF])[0], config.is_encoder_decoder)
    with looked_up(name):
        adapted = find_adapter_config_file(name)
    if adapted:
        adapter = PeftConfig.from_pretrained(name)
        # What the adapter was trained for says more than what its base is.
        base, kind = str(adapter.base_model_name_or_path), _ADAPTERS.get(str(adapter.task_type).rpartition(".")[2])
    with looked_up(base):
        config = AutoConfig.from_pretrained(base)
    return Architecture(base, kind or (config.architectures or ["no architecture"])[0], config.is_encoder_decoder)
