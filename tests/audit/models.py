"""Tiny models that read a text in different ways."""

from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)


def gpt2(size):
    return GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def mamba(size):
    return MambaForCausalLM(MambaConfig(vocab_size=size, hidden_size=16, num_hidden_layers=1, state_size=4))


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SIZES, "intermediate_size": 32, "num_key_value_heads": 1}


def bloom(size):
    return BloomForCausalLM(BloomConfig(vocab_size=size, **SIZES))


def mistral(size):
    """It forgets what is further back than eight tokens."""
    return MistralForCausalLM(MistralConfig(vocab_size=size, sliding_window=8, **WIDE))


def lfm2(size):
    """Its first layer keeps a state, its second one keys and values."""
    return Lfm2ForCausalLM(Lfm2Config(vocab_size=size, layer_types=["conv", "full_attention"], **WIDE))
