"""An output head: the last matrix of a language model, from hidden states to logits, and what follows it.

Whoever holds hidden states and the head can make the logits of a few tokens at a time, instead of [N, V] at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial
from transformers import PreTrainedModel

# How configurations name a factor on the logits, and one they are divided by.
_FACTORS, _DIVISORS = ("logit_scale", "lm_head_multiplier"), ("logits_scaling",)


@dataclass(frozen=True)
class Head:
    """The weights of an output head: logits = softcap * tanh(scale * (h W^T + b) / softcap).

    Args:
        weight: [V, D].
        bias: [V] or `None`.
        scale: factor on the logits.
        softcap: bound of the logits in nats; `None`: unbounded.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, vocabulary: int) -> Head:
        """Read the head of a language model as it is now, cut to the tokenizer's vocabulary.

        Raises:
            ValueError: the head is no plain matrix, with the reason.
        """
        module = head_module(model)
        # torch's fully_shard leaves a sharded matrix where the model's root is resharded: gather it, once a step.
        weight, bias = _whole(module.weight), _whole(module.bias) if module.bias is not None else None
        config = model.config.get_text_config()
        scale = 1.0
        for name in _FACTORS:
            scale *= getattr(config, name, None) or 1.0
        for name in _DIVISORS:
            scale /= getattr(config, name, None) or 1.0
        softcap = getattr(config, "final_logit_softcapping", None)
        return cls(weight[:vocabulary], bias[:vocabulary] if bias is not None else None, scale, softcap)

    def cast(self, dtype: torch.dtype | None) -> Head:
        """Return the head in another type; `None`: as it is."""
        if dtype is None or dtype == self.weight.dtype:
            return self
        return replace(self, weight=self.weight.to(dtype), bias=self.bias.to(dtype) if self.bias is not None else None)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits [c, V] of hidden states [c, D], in float32 at least."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        logits = at_least_float32(logits)
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


def head_module(model: PreTrainedModel) -> nn.Linear:
    """Return the linear layer that makes a model's logits.

    Raises:
        ValueError: it has none, or an adapter or a quantised matrix sits there.
    """
    # An adapter's wrapper hands the question on to the model that it wraps.
    module = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if module is None:
        raise ValueError("the model names no output head")
    # torch's fully_shard gives the modules that it shards a class of their own.
    if type(module) is not nn.Linear and not (isinstance(module, nn.Linear) and isinstance(module, FSDPModule)):
        raise ValueError(
            f"its output head is a {type(module).__module__}.{type(module).__name__}; with an adapter on it, or "
            "quantised, it is not one matrix that the loss could read and return a gradient for"
        )
    if module.weight.is_meta or model.get_input_embeddings().weight.is_meta:
        raise ValueError("its weights are offloaded")
    if not module.weight.is_floating_point():
        raise ValueError(f"its output head holds {module.weight.dtype}")
    return module


def compute_dtype(device: torch.device) -> torch.dtype | None:
    """Return what autocast would multiply in on this device; `None` where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, DTensor):
        return tensor
    # Each process finds the gradient of its own tokens, and sharded training averages them; not every backend can.
    mesh = tensor.device_mesh
    whole = tensor.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / mesh.size())
    return whole


class _Captured:
    """Where the hidden states that reach a head are kept during one forward."""

    hidden: torch.Tensor


@contextmanager
def captured_hidden(model: PreTrainedModel, *, skip_logits: bool) -> Iterator[_Captured]:
    """Catch what a model's forward hands to its head.

    Args:
        model: a language model, or an adapter's wrapper around one.
        skip_logits: the head makes no logits at all: the model returns an empty [B, 0, V].
    """
    captured, module = _Captured(), model.get_output_embeddings()

    def before(_: Any, inputs: tuple) -> tuple | None:
        captured.hidden = inputs[0]
        # No rows, no product: what follows the head sees an empty tensor.
        return (inputs[0][..., :0, :], *inputs[1:]) if skip_logits else None

    handle = module.register_forward_pre_hook(before)
    try:
        yield captured
    finally:
        handle.remove()


@torch.no_grad()
def check_readable(model: PreTrainedModel, vocabulary: int) -> None:
    """Compare the logits of a few tokens with what the head alone makes of their hidden states.

    Raises:
        ValueError: they differ, or the head cannot be read; with the reason.
    """
    head_module(model)
    ids = torch.arange(min(4, vocabulary), device=model.get_input_embeddings().weight.device)[None]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    training = model.training
    model.eval()
    try:
        with captured_hidden(model, skip_logits=False) as captured:
            expected = at_least_float32(model(**inputs).logits[..., :vocabulary])
        with captured_hidden(model, skip_logits=True):
            empty = model(**inputs).logits
    finally:
        model.train(training)
    if empty.numel():
        raise ValueError("it makes logits without its output head")
    logits = Head.of(model, vocabulary).logits(captured.hidden)
    loose = captured.hidden.dtype in (torch.bfloat16, torch.float16)
    if not torch.allclose(logits, expected, rtol=0.05 if loose else 1e-3, atol=0.05 if loose else 1e-4):
        raise ValueError("it does more to its logits than a matrix, a bias, a scale and a soft cap")
