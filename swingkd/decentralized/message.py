"""What goes over the wire, whichever engine carries it: named tensors and a few words."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import torch
from torch import nn


class RefusedError(ValueError):
    """A client's answer is not used; the text says why."""


# Of what a stranger said, in a message.
_SHOWN = 40
Word = str | int | float | bool


@dataclass(frozen=True, eq=False)
class Message:
    """Tensors by name, and plain values by name.

    Args:
        tensors: on the CPU.
        words: what is said about them.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    words: dict[str, Word] = field(default_factory=dict)

    def with_words(self, **words: Word) -> Message:
        """Return it with more words."""
        return Message(self.tensors, self.words | words)

    def number(self, word: str, low: float = 0.0, high: float = math.inf) -> float:
        """Return a number that another machine says.

        Raises:
            RefusedError: it is none, not finite, or out of range.
        """
        value = self.words.get(word)
        if not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            raise RefusedError(f"it says {word}={str(value)[:_SHOWN]!r}: a number from {low:g} to {high:g} is needed")
        return value

    def text(self, word: str) -> str:
        """Return text that another machine says.

        Raises:
            RefusedError: it is none.
        """
        value = self.words.get(word)
        if not isinstance(value, str):
            raise RefusedError(f"it does not say {word}")
        return value

    @property
    def bytes(self) -> int:
        """How many bytes its tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


_WEIGHT = "weight."


def is_weight(name: str) -> bool:
    """Tell a weight from other tensors."""
    return name.startswith(_WEIGHT)


def named_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's weights and buffers, by names that a message has for them.

    Frozen weights stay at home: everybody begins with them (the base of an adapter), and they never change.
    """
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {_WEIGHT + name: t.detach() for name, t in model.state_dict().items() if name not in frozen}


def load_weights(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Load those of the tensors that are weights; without any, nothing happens.

    Raises:
        RefusedError: they are not finite: what follows from them would not be either; or some are missing.
    """
    weights = {name.removeprefix(_WEIGHT): t for name, t in tensors.items() if is_weight(name)}
    if not all(bool(t.isfinite().all()) for t in weights.values()):
        raise RefusedError("there are weights that are not finite")
    if weights:
        wanted = {name.removeprefix(_WEIGHT) for name in named_weights(model)}
        if wanted - weights.keys():
            raise RefusedError(f"there is no {min(wanted - weights.keys())} among the weights")
        if weights.keys() - wanted:
            raise RefusedError(f"{min(weights.keys() - wanted)} is no weight that is trained here")
        model.load_state_dict(weights, strict=False)


def frozen_digest(model: nn.Module) -> str:
    """Return a digest of the weights that stay at home, which all models of a federation of weights share."""
    frozen = sorted((name, p) for name, p in model.named_parameters() if not p.requires_grad)
    return fingerprint(*(p for _, p in frozen)) if frozen else ""


def fingerprint(*tensors: torch.Tensor) -> str:
    """Return a digest of tensors, their kinds and shapes: of reference examples, say, that all must share."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
