"""Labelled examples of any kind: token ids, signals, images; whatever a classifier is called with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from swingkd.decentralized.messengers import fingerprint
from swingkd.models.logits import logits_of

Inputs = torch.Tensor | dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class LabelledExamples:
    """Labelled examples, in memory.

    Args:
        inputs: [n, ...] what a model is called with, or a dict of such by argument name.
        labels: [n] class numbers.
        classes: how many there are.
        likelihood: [n] how likely each example is private (its label is a token of a name, say), in [0, 1]; `None`:
            not at all.

    Raises:
        ValueError: there are none, or lengths or labels do not fit.
    """

    inputs: Inputs
    labels: torch.Tensor
    classes: int
    likelihood: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise ValueError("There are no examples.")
        for name, tensor in self._tensors().items():
            if len(tensor) != len(self.labels):
                raise ValueError(f"{name} has {len(tensor)} rows, the labels {len(self.labels)}.")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.classes:
            raise ValueError(f"Labels from {low} to {high}; of {self.classes} classes the last is {self.classes - 1}.")
        if self.likelihood is not None and not bool(((self.likelihood >= 0) & (self.likelihood <= 1)).all()):
            raise ValueError("A likelihood lies outside [0, 1].")

    def __len__(self) -> int:
        return len(self.labels)

    def _tensors(self) -> dict[str, torch.Tensor]:
        named = dict(self.inputs) if isinstance(self.inputs, dict) else {"inputs": self.inputs}
        return named | ({} if self.likelihood is None else {"likelihood": self.likelihood})

    def select(self, rows: torch.Tensor) -> LabelledExamples:
        """Return some of them."""
        likelihood = self.likelihood[rows] if self.likelihood is not None else None
        return LabelledExamples(self.shown(rows), self.labels[rows], self.classes, likelihood)

    def shown(self, rows: torch.Tensor) -> Inputs:
        """Return what a model is called with for some of them."""
        if isinstance(self.inputs, dict):
            return {name: tensor[rows] for name, tensor in self.inputs.items()}
        return self.inputs[rows]

    def fingerprint(self) -> str:
        """Return a digest of inputs and labels: clients and server must have the same reference examples."""
        named = dict(self.inputs) if isinstance(self.inputs, dict) else {"inputs": self.inputs}
        return fingerprint(*(named[name] for name in sorted(named)), self.labels)

    @classmethod
    def joined(cls, parts: Sequence[LabelledExamples]) -> LabelledExamples:
        """Return the examples of several as one."""
        first = parts[0]
        inputs: Inputs
        if isinstance(first.inputs, dict):
            inputs = {name: torch.cat([part.inputs[name] for part in parts]) for name in first.inputs}  # type: ignore[index]
        else:
            inputs = torch.cat([part.inputs for part in parts])  # type: ignore[misc]  # all of one kind
        known = [part.likelihood for part in parts if part.likelihood is not None]
        likelihood = torch.cat(known) if len(known) == len(parts) else None
        return cls(inputs, torch.cat([part.labels for part in parts]), first.classes, likelihood)


@torch.no_grad()
def logits_on(model: nn.Module, examples: LabelledExamples) -> torch.Tensor:
    """Return what a model says of examples, [n, classes], in evaluation mode."""
    training = model.training
    model.eval()
    logits = torch.cat([logits_of(model, examples.shown(part)) for part in torch.arange(len(examples)).split(512)])
    model.train(training)
    return logits


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches for ever, in passes over all rows in random order.

    Those of a pass are of like length, between `size` and twice that: a last one of two or three would be a bad one
    for batch norm.
    """
    while True:
        yield from torch.randperm(count, generator=generator).tensor_split(max(1, count // size))
